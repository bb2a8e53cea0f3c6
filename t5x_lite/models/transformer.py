"""A Transformer block, and a stack of them: scanned or unrolled, cached or not.

Shape letters: see layers.py.
"""

from typing import Any, NamedTuple

from flax import nnx
import jax
import jax.numpy as jnp

from t5x_lite.models import layers
from t5x_lite.models.attention import Attention, RelativeBias
from t5x_lite.models.config import ModelConfig

REMAT_POLICIES = {
    'dots': jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    'full': jax.checkpoint_policies.nothing_saveable,
}


class Context(NamedTuple):
  """What every block of a stack reads besides the residual stream."""
  mask_B1LS: jax.Array
  positions_BL: jax.Array
  bias_1NLS: jax.Array | None = None
  encoded_BSD: jax.Array | None = None        # what cross-attention reads
  cross_mask_B1LS: jax.Array | None = None
  index: jax.Array | None = None              # where the cache is written; None: no cache


class Block(nnx.Module):
  """Self-attention, cross-attention if asked for, and an MLP, each with norm and residual."""

  def __init__(self, config: ModelConfig, num_layers: int, cross: bool, rngs: nnx.Rngs,
               shard: layers.Shard):
    self.config, self.shard = config, shard
    out_std = config.init_std
    if out_std and config.norm_placement == 'pre':
      out_std /= (2 * num_layers) ** 0.5  # GPT-2: the residual stream's variance stays put
    norm = lambda: layers.Norm(config, rngs)
    self.attention, self.attention_norm = Attention(config, out_std, rngs, shard), norm()
    self.cross = Attention(config, out_std, rngs, shard) if cross else None
    self.cross_norm = norm() if cross else None
    self.mlp, self.mlp_norm = layers.MLP(config, out_std, rngs, shard), norm()

  def __call__(self, x_BLD: jax.Array, context: Context, cache: dict[str, jax.Array] | None,
               key: jax.Array | None) -> tuple[jax.Array, dict[str, jax.Array] | None]:
    """[batch, length, embed] -> the same, and the cache with this call's keys and values."""

    def attend(h_BLD):
      nonlocal cache
      k, v = self.attention.keys_values(h_BLD, context.positions_BL)
      if cache is not None:
        k = jax.lax.dynamic_update_slice_in_dim(cache['key'], k, context.index, axis=1)
        v = jax.lax.dynamic_update_slice_in_dim(cache['value'], v, context.index, axis=1)
        cache = cache | {'key': k, 'value': v}
      return self.attention(h_BLD, k, v, mask_B1LS=context.mask_B1LS, bias_1NLS=context.bias_1NLS,
                            positions_BL=context.positions_BL, key=layers.subkey(key, 0))

    def attend_encoded(h_BLD):
      if cache is None:
        k, v = self.cross.keys_values(context.encoded_BSD, None)
      else:
        k, v = cache['cross_key'], cache['cross_value']
      return self.cross(h_BLD, k, v, mask_B1LS=context.cross_mask_B1LS, key=layers.subkey(key, 1))

    x_BLD = self._residual(x_BLD, self.attention_norm, attend, layers.subkey(key, 2))
    if self.cross is not None:
      x_BLD = self._residual(x_BLD, self.cross_norm, attend_encoded, layers.subkey(key, 3))
    mlp = lambda h_BLD: self.mlp(h_BLD, layers.subkey(key, 4))
    return self._residual(x_BLD, self.mlp_norm, mlp, layers.subkey(key, 5)), cache

  def _residual(self, x_BLD, norm, layer, key):
    if self.config.norm_placement == 'pre':
      x_BLD = x_BLD + layers.dropout(layer(norm(x_BLD)), self.config.dropout_rate, key)
    else:
      x_BLD = norm(x_BLD + layers.dropout(layer(x_BLD), self.config.dropout_rate, key))
    return self.shard(x_BLD, 'batch', 'length', 'embed')


class Stack(nnx.Module):
  """`num_layers` blocks, the final norm of a pre-norm stack, and the relative bias they share.

  With config.scan_layers the parameters of all blocks are stacked on a leading axis `layers` and
  one block is compiled and looped over; else each block has its own parameters and is compiled.
  Both draw the same initial values.
  """

  def __init__(self, config: ModelConfig, num_layers: int, *, bidirectional: bool, cross: bool,
               rngs: nnx.Rngs, shard: layers.Shard):
    self.config, self.num_layers = config, num_layers
    make = lambda key: Block(config, num_layers, cross, nnx.Rngs(params=key), shard)
    keys = jax.random.split(rngs.params(), num_layers)
    if config.scan_layers:
      block_def = nnx.graphdef(nnx.eval_shape(lambda: make(keys[0])))
      self.blocks = nnx.merge(block_def, jax.vmap(lambda key: nnx.state(make(key)))(keys))
    else:
      self.blocks = nnx.List([make(key) for key in keys])
    pre = config.norm_placement == 'pre'
    self.final_norm = layers.Norm(config, rngs) if pre else None
    relative = config.position == 'relative'
    self.relative_bias = RelativeBias(config, bidirectional, rngs) if relative else None

  def __call__(self, x_BLD: jax.Array, context: Context, caches: Any = None,
               key: jax.Array | None = None) -> tuple[jax.Array, Any]:
    """[batch, length, embed] -> the same, and the caches of all blocks as given (or None)."""
    if self.relative_bias is not None:
      first = 0 if context.index is None else context.index
      query, keys = first + jnp.arange(x_BLD.shape[1]), jnp.arange(context.mask_B1LS.shape[-1])
      context = context._replace(bias_1NLS=self.relative_bias(query, keys))
    if self.config.scan_layers:
      block_def, params = nnx.split(self.blocks)

      def layer(x_BLD, scanned):
        block_params, cache, i = scanned
        block = nnx.merge(block_def, block_params)
        return block(x_BLD, context, cache, layers.subkey(key, i))

      xs = (params, caches, jnp.arange(self.num_layers))
      x_BLD, caches = jax.lax.scan(self._remat(layer), x_BLD, xs)
    else:
      new = []
      for i, block in enumerate(self.blocks):
        block_def, params = nnx.split(block)
        layer = self._remat(lambda x_BLD, params, cache, key, block_def=block_def: nnx.merge(
            block_def, params)(x_BLD, context, cache, key))
        x_BLD, cache = layer(x_BLD, params, caches and caches[i], layers.subkey(key, i))
        new.append(cache)
      caches = caches and new
    if self.final_norm is not None:
      x_BLD = self.final_norm(x_BLD)
    return layers.dropout(x_BLD, self.config.dropout_rate if self.final_norm else 0.0,
                          layers.subkey(key, self.num_layers)), caches

  def init_caches(self, batch_size: int, length: int) -> Any:
    """Empty key-value caches of all blocks, [batch, length, kv heads, head_dim] each."""
    shape = (batch_size, length, self.config.num_kv_heads, self.config.head_dim)
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
    if self.config.remat == 'none':
      return layer
    # Inside a scan the compiler cannot merge the two computations, so nothing need prevent it.
    return jax.checkpoint(layer, policy=REMAT_POLICIES[self.config.remat],
                          prevent_cse=not self.config.scan_layers)
