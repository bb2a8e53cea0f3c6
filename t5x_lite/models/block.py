"""A Transformer block. Shape letters: see layers.py."""

from flax import nnx
import jax

from t5x_lite.models import layers
from t5x_lite.models.attention.layer import Attention
from t5x_lite.models.cache import extend
from t5x_lite.models.config import ModelConfig
from t5x_lite.models.context import Context
from t5x_lite.models.moe import ExpertMLP


class Block(nnx.Module):
  """Self-attention, cross-attention if asked for, and an MLP, each with norm and residual."""

  def __init__(self, config: ModelConfig, num_layers: int, cross: bool, shard: layers.Shard):
    self.config, self.shard = config, shard
    out_std = config.init_std
    if out_std and config.norm_placement == 'pre':
      out_std /= (2 * num_layers) ** 0.5  # GPT-2: keeps the variance of the residual stream
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
      mask = context.mask
      if cache is not None:
        cache, k, v, mask = extend(cache, k, v, context)
      return self.attention(h_BLD, k, v, mask=mask, bias=context.bias,
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
