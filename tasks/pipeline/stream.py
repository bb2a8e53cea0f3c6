"""From a DataConfig (`data`) to batches: host NumPy arrays named as seqio's converters name them.

A position in the data is the number of examples (rows) that were read: the stream of rows depends
only on the task, the lengths, the batch size and the seed, and each process takes its rows of every
batch, so the number of processes may change between two parts of a run.
"""

from collections.abc import Iterator, Sequence
import functools
from typing import Any

import numpy as np
import seqio
import tensorflow as tf

from t5x_lite.core.errors import UserError
from t5x_lite.data.features import Batch
from t5x_lite.models import ModelConfig
from tasks import vocabularies
from tasks.instruction.chat import VocabularyChat, chat_of
from tasks.instruction.named_templates import load_template
from tasks.pipeline import caching, one_line, schedules, trimming
from tasks.pipeline.converters import feature_converter, model_batch
from tasks.pipeline.provider import (
  check_split,
  check_vocabulary,
  feature_lengths,
  get_task,
  text_tokenizer,
)
from tasks.vocabularies.seqio_tokenizer import SeqioTokenizer


def tokenizer(data: Any, feature: str) -> SeqioTokenizer:
  """See Source.tokenizer; of the vocabulary alone where there is no task."""
  if not data.task and data.vocabulary is not None:
    return SeqioTokenizer(seqio.Feature(vocabularies.load_vocabulary(data.vocabulary)))
  task = get_task(data)
  return text_tokenizer(task) if feature == 'inputs' else SeqioTokenizer(
      task.output_features[feature])


def fingerprint(data: Any) -> str:
  """See Source.fingerprint."""
  if not data.task and data.vocabulary is not None:
    return vocabularies.fingerprint(vocabularies.load_vocabulary(data.vocabulary))
  return vocabularies.fingerprint(text_tokenizer(get_task(data)).vocabulary)


def chat(data: Any, template: str | None) -> VocabularyChat | None:
  """See Source.chat."""
  task = get_task(data) if data.task else None
  if template is None:
    return None if task is None else chat_of(task)
  vocabulary = vocabularies.load_vocabulary(data.vocabulary) if task is None else (
      task.output_features['targets'].vocabulary)
  return VocabularyChat(load_template(template), vocabulary)


def cache_digest(data: Any) -> str:
  """Of the files of `data.cache_dir` that are read; see Source.data_digest."""
  return caching.content_digest(get_task(data), data)


def batches(data: Any, model: ModelConfig, *, seed: int, start: int = 0,
            shard: tuple[int, int] = (0, 1)) -> Iterator[Batch]:
  """See Source.batches; raises UserError if the task does not fit the model, or is empty."""
  task = get_task(data)
  check_vocabulary(task, model)
  caching.use_cache(task, data)
  parts = [task]
  if data.rate_schedule:
    parts = [seqio.get_mixture_or_task(name) for name in task.rate_per_task_name]
  for part in parts:
    check_split(part, data)
    if start == 0 and data.cache_dir is None:
      check_rows(part, data)
    # Repeating nothing for ever would never come back, so one pass is asked for an example first.
    first = _rows(part, data, model, shuffle=False, num_epochs=1).take(1)
    with one_line.user_errors():
      empty = start == 0 and not list(first)
    if empty:
      raise UserError(f'Task {part.name!r}, split {data.split!r} is empty: no example is left '
                      'after its preprocessing')
  endless = functools.partial(_rows, data=data, model=model, seed=seed, shuffle=True,
                              num_epochs=None)
  if data.rate_schedule:
    ds = schedules.scheduled([*map(endless, parts)], data.rate_schedule, data.batch_size, seed)
  else:
    ds = endless(task)
  ds = ds.skip(start).batch(data.batch_size, drop_remainder=True).prefetch(2)
  rows = slice(shard[0], None, shard[1])
  with one_line.user_errors():
    for batch in ds.as_numpy_iterator():
      yield model_batch({name: x[rows] for name, x in batch.items()}, task)


def check_rows(part: seqio.Task | seqio.Mixture, data: Any) -> None:
  """Has those sources that can check their rows before training do so; raises UserError."""
  for task in getattr(part, 'tasks', [part]):
    if hasattr(task.source, 'check') and data.split in task.splits:
      task.source.check(data.split, data.lengths, task.output_features)


def _rows(task, data: Any, model: ModelConfig, **options) -> tf.data.Dataset:
  """A task's rows, as its feature converter makes them."""
  return seqio.get_dataset(
      task.name, feature_lengths(task, data), feature_converter(task, model, data.packing),
      dataset_split=data.split, use_cached=data.cache_dir is not None, verbose=False, **options)


def splits(data: Any) -> list[str]:
  """See Source.splits."""
  return sorted(get_task(data).splits)


def labels(data: Any) -> Sequence[str]:
  """See Source.labels; none where there is no task."""
  return _of_targets(data, 'labels', ())


def num_texts(data: Any) -> int:
  """See Source.num_texts; 1 where there is no task."""
  return _of_targets(data, 'num_texts', 1)


def _of_targets(data: Any, name: str, default: Any) -> Any:
  """An attribute of the vocabulary of a task's targets, which classifications have."""
  if not data.task:
    return default
  return getattr(get_task(data).output_features['targets'].vocabulary, name, default)


def examples(data: Any, split: str, limit: int | None, seed: int
             ) -> Iterator[dict[str, Any]]:
  """See Source.examples; in the order of the source.

  Texts are those of the source where the task keeps them (`inputs_pretokenized`), else of the ids.
  """
  task = get_task(data)
  if 'targets_loss_weights' in task.output_features:
    yield from _last_answers(task, data, split, limit, seed)
    return
  if 'inputs' not in task.output_features:
    raise UserError(f'Task {task.name!r} has no inputs to infer from: pass '
                    '--gin.InferConfig.input=FILE with a prompt on each line')
  ds = task.get_dataset(data.lengths, split=split, shuffle=False, num_epochs=1, seed=seed,
                        trim_output_features=False)
  feature, room = task.output_features['inputs'], data.lengths['inputs']
  with one_line.user_errors():
    for example in ds.take(limit or -1).as_numpy_iterator():
      ids = vocabularies.model_ids(feature.vocabulary, example['inputs'][:room])
      yield {'ids': ids.tolist(), 'inputs': _given(example, 'inputs', task),
             'targets': _given(example, 'targets', task),
             'tokens_cut': trimming.tokens_cut(example, 'inputs', feature, room)}


def _last_answers(task, data: Any, split: str, limit: int | None, seed: int
                  ) -> Iterator[dict[str, Any]]:
  """Of whole conversations: what is before the last answer, and that."""
  ds = task.get_dataset(data.lengths, split=split, shuffle=False, num_epochs=1, seed=seed,
                        trim_output_features=False)
  vocabulary = task.output_features['targets'].vocabulary
  with one_line.user_errors():
    for example in ds.take(limit or -1).as_numpy_iterator():
      weights, targets = example['targets_loss_weights'], example['targets']
      end = np.flatnonzero(weights)[-1] + 1
      begin = end - int(np.argmax(np.append(weights[:end][::-1], 0) == 0))
      yield {'ids': vocabularies.model_ids(vocabulary, targets[:begin]).tolist(),
             'inputs': vocabularies.spell(vocabulary, targets[:begin]),
             'targets': vocabulary.decode(targets[begin:end].tolist())}


def _given(example: dict[str, Any], name: str, task) -> Any:
  """A feature of an example as the source has it: a text, or a label."""
  vocabulary = task.output_features[name].vocabulary
  if f'{name}_pretokenized' in example:
    return example[f'{name}_pretokenized'].decode()
  ids = example[name].tolist()
  if isinstance(vocabulary, seqio.PassThroughVocabulary):
    names = getattr(vocabulary, 'labels', ())
    ids = [names[i] if names else i for i in ids]
    return ids[0] if len(ids) == 1 else ids
  # Decoding ends at an end of text, which a conversation may have within.
  return vocabularies.spell(vocabulary, ids) if vocabulary.eos_id in ids[:-1] else (
      vocabulary.decode(ids))
