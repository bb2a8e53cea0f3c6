"""Pictures and a table of runs, from their metrics.jsonl."""

from collections.abc import Callable, Sequence
import dataclasses
import pathlib
from typing import Any

import numpy as np

from t5x_lite.core.dataclass_checks import nearest
from t5x_lite.core.errors import UserError
from t5x_lite.core.files import save_figure
from t5x_lite.training.run_folder import RunFolder

# What a series has of its own beside its color, for whoever cannot tell colors apart.
_LINES = ('-', '--', '-.', ':')
_MARKERS = 'osD^vP*X'
_COLORS = ('tab:blue', 'tab:orange', 'tab:green', 'tab:red', 'tab:purple', 'tab:brown',
           'tab:pink', 'tab:olive', 'tab:cyan', 'tab:gray')
UNITS = {'step': 'step', 'tokens': 'tokens trained on'}   # of the horizontal axis
_LABELS = {'loss': 'loss (nats per token)', 'objective': 'objective (nats per token)'}


@dataclasses.dataclass(frozen=True)
class _Series:
  """A metric of a run: of its training steps, and of each of its evaluations."""
  run: str
  train: list[tuple[float, float]]               # (position, value)
  evals: dict[str, list[tuple[float, float]]]    # task -> the same


def loss_curve(model_dir: pathlib.Path | str, output: pathlib.Path | str | None = None
               ) -> pathlib.Path:
  """Draws the training loss over steps, and each evaluation's; returns the PNG written.

  Default output: MODEL_DIR/loss.png. Raises UserError if the run has logged nothing yet.
  """
  folder = RunFolder(pathlib.Path(model_dir))
  return metric_curves([folder.path], output if output is not None else folder.loss_curve)


def metric_curves(model_dirs: Sequence[pathlib.Path], output: pathlib.Path | str,
                  metric: str = 'loss', unit: str = 'step') -> pathlib.Path:
  """Writes the figure of `draw_metric` in the format of the suffix of `output`; returns it.

  Raises UserError for a format that matplotlib does not know, and as `draw_metric`.
  """
  return save_figure(draw_metric(model_dirs, metric, unit), pathlib.Path(output))


def draw_metric(model_dirs: Sequence[pathlib.Path], metric: str = 'loss', unit: str = 'step'):
  """A matplotlib Figure of a metric of one run or several, while training and in evaluations.

  A run is a line, an evaluation of it a row of markers; runs differ in color and dash, tasks in
  marker. Values that are all positive and span more than two decades have a log axis.

  Args:
    model_dirs: the folders of the runs.
    metric: 'loss', which is the objective where there is no loss, or any metric that is logged.
    unit: of the horizontal axis; one of UNITS.

  Raises:
    UserError: a run has logged nothing, or not this metric.
  """
  found = [_series(RunFolder(pathlib.Path(path)), name, metric, unit)
           for path, name in zip(model_dirs, display_names(model_dirs))]
  from matplotlib.figure import Figure  # not pyplot, which has a state of its own
  from matplotlib.ticker import EngFormatter
  figure = Figure(figsize=(6.4, 4), layout='constrained')
  axes = figure.subplots()
  tasks = sorted({task for series in found for task in series.evals})
  alone = len(found) == 1
  for i, series in enumerate(found):
    color = _COLORS[i % len(_COLORS)]
    if series.train:
      marker = '.' if len(series.train) == 1 else ''   # a line of one point is not seen
      axes.plot(*zip(*series.train), _LINES[i % len(_LINES)], marker=marker, color=color,
                label='training' if alone else series.run)
    for task, points in series.evals.items():
      style = tasks.index(task)
      name = f'evaluation, {task}' if alone else f'{series.run}, {task}'
      axes.plot(*zip(*points), _MARKERS[style % len(_MARKERS)], label=name,
                color=_COLORS[(1 + style) % len(_COLORS)] if alone else color,
                markeredgecolor='white', markeredgewidth=0.5)
  values = [y for s in found for points in (s.train, *s.evals.values()) for _, y in points]
  if min(values) > 0 and max(values) > 100 * min(values):
    axes.set_yscale('log')
  axes.margins(x=0.02, y=0.05)
  axes.set(xlabel=UNITS[unit], ylabel=_LABELS.get(metric, metric),
           title=found[0].run if alone else f'{metric} of {len(found)} runs')
  if unit == 'tokens':
    axes.xaxis.set_major_formatter(EngFormatter(sep=''))   # 1.2M in place of 1.2e6
  axes.grid(alpha=0.3)
  axes.spines[['top', 'right']].set_visible(False)
  axes.legend(frameon=False, fontsize='small')
  return figure


def runs_table(model_dirs: Sequence[pathlib.Path]) -> str:
  """A column for each run: steps, tokens, last training loss, and its last evaluation's metrics."""
  columns = []
  for path, name in zip(model_dirs, display_names(model_dirs)):
    records = _read_records(RunFolder(pathlib.Path(path)))
    train = [r for r in records if r['kind'] == 'train']
    evals = [r for r in records if r['kind'] == 'eval']
    step = records[-1]['step']
    columns.append({
        'run': name, 'step': f'{step:,}', 'tokens': f'{_positions(records, "tokens")(step):,.0f}',
        'training loss': _show(_value(train[-1], 'loss')) if train else '-',
        **{metric: _show(value) for metric, value in (evals[-1] if evals else {}).items()
           if metric not in ('step', 'kind')}})
  metrics = list(dict.fromkeys(metric for column in columns for metric in column))
  table = [[metric, *(column.get(metric, '-') for column in columns)] for metric in metrics]
  widths = [max(map(len, cells)) for cells in zip(*table)]
  return '\n'.join('  '.join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])])
                   for line in table)


def display_names(model_dirs: Sequence[pathlib.Path]) -> list[str]:
  """The last part of each path, and as many parts before it as tell the paths apart."""
  paths = [pathlib.Path(path).absolute() for path in model_dirs]
  for count in range(1, 1 + max(len(path.parts) for path in paths)):
    names = ['/'.join(path.parts[-count:]) for path in paths]
    if len(set(names)) == len(set(paths)):
      break
  return names


def _read_records(folder: RunFolder) -> list[dict[str, Any]]:
  records = folder.read_metrics()
  if not records:
    raise UserError(f'{folder.path} has no metrics in {folder.metrics.name}: is it the folder of '
                    'a run that was trained?')
  return records


def _series(folder: RunFolder, name: str, metric: str, unit: str) -> _Series:
  records = _read_records(folder)
  at = _positions(records, unit)
  points = lambda kind, value_of: [
      (at(r['step']), value) for r in records
      if r['kind'] == kind and (value := value_of(r)) is not None]
  evals = {}
  for key in dict.fromkeys(k for r in records if r['kind'] == 'eval' for k in r):
    task, slash, last = key.rpartition('/')
    if slash and last == metric and (found := points('eval', lambda r, k=key: r.get(k))):
      evals[task] = found
  series = _Series(name, points('train', lambda r: _value(r, metric)), evals)
  if not series.train and not evals:
    known = {k.rpartition('/')[2] for r in records for k in r} - {'step', 'kind'}
    raise UserError(f'{folder.path} has logged no {metric!r}; {nearest(metric, known)}')
  return series


def _value(record: dict[str, Any], metric: str) -> float | None:
  return record.get(metric, record.get('objective') if metric == 'loss' else None)


def _positions(records: list[dict[str, Any]], unit: str) -> Callable[[int], float]:
  """The position of a step on the horizontal axis."""
  if unit == 'step':
    return lambda step: step
  steps, tokens = [0], [0.0]
  for r in records:
    if r['kind'] == 'train' and None not in (r.get('tokens_per_second'), r.get('seconds_per_step')):
      steps.append(r['step'])
      tokens.append(tokens[-1] + (steps[-1] - steps[-2]) * (
          r['tokens_per_second'] * r['seconds_per_step']))
  return lambda step: float(np.interp(step, steps, tokens))


def _show(value: float | None) -> str:
  return '-' if value is None else f'{value:.4g}'
