"""Decoder-only language models (the GPT and LLaMA manners). Shape letters: see layers.py."""

from typing import Any, NamedTuple

from flax import nnx
import jax
import jax.numpy as jnp

from t5x_lite.models import layers
from t5x_lite.models.config import ModelConfig
from t5x_lite.models.masks import Mask
from t5x_lite.models.transformer import Context, Stack


class Outputs(NamedTuple):
  """What a network computes before its output layer, which is often applied in parts."""
  x_BLD: jax.Array
  head: jax.tree_util.Partial   # [batch, any length, embed] -> float32 logits
  router_losses: dict[str, jax.Array] | None = None   # sums, of a mixture of experts
  next_sentence_logits_BC: jax.Array | None = None    # of BERT's second objective

  def logits(self) -> jax.Array:
    """Float32 logits [batch, length, vocab or classes]."""
    return self.head(self.x_BLD)


def segments_and_positions(batch: dict[str, jax.Array], side: str):
  """Segment ids (None without them) and positions of `side` ('encoder' or 'decoder'), each
  [batch, length] int32.

  A batch without them is one example a row, without padding.
  """
  tokens_BL = batch[f'{side}_input_tokens']
  positions_BL = batch.get(f'{side}_positions')
  if positions_BL is None:
    positions_BL = jnp.broadcast_to(jnp.arange(tokens_BL.shape[1]), tokens_BL.shape)
  return batch.get(f'{side}_segment_ids'), positions_BL


def valid_tokens(segments_BL: jax.Array | None) -> jax.Array | None:
  """Bool, the tokens that are not padding; None if none is."""
  return None if segments_BL is None else segments_BL > 0


def decode_context(cache: dict[str, Any], valid_BL: jax.Array, causal: bool = True):
  """The Context of tokens written at the cache's index, and the cache moved on past them."""
  length = valid_BL.shape[1]
  valid_BS = jax.lax.dynamic_update_slice_in_dim(cache['valid'], valid_BL, cache['index'], axis=1)
  count_BL = jnp.cumsum(valid_BL, axis=1)
  positions_BL = jnp.maximum(cache['position'][:, None] + count_BL - 1, 0)
  # As segments: what is valid sees what is valid, padding sees padding and slots not yet written.
  mask = Mask(q_segments_BL=valid_BL, k_segments_BS=valid_BS, q_start=cache['index'],
              causal=causal)
  context = Context(mask=mask, positions_BL=positions_BL, valid_BL=valid_BL, index=cache['index'])
  return context, cache | {'valid': valid_BS, 'index': cache['index'] + length,
                           'position': cache['position'] + count_BL[:, -1]}


def empty_cache(stack: Stack, batch_size: int, length: int) -> dict[str, Any]:
  """A key-value cache for `length` tokens: place, positions, which slots are valid, the layers."""
  return {'index': jnp.zeros((), jnp.int32), 'position': jnp.zeros((batch_size,), jnp.int32),
          'valid': jnp.zeros((batch_size, length), bool),
          'layers': stack.init_caches(batch_size, length)}


class DecoderOnly(nnx.Module):
  """p(token | tokens before it), over packed or padded rows."""

  target = 'decoder'  # whose target tokens and loss weights belong to the logits

  def __init__(self, config: ModelConfig, shard: layers.Shard = layers.unsharded):
    self.config = config
    self.embedder = layers.Embedder(config, shard)
    self.decoder = Stack(config, config.num_layers, bidirectional=False, cross=False,
                         shard=shard)

  def outputs(self, batch: dict[str, jax.Array], key: jax.Array | None = None) -> Outputs:
    """The last hidden states of a batch of decoder features.

    Args:
      batch: `decoder_input_tokens` [batch, length] int32 and, if packed or padded,
        `decoder_segment_ids` and `decoder_positions`; with config.prefix_lm also
        `decoder_causal_attention`, 1 where a token belongs to the prefix.
      key: draws dropout; None for none.
    """
    segments_BL, positions_BL = segments_and_positions(batch, 'decoder')
    prefix_BL = batch.get('decoder_causal_attention') if self.config.prefix_lm else None
    mask = Mask(q_segments_BL=segments_BL, k_segments_BS=segments_BL, prefix_BL=prefix_BL,
                causal=True)
    context = Context(mask, positions_BL, valid_tokens(segments_BL))
    x_BLD = self.embedder(batch['decoder_input_tokens'], positions_BL, layers.subkey(key, 0))
    x_BLD, _, router_losses = self.decoder(x_BLD, context, key=layers.subkey(key, 1))
    return Outputs(x_BLD, self.embedder.head(), router_losses)

  def __call__(self, batch: dict[str, jax.Array], key: jax.Array | None = None) -> jax.Array:
    """Float32 logits [batch, length, vocab]; arguments as in `outputs`."""
    return self.outputs(batch, key).logits()

  def start(self, batch: dict[str, jax.Array], length: int) -> dict[str, Any]:
    """An empty cache for `length` tokens a row, as many rows as `decoder_input_tokens`."""
    return empty_cache(self.decoder, batch['decoder_input_tokens'].shape[0], length)

  def decode(self, tokens_BL: jax.Array, cache: dict[str, Any], valid_BL: jax.Array,
             prompt: bool = False) -> tuple[jax.Array, dict[str, Any]]:
    """Logits of the last of `tokens_BL`, [batch, vocab], and the cache that now holds them.

    Args:
      tokens_BL: the next tokens, the same number for each row; prompts are padded on the left.
      cache: from `start` or an earlier call.
      valid_BL: bool, False on the left padding.
      prompt: the tokens are a prompt, which a prefix language model reads both ways.
    """
    causal = not (prompt and self.config.prefix_lm)
    context, cache = decode_context(cache, valid_BL, causal)
    x_BLD = self.embedder(tokens_BL, context.positions_BL)
    x_BLD, caches, _ = self.decoder(x_BLD, context, cache['layers'])
    return self.embedder.head()(x_BLD[:, -1:])[:, 0], cache | {'layers': caches}
