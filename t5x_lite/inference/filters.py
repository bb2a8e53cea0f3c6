"""Filters of the logits: what each row of a batch may draw next, and how likely.

The order is that of transformers (GenerationMixin._get_logits_processor); a setting at its default
changes nothing, to the bit:

 1. logit_bias is added; forbidden ids are removed (their logit is -inf).
 2. repetition_penalty: logits of ids in the prompt or output, divided if positive, else multiplied.
 3. frequency_penalty × count and presence_penalty of ids in the output are subtracted (OpenAI's).
 4. What a constraint does not allow is removed.
 5. Ids that would repeat an n-gram are removed, and the end ids before min_new_tokens. Where one of
    these two would leave nothing it yields: the text goes on, or ends.
 6. A forced id is left alone.
 7. Where temperature is not 0: temperature, top_k, top_p, min_p, typical_p.

Ties: the largest logit is that of the lowest id; top_k, min_p and typical_p keep all that tie with
the last one kept; of those that tie at the edge of top_p the lowest ids are kept (transformers
keeps as many: which ones follows from an unstable sort).

Shape letters: B batch, S slots of the history, V vocabulary, E entries of a sparse row.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from t5x_lite.inference.sampling import NO_ID, SamplingRows


class History(NamedTuple):
  """What each row has read and written: ids of its prompt and output lie side by side in slots.

  Attributes:
    tokens_BS: [batch, slots] int32; what is outside of first to last is never read.
    first_B, new_B, last_B: [batch] int32: the slot of the first id of the prompt, that of the
      first new one, and that after the last. Prompts may be padded on either side.
  """
  tokens_BS: jax.Array
  first_B: jax.Array
  new_B: jax.Array
  last_B: jax.Array

  @classmethod
  def of_prompts(cls, prompt_BP: jax.Array, valid_BP: jax.Array, room: int, pad_id: int
                 ) -> 'History':
    """That of prompts padded on the left, with room for new ids, where `pad_id` stands."""
    B, P = prompt_BP.shape
    at_B = jnp.full((B,), P, jnp.int32)
    tokens_BS = jnp.concatenate([prompt_BP, jnp.full((B, room), pad_id, jnp.int32)], 1)
    return cls(tokens_BS, P - valid_BP.sum(1), at_B, at_B)

  def append(self, token_B: jax.Array, where_B: jax.Array) -> 'History':
    """With one id more in the rows `where_B`."""
    slot_B = jnp.where(where_B, self.last_B, self.tokens_BS.shape[1])
    tokens_BS = self.tokens_BS.at[jnp.arange(len(token_B)), slot_B].set(token_B, mode='drop')
    return self._replace(tokens_BS=tokens_BS, last_B=self.last_B + where_B.astype(jnp.int32))

  @property
  def step_B(self) -> jax.Array:
    """How many new tokens each row has."""
    return self.last_B - self.new_B


def filtered_logits(logits_BV: jax.Array, rows: SamplingRows, history: History,
                    allowed_BV: jax.Array | None = None) -> jax.Array:
  """Logits [batch, vocab] float32 to draw the next tokens from, -inf where an id is ruled out.

  What no row of the batch sets is not computed. The logits of a greedy row are those of which the
  largest is taken. Ids beyond the vocabulary are -inf in `logits_BV` already.

  Args:
    logits_BV: of the model.
    allowed_BV: bool, what a constraint lets each row write; a row allows at least one id.
  """
  B, V = logits_BV.shape
  step_B = history.step_B
  forced_B = jnp.take_along_axis(
      rows.forced, jnp.clip(step_B, 0, rows.forced.shape[1] - 1)[:, None], 1)[:, 0]
  forced_B = jnp.where(step_B < rows.forced.shape[1], forced_B, -1)
  penalized_B = (rows.repetition != 1) | (rows.presence != 0) | (rows.frequency != 0)
  early_B = step_B < rows.min_new

  def process(x_BV):
    x_BV = _when(rows.bias_ids != NO_ID, lambda x: _scatter(
        x, rows.bias_ids, 'add', rows.bias), x_BV)
    x_BV = _when(penalized_B, lambda x: _penalize(x, rows, history), x_BV)
    if allowed_BV is not None:
      x_BV = jnp.where(allowed_BV, x_BV, -jnp.inf)
    x_BV = _when(rows.ngram > 0, lambda x: _yielding(x, _scatter(
        x, _repeating(rows.ngram, history), 'set', -jnp.inf)), x_BV)
    x_BV = _when(early_B, lambda x: _yielding(x, _scatter(
        x, jnp.where(early_B[:, None], rows.end_ids, NO_ID), 'set', -jnp.inf)), x_BV)
    only = lambda x: jnp.where(jnp.arange(V)[None] == forced_B[:, None], 0.0, -jnp.inf)
    x_BV = _when(forced_B >= 0, lambda x: jnp.where((forced_B >= 0)[:, None], only(x), x), x_BV)
    return _when(rows.temperature > 0, lambda x: _warp(x, rows), x_BV)

  used_B = (penalized_B | (rows.ngram > 0) | early_B | (forced_B >= 0) | (rows.temperature > 0)
            | (rows.bias_ids != NO_ID).any(1))
  x_BV = logits_BV.astype(jnp.float32)
  return process(x_BV) if allowed_BV is not None else _when(used_B, process, x_BV)


def within_vocabulary(logits: jax.Array, num_ids: int) -> jax.Array:
  """Logits [..., vocab] with -inf for rows of the embedding table beyond the vocabulary."""
  index = jax.lax.broadcast_to_rank(jnp.arange(logits.shape[-1]), logits.ndim)
  return jnp.where(index < num_ids, logits, -jnp.inf)


def _when(where: jax.Array, change: Callable, x: jax.Array) -> jax.Array:
  """`change(x)` if `where` holds anywhere, else x: decided as the program runs."""
  return jax.lax.cond(where.any(), change, lambda x: x, x)


def _scatter(x_BV: jax.Array, ids_BE: jax.Array, how: str, values) -> jax.Array:
  rows_B1 = jnp.arange(x_BV.shape[0])[:, None]
  return getattr(x_BV.at[rows_B1, ids_BE], how)(values, mode='drop')


def _yielding(x_BV: jax.Array, removed_BV: jax.Array) -> jax.Array:
  """The second where it leaves an id, else the first."""
  return jnp.where((removed_BV > -jnp.inf).any(-1, keepdims=True), removed_BV, x_BV)


def _penalize(x_BV: jax.Array, rows: SamplingRows, history: History) -> jax.Array:
  """Steps 2 and 3: the penalties on ids by how often they came."""
  slots = jnp.arange(history.tokens_BS.shape[1])[None]
  within = lambda start_B: jnp.where(
      (slots >= start_B[:, None]) & (slots < history.last_B[:, None]), history.tokens_BS, NO_ID)
  count = lambda start_B: _scatter(jnp.zeros(x_BV.shape, jnp.int32), within(start_B), 'add', 1)
  factor = rows.repetition[:, None]
  repeated = jnp.where(x_BV < 0, x_BV * factor, x_BV / factor)
  x_BV = jnp.where(count(history.first_B) > 0, repeated, x_BV)
  new_BV = count(history.new_B)
  x_BV = x_BV - rows.frequency[:, None] * new_BV
  return x_BV - jnp.where(new_BV > 0, rows.presence[:, None], 0.0)


def _repeating(n_B: jax.Array, history: History) -> jax.Array:
  """Ids [batch, slots] that would end an n-gram that a row has already."""
  tokens_BS, S = history.tokens_BS, history.tokens_BS.shape[1]
  slots = jnp.arange(S)[None]
  found_BS = (slots >= (history.first_B + n_B - 1)[:, None]) & (slots < history.last_B[:, None])

  def compare(k, found_BS):
    """Narrows them to slots whose k-th id before is the k-th last of the row."""
    last_B1 = jnp.take_along_axis(tokens_BS, jnp.maximum(history.last_B - k, 0)[:, None], 1)
    return found_BS & ((jnp.roll(tokens_BS, k, axis=1) == last_B1) | (k >= n_B)[:, None])

  found_BS = jax.lax.fori_loop(1, jnp.minimum(n_B.max(), S), compare, found_BS)
  return jnp.where(found_BS & (n_B > 0)[:, None], tokens_BS, NO_ID)


def _warp(x_BV: jax.Array, rows: SamplingRows) -> jax.Array:
  """Step 7; greedy rows as they are."""
  drawn_B = rows.temperature > 0
  x_BV = x_BV / jnp.where(drawn_B, rows.temperature, 1.0)[:, None]
  for filter, used_B in ((_top_k, rows.top_k > 0), (_top_p, rows.top_p < 1),
                         (_min_p, rows.min_p > 0), (_typical_p, rows.typical_p < 1)):
    used_B = used_B & drawn_B
    x_BV = _when(used_B, lambda x: jnp.where(
        used_B[:, None] & ~filter(x, rows), -jnp.inf, x), x_BV)
  return x_BV


def _top_k(x_BV: jax.Array, rows: SamplingRows) -> jax.Array:
  key_BV = _descending(x_BV)
  return key_BV <= _threshold(key_BV, jnp.ones_like(x_BV), rows.top_k)[:, None]


def _top_p(x_BV: jax.Array, rows: SamplingRows) -> jax.Array:
  key_BV, p_BV = _descending(x_BV), jax.nn.softmax(x_BV)
  edge_B1 = _threshold(key_BV, p_BV, rows.top_p)[:, None]
  above_B = jnp.where(key_BV < edge_B1, p_BV, 0).sum(-1)
  tied_BV = key_BV == edge_B1
  each_B = jnp.where(tied_BV, p_BV, 0).max(-1)
  number_B = jnp.ceil((rows.top_p - above_B) / each_B)   # of those that tie, to reach top_p
  number_B = jnp.maximum(number_B, 1)
  lowest = lambda tied_BV: tied_BV & (jnp.cumsum(tied_BV, axis=-1) <= number_B[:, None])
  return (key_BV < edge_B1) | _when(tied_BV.sum(-1) > number_B, lowest, tied_BV)


def _min_p(x_BV: jax.Array, rows: SamplingRows) -> jax.Array:
  p_BV = jax.nn.softmax(x_BV)
  return p_BV >= rows.min_p[:, None] * p_BV.max(-1, keepdims=True)


def _typical_p(x_BV: jax.Array, rows: SamplingRows) -> jax.Array:
  log_p_BV = jax.nn.log_softmax(x_BV)
  p_BV = jnp.exp(log_p_BV)
  entropy_B1 = -jnp.where(p_BV > 0, log_p_BV * p_BV, 0).sum(-1, keepdims=True)
  key_BV = ~_descending(jnp.abs(-log_p_BV - entropy_B1))
  return key_BV <= _threshold(key_BV, p_BV, rows.typical_p)[:, None]


def _descending(x: jax.Array) -> jax.Array:
  """uint32 that order as float32 do, the largest first; equal where these are equal."""
  bits = jax.lax.bitcast_convert_type(jnp.where(x == 0, 0.0, x), jnp.int32)
  return jax.lax.bitcast_convert_type(
      jnp.where(bits < 0, bits, bits ^ jnp.int32(0x7fffffff)), jnp.uint32)


def _threshold(key_BV: jax.Array, weight_BV: jax.Array, target_B: jax.Array) -> jax.Array:
  """The smallest key up to which the weights of a row add up to its target, else the largest.

  By bisection of the 32 bits of a key: many times as fast as sorting a vocabulary.
  """
  def halve(_, bounds):
    low_B, high_B = bounds
    middle_B = low_B + (high_B - low_B) // 2
    total_B = jnp.where(key_BV <= middle_B[:, None], weight_BV, 0).sum(-1)
    enough_B = total_B >= target_B
    return jnp.where(enough_B, low_B, middle_B + 1), jnp.where(enough_B, middle_B, high_B)
  low_B = jnp.zeros(key_BV.shape[0], jnp.uint32)
  high_B = jnp.full_like(low_B, np.iinfo(np.uint32).max)
  found_B = jax.lax.fori_loop(0, 32, halve, (low_B, high_B))[1]
  return jnp.maximum(found_B, key_BV.min(-1))   # a target of 0, too, keeps one
