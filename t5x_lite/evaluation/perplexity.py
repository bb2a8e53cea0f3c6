"""The loss a token, and perplexity, of parameters: on an evaluation's examples, or on a plain text.

What is predicted: the next token of a decoder; the targets of an encoder-decoder; masked tokens of
an encoder. Ids are NumPy arrays of the host.
"""

from collections.abc import Callable, Iterable, Sequence
import math
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import numpy as np

from t5x_lite.core.errors import UserError
from t5x_lite.data.features import Batch
from t5x_lite.data.source import Tokenizer
from t5x_lite.models import ModelConfig
from t5x_lite.parallel.partitioner import Partitioner

MASKED = 0.15   # of the tokens of a text that an encoder guesses (Devlin et al. 2019)
ROWS = 16       # of a batch of a text
FILL = 0        # what stands on padding


class Losses(NamedTuple):
  """Sums over tokens: of weight * -log p in nats, and of the weights."""
  total: float
  weight: float

  @property
  def mean(self) -> float:
    """Nats a token."""
    return self.total / self.weight

  @property
  def perplexity(self) -> float:
    """e to the mean."""
    return math.exp(self.mean)


@runtime_checkable
class LossEvaluator(Protocol):
  """An evaluator that also gives the losses of its examples."""

  def losses(self, params: Any) -> Losses:
    """Those of all its examples at `params`."""


def sum_losses(score: Callable, params: Any, partitioner: Partitioner, batches: Iterable[Batch]
               ) -> Losses:
  """The losses of batches; `score` is a function of scoring.make_score.

  Raises UserError if nothing in them is a target.
  """
  total = weight = 0.0
  for batch in batches:
    sums = jax.device_get(score(params, partitioner.put_batch(batch), None))
    total -= float(np.sum(sums['score'], dtype=np.float64))
    weight += float(np.sum(sums['tokens'], dtype=np.float64))
  if not weight:
    raise UserError('There is no token to predict: give more text')
  return Losses(total, weight)


def what_is_predicted(config: ModelConfig) -> str:
  """What the losses of a model are of, in words."""
  if config.has_classes:
    return 'classes'
  return {'decoder_only': 'tokens', 'encoder_decoder': 'tokens of targets',
          'encoder_only': 'masked tokens'}[config.family]


class Text:
  """A text as rows of one length: which ids a model of a family reads, and which it predicts."""

  def __init__(self, config: ModelConfig, ids: Sequence[int], lengths: tuple[int, int],
               inputs: Tokenizer, targets: Tokenizer,
               frame: tuple[Sequence[int], Sequence[int]] | None = None):
    """Cuts the ids of a text into rows, the last of which may be shorter.

    Args:
      config: of the model, which predicts tokens.
      ids: of the whole text.
      lengths: tokens of a row that (an encoder, a decoder) reads; 0 where there is none.
      inputs, targets: their tokenizers.
      frame: ids before and after what is read, as of an imported model; None: as tasks train.

    Raises UserError for a model of classes, and lengths without room for a token.
    """
    if config.has_classes or not config.predicts_tokens:
      raise UserError('The model predicts no tokens: a text has nothing to measure it by')
    self.config, self.lengths = config, lengths
    self.mask = inputs.mask_id if config.family == 'encoder_only' else None
    if config.family == 'decoder_only':
      self.before, self.after = ([targets.start_id] if frame is None else [*frame[0]]), []
    elif config.family == 'encoder_only':
      end = getattr(inputs, 'end_ids', None) or ([inputs.eos_id] if inputs.add_eos else [])
      self.before, self.after = map(list, ([inputs.cls_id], end) if frame is None else frame)
    else:
      self.before, self.after = map(list, (
          [], [inputs.eos_id] if inputs.add_eos else []) if frame is None else frame)
      self.start = targets.start_id
    encoder = lengths[0] - len(self.before) - len(self.after)
    self.room = {'decoder_only': lengths[1] + 1 - len(self.before), 'encoder_only': encoder,
                 'encoder_decoder': encoder + lengths[1]}[config.family]
    self.head = max(encoder, 0)   # of a row, what an encoder reads before a decoder goes on
    if self.room < 2 or config.family != 'decoder_only' and encoder < 1:
      raise UserError(f'Rows of {lengths} tokens have no room for text: raise the lengths')
    self.rows = [ids[i:i + self.room] for i in range(0, len(ids), self.room)]

  def batches(self) -> list[Batch]:
    """Batches of ROWS rows; those beyond the last one repeat it without weight."""
    rows = [self._row(np.asarray(ids, np.int32), number) for number, ids in enumerate(self.rows)]
    batches = []
    for start in range(0, len(rows), ROWS):
      chunk = rows[start:start + ROWS]
      extra = [chunk[-1] | {name: np.zeros_like(x) for name, x in chunk[-1].items()
                            if name.endswith('loss_weights')}] * (ROWS - len(chunk))
      batches.append({name: np.stack([row[name] for row in chunk + extra]) for name in chunk[0]})
    return batches

  def _row(self, ids: np.ndarray, number: int) -> Batch:
    """The features of a row, each [length]."""
    encoder, decoder = self.lengths
    if self.config.family == 'decoder_only':
      return _decoder_row(self.before, ids, decoder)
    if self.config.family == 'encoder_decoder':
      # The encoder reads the first part of a row, and the decoder goes on; of a short row, half.
      head = min(self.head, -(-len(ids) // 2)) if len(ids) < self.room else self.head
      read = [*self.before, *ids[:head], *self.after]
      return {'encoder_input_tokens': _pad(read, encoder),
              'encoder_segment_ids': _pad(np.ones(len(read)), encoder),
              **_decoder_row([self.start], ids[head:], decoder)}
    hidden = np.random.default_rng([0, number]).random(len(ids)) < MASKED
    framed = lambda middle, edge: [*edge(self.before), *middle, *edge(self.after)]
    nothing = lambda edge: [0] * len(edge)
    read = framed(np.where(hidden, self.mask, ids), list)
    return {'encoder_input_tokens': _pad(read, encoder),
            'encoder_target_tokens': _pad(framed(ids, list), encoder),
            'encoder_loss_weights': _pad(framed(hidden, nothing), encoder),
            'encoder_segment_ids': _pad(np.ones(len(read)), encoder)}


def _decoder_row(before: Sequence[int], ids: np.ndarray, length: int) -> Batch:
  """Each of `ids` is predicted from what stands before it; nothing of `before` is, nor a first id
  without anything before it."""
  row = np.asarray([*before, *ids], np.int32)
  weights = (np.arange(1, len(row)) >= len(before)).astype(np.int32)
  return {'decoder_input_tokens': _pad(row[:-1], length),
          'decoder_target_tokens': _pad(row[1:], length),
          'decoder_loss_weights': _pad(weights, length),
          'decoder_segment_ids': _pad(np.ones(len(weights)), length)}


def _pad(row: Sequence[int] | np.ndarray, length: int) -> np.ndarray:
  """int32 [length]."""
  return np.pad(np.asarray(row, np.int32), (0, length - len(row)), constant_values=FILL)
