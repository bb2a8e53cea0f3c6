"""The heads of encoder-only models, and of decoders that classify or rate texts.

Shape letters: see layers.py; P texts of a row, C classes.
"""

from flax import nnx
import jax
import jax.numpy as jnp

from t5x_lite.models import layers
from t5x_lite.models.attention.kernels import MASK_VALUE
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
  """A vector a row: its first token (BERT), or its tokens' mean, and a linear layer and tanh."""

  def __init__(self, config: ModelConfig):
    self.pooling = config.pooling
    width = config.embed_dim
    self.transform = layers.Linear({'embed': width}, {'norm': width}, bias=True,
                                   std=config.init_std) if config.pooler_transform else None

  def __call__(self, x_BLD: jax.Array, valid_BL: jax.Array | None) -> jax.Array:
    if self.pooling == 'first':
      x_BD = x_BLD[:, 0]
    elif valid_BL is None:
      x_BD = x_BLD.mean(1)
    else:
      weights_BL1 = valid_BL[:, :, None].astype(x_BLD.dtype)
      x_BD = (x_BLD * weights_BL1).sum(1) / jnp.maximum(weights_BL1.sum(1), 1)
    return x_BD if self.transform is None else jnp.tanh(self.transform(x_BD))


def text_classifier(config: ModelConfig) -> layers.Linear:
  """The linear layer of `text_logits`: a column a class, or one that rates a choice."""
  # As in transformers: the one that rates has a bias, which the softmax over choices ignores.
  return layers.Linear({'norm': config.embed_dim}, {'classes': config.num_classes or 1},
                       bias=config.head == 'choice', std=config.init_std)


def text_logits(classifier: layers.Linear, config: ModelConfig, x_BLD: jax.Array,
                last_BP: jax.Array, key: jax.Array | None) -> jax.Array:
  """GPT-1's classification by the last token of each text of a row (Radford et al. 2018).

  A row has the texts of one example: the text of a classification; both orders of a pair that is
  compared, whose states are added; or the choices, one of which is right.

  Args:
    classifier: of `text_classifier`.
    config: of the model.
    x_BLD: the last hidden states.
    last_BP: the position in its row of each text's last token, -1 where there is no text.
    key: draws dropout; None for none.

  Returns:
    Float32 logits [batch, classes]; of a choice [batch, texts].
  """
  there_BP1 = (last_BP >= 0)[:, :, None]
  x_BPD = jnp.take_along_axis(x_BLD, jnp.maximum(last_BP, 0)[:, :, None], axis=1)
  x_BPD = layers.dropout(jnp.where(there_BP1, x_BPD, 0), config.dropout_rate, key)
  if config.head == 'classifier':
    return classifier(x_BPD.sum(1)).astype(jnp.float32)
  # Finite, so that a row of padding alone has a gradient of 0.
  return jnp.where(there_BP1, classifier(x_BPD).astype(jnp.float32), MASK_VALUE)[:, :, 0]


def value_head(config: ModelConfig) -> layers.Linear | None:
  """The linear layer of `token_values`, of a decoder that has one.

  It has no bias, as transformers' *ForSequenceClassification has none.
  """
  if config.head != 'value':
    return None
  return layers.Linear({'norm': config.embed_dim}, {'classes': 1}, bias=False,
                       std=(config.embed_dim + 1) ** -0.5)   # as lm-human-preferences


def token_values(head: layers.Linear | None, x_BLD: jax.Array) -> jax.Array | None:
  """A number a token, float32 [batch, length], of the last hidden states; None without a head."""
  return None if head is None else head(x_BLD.astype(jnp.float32))[:, :, 0]


def function_of(module: nnx.Module, *others) -> jax.tree_util.Partial:
  """x -> float32 module(x, *others), a pytree of the parameters of both."""
  graphdef, state = nnx.split(module)

  def run(state, others, x):
    return nnx.merge(graphdef, state)(x, *others).astype(jnp.float32)

  return jax.tree_util.Partial(run, state, others)
