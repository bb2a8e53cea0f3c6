"""The heads of encoder-only models. Shape letters: see layers.py."""

from flax import nnx
import jax
import jax.numpy as jnp

from t5x_lite.models import layers
from t5x_lite.models.config import ModelConfig


class MaskedLMHead(nnx.Module):
  """BERT's transform before the output layer, and the output's bias."""

  def __init__(self, config: ModelConfig):
    self.activation = layers.ACTIVATIONS[config.activation]
    width = config.embed_dim
    self.transform = layers.Linear({'embed': width}, {'norm': width}, bias=config.bias,
                                   std=config.init_std)
    self.norm = layers.Norm(config)
    self.bias = layers.param((config.vocab_size,), ('vocab',), 0.0)

  def __call__(self, x_BLD: jax.Array, project: jax.tree_util.Partial) -> jax.Array:
    h_BLD = self.norm(self.activation(self.transform(x_BLD)))
    return project(h_BLD) + self.bias[...][None, None, :]


class Pooler(nnx.Module):
  """A vector a row: tanh of a linear layer of its first token (BERT), or of its tokens' mean."""

  def __init__(self, config: ModelConfig):
    self.pooling = config.pooling
    width = config.embed_dim
    self.transform = layers.Linear({'embed': width}, {'norm': width}, bias=True,
                                   std=config.init_std)

  def __call__(self, x_BLD: jax.Array, valid_BL: jax.Array | None) -> jax.Array:
    if self.pooling == 'first':
      x_BD = x_BLD[:, 0]
    elif valid_BL is None:
      x_BD = x_BLD.mean(1)
    else:
      weights_BL1 = valid_BL[:, :, None].astype(x_BLD.dtype)
      x_BD = (x_BLD * weights_BL1).sum(1) / jnp.maximum(weights_BL1.sum(1), 1)
    return jnp.tanh(self.transform(x_BD))


def function_of(module: nnx.Module, *others) -> jax.tree_util.Partial:
  """x -> float32 module(x, *others), a pytree of the parameters of both."""
  graphdef, state = nnx.split(module)

  def run(state, others, x):
    return nnx.merge(graphdef, state)(x, *others).astype(jnp.float32)

  return jax.tree_util.Partial(run, state, others)
