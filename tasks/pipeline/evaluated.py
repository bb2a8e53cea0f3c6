"""The tasks that an EvalConfig evaluates, and their examples as seqio's Evaluator holds them."""

import dataclasses
import math
import sys
from typing import Any

import numpy as np
import seqio

from t5x_lite.core.dataclass_checks import FieldError, nearest
from t5x_lite.models import ModelConfig
from tasks import vocabularies
from tasks.pipeline import converters, one_line, provider, text_bytes, trimming


@dataclasses.dataclass(frozen=True)
class Member:
  """A task, and the DataConfig with its name and lengths."""
  data: Any
  task: seqio.Task


@dataclasses.dataclass(frozen=True)
class Examples:
  """A task's examples of the split.

  Attributes:
    name: of the task, for people.
    task: the seqio Task.
    evaluator: which holds them.
    text_bytes: bytes of text of each target id [vocab_size]; None of classes.
  """
  name: str
  task: seqio.Task
  evaluator: seqio.Evaluator
  text_bytes: np.ndarray | None


def members(settings: Any, data: Any, model: ModelConfig, required: bool) -> list[Member]:
  """The tasks with metrics on the split, none if there are none; see EvalConfig.make."""
  trained = provider.get_task(data)
  found = _of(data, trained) if not settings.tasks else [
      member for task in settings.tasks
      for other in [_data_of(task, settings, data)]
      for member in _of(other, provider.get_task(other))]
  names = [member.data.display_name(member.task.name) for member in found]
  lacking = [name for name, m in zip(names, found) if settings.split not in m.task.splits]
  splits = sorted({split for member in found for split in member.task.splits})
  if lacking and (settings.tasks or len(lacking) == len(found)):
    default = type(settings).split
    if required or settings.tasks or settings.split != default:
      raise FieldError(settings, 'split', f'task {lacking[0]!r}: {nearest(settings.split, splits)}')
    _say(f'EvalConfig.split: {", ".join(lacking)} has no split {default!r}, so there is no '
         'evaluation')
    return []
  if lacking:
    _say(f'EvalConfig.split: {", ".join(lacking)} have no split {settings.split!r} and are not '
         'evaluated')
  found = [m for m in found if settings.split in m.task.splits]
  scored = [m for m in found if m.task.metric_objs]
  if not scored and required:
    raise FieldError(settings, 'split', f'task {names[0]!r}: has no metrics for it')
  own = vocabularies.fingerprint(provider.text_tokenizer(trained).vocabulary)
  for member in scored:
    provider.check_vocabulary(member.task, model)
    other = vocabularies.fingerprint(provider.text_tokenizer(member.task).vocabulary)
    if other != own:
      raise FieldError(settings, 'tasks', f'{member.task.name!r} has the vocabulary {other}, and '
                       f'the training data {own}: set DataConfig.vocabulary for all')
  return scored


def read(member: Member, settings: Any, model: ModelConfig, seed: int) -> Examples:
  """The examples of a member, read into memory; says how many of them are cut."""
  task, data = member.task, member.data
  with one_line.user_errors():
    evaluator = seqio.Evaluator(
        task.name, converters.feature_converter(task, model, packing='none'),
        eval_split=settings.split, sequence_length=data.lengths,
        num_examples=settings.num_examples, async_compute_metrics=False, seed=seed)
  name = data.display_name(task.name)
  cut = {feature: 0 for feature in data.lengths}
  for example in evaluator.cached_task_datasets[task.name].as_numpy_iterator():
    for feature, length in data.lengths.items():
      cut[feature] += trimming.tokens_cut(
          example, feature, task.output_features[feature], length) > 0
  for feature, number in cut.items():
    if number:
      _say(f'Evaluation of {name}: {number} examples have {feature} of more than '
           f'{data.lengths[feature]} tokens, whose end is cut off: raise {feature}_length')
  limit = math.inf if settings.num_examples is None else (
      settings.num_examples * sum(data.lengths.values()))
  sizes = None if model.has_classes else (
      text_bytes.text_bytes(task, settings.split, limit))
  return Examples(name, task, evaluator, sizes)


def _of(data: Any, task: seqio.Task | seqio.Mixture) -> list[Member]:
  """The tasks of a DataConfig, those of its mixture `task` that are never drawn included."""
  return [Member(data, part) for part in seqio.get_subtasks(task)]


def _data_of(task: Any, settings: Any, data: Any) -> Any:
  """The DataConfig of another task: with the lengths that its features need."""
  own = dataclasses.replace(data, task=task)
  lengths = {f'{name}_length': getattr(settings, f'{name}_length') or data.lengths.get(name)
             for name in ('inputs', 'targets')}
  try:
    features = provider.registered(own).output_features
  except FieldError as error:
    if error.field != 'task':
      raise
    raise FieldError(settings, 'tasks', error.rule) from error
  if 'inputs' not in features:
    lengths['inputs_length'] = None
  elif lengths['inputs_length'] is None:
    raise FieldError(settings, 'tasks', f'{own.name!r} has inputs, and the training data has not: '
                     'set EvalConfig.inputs_length')
  return dataclasses.replace(own, **lengths)


def _say(text: str) -> None:
  print(text, file=sys.stderr)
