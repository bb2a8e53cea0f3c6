"""The values of two results of one task on the items that both have."""

import dataclasses
import pathlib
from typing import Any

import numpy as np

from t5x_lite.core.dataclass_checks import nearest
from t5x_lite.core.errors import UserError
from t5x_lite.evaluation.results import TaskResult, find_results, read_items, read_result


@dataclasses.dataclass(frozen=True, kw_only=True)
class PairedItems:
  """A metric of the items that two results share, in order of their ids.

  Attributes:
    metric: its name.
    a, b: its values, [n] each.
    groups: the group of each item; None if an item has none, or all are in one.
    notes: what a reader of the comparison has to know: settings that differ, items left out.
  """
  metric: str
  a: np.ndarray
  b: np.ndarray
  groups: tuple[str, ...] | None
  notes: tuple[str, ...]


def pair_items(path_a: pathlib.Path, path_b: pathlib.Path, metric: str | None = None
               ) -> PairedItems:
  """The items of two files of `write_result`.

  `metric` is the headline of A's if None; where that is no metric of an item, as the perplexity of
  a corpus, the first of an item.

  Raises UserError for results of different tasks, without common items, with an item of one id
  and two questions, or whose items lack the metric.
  """
  result_a, result_b = read_result(path_a), read_result(path_b)
  if result_a.task != result_b.task:
    raise UserError(f'{path_a} is of {result_a.task}, {path_b} of {result_b.task}: compare '
                    'results of one task')
  items_a, items_b = _items_by_id(path_a), _items_by_id(path_b)
  if metric is None:
    of_items = next(iter(items_a.values()), {}).get('metrics') or {}
    metric = result_a.headline if result_a.headline in of_items else next(
        iter(of_items), result_a.headline)
  common = [name for name in items_a if name in items_b]
  if not common:
    raise UserError(f'{path_a} and {path_b} have no items in common: evaluate both on the same')
  for name in common:
    if items_a[name].get('question') != items_b[name].get('question'):
      raise UserError(f'item {name} of {path_a} and of {path_b} has two questions: evaluate both '
                      'on the same data')
  groups = tuple(items_a[name].get('group') for name in common)
  value_a, value_b = (np.array([_value(path, items[name], metric) for name in common])
                      for path, items in ((path_a, items_a), (path_b, items_b)))
  notes = _notes(result_a, result_b, len(items_a) + len(items_b) - 2 * len(common))
  for path, result, values in ((path_a, result_a, value_a), (path_b, result_b, value_b)):
    reported = result.metrics.get(metric)
    if reported is not None and len(common) == result.number and (
        abs(reported.value - values.mean()) > 1e-4):
      notes += (f'{path} reports {metric} {reported.value:.4f}, the mean of its items is '
                f'{values.mean():.4f}: what is compared is the mean of items',)
  return PairedItems(metric=metric, a=value_a, b=value_b, notes=notes,
                     groups=None if None in groups or len(set(groups)) < 2 else groups)


def matching_results(a: pathlib.Path, b: pathlib.Path) -> list[tuple[pathlib.Path, pathlib.Path]]:
  """The pairs of result files of two paths: two files, or the tasks that two run folders share.

  A task of a folder is its name and number of shots, and stands for its newest step.

  Raises:
    UserError: one path twice, one that is missing or without results, a file beside a folder,
      nothing shared.
  """
  if a.resolve() == b.resolve():
    raise UserError(f'{a} is compared with itself: name two')
  for path in (a, b):
    if not path.exists():
      raise UserError(f'{path}: no such file or folder; name a result, or the folder of a run')
  if a.is_dir() != b.is_dir():
    raise UserError(f'{a} and {b}: name two result files, or two folders of runs')
  if not a.is_dir():
    return [(a, b)]
  found_a, found_b = newest_results(a), newest_results(b)
  shared = [task for task in found_a if task in found_b]
  if not shared:
    raise UserError(f'{a} and {b} share no task: {_names(found_a)} and {_names(found_b)}; '
                    'evaluate both on one')
  return [(found_a[task], found_b[task]) for task in shared]


def newest_results(folder: pathlib.Path) -> dict[tuple[str, int], pathlib.Path]:
  """{(task, shots): file} of a run folder, of the newest step of each.

  Raises UserError if there are none.
  """
  newest, steps = {}, {}
  for path in find_results(folder):
    result = read_result(path)
    task, step = (result.task, result.shots), -1 if result.step is None else result.step
    if step >= steps.get(task, -1):
      newest[task], steps[task] = path, step
  if not newest:
    raise UserError(f'{folder} has no evaluations: run `t5x-lite evaluate` on it first')
  return newest


def _items_by_id(path: pathlib.Path) -> dict[Any, dict[str, Any]]:
  items = {}
  for item in read_items(path):
    if item['id'] in items:
      raise UserError(f'{path} has two items {item["id"]}: evaluate again')
    items[item['id']] = item
  return items


def _value(path: pathlib.Path, item: dict, metric: str) -> float:
  metrics = item.get('metrics') or {}
  if metric not in metrics:
    raise UserError(f'{path}: item {item["id"]} has no {metric!r}; {nearest(metric, metrics)}')
  value = metrics[metric]
  if not isinstance(value, (int, float)):
    raise UserError(f'{path}: {metric} of item {item["id"]} is {value!r}, which is no number: '
                    'choose another by --metric')
  return float(value)


def _notes(a: TaskResult, b: TaskResult, left_out: int) -> tuple[str, ...]:
  notes = ()
  if left_out:
    notes += (f'{left_out} items that one of the two alone has are left out',)
  if a.shots != b.shots:
    notes += (f'the shots differ: {a.shots} and {b.shots}',)
  for name in sorted({*a.conventions, *b.conventions}):
    one, other = a.conventions.get(name), b.conventions.get(name)
    if one != other:
      notes += (f'{name} differs: {one!r} and {other!r}',)
  return notes


def _names(found) -> str:
  return ', '.join(f'{task} {shots}-shot' for task, shots in found)
