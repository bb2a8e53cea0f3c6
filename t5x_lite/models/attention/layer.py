"""The attention layer: projections and positions around a kernel of kernels.py.

Shape letters: see layers.py.
"""

import functools
import logging

from flax import nnx
import jax
from jax.ad_checkpoint import checkpoint_name
import jax.numpy as jnp

from t5x_lite.models import layers, weights
from t5x_lite.models.attention import accelerator_kernels
from t5x_lite.models.attention.kernels import (
  QUERY_CHUNK,
  AttentionSpec,
  blockwise,
  query_chunked,
  reference,
)
from t5x_lite.models.attention.masks import Mask
from t5x_lite.models.config import ModelConfig
from t5x_lite.models.positions import Bias, rope, rope_frequencies

LONG = 2048 * 2048   # scores of a head from which a kernel without the matrix of them is used


def attend(q_BNLH: jax.Array, k_BKSH: jax.Array, v_BKSH: jax.Array, spec: AttentionSpec,
           kernel: str, shard: layers.Shard) -> jax.Array:
  """Attention by the kernel of this name, or by a fallback that supports what it does not.

  `auto` takes splash on TPUs and cuDNN on GPUs, and elsewhere `query_chunked` if it saves work;
  long sequences that those do not support take `blockwise`. Shapes: see kernels.py.
  """
  length, num_keys, mask = q_BNLH.shape[2], k_BKSH.shape[2], spec.mask
  # The formula has no other kernel to fall back to, and sizes that jax.export leaves open.
  long = kernel != 'reference' and length * num_keys >= LONG
  cached = mask.cached
  if kernel == 'auto':
    if shard.platform == 'tpu' and not cached:
      kernel = 'splash'
    elif shard.platform == 'gpu' and not cached and accelerator_kernels.cudnn_can(q_BNLH):
      kernel = 'fused'
    else:
      kernel = 'blockwise' if long else 'query_chunked'
  if kernel in ('fused', 'splash'):
    unsupported = getattr(accelerator_kernels, f'unsupported_{kernel}')(q_BNLH, k_BKSH, spec)
    if unsupported is None:
      return getattr(accelerator_kernels, kernel)(q_BNLH, k_BKSH, v_BKSH, spec, shard)
    other = 'blockwise' if long else 'reference'
    _say_once(f'attention kernel {kernel!r} cannot do {unsupported}: {other!r} does it')
    kernel = other
  if kernel == 'query_chunked':
    if cached or mask.key_range(0, QUERY_CHUNK, num_keys) == (0, num_keys):
      kernel = 'reference'   # no keys to skip
  run = {'reference': reference, 'query_chunked': query_chunked, 'blockwise': blockwise}[kernel]
  return run(q_BNLH, k_BKSH, v_BKSH, spec)


@functools.cache
def _say_once(message: str) -> None:
  logging.getLogger(__name__).warning(message)


class Attention(nnx.Module):
  """Multi-head attention, of a sequence to itself or to the encoder's output."""

  def __init__(self, config: ModelConfig, out_std: float | None, shard: layers.Shard):
    self.config, self.shard = config, shard
    embed, head = {'embed': config.embed_dim}, {'head_dim': config.head_dim}
    heads, kv = {'heads': config.num_heads} | head, {'kv': config.num_kv_heads} | head
    linear = functools.partial(layers.Linear, bias=config.bias)
    # Without 1/sqrt(head_dim) in the scores, T5 puts it in the initialisation of q.
    q_std = config.init_std or (config.embed_dim * config.head_dim) ** -0.5
    self.query = linear(embed, heads, std=q_std)
    self.key = linear(embed, kv, std=config.init_std)
    self.value = linear(embed, kv, std=config.init_std)
    self.out = linear(heads, embed, std=out_std)

  def _rotated(self, x_BLNH: jax.Array, positions_BL: jax.Array | None) -> jax.Array:
    if positions_BL is None or self.config.position_embedding != 'rope':
      return x_BLNH
    return rope(x_BLNH, positions_BL, rope_frequencies(
        self.config.head_dim, self.config.rope_theta, self.config.rope_scaling))

  def keys_values(self, x_BSD: jax.Array, positions_BS: jax.Array | None):
    """Keys and values [batch, kv heads, key length, head_dim] of `x`; rotated if positions."""
    k_BSKH, v_BSKH = self._rotated(self.key(x_BSD), positions_BS), self.value(x_BSD)
    heads_first = lambda x_BSKH, name: checkpoint_name(self.shard(
        jnp.swapaxes(x_BSKH, 1, 2), 'batch', 'kv', 'length', 'head_dim'), name)
    return heads_first(k_BSKH, 'key'), heads_first(v_BSKH, 'value')

  def __call__(self, x_BLD: jax.Array, k_BKSH: jax.Array, v_BKSH: jax.Array, *, mask: Mask,
               bias: Bias | None = None, positions_BL: jax.Array | None = None,
               key: jax.Array | None = None) -> jax.Array:
    """[batch, length, embed] attending to given keys and values -> [batch, length, embed]."""
    q_BLNH = self._rotated(self.query(x_BLD), positions_BL)
    axes = 'batch', 'heads', 'length', 'head_dim'
    q_BNLH = checkpoint_name(self.shard(jnp.swapaxes(q_BLNH, 1, 2), *axes), 'query')
    spec = AttentionSpec(
        mask=mask, bias=bias, key=key, scale=self.config.attention_scale,
        softcap=self.config.attention_softcap, dropout_rate=self.config.dropout_rate)
    run = functools.partial(attend, kernel=self.config.attention, shard=self.shard)
    key = self.key.kernel.get_value()
    y_BNLH = (key.attend(q_BNLH, k_BKSH, v_BKSH, spec, run) if weights.attends(key) else
              run(q_BNLH, k_BKSH, v_BKSH, spec))
    y_BNLH = checkpoint_name(self.shard(y_BNLH, *axes), 'attention')
    return checkpoint_name(self.out(jnp.swapaxes(y_BNLH, 1, 2)), 'attention_out')
