"""A Transformer block, and a stack of them: scanned or unrolled, cached or not.

Shape letters: see layers.py.
"""

import dataclasses
from typing import Any, NamedTuple

from flax import nnx
import jax
import jax.numpy as jnp

from t5x_lite.models import layers
from t5x_lite.models.attention import Attention
from t5x_lite.models.config import ModelConfig
from t5x_lite.models.masks import Mask
from t5x_lite.models.moe import ExpertMLP
from t5x_lite.models.positions import AlibiBias, Bias, RelativeBias


class Context(NamedTuple):
  """What every block of a stack reads besides the residual stream."""
  mask: Mask
  positions_BL: jax.Array
  valid_BL: jax.Array | None = None           # tokens that are not padding; None: all
  bias: Bias | None = None
  encoded_BSD: jax.Array | None = None        # what cross-attention reads
  cross_mask: Mask | None = None
  index: jax.Array | None = None              # where the cache is written; None: no cache


def _write(cache_BKSH: jax.Array, new_BKLH: jax.Array, index: jax.Array) -> jax.Array:
  """The cache with new keys or values at place `index`."""
  write = lambda cache, new, index: jax.lax.dynamic_update_slice_in_dim(cache, new, index, axis=2)
  # Inside a loop of one turn, as XLA for CPUs else computes the update once for the attention and
  # once for the next token, each on a copy of the whole cache.
  alone = lambda cache, new, index: jax.lax.fori_loop(
      index, index + 1, lambda i, cache: write(cache, new, i), cache)
  return jax.lax.platform_dependent(cache_BKSH, new_BKLH, index, cpu=alone, default=write)


class Block(nnx.Module):
  """Self-attention, cross-attention if asked for, and an MLP, each with norm and residual."""

  def __init__(self, config: ModelConfig, num_layers: int, cross: bool, shard: layers.Shard):
    self.config, self.shard = config, shard
    out_std = config.init_std
    if out_std and config.norm_placement == 'pre':
      out_std /= (2 * num_layers) ** 0.5  # GPT-2: the residual stream's variance stays put
    norm = lambda: layers.Norm(config)
    second = lambda: norm() if config.norm_placement == 'both' else None
    self.attention = Attention(config, out_std, shard)
    self.attention_norm, self.attention_post_norm = norm(), second()
    self.cross = Attention(config, out_std, shard) if cross else None
    self.cross_norm, self.cross_post_norm = (norm(), second()) if cross else (None, None)
    self.mlp = (layers.MLP if config.num_experts is None else ExpertMLP)(
        config, out_std, shard)
    self.mlp_norm, self.mlp_post_norm = norm(), second()

  def __call__(self, x_BLD: jax.Array, context: Context, cache: dict[str, jax.Array] | None,
               key: jax.Array | None):
    """[batch, length, embed] -> the same, the cache with this call's keys and values, and the
    sums of the router's losses (None without experts)."""
    router_losses = None

    def attend(h_BLD):
      nonlocal cache
      k, v = self.attention.keys_values(h_BLD, context.positions_BL)
      if cache is not None:
        k, v = _write(cache['key'], k, context.index), _write(cache['value'], v, context.index)
        cache = cache | {'key': k, 'value': v}
      return self.attention(h_BLD, k, v, mask=context.mask, bias=context.bias,
                            positions_BL=context.positions_BL, key=layers.subkey(key, 0))

    def attend_encoded(h_BLD):
      if cache is None:
        k, v = self.cross.keys_values(context.encoded_BSD, None)
      else:
        k, v = cache['cross_key'], cache['cross_value']
      return self.cross(h_BLD, k, v, mask=context.cross_mask, key=layers.subkey(key, 1))

    def mlp(h_BLD):
      nonlocal router_losses
      if self.config.num_experts is None:
        return self.mlp(h_BLD, layers.subkey(key, 4))
      y_BLD, router_losses = self.mlp(h_BLD, context.valid_BL)
      return y_BLD

    x_BLD = self._residual(x_BLD, 'attention', attend, layers.subkey(key, 2))
    if self.cross is not None:
      x_BLD = self._residual(x_BLD, 'cross', attend_encoded, layers.subkey(key, 3))
    x_BLD = self._residual(x_BLD, 'mlp', mlp, layers.subkey(key, 5))
    return x_BLD, cache, router_losses

  def _residual(self, x_BLD, name, layer, key):
    norm, post_norm = getattr(self, f'{name}_norm'), getattr(self, f'{name}_post_norm')
    drop = lambda y_BLD: layers.dropout(y_BLD, self.config.dropout_rate, key)
    if self.config.norm_placement == 'post':
      x_BLD = norm(x_BLD + drop(layer(x_BLD)))
    else:
      y_BLD = layer(norm(x_BLD))
      x_BLD = x_BLD + drop(y_BLD if post_norm is None else post_norm(y_BLD))
    return self.shard(x_BLD, 'batch', 'length', 'embed')


class Stack(nnx.Module):
  """`num_layers` blocks, the final norm of a pre-norm stack, and the relative bias they share.

  With config.scan_layers the parameters of all blocks are stacked on a leading axis `layers` and
  one block is compiled and looped over (a group of global_every blocks, where windows alternate);
  else each block has its own parameters and is compiled. Both draw the same initial values.
  """

  def __init__(self, config: ModelConfig, num_layers: int, *, bidirectional: bool, cross: bool,
               shard: layers.Shard):
    self.config, self.num_layers, self.bidirectional = config, num_layers, bidirectional
    make = lambda: Block(config, num_layers, cross, shard)
    if config.scan_layers:
      state = nnx.state(make())
      stacked = jax.tree.map(lambda x: jnp.zeros((num_layers, *x.shape), x.dtype), state)
      self.blocks = nnx.merge(nnx.graphdef(make()), stacked)
    else:
      self.blocks = nnx.List([make() for _ in range(num_layers)])
    self.final_norm = layers.Norm(config) if config.norm_placement != 'post' else None
    self.relative_bias = layers.param(
        (config.relative_buckets, config.num_heads), (None, 'heads'),
        config.init_std or config.embed_dim ** -0.5) if config.position == 'relative' else None

  def _bias(self) -> Bias | None:
    if self.config.position == 'alibi':
      return AlibiBias(num_heads=self.config.num_heads)
    if self.relative_bias is None:
      return None
    return RelativeBias(table_RN=self.relative_bias[...], bidirectional=self.bidirectional,
                        max_distance=self.config.relative_max_distance)

  def __call__(self, x_BLD: jax.Array, context: Context, caches: Any = None,
               key: jax.Array | None = None):
    """[batch, length, embed] -> the same, the caches of all blocks as given (or None), and the
    sums of the routers' losses over all blocks (None without experts)."""
    context = context._replace(bias=self._bias())
    windowed = lambda i: context._replace(
        mask=dataclasses.replace(context.mask, window=self.config.window_of(i)))
    if self.config.scan_layers:
      x_BLD, (caches, router_losses) = self._scan(x_BLD, windowed, caches, key)
      router_losses = jax.tree.map(lambda x: x.sum(), router_losses)
    else:
      new_caches, router_losses = [], []
      for i, block in enumerate(self.blocks):
        block_def, params = nnx.split(block)
        layer = self._remat(lambda x_BLD, params, cache, key, block_def=block_def, i=i: nnx.merge(
            block_def, params)(x_BLD, windowed(i), cache, key))
        x_BLD, cache, losses = layer(x_BLD, params, caches and caches[i], layers.subkey(key, i))
        new_caches.append(cache)
        router_losses.append(losses)
      caches = caches and new_caches
      router_losses = jax.tree.map(lambda *x: sum(x), *router_losses)
    if self.final_norm is not None:
      x_BLD = self.final_norm(x_BLD)
    x_BLD = layers.dropout(x_BLD, self.config.dropout_rate if self.final_norm else 0.0,
                           layers.subkey(key, self.num_layers))
    return x_BLD, caches, router_losses

  def _scan(self, x_BLD, windowed, caches, key):
    block_def, params = nnx.split(self.blocks)
    group = self.config.global_every or 1

    def layer(x_BLD, scanned):
      outs = []
      for j in range(group):
        block_params, cache, i = jax.tree.map(lambda x: x[j], scanned) if group > 1 else scanned
        block = nnx.merge(block_def, block_params)
        x_BLD, *out = block(x_BLD, windowed(j), cache, layers.subkey(key, i))
        outs.append(out)
      return x_BLD, jax.tree.map(lambda *x: jnp.stack(x), *outs) if group > 1 else outs[0]

    groups = lambda x: x.reshape(-1, group, *x.shape[1:]) if group > 1 else x
    xs = jax.tree.map(groups, (params, caches, jnp.arange(self.num_layers)))
    x_BLD, outs = jax.lax.scan(self._remat(layer), x_BLD, xs)
    if group > 1:
      outs = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), outs)
    return x_BLD, outs

  def init_caches(self, batch_size: int, length: int) -> Any:
    """Empty key-value caches of all blocks, [batch, kv heads, length, head_dim] each."""
    shape = (batch_size, self.config.num_kv_heads, length, self.config.head_dim)
    make = lambda shape: {name: jnp.zeros(shape, self.config.dtype) for name in ('key', 'value')}
    if self.config.scan_layers:
      return make((self.num_layers, *shape))
    return [make(shape) for _ in range(self.num_layers)]

  def cross_caches(self, encoded_BSD: jax.Array) -> Any:
    """The keys and values of cross-attention, computed once for all steps of decoding."""
    names = ('cross_key', 'cross_value')
    project = lambda block: dict(zip(names, block.cross.keys_values(encoded_BSD, None)))
    if not self.config.scan_layers:
      return [project(block) for block in self.blocks]
    block_def, params = nnx.split(self.blocks)
    return jax.lax.map(lambda p: project(nnx.merge(block_def, p)), params)

  def _remat(self, layer):
    remat, policies = self.config.remat, jax.checkpoint_policies
    if remat == 'none':
      return layer
    names = () if remat == 'full' else remat
    policy = (policies.dots_with_no_batch_dims_saveable if remat == 'dots' else
              policies.save_only_these_names(*names))
    # Inside a scan the compiler cannot merge the two computations, so nothing need prevent it.
    return jax.checkpoint(layer, policy=policy, prevent_cse=not self.config.scan_layers)
