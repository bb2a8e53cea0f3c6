"""Budgets of runs, and a parabola of loss over ln N for each: Hoffmann et al. 2022, approach 2.

The fit of approach 2 and its picture both read these, so that they show the same.
"""

import dataclasses

import numpy as np

_SPAN = 0.41      # of ln C within a budget: nominal FLOPs within 20 % either way
_SAME_N = 0.01    # difference in ln N up to which sizes are one
_ROUNDS = 4       # of moving runs to the FLOPs of their budget


@dataclasses.dataclass(frozen=True)
class Parabola:
  """A budget's runs and their parabola.

  Attributes:
    flops: C of the budget, the geometric mean.
    index: of its runs.
    parameters, loss: of these, moved to C along the optima of all budgets.
    coefficients: of ln (N / middle), the highest power first; None for fewer than three N.
    middle: geometric mean of N.
    reason: why it has no minimum; '' if it has one.
  """
  flops: float
  index: np.ndarray
  parameters: np.ndarray
  loss: np.ndarray
  coefficients: np.ndarray | None
  middle: float
  reason: str

  @property
  def minimum(self) -> tuple[float, float, float]:
    """(N, loss, curvature) of the minimum."""
    q2, q1, q0 = self.coefficients
    return (float(self.middle * np.exp(-q1 / (2 * q2))), float(q0 - q1 ** 2 / (4 * q2)), float(q2))

  def __call__(self, parameters: np.ndarray) -> np.ndarray:
    return np.polyval(self.coefficients, np.log(np.asarray(parameters) / self.middle))


def group_budgets(flops: np.ndarray) -> list[np.ndarray]:
  """Indices of the runs of each budget, the smallest first.

  Of the partitions into the fewest groups that span at most 50 % of C each, the one with the
  smallest squared deviations of ln C: a chain of runs is cut, however small its gaps.
  """
  order = np.argsort(flops, kind='stable')
  x = np.log(flops[order])
  count = len(x)
  sums, squares = np.append(0, np.cumsum(x - x[0])), np.append(0, np.cumsum((x - x[0]) ** 2))
  best = [(0, 0.0)] + [(count + 1, 0.0)] * count   # (groups, squared deviations) of the first runs
  cut = np.zeros(count + 1, int)
  for end in range(1, count + 1):
    for start in range(end - 1, -1, -1):
      if x[end - 1] - x[start] > _SPAN:
        break
      total = sums[end] - sums[start]
      spread = squares[end] - squares[start] - total ** 2 / (end - start)
      value = best[start][0] + 1, best[start][1] + spread
      if value < best[end]:
        best[end], cut[end] = value, start
  ends = [count]
  while ends[-1] > 0:
    ends.append(cut[ends[-1]])
  return [order[start:end] for end, start in reversed(list(zip(ends, ends[1:])))]


def fit_budgets(parameters: np.ndarray, flops: np.ndarray, loss: np.ndarray) -> list[Parabola]:
  """The parabola of each budget.

  Runs whose C differs from their budget's are first moved to it: N by the power law of the optima,
  and loss by the trend of their losses, both over ln C. Without this, a run of 15 % more FLOPs has
  a lower loss, whatever its N.
  """
  groups = group_budgets(flops)
  middles = [float(np.exp(np.log(flops[index]).mean())) for index in groups]
  nominal = np.empty(len(flops))
  for index, middle in zip(groups, middles):
    nominal[index] = middle
  off = np.log(nominal / flops)
  moved_n, moved_loss = parameters, loss
  for _ in range(_ROUNDS):
    fitted = [_fit(c, index, moved_n[index], moved_loss[index])
              for c, index in zip(middles, groups)]
    good = [parabola for parabola in fitted if not parabola.reason]
    if len(good) < 2 or not np.abs(off).max() > 0:
      break
    c = np.log([parabola.flops for parabola in good])
    n, best_loss, _ = np.array([parabola.minimum for parabola in good]).T
    exponent = np.polyfit(c - c.mean(), np.log(n), 1)[0]
    trend = np.polyfit(c - c.mean(), np.log(best_loss), min(2, len(good) - 1))
    at = lambda x: np.polyval(trend, x - c.mean())
    moved_n = parameters * np.exp(exponent * off)
    moved_loss = loss * np.exp(at(np.log(nominal)) - at(np.log(flops)))
  return fitted


def _fit(flops: float, index: np.ndarray, parameters: np.ndarray, loss: np.ndarray) -> Parabola:
  make = lambda coefficients, reason: Parabola(
      flops, index, parameters, loss, coefficients, middle, reason)
  middle = float(np.exp(np.log(parameters).mean()))
  distinct = 1 + int((np.diff(np.log(np.sort(parameters))) > _SAME_N).sum())
  if distinct < 3:
    return make(None, f'{distinct} different N, and a parabola needs 3')
  coefficients = np.polyfit(np.log(parameters / middle), loss, 2)
  if coefficients[0] <= 0:
    return make(coefficients, f'the parabola has no minimum (curvature {coefficients[0]:.2g})')
  best = make(coefficients, '').minimum[0]
  if not parameters.min() < best < parameters.max():
    return make(coefficients, f'the minimum, N = {best:.3g}, is outside the N of the runs '
                f'({parameters.min():.3g} to {parameters.max():.3g})')
  return make(coefficients, '')
