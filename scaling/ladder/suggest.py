"""Which runs next: those that narrow a quantity most for their FLOPs, chosen one after another.

The variance of the quantity follows from the runs by the delta method (information.py), with noise
of each run and noise that the runs of a size share. Candidates are a grid of sizes and budgets up
to a limit. Each round takes the candidate that lowers the log variance most per FLOP; a weak prior
stands in for runs while there are too few.
"""

from collections.abc import Sequence
import dataclasses
import math

import numpy as np

from scaling.fitting import solver
from scaling.ladder import information
from scaling.ladder.information import Noise
from scaling.laws.laws import ParametricLaw

STEP = math.log(2) / 2        # of the grid of sizes, in ln N; budgets double
REACH = 4                     # of the grid about the optimum of a budget, in steps up and down
# Standard deviations of (ln A, ln B, ln E, alpha, beta) about the published laws, with A and B at
# the middle of the runs.
PRIOR = np.array([1.0, 1.0, 0.3, 0.1, 0.1])


@dataclasses.dataclass(frozen=True)
class Candidate:
  """A run that may be trained."""
  parameters: float
  tokens: float

  @property
  def flops(self) -> float:
    return 6 * self.parameters * self.tokens


@dataclasses.dataclass(frozen=True)
class Suggestion:
  """A run of a recipe, and the standard error of the quantity once it is trained."""
  recipe: int
  run: Candidate
  error: float


def candidate_grid(law: ParametricLaw, smallest: float, largest: float,
                   sizes: tuple[float, float] = (0.0, math.inf)) -> list[Candidate]:
  """Sizes about the optimum of each budget, which halve from the largest; sizes within bounds."""
  found = []
  for i in range(int(math.log2(largest / smallest) + 1e-9) + 1):
    flops = largest / 2 ** i
    centre = round(math.log(law.optimum(flops)[0] / law.optimum(largest)[0]) / STEP)
    for j in range(centre - REACH, centre + REACH + 1):
      n = law.optimum(largest)[0] * math.exp(STEP * j)
      if sizes[0] <= n <= sizes[1]:
        found.append(Candidate(n, flops / 6 / n))
  return found


class Knowledge:
  """What the runs of one law tell: the information of each size, and of all, over a weak prior.

  The information of a size is (J^T J - w s s^T) / own^2, with s the sum of the rows of J of its m
  runs, and w = shared^2 / (own^2 + m shared^2).
  """

  def __init__(self, law: ParametricLaw, noise: Noise, gradient: np.ndarray,
               parameters: Sequence[float] = (), tokens: Sequence[float] = ()):
    """`gradient` of the quantity by theta [5]; the runs have these N and D."""
    self.law, self.noise, self.gradient = law, noise, gradient
    self.sizes = {}   # of each size: (J^T J, s, m)
    pairs = list(zip(parameters, tokens))
    middle = np.log(pairs).mean(0) if pairs else np.log(law.optimum(1e20))
    spread = np.eye(5)
    spread[0, 3], spread[1, 4] = middle   # A and B at the middle hardly depend on the exponents
    self.total = np.linalg.inv(spread @ np.diag(PRIOR ** 2) @ spread.T)
    for n, d in pairs:
      self.add(Candidate(n, d))

  def rows(self, runs: Sequence[Candidate]) -> np.ndarray:
    """J [runs, 5]."""
    return solver.jacobian(information.theta_of(self.law), np.log([r.parameters for r in runs]),
                           np.log([r.tokens for r in runs]))

  def add(self, run: Candidate, row: np.ndarray | None = None) -> None:
    row = self.rows([run])[0] if row is None else row
    key = _size(run)
    before = self.sizes.get(key, (np.zeros((5, 5)), np.zeros(5), 0))
    self.sizes[key] = before[0] + np.outer(row, row), before[1] + row, before[2] + 1
    self.total = self.total + self._of(self.sizes[key]) - self._of(before)

  def _of(self, size) -> np.ndarray:
    gram, total, count = size
    own, shared = self.noise.own ** 2, self.noise.shared ** 2
    return (gram - shared / (own + count * shared) * np.outer(total, total)) / own

  def variance(self) -> float:
    """Of the quantity."""
    return float(self.gradient @ np.linalg.solve(self.total, self.gradient))

  def variances_with(self, runs: Sequence[Candidate], rows: np.ndarray) -> np.ndarray:
    """The variance [runs] after each of these alone."""
    found = []
    for run, row in zip(runs, rows):
      before = self.sizes.get(_size(run), (np.zeros((5, 5)), np.zeros(5), 0))
      after = before[0] + np.outer(row, row), before[1] + row, before[2] + 1
      found.append(self.total + self._of(after) - self._of(before))
    totals = np.array(found)
    return np.linalg.solve(totals, np.broadcast_to(self.gradient, (len(runs), 5))[..., None]
                           )[..., 0] @ self.gradient


def _size(run: Candidate) -> int:
  """Runs within 1 % of N are of one size."""
  return round(math.log(run.parameters) / 0.01)


def suggest_runs(known: Sequence[Knowledge], candidates: Sequence[Sequence[Candidate]],
                 budget: float, *, error: float = 0.0, count: int = 1000
                 ) -> list[Suggestion]:
  """The runs to train next, in order.

  Args:
    known: what is known of each law; the variance of the quantity is the sum of theirs. Changed.
    candidates: of each law.
    budget: FLOPs of all runs together.
    error: the standard error of the quantity at which no more runs are needed.
    count: at most so many runs.
  """
  left = [(i, run) for i, runs in enumerate(candidates) for run in runs]
  rows = [None] * len(left)
  for i, each in enumerate(known):
    of_law = [j for j, (k, _) in enumerate(left) if k == i]
    for j, row in zip(of_law, each.rows([left[j][1] for j in of_law]) if of_law else ()):
      rows[j] = row
  chosen = []
  while len(chosen) < count and _error(known) > error:
    budget_left = budget - sum(suggestion.run.flops for suggestion in chosen)
    best = _most_informative(known, left, rows, budget_left)
    if best is None:
      break
    i, run = left.pop(best)
    known[i].add(run, rows.pop(best))
    chosen.append(Suggestion(i, run, _error(known)))
  return chosen


def _error(known: Sequence[Knowledge]) -> float:
  return math.sqrt(sum(each.variance() for each in known))


def _most_informative(known, left, rows, budget: float) -> int | None:
  """The index of the candidate that lowers the log variance most per FLOP, within a budget."""
  own = [each.variance() for each in known]
  best, most = None, 0.0
  for i, each in enumerate(known):
    fits = [j for j, (k, run) in enumerate(left) if k == i and run.flops <= budget]
    if not fits:
      continue
    after = each.variances_with([left[j][1] for j in fits], np.array([rows[j] for j in fits]))
    gains = -np.log((sum(own) - own[i] + after) / sum(own)) / [left[j][1].flops for j in fits]
    j = int(np.argmax(gains))
    if gains[j] > most:
      best, most = fits[j], float(gains[j])
  return best
