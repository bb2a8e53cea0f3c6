"""The table of finished runs: parameters, tokens, FLOPs, final loss, and what they share."""

from collections.abc import Mapping, Sequence
import dataclasses
import math
import pathlib
import re

import numpy as np

from scaling.fitting.table import check_lengths, nearest, parse_number, read_cells
from t5x_lite.core.errors import UserError
from t5x_lite.core.paths import local_path

MIN_DISTINCT = 3         # different N, and different D, that a law needs
FLOPS_TOLERANCE = 0.25   # relative difference allowed between a FLOPs column and 6 N D
EPOCHS_TOLERANCE = 0.05  # relative difference allowed between a column of epochs and D / U
QUANTITIES = ('parameters', 'tokens', 'flops', 'loss')
# On which the loss depends, too: column -> (the value of a blank cell, the form that fits it).
SETTINGS = {'weight_bits': (16.0, 'precision'), 'activation_bits': (16.0, 'precision'),
            'kv_bits': (16.0, 'precision'), 'experts': (1.0, 'experts'), 'top_k': (1.0, 'experts')}
# Column names known without --columns, in lower case with _ for other characters.
NAMES = {
    'parameters': ('parameters', 'params', 'n', 'n_params', 'num_params', 'num_parameters',
                   'model_size', 'size'),
    'tokens': ('tokens', 'd', 'd_tokens', 'n_tokens', 'num_tokens', 'training_tokens',
               'train_tokens'),
    'flops': ('flops', 'c', 'flop', 'training_flop', 'training_flops', 'train_flops', 'compute'),
    'loss': ('loss', 'l', 'final_loss', 'val_loss', 'valid_loss', 'validation_loss', 'eval_loss',
             'test_loss'),
    'unique_tokens': ('unique_tokens', 'u', 'u_unique_tokens', 'n_unique_tokens',
                      'num_unique_tokens', 'unique', 'u_tokens'),
    'epochs': ('epochs', 'epoch', 'n_epochs', 'num_epochs'),
    'weight_bits': ('weight_bits', 'bits', 'p_w', 'w_bits'),
    'activation_bits': ('activation_bits', 'p_a', 'a_bits'),
    'kv_bits': ('kv_bits', 'kv_cache_bits', 'p_kv'),
    'experts': ('experts', 'num_experts', 'n_experts'),
    'top_k': ('top_k', 'topk', 'experts_per_token', 'active_experts'),
    'cluster': ('cluster', 'trunk'),
    'seed': ('seed', 'random_seed', 'rng_seed'),
    'name': ('name', 'run', 'run_name', 'id'),
}
# Limits of real runs: numbers outside are in another unit.
_MIN = {'parameters': 1e3, 'tokens': 1e4, 'unique_tokens': 1e3, 'flops': 1e9}
_MAX = {'parameters': 1e15, 'tokens': 1e18, 'unique_tokens': 1e18, 'flops': 1e30}


@dataclasses.dataclass(frozen=True)
class Runs:
  """Finished runs as float64 arrays [runs]; raises UserError for impossible values.

  Attributes:
    parameters: N.
    tokens: D, all training tokens, repeats included.
    loss: at the end of training, in nats a token.
    flops: C; 6 N D, or the user's own count, which may differ by a quarter.
    names: of the runs, for messages.
    cluster: of each run, the name of what it shares noise with others through, such as the trunk
      that it branches off; '' for its size.
    seed: of each run, as text; '' if not known.
    unique_tokens: U, the different ones among D; at most D, which is the default.
    settings: name of SETTINGS -> values [runs], of those that are known.
  """
  parameters: np.ndarray
  tokens: np.ndarray
  loss: np.ndarray
  flops: np.ndarray
  names: tuple[str, ...]
  cluster: tuple[str, ...] = ()
  seed: tuple[str, ...] = ()
  unique_tokens: np.ndarray | None = None
  settings: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)

  def __post_init__(self):
    if self.unique_tokens is None:
      object.__setattr__(self, 'unique_tokens', self.tokens)
    for field in ('cluster', 'seed'):
      texts = tuple(map(str, getattr(self, field))) or ('',) * len(self.names)
      if len(texts) != len(self.names):
        raise ValueError(f'{field}: {len(texts)} values for {len(self.names)} names')
      object.__setattr__(self, field, texts)
    for field in (*QUANTITIES, 'unique_tokens'):
      object.__setattr__(self, field, np.asarray(getattr(self, field), np.float64))
    for field in (*QUANTITIES, 'unique_tokens'):
      values = getattr(self, field)
      if len(values) != len(self.names):
        raise ValueError(f'{field}: {len(values)} values for {len(self.names)} names')
      for i in np.flatnonzero(~(np.isfinite(values) & (values > 0)))[:1]:
        raise UserError(f'{self.names[i]}: {field} is {values[i]:g}, expected a '
                        'finite number above 0: correct it or leave the run out')
    for field, values in self.settings.items():
      for i in np.flatnonzero(~(np.isfinite(values) & (values > 0)))[:1]:
        raise UserError(f'{self.names[i]}: {field} is {values[i]:g}, expected a finite number '
                        'above 0: correct it or leave the run out')
    self._check_units()
    object.__setattr__(self, 'unique_tokens', np.minimum(self.unique_tokens, self.tokens))
    ratio = self.flops / (6 * self.parameters * self.tokens)
    for i in np.flatnonzero(np.abs(ratio - 1) > FLOPS_TOLERANCE)[:1]:
      raise UserError(f'{self.names[i]}: {self.flops[i]:.3g} FLOPs are {ratio[i]:.3g} times '
                      f'6 N D = {6 * self.parameters[i] * self.tokens[i]:.3g}'
                      f'{_billions(ratio[i])}: correct the columns, or leave out the FLOPs column')

  def __len__(self) -> int:
    return len(self.names)

  @property
  def epochs(self) -> np.ndarray:
    """D / U [runs], at least 1."""
    return self.tokens / self.unique_tokens

  @property
  def clusters(self) -> np.ndarray:
    """[runs] of the cluster that each shares noise with, numbered from 0.

    A cluster is what the column `cluster` names; where it is blank, the runs of one size (N
    within 1 %).
    """
    order = np.argsort(self.parameters, kind='stable')
    size = np.zeros(len(self), int)
    size[order] = np.cumsum(np.append(0, np.diff(np.log(self.parameters[order])) > 0.01))
    keys = [(name, -1 if name else int(i)) for name, i in zip(self.cluster, size)]
    number = {key: i for i, key in enumerate(dict.fromkeys(keys))}
    return np.array([number[key] for key in keys], int)

  def extrapolation(self, flops: float) -> float:
    """The factor by which a budget is outside the FLOPs of the runs; 1 inside."""
    return max(flops / self.flops.max(), self.flops.min() / flops, 1.0)

  def select(self, keep: np.ndarray) -> 'Runs':
    """The runs that an array of bools or indices selects."""
    index = np.arange(len(self))[keep]
    arrays = {field: getattr(self, field)[index] for field in (*QUANTITIES, 'unique_tokens')}
    texts = {field: tuple(getattr(self, field)[i] for i in index)
             for field in ('names', 'cluster', 'seed')}
    return Runs(**arrays, **texts, settings={
        field: values[index] for field, values in self.settings.items()})

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


def check_unique(runs: Runs) -> None:
  """Raises UserError if a run repeats tokens, which a law of N and D alone does not describe."""
  repeated = np.flatnonzero(runs.epochs > 1 + EPOCHS_TOLERANCE)
  if len(repeated):
    raise UserError(f'{runs.names[repeated[0]]}: {runs.epochs[repeated[0]]:.3g} epochs; '
                    f'{len(repeated)} of {len(runs)} runs repeat tokens, which this law takes as '
                    'new: fit them with --form=repeats, or leave them out')


def check_settings(runs: Runs, needed: Sequence[str] = (), used: Sequence[str] = ()) -> None:
  """Raises UserError if runs differ in a setting that a form does not use, or lack one it uses.

  A setting that is the same in all runs is a constant of the law.
  """
  for field, values in runs.settings.items():
    if field not in (*needed, *used) and np.ptp(values) > 0:
      raise UserError(f'column {field}: the runs have {values.min():g} to {values.max():g}, on '
                      f'which this law does not depend: fit them with --form={SETTINGS[field][1]}, '
                      'or leave out all but one value')
  for field in needed:
    if field not in runs.settings:
      raise UserError(f'the runs have no column of {field}, which this form needs: pass --columns '
                      f'{field}=NAME')


def describe_settings(runs: Runs) -> list[str]:
  """A line for each setting that all runs share and that is not the usual one: the law is of it."""
  return [f'all runs have {field} {values[0]:g}: the law is of such models'
          for field, values in runs.settings.items()
          if np.ptp(values) == 0 and values[0] != SETTINGS[field][0]]


def _billions(ratio: float) -> str:
  """The likely cause of FLOPs that are off by 1e9 or 1e18."""
  for power in (9, 18):
    for sign in (1, -1):
      if abs(math.log10(ratio) - sign * power) < 0.1:
        return ' (billions in one column and units in another?)'
  return ''


def read_csv(path: pathlib.Path | str, columns: Mapping[str, str] | None = None) -> Runs:
  """The runs of a CSV file with a header, a run in each line.

  Cells are separated by commas, semicolons or tabs, as in the header; numbers have a decimal point.

  Args:
    path: of the file.
    columns: the names of its columns for the keys of `NAMES`, whose values are the defaults. Two of
      N, D and C are enough: C = 6 N D. Of unique tokens and epochs one is enough; a blank cell
      means that no token is repeated.

  Raises:
    UserError: for a missing file or column, and for impossible values.
  """
  path = local_path(path)
  numbered = read_cells(path)
  header, rows = [cell.strip() for cell in numbered[0][1]], numbered[1:]
  found = _columns(path, header, columns or {})
  location = lambda i: f'{path.name}, line {i}'
  check_lengths(path, header, rows)
  text = lambda row, field: row[found[field]].strip() if found[field] < len(row) else ''
  number = lambda i, row, field: parse_number(text(row, field), location(i), header[found[field]])
  values = {field: np.array([number(i, row, field) for i, row in rows])
            for field in QUANTITIES if field in found}
  if 'parameters' not in values:
    values['parameters'] = values['flops'] / 6 / values['tokens']
  if 'tokens' not in values:
    values['tokens'] = values['flops'] / 6 / values['parameters']
  values.setdefault('flops', 6 * values['parameters'] * values['tokens'])
  named = [text(row, 'name') if 'name' in found else '' for _, row in rows]
  names = tuple(f'{location(i)} ({name})' if name else location(i)
                for (i, _), name in zip(rows, named))
  repeats = [{field: number(i, row, field) for field in ('unique_tokens', 'epochs')
              if field in found and text(row, field)} for i, row in rows]
  unique = [_unique_tokens(tokens, given, name)
            for tokens, given, name in zip(values['tokens'], repeats, names)]
  texts = {field: tuple(text(row, field) for _, row in rows)
           for field in ('cluster', 'seed') if field in found}
  settings = {field: np.array([number(i, row, field) if text(row, field) else default
                               for i, row in rows])
              for field, (default, _) in SETTINGS.items() if field in found}
  return Runs(**values, names=names, unique_tokens=np.array(unique), settings=settings, **texts)


def _unique_tokens(tokens: float, given: Mapping[str, float], name: str) -> float:
  """U of a run of D tokens, from its cells of unique tokens and epochs."""
  epochs, unique = given.get('epochs', 1.0), given.get('unique_tokens', tokens)
  if not epochs > 0:
    raise UserError(f'{name}: epochs is {epochs:g}, expected a number above 0: correct it, or '
                    'leave the cell empty for a run that repeats no token')
  if len(given) < 2:
    return min(unique, tokens / epochs)
  if abs(max(tokens / unique, 1.0) / max(epochs, 1.0) - 1) > EPOCHS_TOLERANCE:
    raise UserError(f'{name}: {epochs:g} epochs of {unique:.4g} unique tokens are not '
                    f'{tokens:.4g} tokens: correct the line, or leave one of the two columns out')
  return unique


def _columns(path: pathlib.Path, header: Sequence[str], columns: Mapping[str, str]
             ) -> dict[str, int]:
  """The column index of each quantity."""
  found = {}
  for field, name in columns.items():
    if field not in NAMES:
      raise UserError(f'--columns {field}={name}: unknown quantity {field!r}; choose from '
                      + ', '.join(NAMES))
    if name not in header:
      raise UserError(f'{path} has no column {name!r}; {nearest(name, header)}')
    found[field] = header.index(name)
  plain = [re.sub(r'[^a-z0-9]+', '_', name.lower()).strip('_') for name in header]
  taken = set(found.values())
  for field, names in NAMES.items():
    at = [plain.index(name) for name in names if name in plain and plain.index(name) not in taken]
    if field not in found and at:
      found[field] = at[0]
  for at in found.values():
    if header.count(header[at]) > 1:
      raise UserError(f'{path} has {header.count(header[at])} columns {header[at]!r}: keep one')
  if 'loss' not in found:
    raise UserError(f'{path} has no known column of losses: pass --columns loss=NAME; '
                    f'{nearest("loss", header)}')
  missing = [field for field in ('parameters', 'tokens', 'flops') if field not in found]
  if len(missing) > 1:
    raise UserError(f'{path} has no known column of {missing[0]} or {missing[1]}: two of '
                    f'parameters, tokens and flops are needed; pass --columns {missing[0]}=NAME; '
                    f'{nearest(missing[0], header)}')
  return found
