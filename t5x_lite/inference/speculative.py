"""Speculative decoding: cheap drafts of several tokens, which the model checks in one pass.

A draft's token x, drawn from q, is accepted with probability min(1, p(x) / q(x)); the first that is
not is replaced by a draw from max(p - q, 0), normalised; after the last one comes a draw from p
(Leviathan et al. 2023, Chen et al. 2023). p and q are the distributions that tokens are really
drawn from, all filters applied, so the output is distributed as without drafts; greedy outputs are
the same. Each row of a batch accepts its own number.

Shape letters: B rows, P prompt length, K tokens of a draft, J = K + 1, T new tokens, V vocabulary.
"""

from collections.abc import Callable
import dataclasses
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp

from t5x_lite.core.dataclass_checks import Count, FieldError, Path, Step, check_types
from t5x_lite.inference.filters import History, filtered_logits, within_vocabulary
from t5x_lite.inference.generate import Generated, prefill
from t5x_lite.inference.sampling import (
  SamplingRows,
  argmax,
  draw,
  log_distribution,
  log_p,
  pick,
)
from t5x_lite.models import Model, Network
from t5x_lite.models.cache import step_back
from t5x_lite.parallel.partitioner import Partitioner

_DRAFT, _ACCEPT, _REPLACE = 1, 2, 3   # purposes of random numbers, beside the plain draw's


class Proposal(NamedTuple):
  """Tokens that may come next.

  Attributes:
    tokens_BK: int32.
    log_q_BKV: log-probabilities of what each was drawn from; None: it was certain.
    some_B: bool, whether a row has a draft at all.
  """
  tokens_BK: jax.Array
  log_q_BKV: jax.Array | None
  some_B: jax.Array


class Draft(Protocol):
  """Where drafts come from."""

  size: int   # tokens of one

  def start(self, batch: dict[str, jax.Array], prompt_BP: jax.Array, valid_BP: jax.Array,
            length: int) -> Any:
    """The state after the prompts."""

  def propose(self, state: Any, history: History, rows: SamplingRows, key_B: jax.Array,
              num_ids: int) -> tuple[Proposal, Any]:
    """A draft after what was read and written, and the state with it read; it had not read the
    last token that was written."""

  def accept(self, state: Any, drafted_B: jax.Array, refused_B: jax.Array) -> Any:
    """The state without the tokens of the last draft that each row did not take; `drafted_B`:
    rows whose draft was checked."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class NgramDraft:
  """What came after the last tokens when they stood there before (prompt lookup, Saxena 2023).

  To check a draft takes as long as two or three tokens without; after one of which less than two
  tokens are right, a row has none for `pause` tokens, and twice as many after the next such one.
  """
  size: Count = 6                # tokens of a draft
  longest: Count = 4             # last tokens that are looked for
  shortest: Count = 3            # fewer of them are no reason for a draft
  pause: Count = 8               # tokens

  def __post_init__(self):
    check_types(self)
    if self.shortest > self.longest:
      raise FieldError(self, 'shortest', f'must be at most longest ({self.longest})')

  def start(self, batch, prompt_BP, valid_BP, length):
    """See Draft: for how many tokens each row waits, and for how many once its next is wrong."""
    zeros_B = jnp.zeros(len(prompt_BP), jnp.int32)
    return zeros_B, zeros_B + self.pause

  def accept(self, state, drafted_B, refused_B):
    """See Draft."""
    wait_B, next_B = state
    wrong_B = drafted_B & (refused_B > max(self.size - 2, 0))
    wait_B = jnp.where(wrong_B, next_B, jnp.maximum(wait_B - 1, 0))
    next_B = jnp.where(wrong_B, jnp.minimum(2 * next_B, 2 ** 20), next_B)
    return wait_B, jnp.where(drafted_B & ~wrong_B, self.pause, next_B)

  def propose(self, state, history, rows, key_B, num_ids):
    """See Draft; of several places the latest of those where most tokens are the same."""
    tokens_BS, first_B, last_B = history.tokens_BS, history.first_B, history.last_B
    S, slot_1S = tokens_BS.shape[1], jnp.arange(tokens_BS.shape[1])[None]
    back_1N = jnp.arange(self.longest)[None]
    suffix_BN = jnp.take_along_axis(tokens_BS, jnp.maximum(last_B[:, None] - 1 - back_1N, 0), 1)
    shifted_BS = jnp.pad(tokens_BS, ((0, 0), (self.longest, 0)), constant_values=-1)
    same_BS, matched_BS = slot_1S < last_B[:, None] - 1, jnp.zeros(tokens_BS.shape, jnp.int32)
    for back in range(self.longest):
      earlier_BS = shifted_BS[:, self.longest - back:self.longest - back + S]
      same_BS = (same_BS & (slot_1S - back >= first_B[:, None])
                 & (earlier_BS == suffix_BN[:, back:back + 1]))
      matched_BS = matched_BS + same_BS
    best_BS = jnp.where(matched_BS >= self.shortest, matched_BS * S + slot_1S, -1)
    at_B = argmax(best_BS)
    # The text between the two places goes on repeating itself where the draft is longer than it.
    period_B1 = jnp.maximum(last_B - 1 - at_B, 1)[:, None]
    index_BK = at_B[:, None] + 1 + jnp.arange(self.size)[None] % period_B1
    drafted_BK = jnp.take_along_axis(tokens_BS, index_BK, 1)
    return Proposal(drafted_BK, None, (best_BS.max(1) >= 0) & (state[0] == 0)), state


@dataclasses.dataclass(frozen=True, kw_only=True)
class DraftRun:
  """A run whose smaller model of the same vocabulary writes the drafts."""
  model_dir: Path            # the run's folder
  step: Step | None = None   # its checkpoint; None: the newest
  size: Count = 4            # tokens of a draft

  def __post_init__(self):
    check_types(self)


@dataclasses.dataclass(frozen=True)
class ModelDraft:
  """Tokens of a smaller model of the same vocabulary, drawn by the settings of the row."""
  model: Model
  size: int = 4

  def start(self, batch, prompt_BP, valid_BP, length):
    """See Draft: a cache with the prompts."""
    cache = self.model.start(batch, length, margin=self.size)
    return prefill(self.model, prompt_BP, valid_BP, cache)[1]

  def propose(self, state, history, rows, key_B, num_ids):
    """See Draft."""
    last_BK1 = jnp.take_along_axis(history.tokens_BS, history.last_B[:, None] - 1, 1)
    ones_B1 = jnp.ones(last_BK1.shape, bool)

    def step(carry, _):
      token_B1, cache, history = carry
      logits_B1V, cache = self.model.decode(token_B1, cache, ones_B1)
      logits_BV = within_vocabulary(logits_B1V[:, 0], num_ids)
      log_q_BV = log_distribution(filtered_logits(logits_BV, rows, history), rows)
      token_B = _draw(log_q_BV, key_B, history.step_B, _DRAFT)
      return (token_B[:, None], cache, history.append(token_B, ones_B1[:, 0])), (token_B, log_q_BV)

    (_, state, _), (token_JB, log_q_JBV) = jax.lax.scan(
        step, (last_BK1, state, history), length=self.size + 1)   # the last one is only read
    return Proposal(token_JB[:-1].T, jnp.moveaxis(log_q_JBV[:-1], 0, 1), ones_B1[:, 0]), state

  def accept(self, state, drafted_B, refused_B):
    """See Draft."""
    return step_back(state, refused_B)


def speculate(model: Model, batch: dict[str, jax.Array], prompt_BP: jax.Array,
              valid_BP: jax.Array, rows: SamplingRows, key_B: jax.Array, draft: Draft, *,
              max_tokens: int, pad_id: int, num_ids: int, int8_cache: bool = False
              ) -> tuple[Generated, jax.Array]:
  """As `generate`, faster where drafts are good; and how often the model was run.

  Where no row has a draft the model reads one token, as without.
  """
  (B, P), K = prompt_BP.shape, draft.size
  length = P + max_tokens + K
  cache = model.start(batch, length, margin=K, int8=int8_cache)
  logits_BV, cache = prefill(model, prompt_BP, valid_BP, cache)
  history = History.of_prompts(prompt_BP, valid_BP, max_tokens + K, pad_id)
  zeros = jnp.zeros((B, max_tokens))
  written = _Written(history, zeros, zeros, jnp.zeros(B, bool))
  propose = lambda state, written: draft.propose(state, written.history, rows, key_B, num_ids)

  def last_B1(history):
    return jnp.take_along_axis(history.tokens_BS, history.last_B[:, None] - 1, 1)

  def write_one(written, logits_BV):
    """With one token more, as `generate` draws it."""
    history = written.history
    drawn = draw(logits_BV, filtered_logits(logits_BV, rows, history), rows, key_B, history.step_B)
    one = _Checked(drawn.token[:, None], jnp.ones(B, jnp.int32), drawn.logprob[:, None],
                   drawn.sampled_logprob[:, None])
    return written.extend(one, rows)[0]

  def plain(carry):
    """Reads the last token alone."""
    runs, cache, state, written, _ = carry
    logits_B1V, cache = model.decode(last_B1(written.history), cache, ~written.done_B[:, None])
    written = write_one(written, within_vocabulary(logits_B1V[:, 0], num_ids))
    state = draft.accept(state, jnp.zeros(B, bool), jnp.full(B, K))
    proposal, state = propose(state, written)
    return runs + 1, cache, state, written, proposal

  def check(carry):
    """Reads the last token and the draft."""
    runs, cache, state, written, proposal = carry
    live_B = ~written.done_B
    tokens_BJ = jnp.concatenate([last_B1(written.history), proposal.tokens_BK], 1)
    logits_BJV, cache = model.decode(tokens_BJ, cache, jnp.broadcast_to(
        live_B[:, None], tokens_BJ.shape), last=K + 1)
    written, kept_B = written.extend(_check(within_vocabulary(logits_BJV, num_ids), proposal,
                                            written.history, rows, key_B), rows)
    cache = step_back(cache, jnp.where(live_B, K + 1 - kept_B, 0))
    state = draft.accept(state, live_B & proposal.some_B, K + 1 - kept_B)
    proposal, state = propose(state, written)
    return runs + 1, cache, state, written, proposal

  unfinished = lambda carry: ~carry[3].done_B.all()
  drafted = lambda carry: (carry[4].some_B & ~carry[3].done_B).any()

  def step(carry):
    carry = jax.lax.while_loop(lambda carry: unfinished(carry) & ~drafted(carry), plain, carry)
    return jax.lax.cond(unfinished(carry), check, lambda carry: carry, carry)

  written = write_one(written, within_vocabulary(logits_BV, num_ids))
  state = draft.start(batch, prompt_BP, valid_BP, length)
  proposal, state = propose(state, written)
  runs, _, _, written, _ = jax.lax.while_loop(
      unfinished, step, (1, cache, state, written, proposal))
  tokens_BT = written.history.tokens_BS[:, P:P + max_tokens]
  return Generated(tokens_BT, written.logprobs_BT, written.sampled_BT), runs


class _Checked(NamedTuple):
  """The next tokens [batch, J], of which each row has `count_B`, and their log-probabilities."""
  tokens_BJ: jax.Array
  count_B: jax.Array
  logprobs_BJ: jax.Array
  sampled_BJ: jax.Array


class _Written(NamedTuple):
  """What there is of each row's output, [batch, new tokens]."""
  history: History
  logprobs_BT: jax.Array
  sampled_BT: jax.Array
  done_B: jax.Array

  def extend(self, new: _Checked, rows: SamplingRows) -> tuple['_Written', jax.Array]:
    """With the new tokens up to an end or the longest output; and how many each row took."""
    B, J = new.tokens_BJ.shape
    step_BJ = self.history.step_B[:, None] + jnp.arange(J)[None]
    ends_BJ = (new.tokens_BJ[:, :, None] == rows.end_ids[:, None, :]).any(-1)
    ended_before_BJ = jnp.cumsum(ends_BJ, 1) - ends_BJ > 0
    kept_BJ = ((jnp.arange(J)[None] < new.count_B[:, None]) & ~ended_before_BJ
               & (step_BJ < rows.max_new[:, None]) & ~self.done_B[:, None])
    count_B = kept_BJ.sum(1)
    row_B1, history = jnp.arange(B)[:, None], self.history
    put = lambda x, at_BJ, new_BJ: x.at[
        row_B1, jnp.where(kept_BJ, at_BJ, x.shape[1])].set(new_BJ, mode='drop')
    history = history._replace(
        tokens_BS=put(history.tokens_BS, history.new_B[:, None] + step_BJ, new.tokens_BJ),
        last_B=history.last_B + count_B)
    done_B = self.done_B | (kept_BJ & ends_BJ).any(1) | (history.step_B >= rows.max_new)
    return _Written(history, put(self.logprobs_BT, step_BJ, new.logprobs_BJ),
                    put(self.sampled_BT, step_BJ, new.sampled_BJ), done_B), count_B


def _check(logits_BJV: jax.Array, proposal: Proposal, history: History, rows: SamplingRows,
           key_B: jax.Array) -> _Checked:
  """Which tokens of a draft are accepted, and the one that follows them."""
  B, J, V = logits_BJV.shape
  each = lambda tree: jax.tree.map(lambda x: jnp.repeat(x, J, axis=0), tree)
  flat_rows, step_BJ = each(rows), history.step_B[:, None] + jnp.arange(J)[None]
  drafted = history
  for k in range(J - 1):
    drafted = drafted.append(proposal.tokens_BK[:, k], jnp.ones(B, bool))
  histories = each(drafted)._replace(
      last_B=(history.last_B[:, None] + jnp.arange(J)[None]).reshape(-1))
  filtered_TV = filtered_logits(logits_BJV.reshape(B * J, V), flat_rows, histories)

  def followed(accepted_B, next_B):
    """The accepted tokens and the one that follows them."""
    return jnp.where(jnp.arange(J)[None] == accepted_B[:, None], next_B[:, None],
                     jnp.pad(proposal.tokens_BK, ((0, 0), (0, 1))))

  def sampled(filtered_TV):
    log_p_BJV = log_distribution(filtered_TV, flat_rows).reshape(B, J, V)
    q_BKV = (jax.nn.one_hot(proposal.tokens_BK, V) if proposal.log_q_BKV is None else
             jnp.exp(proposal.log_q_BKV))
    token_BK1 = proposal.tokens_BK[:, :, None]
    p_BK = jnp.take_along_axis(jnp.exp(log_p_BJV[:, :-1]), token_BK1, 2)[:, :, 0]
    q_BK = jnp.take_along_axis(q_BKV, token_BK1, 2)[:, :, 0]
    u_BK = jax.vmap(jax.vmap(_uniform, (None, 0, None)), (0, 0, None))(
        key_B, step_BJ[:, :-1], _ACCEPT)[:, :, 0]
    accepted_B = _leading(u_BK * q_BK < p_BK)
    log_p_BV, q_BV = (jnp.take_along_axis(x, accepted_B[:, None, None], 1)[:, 0]
                      for x in (log_p_BJV, jnp.pad(q_BKV, ((0, 0), (0, 1), (0, 0)))))
    left_BV = _residual(jnp.exp(log_p_BV), q_BV)
    next_B = _draw(jnp.log(left_BV), key_B, history.step_B + accepted_B, _REPLACE)
    tokens_BJ = followed(accepted_B, next_B)
    logprob_T = jnp.where(flat_rows.temperature > 0, log_p(filtered_TV, tokens_BJ.reshape(-1)), 0.0)
    return accepted_B, tokens_BJ, logprob_T.reshape(B, J)

  def greedy(filtered_TV):
    best_BJ = argmax(filtered_TV).reshape(B, J)
    accepted_B = _leading(best_BJ[:, :-1] == proposal.tokens_BK)
    next_B = jnp.take_along_axis(best_BJ, accepted_B[:, None], 1)[:, 0]
    return accepted_B, followed(accepted_B, next_B), jnp.zeros((B, J))

  accepted_B, tokens_BJ, sampled_BJ = jax.lax.cond(
      (rows.temperature > 0).any(), sampled, greedy, filtered_TV)
  logits_TV = logits_BJV.reshape(B * J, V).astype(jnp.float32)
  logprobs_BJ = log_p(logits_TV, tokens_BJ.reshape(-1)).reshape(B, J)
  return _Checked(tokens_BJ, accepted_B + 1, logprobs_BJ, sampled_BJ)


def _residual(p_BV: jax.Array, q_BV: jax.Array) -> jax.Array:
  """What is left of p once q is taken off, not normalised; p where rounding leaves nothing."""
  left_BV = jnp.maximum(p_BV - q_BV, 0)
  return jnp.where(left_BV.any(-1, keepdims=True), left_BV, p_BV)


def _leading(accepted_BK: jax.Array) -> jax.Array:
  """How many come before the first that is not accepted."""
  return jnp.cumprod(accepted_BK.astype(jnp.int32), axis=1).sum(1)


def _uniform(key: jax.Array, step: jax.Array, purpose: int) -> jax.Array:
  return jax.random.uniform(jax.random.fold_in(jax.random.fold_in(key, step), purpose), (2,))


def _draw(log_p_BV: jax.Array, key_B: jax.Array, step_B: jax.Array, purpose: int) -> jax.Array:
  return pick(log_p_BV, jax.vmap(_uniform, (0, 0, None))(key_B, step_B, purpose))


def make_speculate(network: Network, partitioner: Partitioner, draft: Callable[[Any], Draft],
                   **options) -> Callable:
  """`speculate` jitted for a model: (params, draft_params, batch, prompt, valid, rows, keys) ->
  (Generated, how often the model was run).

  `draft` makes the Draft of `draft_params`, which may be of a smaller model.
  """

  def run(params, draft_params, batch, prompt_BP, valid_BP, rows, key_B):
    return speculate(network.bind(params), batch, prompt_BP, valid_BP, rows, key_B,
                     draft(draft_params), **options)

  return jax.jit(run, out_shardings=partitioner.replicated)
