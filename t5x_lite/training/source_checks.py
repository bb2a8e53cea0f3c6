"""What a source gives, checked on its first batch before anything is compiled."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from t5x_lite.core.dataclass_checks import nearest
from t5x_lite.core.errors import UserError
from t5x_lite.data.features import Batch
from t5x_lite.data.source import Source, row_lengths
from t5x_lite.models import ModelConfig
from t5x_lite.objectives.language_model import CrossEntropy
from t5x_lite.training.live_source import LiveBatches
from t5x_lite.training.state import TrainState


def checked(batches: Iterable[Batch], data: Source, model: ModelConfig, objectives: Sequence[Any],
            shards: int = 1) -> Iterator[Batch]:
  """The batches of a source; raises UserError if the first one does not fit, or when they end."""
  number = 0
  for batch in batches:
    if not number:
      check_batch(batch, data, model, objectives, shards)
    number += 1
    yield batch
  raise UserError(f'{type(data).__name__}.batches ended after {number} batches: it must go on for '
                  'ever, such as by beginning anew')


def checked_live(live: LiveBatches, data: Source, model: ModelConfig, objectives: Sequence[Any],
                 shards: int = 1) -> Callable[[TrainState], Batch]:
  """As `checked`, of batches that follow from the parameters."""
  first = True

  def next_batch(state: TrainState) -> Batch:
    nonlocal first
    batch = live(state)
    if first:
      check_batch(batch, data, model, objectives, shards)
    first = False
    return batch

  return next_batch


def check_batch(batch: Batch, data: Source, model: ModelConfig, objectives: Sequence[Any],
                shards: int = 1) -> None:
  """Raises UserError, naming the feature, if a batch is not as the source and the model have it."""
  where = f'{type(data).__name__}.batches'
  if not isinstance(batch, Mapping):
    raise UserError(f'{where} gives a {type(batch).__name__}: a batch is a dict from names of '
                    'features to arrays')
  sides = {'encoder_only': ['encoder'], 'decoder_only': ['decoder'],
           'encoder_decoder': ['encoder', 'decoder']}[model.family]
  needed = [f'{side}_input_tokens' for side in sides]
  if model.classifies_texts:
    needed += [f'decoder_{name}' for name in ('target_tokens', 'loss_weights', 'segment_ids')]
    needed += ['text_positions', 'class_labels']
  elif any(isinstance(objective, CrossEntropy) for objective in objectives):
    needed += [f'{model.target_side}_{name}' for name in ('target_tokens', 'loss_weights')]
  for name in needed:
    if name not in batch:
      raise UserError(f'{where} gives no {name!r}, which a model of the family {model.family} '
                      f'needs: {nearest(name, batch)}')
  rows = data.batch_size // shards
  for name, x in batch.items():
    x = np.asarray(x)
    if x.ndim < 1 or not rows <= len(x) <= rows + (data.batch_size % shards > 0):
      raise UserError(f'{where} gives {name!r} of shape {x.shape}: the first dimension must be '
                      f'{rows}, the rows of batch_size {data.batch_size}'
                      + f' of one of {shards} processes' * (shards > 1))
    kind = 'iu' if name.endswith(('_tokens', '_segment_ids', '_positions', '_labels')) else 'iufb'
    if x.dtype.kind not in kind and x.dtype.name != 'bfloat16':
      raise UserError(f'{where} gives {name!r} of type {x.dtype}: it must be of '
                      f'{"integers" if kind == "iu" else "numbers"}')
  _check_lengths(batch, data, model, where)
  _check_ids(batch, model, where)
  if model.classifies_texts:
    _check_texts(batch, model, where)


def _check_lengths(batch: Batch, data: Source, model: ModelConfig, where: str) -> None:
  for side, length in zip(('encoder', 'decoder'), row_lengths(data.lengths, model)):
    tokens = batch.get(f'{side}_input_tokens')
    if tokens is None:
      continue
    shape = np.shape(tokens)
    paired = model.head == 'pooler' and len(shape) == 3   # two texts a row
    grouped = paired or side == 'decoder' and 'response_scores' in batch
    if len(shape) != 2 + grouped or shape[-1] != length:
      raise UserError(f'{where} gives {side}_input_tokens of shape {shape}, and lengths are '
                      f'{dict(data.lengths)}: rows must have {length} tokens')
    for name in (f'{side}_{part}' for part in (
        'target_tokens', 'loss_weights', 'segment_ids', 'positions', 'causal_attention')):
      alone = (_has_class_targets(model) or paired) and name.endswith(
          ('target_tokens', 'loss_weights'))
      want = (shape[0], 1) if alone else shape
      if name in batch and np.shape(batch[name]) != want:
        raise UserError(f'{where} gives {name!r} of shape {np.shape(batch[name])}: expected {want}')


def _check_ids(batch: Batch, model: ModelConfig, where: str) -> None:
  for name, x in batch.items():
    if not name.endswith('_tokens'):
      continue
    classes = _has_class_targets(model) and name.endswith('_target_tokens')
    size, field = (model.num_classes, 'num_classes') if classes else (
        model.vocab_size, 'vocab_size')
    x = np.asarray(x)
    if x.size and not 0 <= x.min() <= x.max() < size:
      raise UserError(f'{where} gives {name!r} with ids from {x.min()} to {x.max()}, and '
                      f'ModelConfig.{field} is {size}: ids must be at least 0 and below it')


def _check_texts(batch: Batch, model: ModelConfig, where: str) -> None:
  labels, last = (np.asarray(batch[name]) for name in ('class_labels', 'text_positions'))
  length = np.shape(batch['decoder_input_tokens'])[1]
  if labels.ndim != 1 or last.ndim != 2:
    raise UserError(f'{where} gives class_labels of shape {labels.shape} and text_positions of '
                    f'shape {last.shape}: expected [rows] and [rows, texts]')
  if last.size and not -1 <= last.min() <= last.max() < length:
    raise UserError(f'{where} gives text_positions from {last.min()} to {last.max()}: they must be '
                    f'-1, for no text, or below the {length} tokens of a row')
  classes = model.num_classes or last.shape[1]
  if labels.size and not 0 <= labels.min() <= labels.max() < classes:
    what = 'ModelConfig.num_classes is' if model.num_classes else 'the number of texts is'
    raise UserError(f'{where} gives class_labels from {labels.min()} to {labels.max()}, and {what} '
                    f'{classes}: they must be at least 0 and below it')


def _has_class_targets(model: ModelConfig) -> bool:
  """Whether the targets of an encoder are classes."""
  return model.num_classes is not None and not model.classifies_texts
