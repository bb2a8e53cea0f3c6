"""The small parts of every family: parameters, linear layers, norms, MLP, embeddings, dropout.

Shape letters here and in the other files of this folder:
B batch, L (query) length, S key length, D embed, N query heads, K key-value heads, G = N / K,
H head dim, F mlp, V vocab, T all tokens of a batch, E experts, R relative buckets.
"""

from collections.abc import Callable
import functools
import math
from typing import Protocol

from flax import nnx
import jax
from jax.ad_checkpoint import checkpoint_name
import jax.numpy as jnp

from t5x_lite.models import weights
from t5x_lite.models.config import ModelConfig
from t5x_lite.models.positions import sinusoidal


class Shard(Protocol):
  """The devices of a model, and how its activations are sharded."""

  @property
  def platform(self) -> str:
    """'cpu', 'gpu' or 'tpu'."""

  @property
  def batch_parts(self) -> int:
    """The number of parts that a batch is sharded into."""

  def __call__(self, x: jax.Array, *axes: str | None) -> jax.Array:
    """`x` constrained to the devices of its logical axes, such as 'batch', 'length', 'embed'."""

  def shard_map(self, fn: Callable, in_axes: tuple, out_axes: tuple) -> Callable:
    """`fn` run on each device's own part of arguments and result, sharded by logical axes."""


class Unsharded:
  """The Shard of a model on one device."""

  batch_parts = 1

  @property
  def platform(self) -> str:
    return jax.default_backend()

  def __call__(self, x: jax.Array, *axes: str | None) -> jax.Array:
    return x

  def shard_map(self, fn: Callable, in_axes: tuple, out_axes: tuple) -> Callable:
    return fn


unsharded = Unsharded()

ACTIVATIONS = {
    'relu': jax.nn.relu,
    'gelu': jax.nn.gelu,  # the tanh approximation ('gelu_new')
    'gelu_exact': lambda x: jax.nn.gelu(x, approximate=False),
    'silu': jax.nn.silu,
}


def param(shape: tuple[int, ...], axes: tuple[str | None, ...], std: float,
          mean: float = 0.0, *, num_in: int = 0) -> nnx.Param:
  """A float32 parameter that begins as N(mean, std), with the logical name of each axis.

  It holds zeros: initialization.py draws the values of all parameters of a network at once.
  `num_in` of a kernel is how many axes are its inputs, after that of `experts` if it has one; 0 is
  no kernel.
  """
  assert len(shape) == len(axes), (shape, axes)
  return nnx.Param(jnp.zeros(shape, jnp.float32), axes=axes, std=std, mean=mean, num_in=num_in)


def dropout(x: jax.Array, rate: float, key: jax.Array | None) -> jax.Array:
  """`x` with a share `rate` of its elements zeroed and the rest scaled up; `x` if key is None."""
  if key is None or rate == 0.0:
    return x
  keep = jax.random.bernoulli(key, 1.0 - rate, x.shape)
  return jnp.where(keep, x / (1.0 - rate), 0).astype(x.dtype)


def embedding_noise(x_BLD: jax.Array, alpha: float, segments_BL: jax.Array | None,
                    key: jax.Array | None) -> jax.Array:
  """`x_BLD` with the noise of NEFTune (Jain et al. 2023); `x_BLD` if alpha is 0 or key None.

  Each element gets a draw of U(-1, 1) times alpha / sqrt(L D), where L is the number of tokens of
  its own segment: without padding and other examples of the row, as in the paper's experiments.
  (transformers counts the padded row.) Padding gets none.

  Args:
    x_BLD: embeddings of tokens.
    alpha: no example's noise has a larger Euclidean norm.
    segments_BL: 0 of padding; None: a row is one example.
    key: draws the noise.
  """
  if key is None or alpha == 0.0:
    return x_BLD
  noise_BLD = jax.random.uniform(key, x_BLD.shape, jnp.float32, -1.0, 1.0)
  scale = alpha * x_BLD.shape[-1] ** -0.5
  if segments_BL is None:
    return x_BLD + (noise_BLD * (scale * x_BLD.shape[1] ** -0.5)).astype(x_BLD.dtype)
  tokens_BL = jax.vmap(_occurrences)(segments_BL)
  scale_BL = jnp.where(segments_BL > 0, scale * jax.lax.rsqrt(tokens_BL.astype(jnp.float32)), 0)
  return x_BLD + (noise_BLD * scale_BL[:, :, None]).astype(x_BLD.dtype)


def _occurrences(ids_L: jax.Array) -> jax.Array:
  """How often the id of each position occurs, without a matrix of all pairs."""
  ordered = jnp.sort(ids_L)
  return jnp.searchsorted(ordered, ids_L, side='right') - jnp.searchsorted(ordered, ids_L)


def subkey(key: jax.Array | None, n: int) -> jax.Array | None:
  """The n-th key under `key`; None (no dropout) stays None."""
  return None if key is None else jax.random.fold_in(key, n)


class Linear(nnx.Module):
  """x W + b over one or several input and output axes, e.g. embed -> (heads, head_dim).

  `std` None draws the kernel from N(0, 1/fan in).
  """

  def __init__(self, in_shape: dict[str, int], out_shape: dict[str, int], *, bias: bool,
               std: float | None):
    fan_in = math.prod(in_shape.values())
    shape = (*in_shape.values(), *out_shape.values())
    self.num_in = len(in_shape)
    self.kernel = param(shape, (*in_shape, *out_shape), std or fan_in ** -0.5,
                        num_in=self.num_in)
    # A bias over `embed` is as small as a norm's scale, and replicated like one.
    bias_axes = tuple('norm' if a == 'embed' else a for a in out_shape)
    self.bias = param(tuple(out_shape.values()), bias_axes, 0.0) if bias else None

  def __call__(self, x: jax.Array) -> jax.Array:
    """[..., *in] -> [..., *out], in the dtype of `x`."""
    y = weights.matmul(x, self.kernel.get_value(), self.num_in)
    if self.bias is None:
      return y
    return y + jax.lax.broadcast_to_rank(self.bias[...].astype(x.dtype), y.ndim)


class Norm(nnx.Module):
  """RMSNorm (Zhang & Sennrich 2019: no mean, no bias) or LayerNorm, computed in float32."""

  def __init__(self, config: ModelConfig):
    shape = (config.embed_dim,)
    self.epsilon = config.norm_epsilon
    self.offset = 1.0 if config.norm_unit_offset else 0.0
    self.scale = param(shape, ('norm',), 0.0, mean=1.0 - self.offset)
    centred = config.norm == 'layer_norm'
    self.bias = param(shape, ('norm',), 0.0) if centred else None

  def __call__(self, x_BLD: jax.Array) -> jax.Array:
    x = x_BLD.astype(jnp.float32)
    if self.bias is not None:
      x = x - x.mean(-1, keepdims=True)
    x = x * jax.lax.rsqrt(jnp.square(x).mean(-1, keepdims=True) + self.epsilon)
    scale_D = self.scale[...] + self.offset if self.offset else self.scale[...]
    x = x * scale_D[None, None, :]
    if self.bias is not None:
      x = x + self.bias[...][None, None, :]
    return x.astype(x_BLD.dtype)


class MLP(nnx.Module):
  """act(x W_up) W_down, or the gated form act(x W_gate) * (x W_up) (Shazeer 2020)."""

  def __init__(self, config: ModelConfig, out_std: float | None, shard: Shard):
    self.config, self.shard = config, shard
    up = dict(in_shape={'embed': config.embed_dim}, out_shape={'mlp': config.mlp_dim},
              bias=config.bias, std=config.init_std)
    self.gate = Linear(**up) if config.gated_mlp else None
    self.up = Linear(**up)
    self.down = Linear({'mlp': config.mlp_dim}, {'embed': config.embed_dim}, bias=config.bias,
                       std=out_std)

  def __call__(self, x_BLD: jax.Array, key: jax.Array | None = None) -> jax.Array:
    act = ACTIVATIONS[self.config.activation]
    h_BLF = checkpoint_name(self.up(x_BLD), 'mlp_hidden')
    if self.gate is None:
      h_BLF = act(h_BLF)
    else:
      h_BLF = act(checkpoint_name(self.gate(x_BLD), 'mlp_hidden')) * h_BLF
    h_BLF = self.shard(h_BLF, 'batch', 'length', 'mlp')
    if self.config.gated_mlp:  # T5 1.1 has one more dropout here
      h_BLF = dropout(h_BLF, self.config.dropout_rate, key)
    return checkpoint_name(self.down(h_BLF), 'mlp_out')


def softcap(x: jax.Array, cap: float | None) -> jax.Array:
  """cap * tanh(x / cap), which keeps |x| below `cap` (Gemma 2); `x` without a cap."""
  return x if cap is None else cap * jnp.tanh(x / cap)


FEW = 64   # rows of a product


def project(kernel_DV: jax.Array | weights.StructuredLeaf, x_BLD: jax.Array, *,
            config: ModelConfig, shard: Shard) -> jax.Array:
  """[batch, length, embed] -> float32 logits [batch, length, vocab]."""
  if config.scale_logits:
    x_BLD = x_BLD * config.embed_dim ** -0.5
  if (config.tied_embeddings and x_BLD.size <= FEW * config.embed_dim
      and not weights.is_structured(kernel_DV)):
    # The table comes first: XLA for CPUs multiplies a row by a transposed matrix column by column.
    x_TD = x_BLD.reshape(-1, config.embed_dim)
    logits_TV = (kernel_DV.T.astype(x_TD.dtype) @ x_TD.T).T
    logits_BLV = logits_TV.reshape(*x_BLD.shape[:2], -1).astype(jnp.float32)
  else:
    logits_BLV = weights.matmul(x_BLD, kernel_DV).astype(jnp.float32)
  return shard(softcap(logits_BLV, config.logits_softcap), 'batch', 'length', 'vocab')


class Embedder(nnx.Module):
  """Token embeddings, those of positions and token types if any, and the output layer."""

  def __init__(self, config: ModelConfig, shard: Shard):
    self.config, self.shard = config, shard
    vocab, embed = config.vocab_size, config.embed_dim
    self.tokens = param((vocab, embed), ('vocab', 'embed'), config.init_std or 1.0, num_in=1)
    table = lambda rows: param((rows, embed), (None, 'embed'), config.init_std or 1.0)
    self.positions = table(config.max_length) if config.position_embedding == 'learned' else None
    self.types = table(config.num_token_types) if config.num_token_types else None
    self.norm = Norm(config) if config.embedding_norm else None
    # A tied model uses `tokens`.
    untied = not config.tied_embeddings and config.predicts_tokens
    self.output = param((embed, vocab), ('embed', 'vocab'),
                        config.init_std or embed ** -0.5, num_in=1) if untied else None

  def __call__(self, tokens_BL: jax.Array, positions_BL: jax.Array, key: jax.Array | None = None,
               types_BL: jax.Array | None = None, segments_BL: jax.Array | None = None
               ) -> jax.Array:
    """Int32 ids, positions, token types [batch, length] -> [batch, length, embed], model's dtype.

    Token types are 0 if none are given; `segments_BL` is for the noise, `key` draws that and
    dropout.
    """
    # The table is gathered over `embed` first: looking up rows of a table sharded over the axis
    # of the batch would make the partitioner replicate the activation.
    x_BLD = weights.rows(self.tokens.get_value(), tokens_BL,
                         lambda table: self.shard(table, 'vocab', None))
    x_BLD = embedding_noise(x_BLD, self.config.embedding_noise, segments_BL, subkey(key, 0))
    if self.config.scale_embeddings:  # by a number of the model's dtype, as Gemma was trained
      scale = jnp.asarray(self.config.embed_dim ** 0.5, self.config.dtype)
      x_BLD = x_BLD * scale.astype(jnp.float32)
    if self.positions is not None:
      x_BLD = x_BLD + self.shard(self.positions[...], None, None)[positions_BL]
    if self.config.position_embedding == 'sinusoidal':
      x_BLD = x_BLD + sinusoidal(positions_BL, self.config.embed_dim)
    if self.types is not None:
      types = self.shard(self.types[...], None, None)
      x_BLD = x_BLD + (types[0][None, None, :] if types_BL is None else types[types_BL])
    x_BLD = x_BLD.astype(self.config.dtype)
    if self.norm is not None:
      x_BLD = self.norm(x_BLD)
    x_BLD = dropout(x_BLD, self.config.dropout_rate, key)
    return self.shard(x_BLD, 'batch', 'length', 'embed')

  def head(self) -> jax.tree_util.Partial:
    """The function from [batch, length, embed] to float32 logits, a pytree of its parameters."""
    kernel_DV = (weights.transpose(self.tokens.get_value()) if self.output is None else
                 self.output.get_value())
    return jax.tree_util.Partial(
        functools.partial(project, config=self.config, shard=self.shard), kernel_DV)
