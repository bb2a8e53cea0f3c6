"""Decoder-only language models (GPT, LLaMA). Shape letters: see layers.py."""

from flax import nnx
import jax

from t5x_lite.models import layers
from t5x_lite.models.attention.masks import Mask
from t5x_lite.models.cache import Cache, decode_context, empty_cache
from t5x_lite.models.config import ModelConfig
from t5x_lite.models.context import Context, segments_and_positions, valid_tokens
from t5x_lite.models.heads import text_classifier, text_logits, token_values, value_head
from t5x_lite.models.outputs import Outputs
from t5x_lite.models.stack import Stack


class DecoderOnly(nnx.Module):
  """p(token | tokens before it), over packed or padded rows.

  With config.head also p(class | texts of a row): see heads.text_logits.
  """

  def __init__(self, config: ModelConfig, shard: layers.Shard = layers.unsharded):
    self.config, self.shard = config, shard
    self.embedder = layers.Embedder(config, shard)
    self.decoder = Stack(config, config.num_layers, bidirectional=False, cross=False,
                         shard=shard)
    self.classifier = text_classifier(config) if config.classifies_texts else None
    self.value = value_head(config)

  def outputs(self, batch: dict[str, jax.Array], key: jax.Array | None = None, *,
              trunk: bool = False) -> Outputs:
    """The last hidden states of a batch of decoder features.

    Args:
      batch: `decoder_input_tokens` [batch, length] int32 and, if packed or padded,
        `decoder_segment_ids` and `decoder_positions`; with config.prefix_lm also
        `decoder_causal_attention`, 1 where a token belongs to the prefix. The head's logits are of
        `text_positions` [batch, texts], where the last token of each text is, and each text is a
        segment; they are None without.
      key: draws dropout and noise; None for none.
      trunk: the first segment of a row is seen by its others, which go on from it.
    """
    segments_BL, positions_BL = segments_and_positions(batch, 'decoder')
    prefix_BL = batch.get('decoder_causal_attention') if self.config.prefix_lm else None
    mask = Mask(q_segments_BL=segments_BL, k_segments_BS=segments_BL, prefix_BL=prefix_BL,
                causal=True, trunk=trunk)
    context = Context(mask, positions_BL, valid_tokens(segments_BL))
    x_BLD = self.embedder(batch['decoder_input_tokens'], positions_BL, layers.subkey(key, 0),
                          segments_BL=segments_BL)
    x_BLD, _, router_losses = self.decoder(x_BLD, context, key=layers.subkey(key, 1))
    class_logits_BC = None
    if self.classifier is not None and 'text_positions' in batch:
      class_logits_BC = text_logits(self.classifier, self.config, x_BLD, batch['text_positions'],
                                    layers.subkey(key, 2))
    return Outputs(x_BLD, self.embedder.head(), router_losses, class_logits_BC=class_logits_BC,
                   values_BL=token_values(self.value, x_BLD))

  def __call__(self, batch: dict[str, jax.Array], key: jax.Array | None = None) -> jax.Array:
    """Float32 logits [batch, length, vocab]; arguments as in `outputs`."""
    return self.outputs(batch, key).logits()

  def start(self, batch: dict[str, jax.Array], length: int, *, margin: int = 0,
            int8: bool = False) -> Cache:
    """An empty cache for `length` tokens a row, as many rows as `decoder_input_tokens`.

    `margin` is how many tokens `cache.step_back` may take back; `int8` holds keys and values in 8
    bits.
    """
    return empty_cache(self.decoder, batch['decoder_input_tokens'].shape[0], length, margin, int8)

  def decode(self, tokens_BL: jax.Array, cache: Cache, valid_BL: jax.Array, prompt: bool = False,
             last: int = 1) -> tuple[jax.Array, Cache]:
    """Logits of the `last` of `tokens_BL`, [batch, last, vocab], and the cache that now holds them.

    Args:
      tokens_BL: the next tokens, the same number for each row; prompts are padded on the left.
      cache: from `start` or an earlier call.
      valid_BL: bool, False on padding, which is not held.
      prompt: the cache is empty, and these tokens are a prompt or its first part; a prefix language
        model reads them both ways.
      last: tokens whose logits are computed.
    """
    causal = not (prompt and self.config.prefix_lm)
    context, cache = decode_context(cache, valid_BL, prompt, causal)
    x_BLD = self.embedder(tokens_BL, context.positions_BL)
    x_BLD, caches, _ = self.decoder(x_BLD, context, cache['layers'])
    return self.embedder.head()(x_BLD[:, -last:]), cache | {'layers': caches}
