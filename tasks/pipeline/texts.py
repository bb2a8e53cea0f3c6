"""The texts of a run's task, in one pass over its source or its tokenised cache."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import seqio

from t5x_lite.data.files.texts import Text
from tasks.pipeline import caching, one_line
from tasks.pipeline.provider import check_split, get_task
from tasks.vocabularies.spelling import spell


def training_texts(data: Any) -> Iterator[Text]:
  """The Texts of each example of every task of a DataConfig, before any is cut, packed or noised.

  Ids are decoded by the vocabulary of their feature, unless the task keeps the text beside them.
  Examples that weigh nothing in the mixture are read, too.

  Raises:
    UserError: the task is unknown, lacks the split, or is not in the cache that `data` names.
  """
  task = get_task(data)
  check_split(task, data)
  caching.use_cache(task, data)
  for part in seqio.get_subtasks(task):
    if data.split in part.splits:
      yield from _texts(part, data)


def _texts(task: seqio.Task, data: Any) -> Iterator[Text]:
  if data.cache_dir is not None:
    examples = task._get_cached_source(data.split).get_dataset(split=data.split, shuffle=False)
  else:
    source = task.source.get_dataset(split=data.split, shuffle=False)
    examples = task.preprocess_precache(source, seed=0)
  name = data.display_name(task.name)
  with one_line.user_errors():
    for number, example in enumerate(examples.as_numpy_iterator()):
      for text in _texts_of(example, task.output_features):
        yield Text(f'{name} {data.split} example {number}', text)


def _texts_of(example: dict[str, Any], features: dict[str, seqio.Feature]) -> Iterator[str]:
  """Strings as they are, and decoded ids of features whose strings are not there."""
  for name, value in example.items():
    value = np.asarray(value)
    if value.dtype == object:   # bytes
      yield from (text.decode(errors='replace') for text in value.reshape(-1).tolist()
                  if isinstance(text, bytes))
    elif name in features and f'{name}_pretokenized' not in example and (
        value.ndim and np.issubdtype(value.dtype, np.integer)
        and not isinstance(features[name].vocabulary, seqio.PassThroughVocabulary)):
      yield spell(features[name].vocabulary, value.reshape(-1))


def targets_of(data: Any, split: str) -> Iterator[Text]:
  """The text of the targets of each example of a split, before any is cut, packed or noised."""
  for task in seqio.get_subtasks(get_task(data)):
    if split not in task.splits:
      continue
    examples = task.preprocess_precache(
        task.source.get_dataset(split=split, shuffle=False), seed=0)
    with one_line.user_errors():
      for number, example in enumerate(examples.as_numpy_iterator()):
        given = example.get('targets_pretokenized', example['targets'])
        text = given.decode() if isinstance(given, bytes) else spell(
            task.output_features['targets'].vocabulary, given)
        yield Text(f'{data.display_name(task.name)} {split} example {number}', text)
