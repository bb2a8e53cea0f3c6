"""Encoder-decoder models (the T5 manner). Shape letters: see layers.py."""

from typing import Any

from flax import nnx
import jax

from t5x_lite.models import layers
from t5x_lite.models.attention import attention_mask
from t5x_lite.models.config import ModelConfig
from t5x_lite.models.decoder_only import decode_context, empty_cache, segments_and_positions
from t5x_lite.models.transformer import Context, Stack


class EncoderDecoder(nnx.Module):
  """p(target token | inputs, target tokens before it)."""

  target = 'decoder'

  def __init__(self, config: ModelConfig, rngs: nnx.Rngs, shard: layers.Shard = layers.unsharded):
    self.config = config
    self.embedder = layers.Embedder(config, rngs, shard)
    self.encoder = Stack(config, config.num_layers, bidirectional=True, cross=False, rngs=rngs,
                         shard=shard)
    self.decoder = Stack(config, config.num_decoder_layers, bidirectional=False, cross=True,
                         rngs=rngs, shard=shard)

  def encode(self, batch: dict[str, jax.Array], key: jax.Array | None = None) -> jax.Array:
    """The encoder's output [batch, length, embed] for the encoder features of `batch`."""
    segments_BL, positions_BL = segments_and_positions(batch, 'encoder')
    mask = attention_mask(segments_BL, segments_BL, causal=False)
    x_BLD = self.embedder(batch['encoder_input_tokens'], positions_BL, layers.subkey(key, 0))
    return self.encoder(x_BLD, Context(mask, positions_BL), key=layers.subkey(key, 1))[0]

  def __call__(self, batch: dict[str, jax.Array], key: jax.Array | None = None) -> jax.Array:
    """Float32 logits [batch, decoder length, vocab].

    Args:
      batch: `encoder_input_tokens` and `decoder_input_tokens` [batch, length] int32 and, if packed
        or padded, `{encoder,decoder}_segment_ids` and `_positions`; a decoder token attends to the
        encoder tokens of its own segment.
      key: draws dropout; None for none.
    """
    encoded_BSD = self.encode(batch, layers.subkey(key, 0))
    segments_BL, positions_BL = segments_and_positions(batch, 'decoder')
    encoder_segments_BS, _ = segments_and_positions(batch, 'encoder')
    context = Context(
        mask_B1LS=attention_mask(segments_BL, segments_BL, causal=True),
        positions_BL=positions_BL, encoded_BSD=encoded_BSD,
        cross_mask_B1LS=attention_mask(segments_BL, encoder_segments_BS, causal=False))
    x_BLD = self.embedder(batch['decoder_input_tokens'], positions_BL, layers.subkey(key, 1))
    x_BLD, _ = self.decoder(x_BLD, context, key=layers.subkey(key, 2))
    return self.embedder.logits(x_BLD)

  def start(self, batch: dict[str, jax.Array], length: int) -> dict[str, Any]:
    """Encodes `batch` (one example a row) and gives an empty cache for `length` target tokens."""
    cache = empty_cache(self.decoder, batch['encoder_input_tokens'].shape[0], length)
    cross = self.decoder.cross_caches(self.encode(batch))
    if self.config.scan_layers:
      caches = cache['layers'] | cross
    else:
      caches = [own | read for own, read in zip(cache['layers'], cross)]
    segments_BS, _ = segments_and_positions(batch, 'encoder')
    return cache | {'layers': caches, 'encoder_valid': segments_BS > 0}

  def decode(self, tokens_BL: jax.Array, cache: dict[str, Any], valid_BL: jax.Array,
             prompt: bool = False) -> tuple[jax.Array, dict[str, Any]]:
    """Logits of the last of `tokens_BL`, [batch, vocab], and the cache; as in DecoderOnly."""
    del prompt  # what starts the decoder is read from left to right
    context, cache = decode_context(cache, valid_BL)
    cross_mask = attention_mask(valid_BL, cache['encoder_valid'], causal=False)
    x_BLD = self.embedder(tokens_BL, context.positions_BL)
    x_BLD, caches = self.decoder(x_BLD, context._replace(cross_mask_B1LS=cross_mask),
                                 cache['layers'])
    return self.embedder.logits(x_BLD[:, -1:])[:, 0], cache | {'layers': caches}
