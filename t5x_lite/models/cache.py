"""The key-value cache of decoding: a ring of slots for each row of each layer.

The token at position p of a row is in slot p % slots. A layer that attends to all tokens has a slot
for each; one with a sliding window has those of the window, and a margin where decoding may step
back (inference/speculative.py). Padding is not held: a row's cache is the same in every batch.

Shape letters: see layers.py; S slots.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from t5x_lite.models.attention.masks import Mask
from t5x_lite.models.context import Context

Cache = dict[str, Any]


class Codes(NamedTuple):
  """Keys or values in 8 bits, each token's of each head with a scale of its own."""
  codes: jax.Array   # int8 [batch, kv heads, slots, head_dim]
  scale: jax.Array   # float32 [batch, kv heads, slots, 1]


def empty_cache(stack, batch_size: int, length: int, margin: int = 0, int8: bool = False) -> Cache:
  """A cache for `length` tokens a row: how many each row holds, and the layers'.

  `margin` is how many tokens may be taken back; `int8` holds keys and values in 8 bits.
  """
  return {'held': jnp.zeros((batch_size,), jnp.int32),
          'layers': stack.init_caches(batch_size, length, margin, int8)}


def empty_slots(shape: tuple[int, ...], dtype: Any, int8: bool) -> jax.Array | Codes:
  """Keys or values [..., slots, head_dim] of no token yet."""
  if not int8:
    return jnp.zeros(shape, dtype)
  return Codes(jnp.zeros(shape, jnp.int8), jnp.zeros((*shape[:-1], 1), jnp.float32))


def decode_context(cache: Cache, valid_BL: jax.Array, prompt: bool, causal: bool = True
                   ) -> tuple[Context, Cache]:
  """The Context of the tokens that come next, and the cache that counts them.

  `prompt` says that the cache is empty: its tokens see one another alone.
  """
  held_B = cache['held']
  count_BL = jnp.cumsum(valid_BL, axis=1)
  positions_BL = jnp.maximum(held_B[:, None] + count_BL - 1, 0)
  if prompt:   # as segments: what is valid sees what is valid
    mask = Mask(q_segments_BL=valid_BL, k_segments_BS=valid_BL, causal=causal)
  else:
    mask = Mask(q_positions_BL=positions_BL, causal=True)
  next_B = held_B + count_BL[:, -1]
  context = Context(mask=mask, positions_BL=positions_BL, valid_BL=valid_BL, held_B=held_B,
                    next_B=next_B)
  return context, cache | {'held': next_B}


def extend(cache: Cache, k_BKLH: jax.Array, v_BKLH: jax.Array, context: Context
           ) -> tuple[Cache, jax.Array, jax.Array, Mask]:
  """A layer's cache with the keys and values of further tokens; the keys and values that these
  tokens attend to, and the mask of them."""
  mask, new = context.mask, {'key': k_BKLH, 'value': v_BKLH}
  if context.held_B is None:   # the new ones are the whole of it
    return cache | new, k_BKLH, v_BKLH, mask
  length, slots = k_BKLH.shape[2], jax.tree.leaves(cache['key'])[0].shape[2]
  # Of more new tokens than there are slots the last ones are kept.
  kept_BL = context.valid_BL & (context.positions_BL >= context.next_B[:, None] - slots)
  slot_BL = jnp.where(kept_BL, context.positions_BL % slots, slots)
  old = {name: cache[name] for name in new}
  held = {name: _write(old[name], new[name], slot_BL) for name in new}
  if mask.k_segments_BS is not None:   # a prompt
    return cache | held, k_BKLH, v_BKLH, mask
  window = mask.sliding_window
  if length == 1 or window is None or slots >= window + length - 1:
    k, v = (_read(held[name], k_BKLH.dtype) for name in new)
    k_positions_BS = _positions(context.next_B, slots)
  else:   # the new tokens overwrite what the first of them see
    k, v = (jnp.concatenate([_read(old[name], k_BKLH.dtype), new[name]], axis=2) for name in new)
    k_positions_BS = jnp.concatenate([
        _positions(context.held_B, slots),
        jnp.where(context.valid_BL, context.positions_BL, -1)], axis=1)
  return cache | held, k, v, dataclasses.replace(mask, k_positions_BS=k_positions_BS)


def _positions(next_B: jax.Array, slots: int) -> jax.Array:
  """The position in each slot, the last one before `next_B` that belongs there; negative: none."""
  last_B1 = next_B[:, None] - 1
  return last_B1 - (last_B1 - jnp.arange(slots)[None]) % slots


def _read(held: jax.Array | Codes, dtype: Any) -> jax.Array:
  if isinstance(held, Codes):
    return (held.codes.astype(jnp.float32) * held.scale).astype(dtype)
  return held.astype(dtype)


def _write(held: jax.Array | Codes, new_BKLH: jax.Array, slot_BL: jax.Array) -> jax.Array | Codes:
  if isinstance(held, Codes):
    x = new_BKLH.astype(jnp.float32)
    scale = jnp.abs(x).max(-1, keepdims=True) / 127
    codes = jnp.round(x / jnp.where(scale == 0, 1, scale)).astype(jnp.int8)
    return Codes(_write(held.codes, codes, slot_BL), _write(held.scale, scale, slot_BL))
  new = new_BKLH.astype(held.dtype)
  if slot_BL.shape == (1, 1):
    return jax.lax.platform_dependent(held, new, slot_BL, cpu=_write_one, default=_scatter)
  return _scatter(held, new, slot_BL)


def _scatter(held_BKSH, new_BKLH, slot_BL):
  """Slots beyond the last are of tokens that are not held."""
  rows_B1 = jnp.arange(slot_BL.shape[0])[:, None]
  return held_BKSH.at[rows_B1, :, slot_BL].set(jnp.swapaxes(new_BKLH, 1, 2), mode='drop')


def _write_one(held_1KSH, new_1K1H, slot_11):
  """In a loop of one iteration: otherwise XLA for CPUs computes the update once for the attention
  and once for the next token, each on a full copy of the cache."""
  slot = slot_11[0, 0]
  write = lambda i, held: jax.lax.dynamic_update_slice_in_dim(held, new_1K1H, i, axis=2)
  return jax.lax.fori_loop(slot, jnp.minimum(slot + 1, held_1KSH.shape[2]), write, held_1KSH)


def step_back(cache: Cache, count_B: jax.Array) -> Cache:
  """The cache without the last tokens of each row, at most the margin that it was made with."""
  return cache | {'held': cache['held'] - count_B}


def take_rows(cache: Cache, rows_B: jax.Array) -> Cache:
  """The cache of these rows, in this order; a row may come more than once."""
  layers = jax.tree.map(lambda x: jnp.take(x, rows_B, axis=x.ndim - 4), cache['layers'])
  return {name: x[rows_B] for name, x in cache.items() if name != 'layers'} | {'layers': layers}


def put_rows(cache: Cache, new: Cache, rows_N: jax.Array) -> Cache:
  """The cache with those rows replaced by the rows of another one of as many slots."""
  def put(x, y):   # the batch axis is the fourth from the last, but of what has a number a row
    return x.at[(slice(None),) * (x.ndim - 4) + (rows_N,)].set(y)

  layers = jax.tree.map(put, cache['layers'], new['layers'])
  return {name: x.at[rows_N].set(new[name]) for name, x in cache.items() if name != 'layers'
          } | {'layers': layers}
