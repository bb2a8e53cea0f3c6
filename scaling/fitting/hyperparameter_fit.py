"""Learning rate and batch size as power laws of N and D, fitted to sweeps of one's own.

The runs of one N and D are a cell. In each, the loss is a quadratic of log rate (and of log batch
size, where that varies too); its minimum is the cell's optimum, with an error from the noise about
the quadratics of all cells. Over the cells, log optimum = c + p ln N + q ln D by weighted least
squares, as Li et al. 2025 ("Step Law") fit theirs.
"""

from collections.abc import Sequence
import dataclasses
import math
import pathlib

import numpy as np
from scipy import stats

from scaling.fitting.table import parse_number, read_table
from t5x_lite.core.errors import UserError
from t5x_lite.core.paths import local_path

NAMES = {   # of columns, in lower case
    'parameters': ('parameters', 'params', 'n'),
    'tokens': ('tokens', 'd', 'train_tokens'),
    'learning_rate': ('learning_rate', 'lr', 'peak_learning_rate', 'peak_lr', 'rate'),
    'batch_tokens': ('batch_tokens', 'batch_size_tokens', 'batch_size', 'batch', 'bs'),
    'loss': ('loss', 'final_loss', 'val_loss', 'validation_loss', 'eval_loss'),
}
MAX_EXCESS = 0.05   # of the loss over the lowest of its cell, up to which it is a quadratic
MIN_CELLS = 4       # with three constants a law
_SAME = 0.02        # difference of ln N and ln D within a cell
_EDGE = 1e-9        # of ln N and ln D at the ends of the range


@dataclasses.dataclass(frozen=True)
class Cell:
  """The optimum of one N and D: logs, with their covariance over that of the noise of a loss.

  Attributes:
    optimum: ln of the rate, and of the batch size in tokens where it varies.
    covariance: of it, for noise of 1.
    squares, freedom: sum of squared residuals of the log loss, and their degrees of freedom.
    runs: that the quadratic is fitted to.
  """
  parameters: float
  tokens: float
  optimum: np.ndarray
  covariance: np.ndarray
  squares: float
  freedom: int
  runs: int


@dataclasses.dataclass(frozen=True)
class PowerLaw:
  """ln value = c + p ln N + q ln D about the middle of the cells, with Student intervals."""
  constants: np.ndarray     # c, p, q
  covariance: np.ndarray    # [3, 3]
  middle: np.ndarray        # ln N, ln D
  freedom: int

  def predict(self, parameters: float, tokens: float, level: float = 0.95
              ) -> tuple[float, float, float]:
    """(value, low, high) of the optimum at N and D."""
    row = np.array([1, *(np.log([parameters, tokens]) - self.middle)])
    half = stats.t.isf((1 - level) / 2, self.freedom) * math.sqrt(row @ self.covariance @ row)
    return tuple(math.exp(row @ self.constants + x) for x in (0.0, -half, half))

  def exponents(self, level: float = 0.95) -> list[tuple[float, float, float]]:
    """(p, low, high) and (q, low, high)."""
    half = stats.t.isf((1 - level) / 2, self.freedom) * np.sqrt(np.diag(self.covariance))
    return [tuple(map(float, (self.constants[i], self.constants[i] - half[i],
                              self.constants[i] + half[i]))) for i in (1, 2)]

  @property
  def coefficient(self) -> float:
    """Of N ** p D ** q."""
    return math.exp(self.constants[0] - self.constants[1:] @ self.middle)


@dataclasses.dataclass(frozen=True)
class HyperparameterLaw:
  """The laws of the optimal rate and, where it was swept, of the batch size.

  Attributes:
    noise: standard deviation of the log loss about the quadratics.
    dropped: a line for each cell, and for diverged runs, that are left out.
  """
  rate: PowerLaw
  batch: PowerLaw | None
  cells: list[Cell]
  noise: float
  dropped: list[str]

  def check_inside(self, parameters: float, tokens: float) -> None:
    """Raises UserError for N or D outside those of the cells."""
    for name, flag, value in (('N', 'parameters', parameters), ('D', 'tokens', tokens)):
      swept = [getattr(cell, flag) for cell in self.cells]
      if not math.log(min(swept)) - _EDGE <= math.log(value) <= math.log(max(swept)) + _EDGE:
        raise UserError(f'--{flag}={value:.4g}: the sweeps found optima for {name} from '
                        f'{min(swept):.4g} to {max(swept):.4g} alone, and a law of few cells is '
                        f'not extrapolated: sweep at such {name}')


def read_sweep(path: pathlib.Path | str) -> dict[str, np.ndarray]:
  """The columns of NAMES of a CSV file with a run a line; UserError for what is no sweep.

  A loss that is not a finite number is one of a run that diverged.
  """
  path = local_path(path)
  table = read_table(path)
  found = {}
  for field, names in NAMES.items():
    column = table.find(names)
    if column is None:
      raise UserError(f'{path} has no column of {field}: name one {" or ".join(names)}')
    found[field] = np.array([_number(text, where, column, field) for text, where
                             in zip(table.texts(column), table.names)])
  return found


def _number(text: str, where: str, column: str, field: str) -> float:
  value = math.nan if field == 'loss' and not text else parse_number(text, where, column)
  if value <= 0 or field != 'loss' and not value < math.inf:
    raise UserError(f'{where}: {column} is {text!r}, expected a number above 0')
  return value if math.isfinite(value) else math.nan


def fit_hyperparameters(sweep: dict[str, np.ndarray]) -> HyperparameterLaw:
  """The laws of a sweep; UserError if its cells do not identify them."""
  n, d = np.log(sweep['parameters']), np.log(sweep['tokens'])
  groups = _groups(n, d)
  cells, dropped = [], []
  if lost := int(np.isnan(sweep['loss']).sum()):
    dropped.append(f'{lost} runs without a finite loss')
  for index in groups:
    label = f'N {math.exp(n[index[0]]):.4g}, D {math.exp(d[index[0]]):.4g}'
    cell = _fit_cell({name: values[index] for name, values in sweep.items()})
    if isinstance(cell, str):
      dropped.append(f'{label}: {cell}')
    else:
      cells.append(cell)
  free = sum(cell.freedom for cell in cells)
  if len(cells) < MIN_CELLS or not free:
    raise UserError(f'{len(cells)} of {len(groups)} cells of one N and D have an optimum'
                    f'{"" if free else " and none has runs to spare"}, and a law needs '
                    f'{MIN_CELLS} and an estimate of the noise: sweep more rates on both sides'
                    + ''.join(f'; {line}' for line in dropped[:4]))
  noise = math.sqrt(sum(cell.squares for cell in cells) / free)
  with_batch = [cell for cell in cells if len(cell.optimum) == 2]
  batch = _power_law(with_batch, 1, noise) if len(with_batch) >= MIN_CELLS else None
  if with_batch and batch is None:
    dropped.append(f'the batch size: {len(with_batch)} cells vary it, and a law needs {MIN_CELLS}')
  return HyperparameterLaw(_power_law(cells, 0, noise), batch, cells, noise, dropped)


def _groups(n: np.ndarray, d: np.ndarray) -> list[np.ndarray]:
  """The indices of the runs of each cell."""
  number = lambda x: np.cumsum(np.append(0, np.diff(np.sort(x)) > _SAME))[np.argsort(np.argsort(x))]
  keys = np.stack([number(n), number(d)], 1)
  return [np.flatnonzero((keys == key).all(1)) for key in np.unique(keys, axis=0)]


def _fit_cell(sweep: dict[str, np.ndarray]) -> Cell | str:
  """The cell of runs of one N and D, or why it has no optimum."""
  kept = sweep['loss'] <= (1 + MAX_EXCESS) * np.nanmin(sweep['loss'], initial=np.inf)
  if not kept.any():
    return 'no run has a finite loss'
  logs = np.log([sweep['learning_rate'][kept], sweep['batch_tokens'][kept]]).T
  y = np.log(sweep['loss'][kept])
  varied = [True, bool(np.ptp(logs[:, 1]) > _SAME)]
  x = logs[:, varied]
  middle = x.mean(0)
  columns = _quadratic(x - middle)
  if len(y) < columns.shape[1] or np.linalg.matrix_rank(columns) < columns.shape[1]:
    return (f'{len(y)} runs within {MAX_EXCESS:.0%} of the lowest loss do not identify a quadratic '
            f'of {columns.shape[1]} coefficients')
  coefficients, *_ = np.linalg.lstsq(columns, y, rcond=None)
  slope, curve = _derivatives(coefficients, x.shape[1])
  if np.linalg.eigvalsh(curve).min() <= 0:
    return 'the loss has no minimum in log rate' + (' and log batch size' if varied[1] else '')
  vertex = -np.linalg.solve(curve, slope)
  for i, name in enumerate(('rate', 'batch size')[:len(vertex)]):
    low, high = x[:, i].min(), x[:, i].max()
    if not low <= vertex[i] + middle[i] <= high:
      return (f'the optimal {name}, {math.exp(vertex[i] + middle[i]):.3g}, is outside those swept, '
              f'{math.exp(low):.3g} to {math.exp(high):.3g}')
  jacobian = np.linalg.solve(curve, -_slope_rows(vertex)) @ np.linalg.pinv(columns)
  residuals = y - columns @ coefficients
  return Cell(float(np.exp(np.log(sweep['parameters']).mean())),
              float(np.exp(np.log(sweep['tokens']).mean())), vertex + middle,
              jacobian @ jacobian.T, float(residuals @ residuals),
              len(y) - columns.shape[1], len(y))


def _quadratic(x: np.ndarray) -> np.ndarray:
  """The columns [runs, 3 or 6] of a quadratic of x [runs, 1 or 2]: 1, x, squares, product."""
  product = [x[:, :1] * x[:, 1:]] if x.shape[1] == 2 else []
  return np.concatenate([np.ones((len(x), 1)), x, x ** 2, *product], 1)


def _derivatives(coefficients: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
  """(gradient at 0 [size], Hessian [size, size]) of a quadratic."""
  curve = 2 * np.diag(coefficients[1 + size:1 + 2 * size])
  if size == 2:
    curve[0, 1] = curve[1, 0] = coefficients[5]
  return coefficients[1:1 + size], curve


def _slope_rows(vertex: np.ndarray) -> np.ndarray:
  """Derivatives [size, coefficients] of the gradient at the vertex by the coefficients."""
  size = len(vertex)
  rows = np.concatenate([np.zeros((size, 1)), np.eye(size), 2 * np.diag(vertex)], 1)
  return rows if size == 1 else np.concatenate([rows, vertex[::-1, None]], 1)


def _power_law(cells: Sequence[Cell], index: int, noise: float) -> PowerLaw:
  """The law of one optimum over the cells, weighted by their errors.

  The scatter of the optima about the law widens its intervals where the errors do not explain it.
  """
  points = np.log([(cell.parameters, cell.tokens) for cell in cells])
  middle = points.mean(0)
  columns = np.concatenate([np.ones((len(cells), 1)), points - middle], 1)
  if np.linalg.svd(points - middle, compute_uv=False)[-1] < 0.1 * math.sqrt(len(cells)):
    raise UserError('N and D of the cells are on one line of ln N and ln D, and do not identify '
                    'an exponent of each: sweep at other D / N')
  y = np.array([cell.optimum[index] for cell in cells])
  errors = np.sqrt([cell.covariance[index, index] for cell in cells]) * noise
  free = len(cells) - 3
  errors = np.maximum(errors, 1e-9)
  for _ in range(100):   # adds the variance between cells with which the misfit is as expected
    inverse = np.linalg.inv((columns / errors[:, None]).T @ (columns / errors[:, None]))
    constants = inverse @ (columns.T @ (y / errors ** 2))
    misfit = float((((y - columns @ constants) / errors) ** 2).sum() / free)
    if misfit <= 1.001:
      break
    errors = np.sqrt(errors ** 2 + (misfit - 1) * np.mean(errors ** 2))
  return PowerLaw(constants, inverse, middle, free)
