"""Generation: tokens drawn one after the other, with a key-value cache, in one compiled loop.

Shape letters: B rows (the samples of a prompt are rows, side by side), P prompt length, T new
tokens, V vocabulary.
"""

from collections.abc import Callable
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from t5x_lite.inference.constraints import ConstraintRows
from t5x_lite.inference.filters import History, filtered_logits, within_vocabulary
from t5x_lite.inference.sampling import (
  Drawn,
  Sampling,
  SamplingRows,
  draw,
  row_keys,
  sampling_rows,
)
from t5x_lite.models import Model, Network
from t5x_lite.models.cache import Cache, take_rows
from t5x_lite.parallel.partitioner import Partitioner

PREFILL_CHUNK = 512   # tokens of a prompt that are read at a time


class Writing(NamedTuple):
  """Rows that are being written: what each holds, and what the model says comes next.

  Attributes:
    logits_BV: of the next token of each row, [batch, vocab].
    cache: of the tokens up to now.
    history: their ids.
    done_B: bool, rows that have ended.
    state_B: int32, of each row's constraint.
  """
  logits_BV: jax.Array
  cache: Cache
  history: History
  done_B: jax.Array
  state_B: jax.Array


class Generated(NamedTuple):
  """What was written after prompts, [rows, new tokens] each, 0 after the end of a row.

  Attributes:
    tokens: int32; the id that ends an output is kept, `pad_id` follows it.
    logprobs: of the model, at temperature 1 and unfiltered.
    sampled_logprobs: of the distribution that a token was drawn from; 0 in a greedy row.
  """
  tokens: jax.Array
  logprobs: jax.Array
  sampled_logprobs: jax.Array


def generate(model: Model, batch: dict[str, jax.Array], prompt_BP: jax.Array,
             valid_BP: jax.Array, rows: SamplingRows, key_B: jax.Array, *, max_tokens: int,
             pad_id: int, num_ids: int, samples: int = 1, int8_cache: bool = False,
             constraints: ConstraintRows | None = None) -> Generated:
  """New tokens after each prompt, drawn by the settings of each row.

  Args:
    model: a DecoderOnly or EncoderDecoder.
    batch: what `model.start` reads (the encoder's features, one example a row).
    prompt_BP: prompts, padded on the left to one length; at least the id that starts decoding.
    valid_BP: bool, False on the padding.
    rows: settings [rows], and the ids that end each; of rows * samples where there are several.
    key_B: draws the tokens of each row, which do not depend on other rows; unused where greedy.
    max_tokens: a row ends at this length or its own.
    pad_id: fills the rest.
    num_ids: size of the vocabulary; rows of the embedding table beyond it are never drawn.
    samples: outputs of each prompt, which is read once.
    int8_cache: keys and values are held in 8 bits.
    constraints: what each row may write.
  """
  P = prompt_BP.shape[1]
  logits_BV, cache = prefill(model, prompt_BP, valid_BP,
                             model.start(batch, P + max_tokens, int8=int8_cache))
  if samples > 1:
    repeat = lambda x: jnp.repeat(x, samples, axis=0)
    logits_BV, prompt_BP, valid_BP = map(repeat, (logits_BV, prompt_BP, valid_BP))
    cache = take_rows(cache, repeat(jnp.arange(len(cache['held']))))
  history = History.of_prompts(prompt_BP, valid_BP, max_tokens, pad_id)

  def unfinished(carry):
    i, writing, _ = carry
    return (i < max_tokens) & ~writing.done_B.all()

  def step(carry):
    i, writing, logprobs = carry
    put = lambda x_BT, x_B: jax.lax.dynamic_update_slice_in_dim(
        x_BT, jnp.where(writing.done_B, 0.0, x_B)[:, None], i, axis=1)
    after, drawn = write_token(model, writing, rows, key_B, num_ids, constraints)
    return i + 1, after, (put(logprobs[0], drawn.logprob), put(logprobs[1], drawn.sampled_logprob))

  zeros = jnp.zeros((len(logits_BV), max_tokens))
  zeros_B = jnp.zeros(len(logits_BV), jnp.int32)
  writing = Writing(logits_BV, cache, history, zeros_B > 0, zeros_B)
  _, writing, logprobs = jax.lax.while_loop(unfinished, step, (0, writing, (zeros, zeros)))
  return Generated(writing.history.tokens_BS[:, P:], *logprobs)


def write_token(model: Model, writing: Writing, rows: SamplingRows, key_B: jax.Array, num_ids: int,
                constraints: ConstraintRows | None = None) -> tuple[Writing, Drawn]:
  """One token more in each row that has not ended; arguments as of `generate`."""
  done_B, state_B, allowed_BV = writing.done_B, writing.state_B, None
  if constraints is not None:
    allowed_BV = constraints.allowed(state_B)
  logits_BV = within_vocabulary(writing.logits_BV, num_ids)
  drawn = draw(logits_BV, filtered_logits(logits_BV, rows, writing.history, allowed_BV), rows,
               key_B, writing.history.step_B)
  if constraints is not None:
    state_B = constraints.advance(state_B, drawn.token)
  history = writing.history.append(drawn.token, ~done_B)
  done_B = done_B | (drawn.token[:, None] == rows.end_ids).any(1) | (
      history.step_B >= rows.max_new)
  logits_B1V, cache = model.decode(drawn.token[:, None], writing.cache, ~done_B[:, None])
  return Writing(logits_B1V[:, 0], cache, history, done_B, state_B), drawn


def prefill(model: Model, prompt_BP: jax.Array, valid_BP: jax.Array, cache: Cache,
            chunk: int = PREFILL_CHUNK) -> tuple[jax.Array, Cache]:
  """Logits [batch, vocab] after prompts, which an empty cache then holds.

  Prompts of more than `chunk` tokens are read so many at a time, which bounds the memory of
  activations; but for a prefix language model, whose tokens see those after them.
  """
  B, P = prompt_BP.shape
  if P <= chunk or model.config.prefix_lm:
    logits_B1V, cache = model.decode(prompt_BP, cache, valid_BP, prompt=True)
    return logits_B1V[:, 0], cache
  number = -(-P // chunk)
  chunks = lambda x_BP: jnp.moveaxis(jnp.pad(
      x_BP, ((0, 0), (number * chunk - P, 0))).reshape(B, number, chunk), 1, 0)
  tokens_CBP, valid_CBP = chunks(prompt_BP), chunks(valid_BP)
  logits_B1V, cache = model.decode(tokens_CBP[0], cache, valid_CBP[0], prompt=True)

  def read(carry, tokens_valid):
    tokens_BP, valid_BP = tokens_valid
    return model.decode(tokens_BP, carry[1], valid_BP), None

  (logits_B1V, cache), _ = jax.lax.scan(read, (logits_B1V, cache), (tokens_CBP[1:], valid_CBP[1:]))
  return logits_B1V[:, 0], cache


def make_generate(network: Network, partitioner: Partitioner, **options) -> Callable:
  """`generate` jitted for a model: (params, batch, prompt, valid, rows, keys) -> Generated.

  The constraints of rows, if there are any, are given last.
  """

  def run(params, batch, prompt_BP, valid_BP, rows, key_B, constraints=None):
    return generate(network.bind(params), batch, prompt_BP, valid_BP, rows, key_B,
                    constraints=constraints, **options)

  return jax.jit(run, out_shardings=partitioner.replicated)


def make_greedy(network: Network, partitioner: Partitioner, *, eos_id: int | tuple[int, ...],
                num_ids: int, max_tokens: int, **options) -> Callable:
  """As `make_generate`, of the likeliest tokens: (params, batch, prompt, valid) -> Generated."""
  settings = functools.partial(
      sampling_rows, num_ids=num_ids, max_tokens=max_tokens,
      end_ids=(eos_id,) if isinstance(eos_id, int) else eos_id)

  def run(params, batch, prompt_BP, valid_BP):
    rows = settings([Sampling()] * len(prompt_BP))
    return generate(network.bind(params), batch, prompt_BP, valid_BP, rows,
                    row_keys(rows.seed, np.zeros(len(prompt_BP), np.int32)),
                    num_ids=num_ids, max_tokens=max_tokens, **options)

  return jax.jit(run, out_shardings=partitioner.replicated)


def padded_length(longest: int, multiple: int = 32) -> int:
  """A length for `longest` tokens: a multiple of `multiple`, and of a quarter of the power of two
  below them, so that few lengths are compiled; with `multiple` 1 as many as they are."""
  if multiple > 1:
    multiple = max(multiple, 2 ** (longest.bit_length() - 3))
  return -(-longest // multiple) * multiple


def left_pad(prompts: list[np.ndarray], pad_id: int, multiple: int = 32
             ) -> tuple[np.ndarray, np.ndarray]:
  """(prompts [batch, length] int32, valid [batch, length] bool), padded on the left.

  The length is that of `padded_length`.
  """
  length = padded_length(max(1, *map(len, prompts)) if prompts else 1, multiple)
  tokens = np.full((len(prompts), length), pad_id, np.int32)
  valid = np.zeros((len(prompts), length), bool)
  for row, prompt in enumerate(prompts):
    if len(prompt):
      tokens[row, -len(prompt):], valid[row, -len(prompt):] = prompt, True
  return tokens, valid
