"""One HTML file of the single items of a result: what a model chose, and by how much.

The items are JSON in the page, which its script writes out as text: nothing of theirs is markup.
"""

from collections.abc import Mapping, Sequence
import math
import pathlib
from typing import Any

import numpy as np

from t5x_lite.core import html_page
from t5x_lite.core.errors import UserError
from t5x_lite.evaluation.results import TaskResult

_TEMPLATE = pathlib.Path(__file__).with_suffix('.html')
_SHARED = ('question', 'choices', 'gold', 'target', 'group')   # of an item under any model


def render_page(parts: Sequence[tuple[TaskResult, Sequence[Mapping[str, Any]]]]) -> str:
  """The page of one result and its items, or of two of the same task side by side.

  Raises UserError for results of different tasks or items.
  """
  first = parts[0][0]
  return html_page.render_page(_TEMPLATE, f'{first.task}, {first.shots} shots', page_data(parts))


def page_data(parts: Sequence[tuple[TaskResult, Sequence[Mapping[str, Any]]]]) -> dict[str, Any]:
  """What the page's script reads; numbers that are not finite are null."""
  results = [result for result, _ in parts]
  if len({(result.task, result.shots) for result in results}) > 1:
    raise UserError(f'the results are of {" and ".join(r.name for r in results)}: a page compares '
                    'two models on the same task with the same shots')
  by_id = [{item['id']: item for item in items} for _, items in parts]
  if any(one.keys() != by_id[0].keys() for one in by_id):
    raise UserError('the results have other items, by their ids: evaluate both on the same')
  names = _names_of(results)
  items = []
  for key, item in by_id[0].items():
    others = [one[key] for one in by_id]
    if any(other.get('question') != item.get('question') for other in others):
      raise UserError(f'item {key} has another question in each result: evaluate both on the same')
    shared = {name: item[name] for name in _SHARED if item.get(name) is not None}
    items.append(shared | {'id': key, 'gold': gold_of(item),
                           'models': [_model_part(other) for other in others]})
  metrics = [name for name in results[0].metrics if all(
      0 <= part['metrics'][name] <= 1 for item in items for part in item['models']
      if isinstance(part['metrics'].get(name), int | float))]
  return _finite({
      'task': results[0].task, 'shots': results[0].shots, 'headline': results[0].headline,
      'metrics': metrics, 'items': items,
      'models': [{'name': name, 'metrics': {metric: list(value) for metric, value in
                                            result.metrics.items()}}
                 for name, result in zip(names, results)]})


def _names_of(results: Sequence[TaskResult]) -> list[str]:
  """Names of the models: of their folders, with steps; paths in full where these are equal."""
  paths = [result.model for result in results]
  short = [pathlib.PurePath(path).name or 'model' for path in paths]
  names = paths if len({*short}) < len({*paths}) else short
  return [name if result.step is None else f'{name}, step {result.step}'
          for name, result in zip(names, results)]


def gold_of(item: Mapping[str, Any]) -> list[int]:
  """Indices of the right choices of an item, [] where its answer is no choice."""
  gold = item.get('gold')
  gold = gold if isinstance(gold, list) else [gold]
  choices = item.get('choices') or ()
  return [i for i in gold if type(i) is int and 0 <= i < len(choices)]


def _model_part(item: Mapping[str, Any]) -> dict[str, Any]:
  """Of one model: probabilities of the choices, margin, chosen, metrics and output."""
  part = {'metrics': dict(item.get('metrics') or {}), 'chosen': dict(item.get('chosen') or {})}
  logprobs = item.get('logprobs')
  if logprobs and all(isinstance(x, int | float) for x in logprobs):
    part |= {'logprobs': [*logprobs], 'probabilities': softmax(logprobs),
             'margin': margin_of(logprobs, gold_of(item))}
  if item.get('output') is not None:
    part['output'] = item['output']
  return part


def softmax(logprobs: Sequence[float]) -> list[float]:
  """Probabilities of choices that are all there are; of log-probabilities in nats."""
  values = np.asarray(logprobs, np.float64)
  if not np.isfinite(values.max()):
    return [math.nan] * len(values)
  weights = np.exp(values - values.max())
  return (weights / weights.sum()).tolist()


def margin_of(logprobs: Sequence[float], gold: Sequence[int]) -> float | None:
  """Nats from the best wrong choice up to the best right one: negative if a wrong one is preferred.

  None where all choices are right, or none is.
  """
  right = [x for i, x in enumerate(logprobs) if i in gold]
  wrong = [x for i, x in enumerate(logprobs) if i not in gold]
  return max(right) - max(wrong) if right and wrong else None


def _finite(value: Any) -> Any:
  if isinstance(value, Mapping):
    return {str(name): _finite(part) for name, part in value.items()}
  if isinstance(value, list | tuple):
    return [*map(_finite, value)]
  return None if isinstance(value, float) and not math.isfinite(value) else value
