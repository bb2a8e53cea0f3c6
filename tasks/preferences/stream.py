"""From a PreferenceData (`data`) to batches of groups: host NumPy arrays.

A position in the data is the number of groups that were read. The stream of groups depends only on
the task, the lengths, the batch size and the seed; each process takes its groups of every batch.
"""

from collections.abc import Iterator
import itertools
from typing import Any

import numpy as np
import seqio
import tensorflow as tf

from t5x_lite.core.dataclass_checks import FieldError, nearest
from t5x_lite.core.errors import UserError
from t5x_lite.data.features import Batch
from t5x_lite.data.files.templates import shorten
from t5x_lite.models import ModelConfig
from tasks import vocabularies
from tasks.instruction.examples import Report
from tasks.pipeline import one_line
from tasks.pipeline.provider import check_split, check_vocabulary, get_task, registered
from tasks.pipeline.stream import check_rows
from tasks.preferences.groups import (
  Group,
  GroupShape,
  batch_groups,
  choose_responses,
  mismatch,
  split_group,
)
from tasks.vocabularies.seqio_tokenizer import SeqioTokenizer

_FEATURES = ('inputs', 'targets', 'response_lengths', 'response_scores')
_CUT = 'cut to the best response, the worst and those evenly ranked between'


def batches(data: Any, model: ModelConfig, *, seed: int, start: int = 0,
            shard: tuple[int, int] = (0, 1)) -> Iterator[Batch]:
  """See PreferenceData.batches."""
  task = _task(data, model)
  for part in seqio.get_subtasks(task):
    check_split(part, data)
  if start == 0:
    check_rows(task, data)
  reader = _Reader(data, task, data.split, model)
  ds = task.get_dataset(data.lengths, split=data.split, shuffle=True, seed=seed, num_epochs=None,
                        trim_output_features=False)
  found, (index, count) = map(reader.group, _examples(ds.skip(start))), shard
  number = len(range(index, data.batch_size, count))
  while groups := [*itertools.islice(found, data.batch_size)]:
    if reader.thumbs:
      groups = mismatch(groups, following=groups[0])
    yield batch_groups(groups[index::count], reader.shape, number)


def groups(data: Any, model: ModelConfig, split: str) -> Iterator[Batch]:
  """See PreferenceData.groups."""
  task = _task(data, model)
  reader = _Reader(data, task, split, model)
  found = map(reader.group, _one_pass(data, task, split))
  first = None
  while groups := [*itertools.islice(found, data.batch_size)]:
    first = first or groups[0]
    if reader.thumbs:   # a last one by itself has another response than its own beside it
      groups = mismatch(groups, following=groups[0] if len(groups) > 1 else first)
    yield batch_groups(groups, reader.shape, data.batch_size)


def examples(data: Any, split: str, limit: int | None, seed: int) -> Iterator[dict[str, Any]]:
  """See PreferenceData.examples."""
  del seed   # nothing in a comparison is random
  task = _task(data)
  reader = _Reader(data, task, split)
  for group in map(reader.group, itertools.islice(_one_pass(data, task, split), limit)):
    best = group.responses[int(np.argmax(group.scores))]
    yield {'ids': group.prompt.tolist(), 'inputs': reader.spell(group.prompt),
           'targets': reader.tokenizer.decode(best.tolist())}


def _task(data: Any, model: ModelConfig | None = None) -> seqio.Task | seqio.Mixture:
  """The task of `data`. Raises UserError if it is not of comparisons, or does not fit the model."""
  features = registered(data).output_features
  if missing := [name for name in _FEATURES if name not in features]:
    raise FieldError(data, 'task', f'{data.name!r} is no task of comparisons, as it lacks '
                     f'{", ".join(missing)}: name a PreferenceTask, or a task with these features')
  task = get_task(data)
  if model is not None:
    if model.family == 'encoder_only' or model.classifies_texts:
      raise FieldError(model, 'family' if model.family == 'encoder_only' else 'head',
                       'comparisons are for models that write responses, or score them: choose '
                       'another model')
    check_vocabulary(task, model)
  return task


class _Reader:
  """The groups of a task.

  Attributes:
    shape: of batches.
    thumbs: whether each group has one response, as the first one has.
    tokenizer: of prompts and responses.
  """

  def __init__(self, data: Any, task: seqio.Task | seqio.Mixture, split: str,
               model: ModelConfig | None = None):
    feature = task.output_features['targets']
    self._data, self._name = data, data.display_name(task.name)
    self._vocabulary = feature.vocabulary
    self._report = Report('groups', (_CUT,))
    self.tokenizer = SeqioTokenizer(feature)
    self.shape = GroupShape(
        data.responses, data.inputs_length, data.targets_length,
        encoder=model is not None and model.family == 'encoder_decoder',
        start_id=self.tokenizer.start_id, prefix_lm=model is not None and model.prefix_lm)
    self.thumbs = self._is_thumbs(task, split)

  def spell(self, ids: np.ndarray) -> str:
    """The text of the ids of a model, special tokens as they are spelled."""
    return vocabularies.spell(self._vocabulary, vocabularies.seqio_ids(self._vocabulary, ids))

  def group(self, example: dict[str, np.ndarray]) -> Group:
    """The group of an example of the task, with at most K responses.

    Raises UserError as groups.split_group, or for one response where others have several.
    """
    own = {name: vocabularies.model_ids(self._vocabulary, example[name])
           for name in ('inputs', 'targets')}
    group = split_group({**example, **own}, self.shape, f'Task {self._name!r}')
    number = len(group.responses)
    if (number == 1) != self.thumbs:
      raise UserError(f'Task {self._name!r} has groups of one response and groups of several: a '
                      'response without another to compare it with is for a task of its own')
    if number > self.shape.responses:
      self._report.add(_CUT, shorten(repr(self.spell(group.prompt))), f', of {number}')
    return group if self.thumbs else choose_responses(group, self.shape.responses)

  def _is_thumbs(self, task: seqio.Task | seqio.Mixture, split: str) -> bool:
    # Repeating nothing for ever would never come back, so one pass is asked for an example first.
    first = next(_one_pass(self._data, task, split), None)
    if first is None:
      raise UserError(f'Task {self._name!r}, split {split!r} is empty: no comparison is left after '
                      'its preprocessing')
    if len(first['response_lengths']) != 1:
      return False
    pairs = 'of single responses, each of which is read beside that of the next prompt'
    if self._data.responses != 2:
      raise FieldError(self._data, 'responses', f'must be 2 for a task {pairs}')
    if self._data.batch_size == 1:
      raise FieldError(self._data, 'batch_size', f'must be 2 or more for a task {pairs}')
    return True


def _one_pass(data: Any, task: seqio.Task | seqio.Mixture, split: str
              ) -> Iterator[dict[str, np.ndarray]]:
  """All examples of a split, in the order of the task; of a mixture, one task after another."""
  if split not in task.splits:
    raise UserError(f'Task {data.display_name(task.name)!r} has no split {split!r}; '
                    f'{nearest(split, task.splits)}')
  for part in seqio.get_subtasks(task):
    if split in part.splits:
      yield from _examples(part.get_dataset(data.lengths, split=split, shuffle=False,
                                            trim_output_features=False))


def _examples(ds: tf.data.Dataset) -> Iterator[dict[str, np.ndarray]]:
  with one_line.user_errors():
    yield from ds.as_numpy_iterator()
