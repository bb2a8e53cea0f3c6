"""Attention by the kernels of others: jax.nn's (cuDNN flash on GPUs) and splash on TPUs.

Shapes and signature: see kernels.py. `unsupported_*` name what a kernel does not support.
"""

import jax
import jax.numpy as jnp

from t5x_lite.models import layers
from t5x_lite.models.attention.kernels import AttentionSpec

_SPLASH_BLOCKS = 512, 256, 128


def unsupported_fused(q_BNLH: jax.Array, k_BKSH: jax.Array, spec: AttentionSpec) -> str | None:
  """What jax.nn.dot_product_attention does not support of this, or None."""
  if spec.softcap is not None:
    return 'soft caps'
  if spec.mask.num_shared:
    return 'shared keys'
  if spec.mask.trunk:
    return 'a trunk'
  if spec.key is not None and spec.dropout_rate:
    return 'dropout of attention'
  return 'a cache' if spec.mask.cached else None


def cudnn_can(q_BNLH: jax.Array) -> bool:
  """Whether cuDNN's flash attention takes these dtypes and head sizes."""
  head_dim = q_BNLH.shape[-1]
  return q_BNLH.dtype in (jnp.bfloat16, jnp.float16) and head_dim <= 128 and head_dim % 8 == 0


def fused(q_BNLH: jax.Array, k_BKSH: jax.Array, v_BKSH: jax.Array, spec: AttentionSpec,
          shard: layers.Shard) -> jax.Array:
  """jax.nn.dot_product_attention: cuDNN's flash attention where it can, else XLA's."""
  length, num_keys, mask = q_BNLH.shape[2], k_BKSH.shape[2], spec.mask
  # Only what flags cannot express becomes an array.
  array = mask.q_segments_BL is not None or mask.prefix_BL is not None
  reach = None if mask.sliding_window is None else mask.sliding_window - 1
  window = None if reach is None else (reach, 0 if mask.causal else reach)
  bias = spec.bias and spec.bias.block(
      jnp.arange(length), jnp.arange(num_keys))[None].astype(q_BNLH.dtype)
  length_first = lambda x: jnp.swapaxes(x, 1, 2)
  y_BLNH = jax.nn.dot_product_attention(
      *map(length_first, (q_BNLH, k_BKSH, v_BKSH)), bias=bias,
      mask=mask.block(0, length, 0, num_keys) if array else None,
      is_causal=mask.causal and not array, local_window_size=None if array else window,
      scale=spec.scale,
      implementation='cudnn' if shard.platform == 'gpu' and cudnn_can(q_BNLH) else 'xla')
  return length_first(y_BLNH)


def unsupported_splash(q_BNLH: jax.Array, k_BKSH: jax.Array, spec: AttentionSpec) -> str | None:
  """What the splash kernel does not support of this, or None."""
  if spec.bias is not None:
    return 'biases of the scores'
  if spec.mask.num_shared:
    return 'shared keys'
  if spec.mask.trunk:
    return 'a trunk'
  if spec.key is not None and spec.dropout_rate:
    return 'dropout of attention'
  if spec.mask.prefix_BL is not None:
    return 'prefixes'
  if spec.mask.cached:
    return 'a cache'
  if q_BNLH.shape[2] % _SPLASH_BLOCKS[-1] or k_BKSH.shape[2] % _SPLASH_BLOCKS[-1]:
    return f'lengths that are not multiples of {_SPLASH_BLOCKS[-1]}'
  return None


def splash(q_BNLH: jax.Array, k_BKSH: jax.Array, v_BKSH: jax.Array, spec: AttentionSpec,
           shard: layers.Shard) -> jax.Array:
  """JAX's splash attention (Pallas) on each device's own rows and heads; interpreted off TPUs."""
  # Imports Pallas' TPU backend, which takes seconds.
  from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as kernels
  from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks

  length, num_keys, mask = q_BNLH.shape[2], k_BKSH.shape[2], spec.mask
  shape = length, num_keys
  if mask.sliding_window is not None:
    right = 0 if mask.causal else mask.sliding_window - 1
    head_mask = masks.LocalMask(shape, (mask.sliding_window - 1, right), 0)
  else:
    head_mask = masks.CausalMask(shape) if mask.causal else masks.FullMask(shape)
  q_block, k_block = (next(b for b in _SPLASH_BLOCKS if n % b == 0) for n in shape)
  sizes = kernels.BlockSizes(
      block_q=q_block, block_kv=k_block, block_kv_compute=k_block, block_q_dkv=q_block,
      block_kv_dkv=k_block, block_kv_dkv_compute=k_block, block_q_dq=q_block, block_kv_dq=k_block)

  def own_part(q_BNLH, k_BKSH, v_BKSH, q_segments_BL, k_segments_BS):
    kernel = kernels.make_splash_mha(
        masks.MultiHeadMask([head_mask] * q_BNLH.shape[1]), block_sizes=sizes, head_shards=1,
        q_seq_shards=1, attn_logits_soft_cap=spec.softcap, interpret=shard.platform != 'tpu')
    row = lambda q, k, v, *segments: kernel(q, k, v, segment_ids=kernels.SegmentIds(*segments))
    return jax.vmap(row)(q_BNLH, k_BKSH, v_BKSH, q_segments_BL, k_segments_BS)

  rows = lambda size: jnp.ones((q_BNLH.shape[0], size), jnp.int32)
  segments = ((rows(length), rows(num_keys)) if mask.q_segments_BL is None else
              (mask.q_segments_BL, mask.k_segments_BS))
  heads, kv = ('batch', 'heads', 'length', None), ('batch', 'kv', 'length', None)
  run = shard.shard_map(own_part, (heads, kv, kv, ('batch', 'length'), ('batch', 'length')), heads)
  return run(q_BNLH * spec.scale, k_BKSH, v_BKSH, *segments).astype(q_BNLH.dtype)
