"""The small parts of every family: parameters, linear layers, norms, MLP, embeddings, dropout.

Shape letters here and in the other files of this folder:
B batch, L (query) length, S key length, D embed, N query heads, K key-value heads, M = L N/K,
H head dim, F mlp, V vocab.
"""

from collections.abc import Callable
import math

from flax import nnx
import jax
import jax.numpy as jnp

from t5x_lite.models.config import ModelConfig

# Called as shard(x, 'batch', 'length', 'embed'): constrains an activation to its logical axes.
Shard = Callable[..., jax.Array]

ACTIVATIONS = {
    'relu': jax.nn.relu,
    'gelu': jax.nn.gelu,  # the tanh approximation ('gelu_new')
    'gelu_exact': lambda x: jax.nn.gelu(x, approximate=False),
    'silu': jax.nn.silu,
}


def unsharded(x: jax.Array, *axes: str | None) -> jax.Array:
  """The Shard of a model that lives on one device."""
  del axes
  return x


def param(rngs: nnx.Rngs, shape: tuple[int, ...], axes: tuple[str | None, ...], std: float,
          mean: float = 0.0) -> nnx.Param:
  """A float32 parameter drawn from N(mean, std), with the logical name of each axis."""
  assert len(shape) == len(axes), (shape, axes)
  if std:
    value = mean + std * jax.random.normal(rngs.params(), shape, jnp.float32)
  else:
    value = jnp.full(shape, mean, jnp.float32)
  return nnx.Param(value, axes=axes)


def dropout(x: jax.Array, rate: float, key: jax.Array | None) -> jax.Array:
  """`x` with a share `rate` of its elements zeroed and the rest scaled up; `x` if key is None."""
  if key is None or rate == 0.0:
    return x
  keep = jax.random.bernoulli(key, 1.0 - rate, x.shape)
  return jnp.where(keep, x / (1.0 - rate), 0).astype(x.dtype)


def subkey(key: jax.Array | None, n: int) -> jax.Array | None:
  """The n-th key under `key`; None (no dropout) stays None."""
  return None if key is None else jax.random.fold_in(key, n)


class Linear(nnx.Module):
  """x W + b over one or several input and output axes, e.g. embed -> (heads, head_dim).

  `std` None draws the kernel from N(0, 1/fan in).
  """

  def __init__(self, in_shape: dict[str, int], out_shape: dict[str, int], *, bias: bool,
               std: float | None, rngs: nnx.Rngs):
    fan_in = math.prod(in_shape.values())
    shape = (*in_shape.values(), *out_shape.values())
    self.num_in = len(in_shape)
    self.kernel = param(rngs, shape, (*in_shape, *out_shape), std or fan_in ** -0.5)
    # A bias over `embed` is as small as a norm's scale and is kept whole like one.
    bias_axes = tuple('norm' if a == 'embed' else a for a in out_shape)
    self.bias = param(rngs, tuple(out_shape.values()), bias_axes, 0.0) if bias else None

  def __call__(self, x: jax.Array) -> jax.Array:
    """[..., *in] -> [..., *out], in the dtype of `x`."""
    lead, out_shape = x.shape[:x.ndim - self.num_in], self.kernel[...].shape[self.num_in:]
    kernel = self.kernel[...].astype(x.dtype)
    # As a product of two matrices: XLA's CPU backend runs the gradient of any other form at half
    # the speed, and other backends do not mind.
    fan_in = math.prod(kernel.shape[:self.num_in])
    y = x.reshape(-1, fan_in) @ kernel.reshape(fan_in, -1)
    y = y.reshape(*lead, *out_shape)
    return y if self.bias is None else y + self.bias[...].astype(x.dtype)


class Norm(nnx.Module):
  """RMSNorm (Zhang & Sennrich 2019: no mean, no bias) or LayerNorm, computed in float32."""

  def __init__(self, config: ModelConfig, rngs: nnx.Rngs):
    shape = (config.embed_dim,)
    self.epsilon = config.norm_epsilon
    self.scale = param(rngs, shape, ('norm',), 0.0, mean=1.0)
    centred = config.norm == 'layer_norm'
    self.bias = param(rngs, shape, ('norm',), 0.0) if centred else None

  def __call__(self, x_BLD: jax.Array) -> jax.Array:
    x = x_BLD.astype(jnp.float32)
    if self.bias is not None:
      x = x - x.mean(-1, keepdims=True)
    x = x * jax.lax.rsqrt(jnp.square(x).mean(-1, keepdims=True) + self.epsilon)
    x = x * self.scale[...]
    if self.bias is not None:
      x = x + self.bias[...]
    return x.astype(x_BLD.dtype)


class MLP(nnx.Module):
  """act(x W_up) W_down, or the gated form act(x W_gate) * (x W_up) (Shazeer 2020)."""

  def __init__(self, config: ModelConfig, out_std: float | None, rngs: nnx.Rngs, shard: Shard):
    self.config, self.shard = config, shard
    up = dict(in_shape={'embed': config.embed_dim}, out_shape={'mlp': config.mlp_dim},
              bias=config.bias, std=config.init_std, rngs=rngs)
    self.gate = Linear(**up) if config.gated_mlp else None
    self.up = Linear(**up)
    self.down = Linear({'mlp': config.mlp_dim}, {'embed': config.embed_dim}, bias=config.bias,
                       std=out_std, rngs=rngs)

  def __call__(self, x_BLD: jax.Array, key: jax.Array | None = None) -> jax.Array:
    act = ACTIVATIONS[self.config.activation]
    h_BLF = self.up(x_BLD)
    h_BLF = act(h_BLF) if self.gate is None else act(self.gate(x_BLD)) * h_BLF
    h_BLF = self.shard(h_BLF, 'batch', 'length', 'mlp')
    if self.config.gated_mlp:  # where T5 1.1 puts one more dropout
      h_BLF = dropout(h_BLF, self.config.dropout_rate, key)
    return self.down(h_BLF)


class Embedder(nnx.Module):
  """Token embeddings, learned positions if any, and the way back to logits."""

  def __init__(self, config: ModelConfig, rngs: nnx.Rngs, shard: Shard):
    self.config, self.shard = config, shard
    vocab, embed = config.vocab_size, config.embed_dim
    self.tokens = param(rngs, (vocab, embed), ('vocab', 'embed'), config.init_std or 1.0)
    if config.position == 'learned':
      shape, std = (config.max_length, embed), config.init_std or 1.0
      self.positions = param(rngs, shape, (None, 'embed'), std)
    self.norm = Norm(config, rngs) if config.embedding_norm else None
    # A classifier has no output layer, a tied model uses `tokens`.
    untied = not config.tied_embeddings and config.num_classes is None
    self.output = param(rngs, (embed, vocab), ('embed', 'vocab'),
                        config.init_std or embed ** -0.5) if untied else None

  def __call__(self, tokens_BL: jax.Array, positions_BL: jax.Array,
               key: jax.Array | None = None) -> jax.Array:
    """[batch, length] int32 ids and positions -> [batch, length, embed] in the model's dtype."""
    # The table is gathered over `embed` first: looking up rows of a table cut along the axis that
    # also cuts the batch would make the partitioner replicate the whole activation.
    x_BLD = self.shard(self.tokens[...], 'vocab', None)[tokens_BL]
    if self.config.position == 'learned':
      x_BLD = x_BLD + self.shard(self.positions[...], None, None)[positions_BL]
    x_BLD = x_BLD.astype(self.config.dtype)
    if self.norm is not None:
      x_BLD = self.norm(x_BLD)
    x_BLD = dropout(x_BLD, self.config.dropout_rate, key)
    return self.shard(x_BLD, 'batch', 'length', 'embed')

  def logits(self, x_BLD: jax.Array) -> jax.Array:
    """[batch, length, embed] -> float32 logits [batch, length, vocab]."""
    if self.output is None:
      logits_BLV = jnp.einsum('bld,vd->blv', x_BLD, self.tokens[...].astype(x_BLD.dtype))
    else:
      logits_BLV = x_BLD @ self.output[...].astype(x_BLD.dtype)
    return self.shard(logits_BLV.astype(jnp.float32), 'batch', 'length', 'vocab')
