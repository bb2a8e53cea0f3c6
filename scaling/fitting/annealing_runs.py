"""Curves of runs: from folders of `t5x-lite train`, or from CSV files."""

import pathlib

import numpy as np

from scaling.fitting.annealing import Curve
from scaling.fitting.runs import NAMES
from scaling.fitting.table import nearest, parse_number, read_table
from t5x_lite.core.errors import UserError
from t5x_lite.core.paths import local_path

_STEPS = ('step', 'steps', 'iteration', 'iter')
_LOSSES = ('loss', 'train_loss', 'training_loss', *NAMES['loss'])
_RATES = ('learning_rate', 'lr', 'rate')
_EVALS = ('eval_loss', 'val_loss', 'valid_loss', 'validation_loss')


def read_curve(path: pathlib.Path | str, model: int = 0) -> Curve:
  """The curve of a MODEL_DIR, or of a CSV file with columns of step, loss and learning rate."""
  path = local_path(path)
  if path.suffix == '.jsonl':
    raise UserError(f'{path} is a file of a run: pass its folder, {path.parent}')
  return _read_folder(path, model) if path.is_dir() else _read_csv(path, model)


def _read_folder(path: pathlib.Path, model: int) -> Curve:
  """Rates are those of the run's schedule, from its first step, before any branching."""
  from t5x_lite.experiment import gin_config
  from t5x_lite.training.run_folder import RunFolder
  folder = RunFolder(path)
  for file in (folder.config, folder.metrics):
    if not file.exists():
      raise UserError(f'{path} has no {file.name}: pass the MODEL_DIR of a run')
  train, evals = {}, {}
  for record in folder.read_metrics():
    if record['kind'] == 'train' and record.get('loss') is not None:
      train[record['step']] = record['loss']
    found = [value for name, value in record.items() if name.endswith('/loss')]
    if record['kind'] == 'eval' and len(found) == 1 and found[0] is not None:
      evals[record['step']] = found[0]
  experiment, _ = gin_config.load_experiment([str(folder.config)])
  schedule = getattr(experiment.optimizer, 'learning_rate', None)
  if not callable(schedule):
    raise UserError(f'{path}: its optimizer has no schedule of learning rates')
  last = max([experiment.train.steps, *train, *evals])
  rates = np.array([float(rate) for rate in _evaluate(schedule, last)])
  return _curve(str(path), train, evals, rates, model)


def _evaluate(schedule, count: int) -> np.ndarray:
  """The rates of steps 1 to `count`: a schedule is called with the steps taken before."""
  import jax
  import jax.numpy as jnp
  return np.asarray(jax.vmap(lambda step: jnp.asarray(schedule(step), jnp.float32))(
      jnp.arange(count)), np.float64)


def _read_csv(path: pathlib.Path, model: int) -> Curve:
  """Rates between two lines are between theirs; a line without a loss tells the rate alone."""
  table = read_table(path)
  columns = {}
  for field, known in (('step', _STEPS), ('loss', _LOSSES), ('learning_rate', _RATES)):
    columns[field] = table.find(known)
    if columns[field] is None:
      raise UserError(f'{path} has no column of {field}: name one {" or ".join(known[:3])}; '
                      f'{nearest(field, table.header)}')
  steps, rates = (table.numbers(columns[field]) for field in ('step', 'learning_rate'))
  for i, name in enumerate(table.names):
    if not (steps[i] >= 1 and steps[i] == round(steps[i]) and steps[i] < 1e9):
      raise UserError(f'{name}: {columns["step"]} is {steps[i]:g}, expected a step from 1 on')
    if i and steps[i] <= steps[i - 1]:
      raise UserError(f'{name}: step {steps[i]:g} does not follow step {steps[i - 1]:g}: sort the '
                      'lines, and give each run a file of its own')
    if not 0 <= rates[i] < np.inf:
      raise UserError(f'{name}: {columns["learning_rate"]} is {rates[i]:g}, expected 0 or more')
  if steps[0] > 1 and steps[0] > 2 * np.diff(steps[:2], append=steps[-1])[0]:
    raise UserError(f'{path} begins at step {steps[0]:,.0f}, and the law sums the rates from step '
                    '1 on: add lines for the warm-up, whose loss may be empty, e.g. '
                    f'{columns["step"]} 1 with {columns["learning_rate"]} 0')
  numbers = lambda column: {int(step): parse_number(text, where, column) for step, text, where
                            in zip(steps, table.texts(column), table.names) if text}
  column = table.find(_EVALS)
  evals = numbers(column) if column and column != columns['loss'] else {}
  every = np.interp(np.arange(1, steps[-1] + 1), steps, rates)
  return _curve(str(path), numbers(columns['loss']), evals, every, model)


def _curve(name: str, train: dict, evals: dict, rates: np.ndarray, model: int) -> Curve:
  for losses in (train, evals):
    for step, loss in losses.items():
      if not 0 < loss < np.inf:
        raise UserError(f'{name}: the loss of step {step} is {loss:g}, expected a number above 0')
  if not train:
    raise UserError(f'{name} has no training losses')
  if not rates.max() > 0:
    raise UserError(f'{name}: all learning rates are 0')
  steps, eval_steps = np.array(sorted(train), int), np.array(sorted(evals), int)
  return Curve(name, steps, np.array([train[i] for i in steps], float), eval_steps,
               np.array([evals[i] for i in eval_steps], float), rates, model)
