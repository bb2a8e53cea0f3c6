"""A stack of Transformer blocks: scanned or unrolled, cached or not.

Shape letters: see layers.py.
"""

import dataclasses
from typing import Any

from flax import nnx
import jax
import jax.numpy as jnp

from t5x_lite.models import layers
from t5x_lite.models.block import Block
from t5x_lite.models.cache import empty_slots
from t5x_lite.models.config import ModelConfig
from t5x_lite.models.context import Context
from t5x_lite.models.positions import AlibiBias, Bias, RelativeBias


class Stack(nnx.Module):
  """`num_layers` blocks, the final norm of a pre-norm stack, and the relative bias they share.

  With config.scan_layers the parameters of all blocks are stacked on a leading axis `layers` and
  one block is compiled and looped over (a group of full_attention_interval blocks, where windows
  alternate); else each block has its own parameters and is compiled. Both have the same initial
  values.
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
    relative = config.position_embedding == 'relative'
    self.relative_bias = layers.param(
        (config.relative_buckets, config.num_heads), (None, 'heads'),
        config.init_std or config.embed_dim ** -0.5) if relative else None

  def _bias(self) -> Bias | None:
    if self.config.position_embedding == 'alibi':
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
        mask=dataclasses.replace(context.mask, sliding_window=self.config.sliding_window_of(i)))
    if self.config.scan_layers:
      x_BLD, (caches, router_losses) = self._scan(x_BLD, windowed, caches, key)
      router_losses = jax.tree.map(lambda *x: sum(x).sum(), *router_losses)
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
    group = self._group

    def layer(x_BLD, scanned):
      (params, indices), caches = scanned
      new_caches, router_losses = [], []
      for j in range(group):
        block_params, i = jax.tree.map(lambda x: x[j], (params, indices)) if group > 1 else (
            params, indices)
        block = nnx.merge(block_def, block_params)
        x_BLD, cache, losses = block(x_BLD, windowed(j), caches and caches[j],
                                     layers.subkey(key, i))
        new_caches.append(cache)
        router_losses.append(losses)
      return x_BLD, (caches and new_caches, router_losses)

    groups = lambda x: x.reshape(-1, group, *x.shape[1:]) if group > 1 else x
    xs = jax.tree.map(groups, (params, jnp.arange(self.num_layers)))
    return jax.lax.scan(self._remat(layer), x_BLD, (xs, caches))

  @property
  def _group(self) -> int:
    """Blocks of one iteration of the scan."""
    return self.config.full_attention_interval or 1

  def init_caches(self, batch_size: int, length: int, margin: int = 0, int8: bool = False
                  ) -> list[dict[str, Any]]:
    """Empty key-value caches for `length` tokens, [batch, kv heads, slots, head_dim] each.

    A list of those of each block; of a scanned stack of each block of an iteration, with an axis
    of iterations before the others. A block with a window has its slots and the margin's.
    """
    scanned = self.config.scan_layers
    lead = (self.num_layers // self._group,) if scanned else ()

    def make(layer):
      window = self.config.sliding_window_of(layer)
      slots = length if window is None else jax.core.min_dim(length, window + margin)
      shape = (*lead, batch_size, self.config.num_kv_heads, slots, self.config.head_dim)
      return {name: empty_slots(shape, self.config.dtype, int8) for name in ('key', 'value')}

    return [make(layer) for layer in range(self._group if scanned else self.num_layers)]

  def cross_caches(self, encoded_BSD: jax.Array) -> list[dict[str, jax.Array]]:
    """The keys and values of cross-attention, computed once for all steps of decoding."""
    names = ('cross_key', 'cross_value')
    project = lambda block: dict(zip(names, block.cross.keys_values(encoded_BSD, None)))
    if not self.config.scan_layers:
      return [project(block) for block in self.blocks]
    block_def, params = nnx.split(self.blocks)
    caches = jax.lax.map(lambda p: project(nnx.merge(block_def, p)), params)
    return [jax.tree.map(lambda x: x[j::self._group], caches) for j in range(self._group)]

  def _remat(self, layer):
    remat, policies = self.config.remat, jax.checkpoint_policies
    if remat == 'none':
      return layer
    names = () if remat == 'full' else remat
    policy = (policies.dots_with_no_batch_dims_saveable if remat == 'dots' else
              policies.save_only_these_names(*names))
    # Inside a scan the compiler cannot merge the two computations, so no barrier is needed.
    return jax.checkpoint(layer, policy=policy, prevent_cse=not self.config.scan_layers)
