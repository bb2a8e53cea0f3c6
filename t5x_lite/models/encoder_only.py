"""Encoder-only models (BERT) and heads. Shape letters: see layers.py; C classes."""

from flax import nnx
import jax

from t5x_lite.models import layers
from t5x_lite.models.attention.masks import Mask
from t5x_lite.models.config import ModelConfig
from t5x_lite.models.context import Context, segments_and_positions, valid_tokens
from t5x_lite.models.heads import MaskedLMHead, Pooler, function_of
from t5x_lite.models.outputs import Outputs
from t5x_lite.models.stack import Stack


class EncoderOnly(nnx.Module):
  """Tokens read both ways, with one of the heads of config.head:

  mlm            logits of each token [batch, length, vocab]
  mlm_nsp        the same, and of whether the second sentence follows the first [batch, 2]
  classifier     logits of a row [batch, 1, classes], as if it were one target token
  tagger         logits of each token [batch, length, classes]
  pooler         a vector a row [batch, 1, embed], without a loss
  """

  def __init__(self, config: ModelConfig, shard: layers.Shard = layers.unsharded):
    self.config, self.shard = config, shard
    self.embedder = layers.Embedder(config, shard)
    self.encoder = Stack(config, config.num_layers, bidirectional=True, cross=False,
                         shard=shard)
    has = lambda *heads: config.head in heads
    classes = lambda number: layers.Linear({'norm': config.embed_dim}, {'classes': number},
                                           bias=True, std=config.init_std)
    self.mlm_head = MaskedLMHead(config) if has('mlm', 'mlm_nsp') else None
    self.pooler = Pooler(config) if has('mlm_nsp', 'classifier', 'pooler') else None
    self.next_sentence = classes(2) if has('mlm_nsp') else None
    self.classifier = classes(config.num_classes) if has('classifier', 'tagger') else None

  def _encode(self, batch, key):
    segments_BL, positions_BL = segments_and_positions(batch, 'encoder')
    mask = Mask(q_segments_BL=segments_BL, k_segments_BS=segments_BL, causal=False)
    x_BLD = self.embedder(batch['encoder_input_tokens'], positions_BL, layers.subkey(key, 0),
                          batch.get('encoder_token_types'), segments_BL)
    context = Context(mask, positions_BL, valid_tokens(segments_BL))
    x_BLD, _, router_losses = self.encoder(x_BLD, context, key=layers.subkey(key, 1))
    return x_BLD, router_losses

  def encode(self, batch: dict[str, jax.Array]) -> jax.Array:
    """The last hidden states [batch, length, embed]."""
    return self._encode(batch, None)[0]

  def outputs(self, batch: dict[str, jax.Array], key: jax.Array | None = None) -> Outputs:
    """What the head reads, and the head.

    Args:
      batch: `encoder_input_tokens` [batch, length] int32 and, if packed or padded,
        `encoder_segment_ids` and `encoder_positions`; `encoder_token_types` if the model has them.
      key: draws dropout and noise; None for none.
    """
    x_BLD, router_losses = self._encode(batch, key)
    drop = lambda x: layers.dropout(x, self.config.dropout_rate, layers.subkey(key, 2))
    pooled_BD = None
    if self.pooler is not None:
      pooled_BD = self.pooler(x_BLD, valid_tokens(batch.get('encoder_segment_ids')))
    if self.config.head == 'pooler':
      return Outputs(pooled_BD[:, None], jax.tree_util.Partial(lambda x: x), router_losses)
    if self.config.head == 'classifier':
      return Outputs(drop(pooled_BD)[:, None], function_of(self.classifier), router_losses)
    if self.config.head == 'tagger':
      return Outputs(drop(x_BLD), function_of(self.classifier), router_losses)
    head = function_of(self.mlm_head, self.embedder.head())
    next_sentence = None if self.next_sentence is None else self.next_sentence(pooled_BD)
    return Outputs(x_BLD, head, router_losses, next_sentence)

  def __call__(self, batch: dict[str, jax.Array], key: jax.Array | None = None) -> jax.Array:
    """What config.head gives, float32 (of mlm_nsp the tokens' logits); see `outputs`."""
    return self.outputs(batch, key).logits()
