"""The features of a batch, by the names that seqio's feature converters emit.

`{side}_input_tokens`, `{side}_target_tokens`, `{side}_loss_weights`, `{side}_segment_ids` and
`{side}_positions`, each [batch, length], for the sides `encoder` and `decoder`; for some models
`decoder_causal_attention`, `encoder_token_types` [batch, length], `next_sentence_labels` [batch].
"""

from typing import Any

Batch = dict[str, Any]   # of NumPy arrays on the host, of jax.Arrays inside a step


def num_tokens(batch: Batch):
  """Tokens that an encoder or a decoder reads, excluding padding; NumPy or JAX as the batch is."""
  tokens = 0.0
  for side in ('encoder', 'decoder'):
    if f'{side}_input_tokens' in batch:
      segments_BL = batch.get(f'{side}_segment_ids')
      tokens += (batch[f'{side}_input_tokens'].size if segments_BL is None
                 else (segments_BL > 0).sum())
  return tokens


def row_lengths(batch: Batch) -> tuple[int, int]:
  """(encoder length, decoder length) of a batch; 0 for a side it lacks."""
  length = lambda name: batch[name].shape[1] if name in batch else 0
  return length('encoder_input_tokens'), length('decoder_input_tokens')
