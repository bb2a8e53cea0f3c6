"""Finished runs: parameters, tokens, FLOPs and final loss, from CSV files and run folders."""

from collections.abc import Mapping, Sequence
import csv
import dataclasses
import difflib
import math
import pathlib
import re

import numpy as np

from t5x_lite.core.errors import UserError
from t5x_lite.core.paths import local_path

MIN_DISTINCT = 3         # different N, and different D, that a law needs
FLOPS_TOLERANCE = 0.25   # relative difference allowed between a FLOPs column and 6 N D
QUANTITIES = ('parameters', 'tokens', 'flops', 'loss')
# Column names known without --columns, in lower case with _ for other characters.
NAMES = {
    'parameters': ('parameters', 'params', 'n', 'n_params', 'num_params', 'num_parameters',
                   'model_size', 'size'),
    'tokens': ('tokens', 'd', 'd_tokens', 'n_tokens', 'num_tokens', 'training_tokens',
               'train_tokens'),
    'flops': ('flops', 'c', 'flop', 'training_flop', 'training_flops', 'train_flops', 'compute'),
    'loss': ('loss', 'l', 'final_loss', 'val_loss', 'valid_loss', 'validation_loss', 'eval_loss',
             'test_loss'),
    'name': ('name', 'run', 'run_name', 'id'),
}
# Limits of real runs: numbers outside are in another unit.
_MIN = {'parameters': 1e3, 'tokens': 1e4, 'flops': 1e9}
_MAX = {'parameters': 1e15, 'tokens': 1e18, 'flops': 1e30}


@dataclasses.dataclass(frozen=True)
class Runs:
  """Finished runs as float64 arrays [runs]; raises UserError for impossible values.

  Attributes:
    parameters: N.
    tokens: D, all training tokens, repeats included.
    loss: at the end of training, in nats a token.
    flops: C; 6 N D, or the user's own count, which may differ by a quarter.
    names: of the runs, for messages.
  """
  parameters: np.ndarray
  tokens: np.ndarray
  loss: np.ndarray
  flops: np.ndarray
  names: tuple[str, ...]

  def __post_init__(self):
    for field in QUANTITIES:
      object.__setattr__(self, field, np.asarray(getattr(self, field), np.float64))
    for field in QUANTITIES:
      values = getattr(self, field)
      if len(values) != len(self.names):
        raise ValueError(f'{field}: {len(values)} values for {len(self.names)} names')
      for i in np.flatnonzero(~(np.isfinite(values) & (values > 0)))[:1]:
        raise UserError(f'{self.names[i]}: {field} is {values[i]:g}, expected a '
                        'finite number above 0: correct it or leave the run out')
    self._check_units()
    ratio = self.flops / (6 * self.parameters * self.tokens)
    for i in np.flatnonzero(np.abs(ratio - 1) > FLOPS_TOLERANCE)[:1]:
      raise UserError(f'{self.names[i]}: {self.flops[i]:.3g} FLOPs are {ratio[i]:.3g} times '
                      f'6 N D = {6 * self.parameters[i] * self.tokens[i]:.3g}'
                      f'{_billions(ratio[i])}: correct the columns, or leave out the FLOPs column')

  def __len__(self) -> int:
    return len(self.names)

  def select(self, keep: np.ndarray) -> 'Runs':
    """The runs that an array of bools or indices selects."""
    index = np.arange(len(self))[keep]
    arrays = {field: getattr(self, field)[index] for field in QUANTITIES}
    return Runs(**arrays, names=tuple(self.names[i] for i in index))

  def _check_units(self):
    for field, lowest in _MIN.items():
      values = getattr(self, field)
      for i in np.flatnonzero(values < lowest)[:1]:
        raise UserError(f'{self.names[i]}: {values[i]:g} {field} look like billions or another '
                        f'unit: give {field} as a plain number, e.g. {values[i] * 1e9:g}')
      for i in np.flatnonzero(values > _MAX[field])[:1]:
        raise UserError(f'{self.names[i]}: {values[i]:g} {field} exceed any run: were they '
                        f'multiplied by 1e9 twice? Give a plain number, e.g. '
                        f'{values[i] / 1e9:g}')


def check_varied(runs: Runs) -> None:
  """Raises UserError if there are fewer than three different N or D (within 1 %)."""
  for field, letter in (('parameters', 'N'), ('tokens', 'D')):
    values = np.sort(getattr(runs, field))
    count = 1 + int((np.diff(np.log(values)) > 0.01).sum()) if len(values) else 0
    if count < MIN_DISTINCT:
      raise UserError(f'{len(runs)} run{"s" if len(runs) != 1 else ""} with {count} different '
                      f'{letter} ({field}): a law needs at least {MIN_DISTINCT}; add runs of other '
                      f'{field}')


def _billions(ratio: float) -> str:
  """The likely cause of FLOPs that are off by 1e9 or 1e18."""
  for power in (9, 18):
    for sign in (1, -1):
      if abs(math.log10(ratio) - sign * power) < 0.1:
        return ' (billions in one column and units in another?)'
  return ''


def read_csv(path: pathlib.Path | str, columns: Mapping[str, str] | None = None) -> Runs:
  """The runs of a CSV file with a header, a run in each line.

  Args:
    path: of the file.
    columns: the names of its columns for 'parameters', 'tokens', 'flops', 'loss' and 'name'; the
      defaults are `NAMES`. Two of N, D and C are enough: C = 6 N D.

  Raises:
    UserError: for a missing file or column, and for impossible values.
  """
  path = local_path(path)
  try:
    with open(path, newline='', encoding='utf-8-sig') as file:
      rows = list(csv.reader(file))
  except (OSError, UnicodeDecodeError) as e:
    raise UserError(f'{path} cannot be read ({e}): pass a CSV file with a header') from e
  numbered = [(i, row) for i, row in enumerate(rows, 1) if any(cell.strip() for cell in row)]
  if len(numbered) < 2:
    raise UserError(f'{path} has no runs: a header and a line for each run are needed')
  header = [cell.strip() for cell in numbered[0][1]]
  found = _columns(path, header, columns or {})
  location = lambda i: f'{path.name}, line {i}'
  values = {field: np.array([_number(row, found[field], location(i), header[found[field]])
                             for i, row in numbered[1:]])
            for field in QUANTITIES if field in found}
  if 'parameters' not in values:
    values['parameters'] = values['flops'] / 6 / values['tokens']
  if 'tokens' not in values:
    values['tokens'] = values['flops'] / 6 / values['parameters']
  values.setdefault('flops', 6 * values['parameters'] * values['tokens'])
  names = tuple(
      f'{location(i)} ({row[found["name"]].strip()})' if found.get('name', len(row)) < len(row)
      else location(i) for i, row in numbered[1:])
  return Runs(**values, names=names)


def _columns(path: pathlib.Path, header: Sequence[str], columns: Mapping[str, str]
             ) -> dict[str, int]:
  """The column index of each quantity."""
  found = {}
  for field, name in columns.items():
    if field not in NAMES:
      raise UserError(f'--columns {field}={name}: unknown quantity {field!r}; choose from '
                      + ', '.join(NAMES))
    if name not in header:
      raise UserError(f'{path} has no column {name!r}; {_nearest(name, header)}')
    found[field] = header.index(name)
  plain = [re.sub(r'[^a-z0-9]+', '_', name.lower()).strip('_') for name in header]
  taken = set(found.values())
  for field, names in NAMES.items():
    at = [plain.index(name) for name in names if name in plain and plain.index(name) not in taken]
    if field not in found and at:
      found[field] = at[0]
  if 'loss' not in found:
    raise UserError(f'{path} has no known column of losses: pass --columns loss=NAME; '
                    f'{_nearest("loss", header)}')
  missing = [field for field in ('parameters', 'tokens', 'flops') if field not in found]
  if len(missing) > 1:
    raise UserError(f'{path} has no known column of {missing[0]} or {missing[1]}: two of '
                    f'parameters, tokens and flops are needed; pass --columns {missing[0]}=NAME; '
                    f'{_nearest(missing[0], header)}')
  return found


def _nearest(name: str, header: Sequence[str]) -> str:
  """The columns closest to `name`, at most eight."""
  close = sorted(header, key=lambda column: -difflib.SequenceMatcher(
      None, name.lower(), column.lower()).ratio())
  return f'choose from {", ".join(map(repr, close[:8]))}{" …" if len(close) > 8 else ""}'


def _number(row: Sequence[str], index: int, location: str, column: str) -> float:
  text = row[index].strip() if index < len(row) else ''
  try:
    return float(text.replace('_', ''))
  except ValueError:
    raise UserError(f'{location}: column {column!r} has {text!r}, not a number: correct it or '
                    'leave the line out') from None


def read_folders(paths: Sequence[pathlib.Path | str]) -> Runs:
  """The runs of folders written by `t5x-lite train` (MODEL_DIR).

  N counts all parameters, D the tokens of all batches; the loss is that of the evaluation after the
  last step. Raises UserError for a folder without a run, an unfinished run (earlier checkpoints of
  a decaying learning rate do not follow the law), and a run without evaluation.
  """
  rows = [_folder(local_path(path)) for path in paths]
  parameters, tokens, loss = (np.array(column, float) for column in zip(*rows))
  return Runs(parameters, tokens, loss, 6 * parameters * tokens, tuple(map(str, paths)))


def read_curves(paths: Sequence[pathlib.Path | str]) -> Runs:
  """Every evaluation of each run: training curves, for approach 1 only.

  Raises UserError as `read_folders` does, but accepts unfinished runs.
  """
  rows = []
  for path in paths:
    parameters, tokens_per_step, _, losses = _evaluations(local_path(path))
    rows += [(parameters, tokens_per_step * step, loss, f'{path}, step {step}')
               for step, loss in losses.items()]
  parameters, tokens, loss = (np.array(column, float) for column in list(zip(*rows))[:3])
  return Runs(parameters, tokens, loss, 6 * parameters * tokens, tuple(row[3] for row in rows))


def _folder(path: pathlib.Path) -> tuple[int, int, float]:
  """(N, D, loss) of a finished run."""
  parameters, tokens_per_step, steps, losses = _evaluations(path)
  if steps not in losses:
    raise UserError(f'{path} was last evaluated at step {max(losses)} of {steps}: a law '
                    'needs finished runs; resume its training first')
  return parameters, tokens_per_step * steps, losses[steps]


def _evaluations(path: pathlib.Path) -> tuple[int, int, int, dict[int, float]]:
  """(N, tokens of a step, steps of the whole run, {step: evaluation loss}) of a run's folder."""
  from t5x_lite.cost import accounting  # the model is built from the run's gin
  from t5x_lite.experiment import gin_config
  from t5x_lite.training.run_folder import RunFolder
  config, log = RunFolder(path).config, RunFolder(path).metrics
  for file in (config, log):
    if not file.exists():
      raise UserError(f'{path} has no {file.name}: pass the MODEL_DIR of a finished run')
  losses = {}
  for record in RunFolder(path).read_metrics():
    found = {name: value for name, value in record.items() if name.endswith('/loss')}
    if record['kind'] != 'eval':
      continue
    if len(found) != 1:
      raise UserError(f'{path}: expected one evaluation loss after step {record["step"]}, found '
                      f'{", ".join(found) or "none"}: train one task with the metrics of a '
                      'language model')
    (name, loss), = found.items()
    if loss is None:
      raise UserError(f'{path}: {name} after step {record["step"]} is not finite: leave the run '
                      'out')
    losses[record['step']] = loss
  if not losses:
    raise UserError(f'{path} has no evaluation in {log.name}: finish its training, with a task '
                    'that has a validation split')
  experiment, _ = gin_config.load_experiment([str(config)])
  tokens = sum(experiment.row_lengths) * experiment.data.batch_size
  return accounting.parameters(experiment.model).total, tokens, experiment.train.steps, losses
