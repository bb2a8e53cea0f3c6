"""A model card: README.md with the results of a run as `model-index`, which the hub reads.

The form is that of Hugging Face's model cards (their README's YAML, `model-index`): a result has a
task, a data set and metrics with type and value.
"""

from collections.abc import Sequence
import json
import pathlib
from typing import Any

from t5x_lite.core.errors import UserError
from t5x_lite.evaluation.results import TaskResult

MARK = '<!-- written by t5x-lite evaluate card -->'   # such a card may be written anew
_TYPE = {'type': 'text-generation', 'name': 'Text generation'}


def render_card(name: str, results: Sequence[TaskResult]) -> str:
  """The card of a model of this name: front matter, table of metrics, conventions.

  Values are as measured: fractions of 1 where a metric is a share. Raises UserError without any
  result.
  """
  if not results:
    raise UserError(f'{name} has no results: evaluate it first, by t5x-lite evaluate')
  front = '\n'.join(_yaml({'library_name': 't5x_lite', 'model-index': [
      {'name': name, 'results': [_entry(result) for result in results]}]}))
  parts = f'---\n{front}\n---\n{MARK}', f'# {_cell(name)}', _table(results), _conventions(results)
  return '\n\n'.join(parts)


def _entry(result: TaskResult) -> dict[str, Any]:
  """A result as the hub has it."""
  split = result.conventions.get('split')
  dataset = {'type': result.task, 'name': f'{result.task} ({result.shots}-shot)'}
  dataset |= {'split': split} if isinstance(split, str) else {}
  dataset['args'] = {'num_few_shot': result.shots, 'num_items': result.number} | (
      {} if result.step is None else {'step': result.step})
  names = sorted(result.metrics, key=lambda name: name != result.headline)   # the headline first
  return {'task': _TYPE, 'dataset': dataset, 'metrics': [
      {'type': name, 'name': f'{name} ± {error:.4f}' if error is not None else name,
       'value': result.metrics[name].value}
      for name in names for error in [result.metrics[name].error]]}


def _yaml(value: Any, indent: str = '') -> list[str]:
  """Lines of YAML of dicts, lists and scalars; these as JSON, which YAML contains."""
  if isinstance(value, dict):
    lines = []
    for name, part in value.items():
      if isinstance(part, dict | list):
        lines += [f'{indent}{name}:', *_yaml(part, indent + '  ')]
      else:
        lines.append(f'{indent}{name}: {_scalar(part)}')
    return lines
  lines = []
  for part in value:
    first, *rest = _yaml(part, indent + '  ')
    lines += [f'{indent}- {first[len(indent) + 2:]}', *rest]
  return lines


def _scalar(value: Any) -> str:
  """JSON; a float with a point, and what is no number by YAML's own words."""
  if isinstance(value, float):
    text = repr(value)
    if text in ('nan', 'inf', '-inf'):
      return {'nan': '.nan', 'inf': '.inf', '-inf': '-.inf'}[text]
    return text.replace('e', '.0e') if 'e' in text and '.' not in text else text
  return json.dumps(value, ensure_ascii=False)


def _table(results: Sequence[TaskResult]) -> str:
  lines = ['| task | shots | items | metric | value | standard error |',
           '| --- | ---: | ---: | --- | ---: | ---: |']
  for result in results:
    for name, (value, error) in result.metrics.items():
      shown = f'**{_cell(name)}**' if name == result.headline else _cell(name)
      lines.append(f'| {_cell(result.task)} | {result.shots} | {result.number:,} | {shown} | '
                   f'{value:.4f} | {"" if error is None else f"{error:.4f}"} |')
  return '\n'.join(lines)


def _conventions(results: Sequence[TaskResult]) -> str:
  """How each was measured: a table of what the result says of it."""
  lines = ['## Conventions', '', 'Metrics that are shares are fractions of 1; the headline of a '
           'task is bold.', '', '| task | convention | |', '| --- | --- | --- |']
  for result in results:
    task = f'{_cell(result.task)}, {result.shots}-shot'
    about = dict(result.conventions) | ({} if result.step is None else {'step': result.step})
    lines += [f'| {task} | {_cell(name)} | {_cell(value)} |' for name, value in about.items()]
  return '\n'.join(lines) + '\n'


def _cell(value: Any) -> str:
  """Text in a table of Markdown, on one line, of which nothing is markup."""
  text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
  text = ' '.join(text.split())
  return ''.join(f'\\{c}' if c in '\\|`*_[]<>#' else c for c in text)


def check_replaceable(path: pathlib.Path) -> None:
  """Raises UserError for a file that is no card of `render_card`."""
  if path.is_file() and MARK not in path.read_text(encoding='utf-8', errors='replace'):
    raise UserError(f'{path} exists, and is not from t5x-lite evaluate card: name another --output')
