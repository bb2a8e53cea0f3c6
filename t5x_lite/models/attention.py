"""Attention: masks, positions, the reference kernel, and the layer with its key-value cache.

Shape letters: see layers.py.
"""

import functools

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np

from t5x_lite.models import layers
from t5x_lite.models.config import ModelConfig

MASKED = -1e10  # finite, so that a row with nothing to see gives no NaN


def attention_mask(q_segments_BL: jax.Array, k_segments_BS: jax.Array, *, causal: bool,
                   prefix_BL: jax.Array | None = None) -> jax.Array:
  """Who sees whom, [batch, 1, length, key length] bool; the one place masks are made.

  Args:
    q_segments_BL: int, the packed example each query belongs to; padding is 0.
    k_segments_BS: the same for keys. Only equal segments see each other, so padding sees padding.
    causal: keys after the query are hidden (self-attention: L == S).
    prefix_BL: 1 where a token is part of a prefix, whose tokens see each other both ways.
  """
  mask_BLS = q_segments_BL[:, :, None] == k_segments_BS[:, None, :]
  if causal:
    before = np.tri(q_segments_BL.shape[1], dtype=bool)
    if prefix_BL is not None:
      prefix_BL = prefix_BL.astype(bool)
      before = before | (prefix_BL[:, :, None] & prefix_BL[:, None, :])
    mask_BLS = mask_BLS & before
  return mask_BLS[:, None]


def cache_mask(valid_BS: jax.Array, index: jax.Array, length: int, *, causal: bool) -> jax.Array:
  """The mask of `length` queries written at `index` of a cache, [batch, 1, length, key length].

  Args:
    valid_BS: bool, cached positions that hold a token rather than left padding or nothing yet.
    index: place of the first query.
    length: number of queries.
    causal: keys after the query are hidden; False for the prompt of a prefix language model.
  """
  mask_BLS = jnp.broadcast_to(valid_BS[:, None, :], (valid_BS.shape[0], length, valid_BS.shape[1]))
  if causal:
    query, keys = index + jnp.arange(length)[:, None], jnp.arange(valid_BS.shape[1])
    mask_BLS = mask_BLS & (keys <= query)
  return mask_BLS[:, None]


def rope(x_BLNH: jax.Array, positions_BL: jax.Array, theta: float) -> jax.Array:
  """Rotary position embedding (Su et al. 2021), halves layout: (x1, x2) turned as LLaMA's on HF."""
  half = x_BLNH.shape[-1] // 2
  frequency_H = theta ** (-np.arange(half, dtype=np.float32) / half)
  angle_BL1H = positions_BL[:, :, None, None].astype(jnp.float32) * frequency_H
  cos, sin = jnp.cos(angle_BL1H), jnp.sin(angle_BL1H)
  x1, x2 = jnp.split(x_BLNH.astype(jnp.float32), 2, axis=-1)
  return jnp.concatenate([x1 * cos - x2 * sin, x2 * cos + x1 * sin], -1).astype(x_BLNH.dtype)


def relative_bucket(distance: jax.Array, *, bidirectional: bool, num_buckets: int,
                    max_distance: int) -> jax.Array:
  """T5's bucket of a relative position key - query (Raffel et al. 2020, section 2.1).

  Half of the buckets are for exact distances, the other half grow logarithmically up to
  max_distance; bidirectional gives half of all buckets to keys after the query.
  """
  bucket = jnp.zeros_like(distance)
  if bidirectional:
    num_buckets //= 2
    bucket = jnp.where(distance > 0, num_buckets, 0)
    distance = jnp.abs(distance)
  else:
    distance = jnp.maximum(-distance, 0)
  exact = num_buckets // 2
  # The epsilon keeps exact powers (16, 32, 64) from falling one bucket short in float32.
  ratio = jnp.maximum(distance, 1).astype(jnp.float32) / exact + np.finfo(np.float32).eps
  far = exact + (jnp.log(ratio) / np.log(max_distance / exact) * (num_buckets - exact)).astype(
      jnp.int32)
  return bucket + jnp.where(distance < exact, distance, jnp.minimum(far, num_buckets - 1))


class RelativeBias(nnx.Module):
  """A learned bias for each head and bucket, shared by all layers of a stack (T5)."""

  def __init__(self, config: ModelConfig, bidirectional: bool, rngs: nnx.Rngs):
    self.bucket = functools.partial(
        relative_bucket, bidirectional=bidirectional, num_buckets=config.relative_buckets,
        max_distance=config.relative_max_distance)
    shape = (config.relative_buckets, config.num_heads)
    self.table = layers.param(rngs, shape, (None, 'heads'), config.init_std or
                              config.embed_dim ** -0.5)

  def __call__(self, query_L: jax.Array, key_S: jax.Array) -> jax.Array:
    """Indices of queries [length] and keys [key length] -> bias [1, heads, length, key length]."""
    bias_LSN = self.table[...][self.bucket(key_S[None, :] - query_L[:, None])]
    return jnp.moveaxis(bias_LSN, -1, 0)[None]


def dot_product_attention(q_BLNH: jax.Array, k_BSKH: jax.Array, v_BSKH: jax.Array, *,
                          mask_B1LS: jax.Array, bias_1NLS: jax.Array | None, scale: float,
                          dropout_rate: float = 0.0, key: jax.Array | None = None) -> jax.Array:
  """softmax(scale q·k + bias) v with grouped queries; the softmax in float32.

  Query head n reads key-value head n // (heads / kv heads). Returns [batch, length, heads,
  head_dim] in the dtype of `q`.
  """
  B, L, N, H = q_BLNH.shape
  S, K = k_BSKH.shape[1:3]
  # Heads first, and the queries of a group one after the other: plain products of matrices.
  q_BKMH = jnp.swapaxes(q_BLNH, 1, 2).reshape(B, K, N // K * L, H)
  k_BKSH, v_BKSH = jnp.swapaxes(k_BSKH, 1, 2), jnp.swapaxes(v_BSKH, 1, 2)
  s_BKMS = jnp.einsum('bkmh,bksh->bkms', q_BKMH, k_BKSH, preferred_element_type=jnp.float32)
  s_BNLS = s_BKMS.reshape(B, N, L, S) * scale
  if bias_1NLS is not None:
    s_BNLS = s_BNLS + bias_1NLS
  s_BNLS = jnp.where(mask_B1LS, s_BNLS, MASKED)
  p_BNLS = layers.dropout(jax.nn.softmax(s_BNLS, axis=-1).astype(q_BLNH.dtype), dropout_rate, key)
  y_BKMH = jnp.einsum('bkms,bksh->bkmh', p_BNLS.reshape(B, K, N // K * L, S), v_BKSH)
  return jnp.swapaxes(y_BKMH.reshape(B, N, L, H), 1, 2)


class Attention(nnx.Module):
  """Multi-head attention, of a sequence to itself or to the encoder's output."""

  def __init__(self, config: ModelConfig, out_std: float | None, rngs: nnx.Rngs,
               shard: layers.Shard):
    self.config, self.shard = config, shard
    embed, head = {'embed': config.embed_dim}, {'head_dim': config.head_dim}
    heads, kv = {'heads': config.num_heads} | head, {'kv': config.num_kv_heads} | head
    linear = functools.partial(layers.Linear, bias=config.bias, rngs=rngs)
    # Without 1/sqrt(head_dim) in the scores, T5 puts it in the initialisation of q.
    q_std = config.init_std or (config.embed_dim * config.head_dim) ** -0.5
    self.query = linear(embed, heads, std=q_std)
    self.key = linear(embed, kv, std=config.init_std)
    self.value = linear(embed, kv, std=config.init_std)
    self.out = linear(heads, embed, std=out_std)

  def keys_values(self, x_BSD: jax.Array, positions_BS: jax.Array | None):
    """Keys and values [batch, key length, kv heads, head_dim] of `x`; rotated if positions."""
    k_BSKH, v_BSKH = self.key(x_BSD), self.value(x_BSD)
    if positions_BS is not None and self.config.position == 'rope':
      k_BSKH = rope(k_BSKH, positions_BS, self.config.rope_theta)
    kv_axes = ('batch', 'length', 'kv', 'head_dim')
    return self.shard(k_BSKH, *kv_axes), self.shard(v_BSKH, *kv_axes)

  def __call__(self, x_BLD: jax.Array, k_BSKH: jax.Array, v_BSKH: jax.Array, *,
               mask_B1LS: jax.Array, bias_1NLS: jax.Array | None = None,
               positions_BL: jax.Array | None = None,
               key: jax.Array | None = None) -> jax.Array:
    """[batch, length, embed] attending to given keys and values -> [batch, length, embed]."""
    q_BLNH = self.query(x_BLD)
    if positions_BL is not None and self.config.position == 'rope':
      q_BLNH = rope(q_BLNH, positions_BL, self.config.rope_theta)
    q_BLNH = self.shard(q_BLNH, 'batch', 'length', 'heads', 'head_dim')
    y_BLNH = dot_product_attention(
        q_BLNH, k_BSKH, v_BSKH, mask_B1LS=mask_B1LS, bias_1NLS=bias_1NLS,
        scale=self.config.attention_scale, dropout_rate=self.config.dropout_rate, key=key)
    return self.out(self.shard(y_BLNH, 'batch', 'length', 'heads', 'head_dim'))
