"""Which bits a parameter give the lowest loss for the total bits of a model.

Each width of codes takes its best format and block: that of the lowest loss at equal total bits, so
that small blocks pay for their scales. The loss of a width is a parabola of the logarithm of total
bits, loss = a + b x + c x², with a and b of its own and one c for all. Differences at equal bits
have intervals by the jackknife: a model is left out at a time, at all widths, and the t quantile is
that of models less one. They do not count that formats and blocks were chosen by the same losses.

M models, W widths.
"""

from collections.abc import Sequence
import dataclasses

import numpy as np
from scipy import stats

from scaling.kbit.measurements import Measurement
from t5x_lite.core.errors import UserError

MIN_MODELS = 4
POINTS = 7   # numbers of total bits at which widths are compared


@dataclasses.dataclass(frozen=True)
class Comparison:
  """Widths at one number of total bits.

  Attributes:
    total_bits: of the model.
    loss: {width: fitted loss}, each measured on either side of it.
    best: the width of the lowest.
    behind: {width: (difference from the best, low, high)} of the others.
  """
  total_bits: float
  loss: dict[int, float]
  best: int
  behind: dict[int, tuple[float, float, float]]

  @property
  def tied(self) -> list[int]:
    """Widths that cannot be told apart from the best."""
    return [width for width, (_, low, _) in self.behind.items() if low <= 0]


@dataclasses.dataclass(frozen=True)
class KbitFit:
  """The fit.

  Attributes:
    chosen: {width: its measurements [M] in its best format and block}, models in order of size.
    theta: [2 W + 1]: a and b of each width, and c.
    level: of the intervals.
    comparisons: at POINTS numbers of total bits, evenly by logarithm.
  """
  chosen: dict[int, list[Measurement]]
  theta: np.ndarray
  level: float
  comparisons: list[Comparison]

  def loss(self, width: int, total_bits) -> np.ndarray:
    """Of a model of these total bits at a width."""
    return design([*self.chosen].index(width), len(self.chosen), total_bits) @ self.theta


def choose(found: Sequence[Measurement]) -> dict[int, list[Measurement]]:
  """{width: measurements of its best format and block, models in order of size}.

  A format and block that some model lacks is left out.
  """
  models = sorted({(one.parameters, one.model) for one in found})
  groups = {}
  for one in found:
    groups.setdefault((one.bits, one.format, one.block), {})[one.model] = one
  rows = {}
  for (width, *_), of in sorted(groups.items()):
    if len(of) == len(models):
      rows.setdefault(width, []).append([of[name] for _, name in models])
  return {width: _lowest(of) for width, of in rows.items()}


def _lowest(rows: Sequence[list[Measurement]]) -> list[Measurement]:
  """The row of the lowest mean loss over total bits that all of them have, by the fit of widths."""
  curves = dict(enumerate(rows))
  theta = solve(curves, range(len(rows[0])))
  bits = np.geomspace(max(row[0].total_bits for row in rows),
                      min(row[-1].total_bits for row in rows), POINTS)
  return rows[min(curves, key=lambda i: (design(i, len(rows), bits) @ theta).mean())]


def design(place: int, widths: int, total_bits) -> np.ndarray:
  """[..., 2 W + 1]: what theta is multiplied by, of the width in this place."""
  x = np.log2(np.asarray(total_bits, float)) - 20   # near 0, for the conditioning
  row = np.zeros((*x.shape, 2 * widths + 1))
  row[..., 2 * place], row[..., 2 * place + 1], row[..., -1] = 1, x, x ** 2
  return row


def solve(curves: dict[int, list[Measurement]], models: Sequence[int]) -> np.ndarray:
  """theta of curves as of widths, by least squares over the models of these places."""
  rows, losses = [], []
  for place, row in enumerate(curves.values()):
    of = [row[i] for i in models]
    rows.append(design(place, len(curves), [one.total_bits for one in of]))
    losses += [one.loss for one in of]
  return np.linalg.lstsq(np.concatenate(rows), np.array(losses), rcond=None)[0]


def fit_widths(found: Sequence[Measurement], level: float = 0.95) -> KbitFit:
  """The fit of measurements; UserError for too few models or widths, or models of one size."""
  chosen = choose(found)
  if len(chosen) < 2:
    raise UserError(f'{len(chosen)} width(s) of codes are measured on every model: two or more can '
                    'be compared')
  models = len(next(iter(chosen.values())))
  sizes = len({one.parameters for one in next(iter(chosen.values()))})
  if min(models, sizes) < MIN_MODELS:
    raise UserError(f'{models} model(s) of {sizes} size(s): a fit with an interval needs '
                    f'{MIN_MODELS} of unlike sizes or more')
  theta = solve(chosen, range(models))
  without = np.stack([solve(chosen, [j for j in range(models) if j != i]) for i in range(models)])
  # A width that was not measured there would lose to those that were.
  low = max(row[0].total_bits for row in chosen.values())
  high = min(row[-1].total_bits for row in chosen.values())
  if low >= high:
    raise UserError('No total bits lie between those of the models at every width: give models of '
                    'more sizes, or fewer --formats')
  return KbitFit(chosen, theta, level, [
      _compare(bits, [*chosen], theta, without, level) for bits in np.geomspace(low, high, POINTS)])


def _compare(bits: float, widths: Sequence[int], theta: np.ndarray, without: np.ndarray,
             level: float) -> Comparison:
  """Widths at a number of total bits; `without` is theta without each model, [M, 2 W + 1]."""
  rows = {width: design(place, len(widths), bits) for place, width in enumerate(widths)}
  loss = {width: float(row @ theta) for width, row in rows.items()}
  best = min(loss, key=loss.get)
  quantile, behind = stats.t.ppf((1 + level) / 2, len(without) - 1), {}
  for width in widths:
    if width != best:
      contrast = rows[width] - rows[best]
      error = quantile * jackknife_error(without @ contrast)
      gap = float(contrast @ theta)
      behind[width] = gap, gap - error, gap + error
  return Comparison(float(bits), loss, best, behind)


def jackknife_error(values: np.ndarray) -> float:
  """The standard error of a statistic, of its values without each observation."""
  number = len(values)
  return float(np.sqrt((number - 1) / number * np.square(values - values.mean()).sum()))
