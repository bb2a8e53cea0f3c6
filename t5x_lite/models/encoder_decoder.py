"""Encoder-decoder models (T5). Shape letters: see layers.py."""

from flax import nnx
import jax
import jax.numpy as jnp

from t5x_lite.models import layers
from t5x_lite.models.attention.masks import Mask
from t5x_lite.models.cache import Cache, decode_context, empty_cache
from t5x_lite.models.config import ModelConfig
from t5x_lite.models.context import Context, segments_and_positions, valid_tokens
from t5x_lite.models.heads import token_values, value_head
from t5x_lite.models.outputs import Outputs
from t5x_lite.models.stack import Stack


class EncoderDecoder(nnx.Module):
  """p(target token | inputs, target tokens before it)."""

  def __init__(self, config: ModelConfig, shard: layers.Shard = layers.unsharded):
    self.config, self.shard = config, shard
    self.embedder = layers.Embedder(config, shard)
    self.encoder = Stack(config, config.num_layers, bidirectional=True, cross=False,
                         shard=shard)
    self.decoder = Stack(config, config.num_decoder_layers, bidirectional=False, cross=True,
                         shard=shard)
    self.value = value_head(config)

  def _encode(self, batch, key):
    segments_BL, positions_BL = segments_and_positions(batch, 'encoder')
    mask = Mask(q_segments_BL=segments_BL, k_segments_BS=segments_BL, causal=False)
    context = Context(mask, positions_BL, valid_tokens(segments_BL))
    x_BLD = self.embedder(batch['encoder_input_tokens'], positions_BL, layers.subkey(key, 0),
                          segments_BL=segments_BL)
    x_BLD, _, router_losses = self.encoder(x_BLD, context, key=layers.subkey(key, 1))
    return x_BLD, router_losses

  def encode(self, batch: dict[str, jax.Array]) -> jax.Array:
    """The encoder's output [batch, length, embed] for the encoder features of `batch`."""
    return self._encode(batch, None)[0]

  def outputs(self, batch: dict[str, jax.Array], key: jax.Array | None = None) -> Outputs:
    """The decoder's last hidden states.

    Args:
      batch: `encoder_input_tokens` and `decoder_input_tokens` [batch, length] int32 and, if packed
        or padded, `{encoder,decoder}_segment_ids` and `_positions`; a decoder token attends to the
        encoder tokens of its own segment.
      key: draws dropout and noise; None for none.
    """
    encoded_BSD, encoder_losses = self._encode(batch, layers.subkey(key, 0))
    segments_BL, positions_BL = segments_and_positions(batch, 'decoder')
    encoder_segments_BS, _ = segments_and_positions(batch, 'encoder')
    if segments_BL is None and encoder_segments_BS is not None:   # inputs alone are padded
      segments_BL = jnp.ones(positions_BL.shape, jnp.int32)
    if encoder_segments_BS is None and segments_BL is not None:
      encoder_segments_BS = jnp.ones(encoded_BSD.shape[:2], jnp.int32)
    context = Context(
        Mask(q_segments_BL=segments_BL, k_segments_BS=segments_BL, causal=True),
        positions_BL, valid_tokens(segments_BL), encoded_BSD=encoded_BSD,
        cross_mask=Mask(q_segments_BL=segments_BL, k_segments_BS=encoder_segments_BS,
                        causal=False))
    x_BLD = self.embedder(batch['decoder_input_tokens'], positions_BL, layers.subkey(key, 1),
                          segments_BL=segments_BL)
    x_BLD, _, losses = self.decoder(x_BLD, context, key=layers.subkey(key, 2))
    return Outputs(x_BLD, self.embedder.head(), jax.tree.map(jnp.add, encoder_losses, losses),
                   values_BL=token_values(self.value, x_BLD))

  def __call__(self, batch: dict[str, jax.Array], key: jax.Array | None = None) -> jax.Array:
    """Float32 logits [batch, decoder length, vocab]; arguments as in `outputs`."""
    return self.outputs(batch, key).logits()

  def start(self, batch: dict[str, jax.Array], length: int, *, margin: int = 0,
            int8: bool = False) -> Cache:
    """Encodes `batch` (one example a row) and gives an empty cache for `length` target tokens.

    As DecoderOnly.start; the keys and values of the encoder's output are not in 8 bits.
    """
    cache = empty_cache(self.decoder, batch['encoder_input_tokens'].shape[0], length, margin, int8)
    cross = self.decoder.cross_caches(self.encode(batch))
    caches = [own | read for own, read in zip(cache['layers'], cross)]
    segments_BS, positions_BS = segments_and_positions(batch, 'encoder')
    valid_BS = jnp.ones(positions_BS.shape, bool) if segments_BS is None else segments_BS > 0
    return cache | {'layers': caches, 'encoder_valid': valid_BS}

  def decode(self, tokens_BL: jax.Array, cache: Cache, valid_BL: jax.Array, prompt: bool = False,
             last: int = 1) -> tuple[jax.Array, Cache]:
    """Logits of the `last` tokens, [batch, last, vocab], and the cache; as in DecoderOnly."""
    context, cache = decode_context(cache, valid_BL, prompt)
    cross_mask = Mask(q_segments_BL=valid_BL, k_segments_BS=cache['encoder_valid'], causal=False)
    x_BLD = self.embedder(tokens_BL, context.positions_BL)
    x_BLD, caches, _ = self.decoder(x_BLD, context._replace(cross_mask=cross_mask), cache['layers'])
    return self.embedder.head()(x_BLD[:, -last:]), cache | {'layers': caches}
