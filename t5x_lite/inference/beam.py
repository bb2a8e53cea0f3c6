"""Beam search: the likeliest outputs of a prompt, by log-likelihood over a length penalty.

Shape letters: B batch, K beams, C candidates, P prompt length, T new tokens, V vocabulary.
"""

from collections.abc import Callable
import dataclasses
from typing import Annotated, Literal

import jax
import jax.numpy as jnp

from t5x_lite.core.dataclass_checks import Count, FieldError, Range, check_types
from t5x_lite.inference.filters import within_vocabulary
from t5x_lite.inference.generate import prefill
from t5x_lite.models import Model, Network
from t5x_lite.models.cache import take_rows
from t5x_lite.parallel.partitioner import Partitioner

# What the log-likelihood of an output of so many new tokens, its end among them, is divided by.
LENGTH_PENALTIES = {
    't5x': lambda length, alpha: ((5.0 + length) / 6.0) ** alpha,   # Wu et al. 2016
    'hf': lambda length, alpha: jnp.asarray(length, jnp.float32) ** alpha,
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Beams:
  """How outputs are searched. With the penalty 'hf' it is transformers' beam search."""
  num_beams: Count = 4                  # outputs that are followed side by side
  num_return: Count = 1                 # the best of the beams
  # ((5 + length) / 6) ** alpha, or length ** alpha: the divisor of a log-likelihood.
  length_penalty: Literal['t5x', 'hf'] = 't5x'
  alpha: Annotated[float, Range(min=-4, max=4)] = 0.6   # exponent; 0: no penalty
  # When a search ends before the longest output: where no beam can come to beat the worst of the
  # finished ones ('never'); where none would if it ended now (False); with as many finished as
  # beams (True). The first alone is exact.
  early_stopping: Literal['never', False, True] = 'never'

  def __post_init__(self):
    check_types(self)
    if self.num_return > self.num_beams:
      raise FieldError(self, 'num_return', f'must be at most num_beams ({self.num_beams})')

  def penalty(self, length):
    """The divisor of the log-likelihood of an output of this length."""
    return LENGTH_PENALTIES[self.length_penalty](length, self.alpha)


def beam_search(model: Model, batch: dict[str, jax.Array], prompt_BP: jax.Array,
                valid_BP: jax.Array, beams: Beams, *, max_tokens: int,
                eos_id: int | tuple[int, ...], pad_id: int, num_ids: int,
                int8_cache: bool = False) -> tuple[jax.Array, jax.Array]:
  """The best outputs [batch, num_return, max_tokens] int32, best first, and their scores.

  A prompt is read once. An output that comes to `max_tokens` ends there, as with an end id. A score
  [batch, num_return] is the log-likelihood over the penalty; -inf where there are fewer outputs.
  Ties: the beam that was better before, then the lowest id.

  Args:
    model, batch, prompt_BP, valid_BP, max_tokens, pad_id, num_ids, int8_cache: as of `generate`.
    eos_id: ids that end an output.
  """
  B, K, T = prompt_BP.shape[0], beams.num_beams, max_tokens
  num_ends = 1 if isinstance(eos_id, int) else len(eos_id)
  logits_BV, cache = prefill(model, prompt_BP, valid_BP,
                             model.start(batch, prompt_BP.shape[1] + max_tokens, int8=int8_cache))
  V = logits_BV.shape[-1]
  C = min(max(2, 1 + num_ends) * K, K * V)   # of which K go on, whichever end
  row_BK = jnp.arange(B)[:, None] * K

  def step(carry):
    i, logits_BKV, cache, live_BKT, score_BK, done_BKT, done_score_BK, open_B = carry
    logits_BKV = within_vocabulary(logits_BKV.astype(jnp.float32), num_ids)
    score_BKV = score_BK[:, :, None] + jax.nn.log_softmax(logits_BKV)
    score_BC, index_BC = jax.lax.top_k(score_BKV.reshape(B, K * V), C)
    token_BC = index_BC % V
    new_BCT = _take(live_BKT, index_BC // V).at[:, :, i].set(token_BC)
    ended_BC = jnp.isin(token_BC, jnp.asarray(eos_id)) | (i + 1 == T)

    ended_score_BC = jnp.where(ended_BC & (jnp.arange(C)[None] < K) & open_B[:, None],
                               score_BC / beams.penalty(i + 1), -jnp.inf)
    done_score_BK, best_BK = jax.lax.top_k(
        jnp.concatenate([done_score_BK, ended_score_BC], 1), K)
    done_BKT = _take(jnp.concatenate([done_BKT, new_BCT], 1), best_BK)

    score_BK, kept_BK = jax.lax.top_k(jnp.where(ended_BC, -jnp.inf, score_BC), K)
    live_BKT, parent_BK = _take(new_BCT, kept_BK), _take(index_BC // V, kept_BK)
    open_B = open_B & _improvable(beams, score_BK[:, 0], done_score_BK, i + 1, T)
    tokens = live_BKT[:, :, i].reshape(B * K, 1)
    logits, cache = model.decode(
        tokens, take_rows(cache, (row_BK + parent_BK).reshape(-1)), jnp.ones_like(tokens, bool))
    return (i + 1, logits.reshape(B, K, V), cache, live_BKT, score_BK, done_BKT, done_score_BK,
            open_B)

  start_BK = jnp.full((B, K), -jnp.inf)
  empty_BKT = jnp.full((B, K, T), pad_id, jnp.int32)
  start = (0, jnp.repeat(logits_BV[:, None], K, 1), take_rows(cache, jnp.repeat(jnp.arange(B), K)),
           empty_BKT, start_BK.at[:, 0].set(0.0), empty_BKT, start_BK, jnp.ones(B, bool))
  *_, done_BKT, done_score_BK, _ = jax.lax.while_loop(
      lambda carry: (carry[0] < T) & carry[-1].any(), step, start)
  return done_BKT[:, :beams.num_return], done_score_BK[:, :beams.num_return]


def make_beam_search(network: Network, partitioner: Partitioner, beams: Beams, **options
                     ) -> Callable:
  """`beam_search` jitted for a model: (params, batch, prompt, valid) -> (tokens, scores)."""

  def run(params, batch, prompt_BP, valid_BP):
    return beam_search(network.bind(params), batch, prompt_BP, valid_BP, beams, **options)

  return jax.jit(run, out_shardings=partitioner.replicated)


def _improvable(beams: Beams, best_B: jax.Array, done_score_BK: jax.Array, length, longest: int
                ) -> jax.Array:
  """Whether the outputs of each example may still change, the best live beam being `best_B`.

  Log-likelihoods only fall. So a beam's best score is its present one over the largest penalty
  ahead, which is that of the longest output if alpha is positive, else that of the next.
  """
  full_B = jnp.isfinite(done_score_BK).all(1)
  if beams.early_stopping is True:
    return ~full_B
  if beams.early_stopping == 'never' and beams.alpha > 0:
    length = longest
  return ~full_B | (best_B / beams.penalty(length) > done_score_BK.min(1))


def _take(x: jax.Array, index_BN: jax.Array) -> jax.Array:
  """x[b, index[b, n]] for all b and n."""
  return jax.vmap(lambda x, index: x[index])(x, index_BN)
