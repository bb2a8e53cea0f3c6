"""The settings by which tokens are drawn, one set a row of a batch, and the draw.

What the settings do to logits, and in which order, is in filters.py.

Shape letters: B batch, V vocabulary, N blocks of it, E entries of one.
"""

from collections.abc import Sequence
import dataclasses
from typing import Annotated, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from t5x_lite.core.dataclass_checks import Count, FieldError, Range, Seed, Step, check_types
from t5x_lite.inference.stop import check_stop

NO_ID = np.iinfo(np.int32).max   # fills sparse rows: a scatter drops it
_MAX_BIAS = 100
_BLOCK = 256   # of the vocabulary, in which an id is drawn
_Penalty = Annotated[float, Range(min=-2, max=2)]
_Probability = Annotated[float, Range(min=0, max=1)]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sampling:
  """How the output of one prompt is drawn. The defaults are greedy and filter nothing."""
  temperature: Annotated[float, Range(min=0, max=100)] = 0.0   # 0: the largest logit
  top_k: Step = 0                       # how many of the largest logits are kept; 0: all
  top_p: _Probability = 1.0             # smallest set of the likeliest with this mass; 1: all
  min_p: _Probability = 0.0             # share of the largest probability that is kept
  typical_p: Annotated[float, Range(above=0, max=1)] = 1.0   # mass nearest the entropy; 1: all
  # Divides positive logits of what was read or written, multiplies others (Keskar et al. 2019).
  repetition_penalty: Annotated[float, Range(min=0.01, max=100)] = 1.0
  presence_penalty: _Penalty = 0.0      # taken off the logits of ids that were written
  frequency_penalty: _Penalty = 0.0     # the same, times how often
  no_repeat_ngram_size: Step = 0        # 0: n-grams may repeat
  logit_bias: dict[int, float] = dataclasses.field(default_factory=dict)   # added to those of ids
  forbidden: tuple[int, ...] = ()       # ids that are never drawn
  forced: tuple[int, ...] = ()          # ids that begin the output
  min_new_tokens: Step = 0              # no end id before so many
  max_new_tokens: Count | None = None   # None: as many as the caller allows
  stop: tuple[str, ...] = ()            # texts that end the output, of which they are no part
  seed: Seed = 0                        # of what is drawn, beside Experiment.seed

  def __post_init__(self):
    check_types(self)
    if 0 < self.temperature < 0.01:
      raise FieldError(self, 'temperature', 'must be 0, which is greedy, or at least 0.01')
    for name in ('logit_bias', 'forbidden', 'forced'):
      if any(i < 0 for i in getattr(self, name)):
        raise FieldError(self, name, 'ids of tokens are 0 or above')
    if any(not abs(bias) <= _MAX_BIAS for bias in self.logit_bias.values()):
      raise FieldError(self, 'logit_bias', f'a bias is from -{_MAX_BIAS} to {_MAX_BIAS}; to rule '
                       'an id out, list it in forbidden')
    if set(self.forced) & set(self.forbidden):
      raise FieldError(self, 'forced', 'has an id that is forbidden too: take it out of one')
    longest = self.max_new_tokens
    for name, length in (('forced', len(self.forced)), ('min_new_tokens', self.min_new_tokens)):
      if longest is not None and length > longest:
        raise FieldError(self, name, f'is more than max_new_tokens ({longest}): raise that')
    check_stop(self.stop, lambda rule: FieldError(self, 'stop', rule))

  def check_ids(self, num_ids: int, end_ids: Sequence[int]) -> None:
    """Raises FieldError for ids beyond a vocabulary of `num_ids`, or that nothing can follow."""
    for name in ('logit_bias', 'forbidden', 'forced'):
      if any(i >= num_ids for i in getattr(self, name)):
        raise FieldError(self, name, f'the vocabulary has ids below {num_ids}')
    if len(set(self.forbidden)) == num_ids:
      raise FieldError(self, 'forbidden', 'leaves no id of the vocabulary: allow some')
    if set(self.forced[:-1]) & set(end_ids):
      raise FieldError(self, 'forced', 'goes on after an id that ends the output: end it there')


class SamplingRows(NamedTuple):
  """Sampling of each row of a batch, as arrays: a change of values compiles nothing.

  Rows of several batches may be concatenated where their widths are equal.
  """
  temperature: jax.Array        # [batch] float32, as all that follow but for the integers
  top_k: jax.Array              # int32
  top_p: jax.Array
  min_p: jax.Array
  typical_p: jax.Array
  repetition: jax.Array
  presence: jax.Array
  frequency: jax.Array
  ngram: jax.Array              # int32
  min_new: jax.Array            # int32
  max_new: jax.Array            # int32
  seed: jax.Array               # uint32
  bias_ids: jax.Array           # [batch, entries] int32
  bias: jax.Array               # [batch, entries] float32, -inf where an id is forbidden
  forced: jax.Array             # [batch, entries] int32, -1 beyond their end
  end_ids: jax.Array            # [batch, entries] int32


def sampling_rows(settings: Sequence[Sampling], *, num_ids: int, end_ids: Sequence[int],
                  max_tokens: int, width: int = 4) -> SamplingRows:
  """The settings of a batch, one a row, as NumPy arrays.

  Args:
    num_ids: of the vocabulary.
    end_ids: each of which ends an output.
    max_tokens: the most new tokens of a row.
    width: minimum of entries of biases and of forced ids; more are padded to a power of two.

  Raises:
    FieldError: an id is beyond the vocabulary, or a length above max_tokens.
  """
  for one in settings:
    one.check_ids(num_ids, end_ids)
    for name in ('max_new_tokens', 'min_new_tokens', 'forced'):
      value = getattr(one, name) or 0
      if (len(value) if isinstance(value, tuple) else value) > max_tokens:
        raise FieldError(one, name, f'at most {max_tokens} new tokens are written here')
  column = lambda name, dtype: np.asarray([getattr(one, name) for one in settings], dtype)
  biases = [dict(one.logit_bias) | dict.fromkeys(one.forbidden, -np.inf) for one in settings]
  return SamplingRows(
      *(column(name, np.float32) if name != 'top_k' else column(name, np.int32) for name in (
          'temperature', 'top_k', 'top_p', 'min_p', 'typical_p', 'repetition_penalty',
          'presence_penalty', 'frequency_penalty')),
      ngram=column('no_repeat_ngram_size', np.int32), min_new=column('min_new_tokens', np.int32),
      max_new=np.asarray([one.max_new_tokens or max_tokens for one in settings], np.int32),
      seed=column('seed', np.uint32), bias_ids=_padded(biases, NO_ID, width, np.int32),
      bias=_padded([list(row.values()) for row in biases], 0, width, np.float32),
      forced=_padded([one.forced for one in settings], -1, width, np.int32),
      end_ids=_padded([end_ids] * len(settings), NO_ID, 1, np.int32))


def _padded(rows: Sequence, fill, width: int, dtype) -> np.ndarray:
  """[rows, entries] of unequally long rows; entries is `width` times a power of two."""
  longest = max(map(len, rows), default=0)
  while width < longest:
    width *= 2
  return np.asarray([[*row, *[fill] * (width - len(row))] for row in rows], dtype)


class Drawn(NamedTuple):
  """Tokens [batch] int32 and two log-probabilities of each [batch] float32.

  Attributes:
    logprob: of the model, at temperature 1 and unfiltered.
    sampled_logprob: of the distribution that it was drawn from; 0 in a greedy row.
  """
  token: jax.Array
  logprob: jax.Array
  sampled_logprob: jax.Array


def row_keys(seed_B: jax.Array, sample_B: jax.Array) -> jax.Array:
  """A key for each row [batch], of its seed and the number of the sample of its prompt."""
  return jax.vmap(lambda seed, n: jax.random.fold_in(jax.random.key(seed), n))(seed_B, sample_B)


def draw(logits_BV: jax.Array, filtered_BV: jax.Array, rows: SamplingRows, key_B: jax.Array,
         step_B: jax.Array) -> Drawn:
  """The next token of each row; it depends on the row's logits, key and step, on no other row.

  Args:
    logits_BV: of the model.
    filtered_BV: by `filters.filtered_logits`.
    key_B: of `row_keys`.
    step_B: how many new tokens each row has.
  """
  best_B = argmax(filtered_BV)
  drawn_B = rows.temperature > 0

  def sample(token_B):
    uniform = lambda key, step: jax.random.uniform(jax.random.fold_in(key, step), (2,))
    token_B = jnp.where(drawn_B, pick(filtered_BV, jax.vmap(uniform)(key_B, step_B)), token_B)
    return token_B, jnp.where(drawn_B, log_p(filtered_BV, token_B), 0.0)

  token_B, sampled_B = jax.lax.cond(
      drawn_B.any(), sample, lambda token_B: (token_B, jnp.zeros(token_B.shape)), best_B)
  return Drawn(token_B, log_p(logits_BV.astype(jnp.float32), token_B), sampled_B)


def pick(x_BV: jax.Array, uniform_B2: jax.Array) -> jax.Array:
  """Ids [batch] int32 drawn from softmax(x): first a block of the vocabulary, then an id in it.

  Two uniform numbers a row, in place of the V of jax.random.categorical, which take longer than
  many a model.
  """
  B, V = x_BV.shape
  p_BV = jnp.exp(x_BV - x_BV.max(-1, keepdims=True))
  p_BNE = jnp.pad(p_BV, ((0, 0), (0, -V % _BLOCK))).reshape(B, -1, _BLOCK)
  block_B = _pick_index(p_BNE.sum(-1), uniform_B2[:, 0])
  inside_BE = jnp.take_along_axis(p_BNE, block_B[:, None, None], 1)[:, 0]
  return block_B * _BLOCK + _pick_index(inside_BE, uniform_B2[:, 1])


def _pick_index(weight_BN: jax.Array, uniform_B: jax.Array) -> jax.Array:
  """The first index up to which more than a share `uniform` of the weight lies; it has some."""
  index = jnp.arange(weight_BN.shape[1], dtype=jnp.int32)[None]
  total_BN = jnp.cumsum(weight_BN, axis=-1)
  beyond_BN = total_BN > (uniform_B * total_BN[:, -1])[:, None]
  last_B = jnp.where(weight_BN > 0, index, 0).max(-1)   # sums are rounded: there may be none
  return jnp.minimum(jnp.where(beyond_BN & (weight_BN > 0), index, NO_ID).min(-1), last_B)


def log_distribution(filtered_BV: jax.Array, rows: SamplingRows) -> jax.Array:
  """Log-probabilities [batch, vocab] that `draw` draws from: of a greedy row, 0 and -inf."""
  best_BV = jnp.arange(filtered_BV.shape[1])[None] == argmax(filtered_BV)[:, None]
  return jnp.where((rows.temperature > 0)[:, None], jax.nn.log_softmax(filtered_BV),
                   jnp.where(best_BV, 0.0, -jnp.inf))


def argmax(x_BV: jax.Array) -> jax.Array:
  """The lowest index of the largest value. XLA's argmax, of pairs, is ten times slower on a CPU."""
  index = jnp.where(x_BV == x_BV.max(-1, keepdims=True), jnp.arange(x_BV.shape[-1])[None],
                    x_BV.shape[-1])
  return index.min(-1).astype(jnp.int32)


def log_p(x_BV: jax.Array, token_B: jax.Array) -> jax.Array:
  """The log-probability [batch] of a token of each row under softmax(x)."""
  taken_B = jnp.take_along_axis(x_BV, token_B[:, None], -1)[:, 0]
  return taken_B - jax.nn.logsumexp(x_BV, axis=-1)
