"""Encoder-only models (the BERT manner). Shape letters: see layers.py; C classes."""

from flax import nnx
import jax
import jax.numpy as jnp

from t5x_lite.models import layers
from t5x_lite.models.attention import attention_mask
from t5x_lite.models.config import ModelConfig
from t5x_lite.models.decoder_only import segments_and_positions
from t5x_lite.models.transformer import Context, Stack


class MaskedLMHead(nnx.Module):
  """BERT's transform before the output layer, and the output's bias."""

  def __init__(self, config: ModelConfig, rngs: nnx.Rngs):
    self.activation = layers.ACTIVATIONS[config.activation]
    width = config.embed_dim
    self.transform = layers.Linear({'embed': width}, {'norm': width}, bias=config.bias,
                                   std=config.init_std, rngs=rngs)
    self.norm = layers.Norm(config, rngs)
    self.bias = layers.param(rngs, (config.vocab_size,), ('vocab',), 0.0)

  def __call__(self, x_BLD: jax.Array, embedder: layers.Embedder) -> jax.Array:
    h_BLD = self.norm(self.activation(self.transform(x_BLD)))
    return embedder.logits(h_BLD) + self.bias[...]


class Classifier(nnx.Module):
  """One label a row, from its first token (BERT's pooler) or from the mean of its tokens."""

  def __init__(self, config: ModelConfig, rngs: nnx.Rngs):
    self.config = config
    width = config.embed_dim
    self.pooler = layers.Linear({'embed': width}, {'norm': width}, bias=True, std=config.init_std,
                                rngs=rngs)
    self.classes = layers.Linear({'norm': width}, {'classes': config.num_classes}, bias=True,
                                 std=config.init_std, rngs=rngs)

  def __call__(self, x_BLD: jax.Array, valid_BL: jax.Array, key: jax.Array | None) -> jax.Array:
    """[batch, length, embed] -> logits [batch, 1, classes], as if a row were one target token."""
    if self.config.pooling == 'first':
      pooled_BD = x_BLD[:, 0]
    else:
      weights_BL1 = valid_BL[:, :, None].astype(x_BLD.dtype)
      pooled_BD = (x_BLD * weights_BL1).sum(1) / jnp.maximum(weights_BL1.sum(1), 1)
    pooled_BD = layers.dropout(jnp.tanh(self.pooler(pooled_BD)), self.config.dropout_rate, key)
    return self.classes(pooled_BD).astype(jnp.float32)[:, None]


class EncoderOnly(nnx.Module):
  """Logits of masked tokens, or of the classes of whole rows if config.num_classes is set."""

  target = 'encoder'

  def __init__(self, config: ModelConfig, rngs: nnx.Rngs, shard: layers.Shard = layers.unsharded):
    self.config = config
    self.embedder = layers.Embedder(config, rngs, shard)
    self.encoder = Stack(config, config.num_layers, bidirectional=True, cross=False, rngs=rngs,
                         shard=shard)
    if config.num_classes is None:
      self.mlm_head = MaskedLMHead(config, rngs)
    else:
      self.classifier = Classifier(config, rngs)

  def __call__(self, batch: dict[str, jax.Array], key: jax.Array | None = None) -> jax.Array:
    """Float32 logits [batch, length, vocab], or [batch, 1, classes].

    Args:
      batch: `encoder_input_tokens` [batch, length] int32 and, if packed or padded,
        `encoder_segment_ids` and `encoder_positions`.
      key: draws dropout; None for none.
    """
    segments_BL, positions_BL = segments_and_positions(batch, 'encoder')
    mask = attention_mask(segments_BL, segments_BL, causal=False)
    x_BLD = self.embedder(batch['encoder_input_tokens'], positions_BL, layers.subkey(key, 0))
    x_BLD, _ = self.encoder(x_BLD, Context(mask, positions_BL), key=layers.subkey(key, 1))
    if self.config.num_classes is None:
      return self.mlm_head(x_BLD, self.embedder)
    return self.classifier(x_BLD, segments_BL > 0, layers.subkey(key, 2))
