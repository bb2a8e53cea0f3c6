"""What an evaluation of a task found: a JSON file of its metrics, and a JSONL file of its items."""

from collections.abc import Mapping, Sequence
import dataclasses
import json
import math
import pathlib
from typing import Any, NamedTuple

import numpy as np

from t5x_lite.core.errors import UserError
from t5x_lite.core.files import write_text
from t5x_lite.training.run_folder import RunFolder


class Metric(NamedTuple):
  """A value over items, and its standard error; None where it has none."""
  value: float
  error: float | None


def mean_of(values: Sequence[float]) -> Metric:
  """The mean of items, with its standard error: sample sd / sqrt(n), None of one item."""
  values = np.asarray(values, np.float64)
  error = float(values.std(ddof=1) / math.sqrt(len(values))) if len(values) > 1 else None
  return Metric(float(values.mean()), error)


def mean_of_metrics(metrics: Sequence[Metric]) -> Metric:
  """The mean of independent metrics, such as tasks, with its error; None where one has none."""
  errors = [metric.error for metric in metrics]
  error = None if None in errors else math.sqrt(sum(e * e for e in errors)) / len(errors)
  return Metric(float(np.mean([metric.value for metric in metrics])), error)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TaskResult:
  """Scores of one model on one task.

  Attributes:
    task: its name, such as 'arc_challenge'.
    shots: solved examples before each question.
    number: of items.
    headline: the name of the metric that tables show.
    metrics: all of them, by name; fractions of 1, unless the name says otherwise.
    groups: the headline metric of each group of items, such as MMLU's subjects; {} without groups.
    conventions: how it was measured, in words or numbers: prompts, tokens, splits, versions.
    model: the folder of the run, or what else was measured.
    step: of its checkpoint.
  """
  task: str
  shots: int
  number: int
  headline: str
  metrics: Mapping[str, Metric]
  groups: Mapping[str, float] = dataclasses.field(default_factory=dict)
  conventions: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  model: str = ''
  step: int | None = None

  @property
  def name(self) -> str:
    """Of its files, without an ending."""
    return f'{self.task}-{self.shots}shot' + ('' if self.step is None else f'-{self.step}')


def write_result(folder: pathlib.Path, result: TaskResult, items: Sequence[Mapping[str, Any]]
                 ) -> pathlib.Path:
  """Writes both files into a folder, in place of older ones; returns the path of the JSON file.

  An item has `id`, the number of its document, `metrics`, its part of each metric, and what there
  is of `group`, `question`, `choices`, `gold`, `logprobs` (of each choice, in nats), `chosen` (by
  each metric), `output` and `target`.
  """
  lines = ''.join(json.dumps(item, ensure_ascii=False) + '\n' for item in items)
  write_text(folder / f'{result.name}.jsonl', lines)
  path = folder / f'{result.name}.json'
  write_text(path, json.dumps(dataclasses.asdict(result), indent=1, ensure_ascii=False) + '\n')
  return path


def read_result(path: pathlib.Path) -> TaskResult:
  """The TaskResult in a file of `write_result`; raises UserError for another file."""
  if path.suffix == '.jsonl':
    raise UserError(f'{path} has the items of a result: name {path.with_suffix(".json").name} '
                    'beside it')
  try:
    fields = json.loads(path.read_text(encoding='utf-8'))
    metrics = {name: Metric(*value) for name, value in fields.pop('metrics').items()}
    return TaskResult(metrics=metrics, **fields)
  except (ValueError, TypeError, KeyError, AttributeError) as error:
    raise UserError(f'{path} is no result of `t5x-lite evaluate`, or was cut off: evaluate again '
                    f'({error!r:.80})') from error


def read_items(path: pathlib.Path) -> list[dict[str, Any]]:
  """The items beside a result's JSON file, in order of their ids; raises UserError without them."""
  file = path.with_suffix('.jsonl')
  if not file.is_file():
    raise UserError(f'{path} has no items: {file.name} is missing; evaluate again')
  items = []
  # Other line ends may be in a text.
  for number, line in enumerate(file.read_text(encoding='utf-8').split('\n'), 1):
    try:
      if line:
        items.append(json.loads(line))
        _ = items[-1]['id']
    except (ValueError, TypeError, KeyError) as error:
      raise UserError(f'{file}:{number} is no item of an evaluation, or was cut off: evaluate '
                      f'again ({error!r:.80})') from error
  return sorted(items, key=lambda item: item['id'])


def find_results(folder: pathlib.Path) -> list[pathlib.Path]:
  """The JSON files in the evaluations of a run, [] without any."""
  return sorted(RunFolder(folder).evaluations.glob('*shot*.json'))
