"""The features of a batch, by the names that seqio's feature converters emit.

`{side}_input_tokens`, `{side}_target_tokens`, `{side}_loss_weights`, `{side}_segment_ids` and
`{side}_positions`, each [batch, length], for the sides `encoder` and `decoder`; for some models
`decoder_causal_attention`, `encoder_token_types` [batch, length], `next_sentence_labels` [batch].
A decoder that classifies reads the texts of an example as the segments of a row:
`text_positions` [batch, texts], where the last token of each is, -1 for none, and `class_labels`
[batch].

In a batch of groups, such as a chosen and a rejected response to a prompt, the features of the
decoder are [batch, responses, length], those of an encoder, which reads the prompt, [batch,
length]; `response_scores` [batch, responses] float32 says which is better, NaN where there is no
response.

In a batch of pairs of texts the features of the encoder are [batch, 2, length], and
`encoder_loss_weights` [batch, 1] is 1 for a pair.
"""

from collections.abc import Sequence
import math
from typing import Any

import numpy as np

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
  length = lambda name: batch[name].shape[-1] if name in batch else 0
  return length('encoder_input_tokens'), length('decoder_input_tokens')


def num_rows(batch: Batch) -> int:
  """Rows of a batch, those of all responses in one of groups."""
  side = 'decoder' if 'decoder_input_tokens' in batch else 'encoder'
  return math.prod(batch[f'{side}_input_tokens'].shape[:-1])


def decoder_rows(prompts: Sequence[Sequence[int]], completions: Sequence[Sequence[int]],
                 length: int) -> Batch:
  """A decoder's features [rows, length] of prompts, with what begins them, and completions.

  Padding is on the right; the loss weights are 1 on the tokens of the completions.
  """
  batch = {f'decoder_{name}': np.zeros((len(prompts), length), np.int32) for name in (
      'input_tokens', 'target_tokens', 'loss_weights', 'segment_ids', 'positions')}
  for r, (prompt, completion) in enumerate(zip(prompts, completions, strict=True)):
    ids = np.concatenate([prompt, completion])
    first, last = len(prompt) - 1, len(ids) - 1
    batch['decoder_input_tokens'][r, :last] = ids[:-1]
    batch['decoder_target_tokens'][r, :last] = ids[1:]
    batch['decoder_loss_weights'][r, first:last] = 1
    batch['decoder_segment_ids'][r, :last] = 1
    batch['decoder_positions'][r, :last] = np.arange(last)
  return batch


Span = tuple[int, int]   # start and end of a text in its row


def text_features(rows: Sequence[Sequence[int]] | np.ndarray, spans: Sequence[Sequence[Span]],
                  length: int) -> Batch:
  """The decoder's features of rows of texts.

  A text is a segment. Its tokens are the targets of those before them, which have a loss weight of
  1; its last one, which the head of a classification reads, has no target. What no text has is
  padding. A row of two texts, at length 8:

      row [0, 7, 8, 1, 0, 9, 1], spans [(0, 4), (4, 7)]

      decoder_input_tokens  [0, 7, 8, 1, 0, 9, 1, 0]
      decoder_target_tokens [7, 8, 1, 0, 9, 1, 0, 0]
      decoder_loss_weights  [1, 1, 1, 0, 1, 1, 0, 0]
      decoder_segment_ids   [1, 1, 1, 1, 2, 2, 2, 0]
      decoder_positions     [0, 1, 2, 3, 0, 1, 2, 0]
      text_positions        [3, 6]

  Args:
    rows: ids of each row.
    spans: of the texts of each row, in order; `text_spans` finds them.
    length: of the rows made.
  """
  batch = {f'decoder_{name}': np.zeros((len(rows), length), np.int32) for name in (
      'input_tokens', 'target_tokens', 'loss_weights', 'segment_ids', 'positions')}
  last = np.full((len(rows), max(map(len, spans))), -1, np.int32)
  for r, (row, texts) in enumerate(zip(rows, spans)):
    for segment, (start, end) in enumerate(texts, 1):
      last[r, segment - 1] = end - 1
      batch['decoder_input_tokens'][r, start:end] = row[start:end]
      batch['decoder_target_tokens'][r, start:end - 1] = row[start + 1:end]
      batch['decoder_loss_weights'][r, start:end - 1] = 1
      batch['decoder_segment_ids'][r, start:end] = segment
      batch['decoder_positions'][r, start:end] = np.arange(end - start)
  return batch | {'text_positions': last}


def text_spans(row: Sequence[int] | np.ndarray, eos_id: int) -> list[Span]:
  """Where each text of a row is, from its first id, which may be any, to the next `eos_id`.

  What follows the last one is of no text.
  """
  spans, start = [], 0
  for end in (np.flatnonzero(np.asarray(row) == eos_id) + 1).tolist():
    if end - start > 1:   # else eos_id begins the text
      spans.append((start, end))
      start = end
  return spans
