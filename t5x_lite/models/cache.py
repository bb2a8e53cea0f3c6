"""The key-value cache of decoding, and the index at which the next tokens are written.

Shape letters: see layers.py.
"""

from typing import Any

import jax
import jax.numpy as jnp

from t5x_lite.models.attention.masks import Mask
from t5x_lite.models.context import Context


def write_cache(cache_BKSH: jax.Array, new_BKLH: jax.Array, index: jax.Array | None) -> jax.Array:
  """The cache with new keys or values at position `index`; None: they are the whole of it."""
  if index is None:
    return new_BKLH.astype(cache_BKSH.dtype)
  write = lambda cache, new, index: jax.lax.dynamic_update_slice_in_dim(cache, new, index, axis=2)
  # In a loop of one iteration: otherwise XLA for CPUs computes the update once for the attention
  # and once for the next token, each on a full copy of the cache.
  alone = lambda cache, new, index: jax.lax.fori_loop(
      index, index + 1, lambda i, cache: write(cache, new, i), cache)
  return jax.lax.platform_dependent(cache_BKSH, new_BKLH, index, cpu=alone, default=write)


def decode_context(cache: dict[str, Any], valid_BL: jax.Array, causal: bool = True):
  """The Context of tokens written at the cache's index, and the cache advanced past them."""
  length = valid_BL.shape[1]
  valid_BS = jax.lax.dynamic_update_slice_in_dim(cache['valid'], valid_BL, cache['index'], axis=1)
  count_BL = jnp.cumsum(valid_BL, axis=1)
  positions_BL = jnp.maximum(cache['position'][:, None] + count_BL - 1, 0)
  # As segments: what is valid sees what is valid, padding sees padding and slots not yet written.
  mask = Mask(q_segments_BL=valid_BL, k_segments_BS=valid_BS, q_start=cache['index'],
              causal=causal)
  context = Context(mask=mask, positions_BL=positions_BL, valid_BL=valid_BL, index=cache['index'])
  return context, cache | {'valid': valid_BS, 'index': cache['index'] + length,
                           'position': cache['position'] + count_BL[:, -1]}


def empty_cache(stack, batch_size: int, length: int) -> dict[str, Any]:
  """A key-value cache for `length` tokens: index, positions, valid slots, layers."""
  return {'index': jnp.zeros((), jnp.int32), 'position': jnp.zeros((batch_size,), jnp.int32),
          'valid': jnp.zeros((batch_size, length), bool),
          'layers': stack.init_caches(batch_size, length)}
