"""Slots: the rows of one batch, which requests take and leave while the others go on writing.

Few programs serve whatever comes: the start of a row, a part of a prompt read into it, the row put
into slots, and some tokens written in all of them. A row's output follows from its request alone:
its prompt is read by itself, and the rows of the batch do not see one another.

Shape letters: B slots, L tokens of a part of a prompt, S slots of the cache, T steps, V vocabulary,
K alternatives.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from t5x_lite.inference.constraints import ConstraintRows
from t5x_lite.inference.filters import History, within_vocabulary
from t5x_lite.inference.generate import Writing, write_token
from t5x_lite.inference.sampling import SamplingRows, row_keys
from t5x_lite.models import Network
from t5x_lite.models.cache import Cache, put_rows, take_rows
from t5x_lite.parallel.partitioner import Partitioner

PARTS = (32, 128, 512)   # tokens of a prompt that are read at once
STEPS = 4                # tokens that are written before requests come and go
ALTERNATIVES = 20        # likeliest ids that are reported beside a token, as many as the API allows


class Row(NamedTuple):
  """A prompt that is being read: the logits [1, vocab] after it, and the cache that holds it."""
  logits_1V: jax.Array
  cache: Cache


class Written(NamedTuple):
  """What a call of `Slots.write` wrote, [steps, slots].

  Attributes:
    tokens: int32.
    written: bool, False where a slot had ended before, or is free.
    logprobs: float32, of the model: at temperature 1 and unfiltered.
    top_ids, top_logprobs: [steps, slots, alternatives], the likeliest ids of the model, the first
      the likeliest; zeros unless they were asked for.
  """
  tokens: np.ndarray
  written: np.ndarray
  logprobs: np.ndarray
  top_ids: np.ndarray
  top_logprobs: np.ndarray


class Slots:
  """The programs of a network's slots; the state is a Writing that they take and give back."""

  def __init__(self, network: Network, partitioner: Partitioner, *, slots: int, length: int,
               num_ids: int, int8_cache: bool = False):
    """Compiles nothing.

    Args:
      slots: rows of the batch.
      length: maximum of tokens of a row: of the prompt and new ones.
      num_ids: size of the vocabulary.
      int8_cache: whether keys and values are held in 8 bits.
    """
    self.slots, self.length, self.num_ids = slots, length, num_ids
    self.vocab_size = network.config.vocab_size   # of the logits
    self.whole = network.config.prefix_lm   # a prompt's tokens see those after them
    self._network, self._int8 = network, int8_cache
    out = partitioner.replicated
    self._empty = jax.jit(self._empty_writing)
    self._start = jax.jit(self._start_row)
    self._read = jax.jit(self._read_part, donate_argnums=1)
    self._put = jax.jit(_put_row, donate_argnums=0)
    self._write = jax.jit(self._write_tokens, donate_argnums=1, out_shardings=(None, out))

  def empty(self, params: Any, batch: dict[str, np.ndarray]) -> Writing:
    """Slots that are all free; `batch` as of `start`."""
    return self._empty(params, batch)

  def start(self, params: Any, batch: dict[str, np.ndarray]) -> Row:
    """A row that has read nothing yet; `batch` is what `model.start` reads, of one row."""
    return self._start(params, batch)

  def parts(self, ids: Sequence[int]) -> list[np.ndarray]:
    """The parts of a prompt that `read` takes, one after the other."""
    most = len(ids) if self.whole else PARTS[-1]
    return [np.asarray(ids[i:i + most], np.int32) for i in range(0, len(ids), most)]

  def read(self, params: Any, row: Row, part: np.ndarray) -> Row:
    """The row with one part more of its prompt; the argument is used up."""
    sizes = [2 ** n for n in range(5, 32)] if self.whole else PARTS
    size = min(n for n in sizes if n >= len(part))
    tokens, valid = np.zeros((1, size), np.int32), np.zeros((1, size), bool)
    tokens[0, -len(part):], valid[0, -len(part):] = part, True
    return self._read(params, row, tokens, valid)

  def put(self, writing: Writing, row: Row, ids: Sequence[int], slots: Sequence[int]) -> Writing:
    """Puts a row that has read `ids` into free slots; `writing` is used up."""
    tokens, at = np.zeros(self.length, np.int32), np.zeros(self.slots, np.int32)
    tokens[:len(ids)], at[:len(slots)] = ids, slots
    return self._put(writing, row, tokens, len(ids), at, len(slots))

  def write(self, params: Any, writing: Writing, rows: SamplingRows, sample: np.ndarray,
            active: np.ndarray, top: bool, constraints: ConstraintRows | None
            ) -> tuple[Writing, Written]:
    """STEPS tokens more in each active slot that has not ended; `writing` is used up.

    Args:
      rows: settings of each slot.
      sample: int32 [slots], the number of the sample of its prompt.
      active: bool [slots], False where a slot is free.
      top: whether alternatives are wanted of any.
      constraints: of each slot; None where there are none, which is a program of its own.
    """
    writing, written = self._write(params, writing, rows, sample, active, top, constraints)
    return writing, Written(*jax.device_get(written))

  def _empty_writing(self, params, batch):
    B, S = self.slots, self.length
    row = self._start_row(params, batch)
    zeros = jnp.zeros((B,), jnp.int32)
    return Writing(jnp.repeat(row.logits_1V, B, axis=0), take_rows(row.cache, zeros),
                   History(jnp.zeros((B, S), jnp.int32), zeros, zeros, zeros),
                   jnp.ones((B,), bool), zeros)

  def _start_row(self, params, batch):
    model = self._network.bind(params)
    cache = model.start(batch, self.length, int8=self._int8)
    return Row(jnp.zeros((1, self._network.config.vocab_size)), cache)

  def _read_part(self, params, row, tokens_1L, valid_1L):
    logits_11V, cache = self._network.bind(params).decode(
        tokens_1L, row.cache, valid_1L, prompt=self.whole)
    return Row(logits_11V[:, 0].astype(jnp.float32), cache)

  def _write_tokens(self, params, writing, rows, sample_B, active_B, top, constraints):
    model = self._network.bind(params)
    key_B = row_keys(rows.seed, sample_B)

    def step(writing, _):
      logits_BV = within_vocabulary(writing.logits_BV, self.num_ids).astype(jnp.float32)
      likeliest = jax.lax.cond(top, _likeliest, _none, logits_BV)
      after, drawn = write_token(model, writing, rows, key_B, self.num_ids, constraints)
      after = after._replace(logits_BV=after.logits_BV.astype(jnp.float32))
      return after, (drawn.token, ~writing.done_B, drawn.logprob, *likeliest)

    writing = writing._replace(done_B=writing.done_B | ~active_B)
    writing, written = jax.lax.scan(step, writing, length=STEPS)
    return writing, Written(*written)


def _put_row(writing: Writing, row: Row, tokens_S, count, slot_B, number) -> Writing:
  """The first `number` of `slot_B` hold the row, whose prompt is the first `count` of tokens."""
  prompt = History(tokens_S[None], *(jnp.asarray([x], jnp.int32) for x in (0, count, count)))
  zero = jnp.zeros((1,), jnp.int32)

  def put(i, writing):
    at = slot_B[i][None]
    replace = lambda old, new: old.at[at].set(new)
    return Writing(replace(writing.logits_BV, row.logits_1V),
                   put_rows(writing.cache, row.cache, at),
                   jax.tree.map(replace, writing.history, prompt),
                   replace(writing.done_B, zero > 0), replace(writing.state_B, zero))

  return jax.lax.fori_loop(0, number, put, writing)


def _likeliest(logits_BV):
  top_BK, ids_BK = jax.lax.top_k(logits_BV, min(ALTERNATIVES, logits_BV.shape[1]))
  return ids_BK, top_BK - jax.nn.logsumexp(logits_BV, axis=-1, keepdims=True)


def _none(logits_BV):
  shape = len(logits_BV), min(ALTERNATIVES, logits_BV.shape[1])
  return jnp.zeros(shape, jnp.int32), jnp.zeros(shape)
