"""A form fitted to runs, with the uncertainty that their noise leaves.

Intervals are percentiles of refits to simulated noise, of which a part is shared by clusters (see
`scaling/fitting/noise.py`). Parameters that the runs may bound on one side alone have the interval
of their profile: the values at which the objective, minimised over all others, is higher than at
the optimum by no more than simulated noise makes it at the truth.

P runs, K parameters, S samples.
"""

import dataclasses
import functools
import math
from typing import Any

import numpy as np

from scaling.fitting import regression
from scaling.fitting.misfit import Misfit, find_misfit
from scaling.fitting.parametric import draw_bends
from scaling.fitting.regression import Regression, Samples
from scaling.fitting.runs import Runs, check_settings, check_unique, check_varied
from scaling.forms.form import Form
from t5x_lite.core.errors import UserError

WIDE = 3.0          # ratio of an interval's ends from which a constant is hardly identified
_PROFILE_SIMULATIONS = 40   # at least, and two of them beyond the level
_PROFILE_POINTS = 12   # steps of a factor of at most two on each side of the optimum
_EDGE = 1e-3        # of theta from a bound, at which it is there
_FAR = 5.0          # robust standard deviations from which a run is an outlier
_SINGULAR = 1e15    # condition number of J^T J above which a direction is not told


@dataclasses.dataclass(frozen=True)
class FormFit:
  """A fitted form, its runs, and the samples of its uncertainty; None before `bootstrap`."""
  form: Form
  runs: Runs
  regression: Regression
  samples: Samples | None = None

  @functools.cached_property
  def law(self) -> Any:
    return self.form.law(self.regression.theta)

  @property
  def residuals(self) -> np.ndarray:
    """log loss less the law's, [P]."""
    return self.regression.residuals

  @property
  def scale(self) -> float:
    """Robust standard deviation of the residuals; nan for as many runs as parameters."""
    return self.regression.scale

  @functools.cached_property
  def misfit(self) -> Misfit | None:
    """Whether an exponent changes with N or D; None if the runs cannot tell."""
    return find_misfit(self.residuals, self.regression.jacobian, np.log(self.runs.parameters),
                       np.log(self.runs.tokens), self.runs.clusters)

  @functools.cached_property
  def laws(self) -> list[Any]:
    """The law of each sample."""
    if self.samples is None:
      raise ValueError('call bootstrap(fit) first: intervals need its samples')
    return [self.form.law(theta) for theta in self.samples.theta]

  def intervals(self, level: float) -> dict[str, tuple[float, float]]:
    """Percentiles of each parameter over the samples."""
    columns = zip(self.form.names, self.samples.theta.T)
    return {name: _percentiles(np.exp(x) if name in self.form.logs else x, level)
            for name, x in columns}

  def quantity(self, of, level: float) -> tuple[float, float, float]:
    """(value, low, high) of a function of the law."""
    with np.errstate(all='ignore'):
      return float(of(self.law)), *_percentiles([of(law) for law in self.laws], level)


def _percentiles(values, level: float) -> tuple[float, float]:
  values = np.array(values, float)
  values[np.isnan(values)] = np.inf
  low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2], method='inverted_cdf')
  return float(low), float(high)


def default_loss(form: Form, runs: Runs) -> regression.Loss:
  """Huber's for at least three runs a parameter; of fewer, it would pass through most."""
  return 'huber' if len(runs) >= 3 * len(form.names) else 'linear'


def fit_form(form: Form, runs: Runs, loss: regression.Loss = 'huber') -> FormFit:
  """The form at the lowest objective over its starts.

  Raises UserError if the runs lack its columns, are too few or too alike, or do not identify it.
  """
  check_settings(runs, form.settings, form.optional)
  if not form.unique:
    check_unique(runs)
  if len(runs) <= len(form.names):
    raise UserError(f'{len(runs)} runs do not identify {len(form.names)} parameters and their '
                    f'noise: this form needs at least {len(form.names) + 1}')
  check_varied(runs)
  form.check(runs)
  with np.errstate(all='ignore'):
    found = regression.fit(form.predict(runs), [form.pack(start) for start in form.starts(runs)],
                           np.log(runs.loss), loss=loss, bounds=form.box())
    fit = FormFit(form, runs, found)
    if reason := unidentified(fit):
      raise UserError(f'the form cannot be identified from these {len(runs)} runs: {reason}')
    if fit.misfit is not None and fit.misfit.refused:
      raise UserError(fit.misfit.refusal('this form'))
  return fit


def unidentified(fit: FormFit) -> str | None:
  """Why the runs do not identify the form, with the cure; None if they do."""
  form, found = fit.form, fit.regression
  low, high = form.box()
  values = form.unpack(found.theta)
  firm = [i for i, name in enumerate(form.names) if name not in form.doubtful]
  for i in firm:
    name = form.names[i]
    if min(found.theta[i] - low[i], high[i] - found.theta[i]) < _EDGE and name != 'e':
      return f'{name} is at a bound, {values[name]:.3g}; add runs over wider ranges of N and D'
  lengths = np.linalg.norm(found.jacobian[:, firm], axis=0)
  if not (lengths > 0).all() or np.linalg.cond(found.jacobian[:, firm] / lengths) ** 2 > _SINGULAR:
    return ('different constants give the same losses at these runs; add runs of other D / N '
            f'and size{" and " + " and ".join(form.settings) if form.settings else ""}')
  errors = np.linalg.norm(np.linalg.pinv(found.jacobian[:, firm], rcond=1e-14), axis=1)
  errors = dict(zip((form.names[i] for i in firm), errors * found.scale))
  for name in form.exponents:
    if not errors[name] < abs(values[name]):
      return (f'{name} is {values[name]:.2g} with a standard error of {errors[name]:.2g}; add runs '
              'over wider ranges of N and D')
  return None


def bootstrap(fit: FormFit, count: int, seed: int = 0) -> FormFit:
  """The fit with `count` refits to simulated noise about it.

  Where the runs cast doubt on the form, a third has the bend taken out of the runs above it, and a
  third out of those below (see `parametric.bootstrap`).
  """
  doubted = fit.misfit is not None and fit.misfit.doubted
  shifts = (lambda rng: -draw_bends(fit.misfit, rng, count)) if doubted else None
  with np.errstate(all='ignore'):
    samples = regression.refit(fit.regression, fit.runs.clusters, count, seed, shifts=shifts)
  return dataclasses.replace(fit, samples=samples)


@dataclasses.dataclass(frozen=True)
class Profile:
  """The interval of one parameter by profile; an end at a bound is open.

  `open_low`, `open_high`: whether the runs put no limit there.
  """
  low: float
  high: float
  open_low: bool
  open_high: bool

  @property
  def wide(self) -> bool:
    return self.open_low or self.open_high or self.high > WIDE * self.low


def profile(fit: FormFit, name: str, level: float, seed: int = 0) -> Profile:
  """The values of a positive parameter that the runs do not exclude at this level."""
  found, index = fit.regression, fit.form.names.index(name)
  low, high = (bound[index] for bound in fit.form.box())
  with np.errstate(all='ignore'):
    limit = found.objective + _threshold(fit, index, level, seed)
    allowed = lambda x: regression.fix(found, index, x) <= limit
    best = found.theta[index]
    ends, opened = [], []
    for end in (low, high):
      inside, outside = best, None
      for x in best + np.linspace(0, end - best, _PROFILE_POINTS + 1)[1:]:
        if not allowed(x):
          outside = x
          break
        inside = x
      opened.append(outside is None)
      while outside is not None and abs(outside - inside) > 0.05:
        middle = (inside + outside) / 2
        inside, outside = (middle, outside) if allowed(middle) else (inside, middle)
      ends.append(math.exp(inside))
  return Profile(*ends, *opened)


def _threshold(fit: FormFit, index: int, level: float, seed: int) -> float:
  """The rise of the objective, with a parameter held at the truth, that noise exceeds rarely."""
  found = fit.regression
  rng = np.random.default_rng(seed)
  count = max(_PROFILE_SIMULATIONS, math.ceil(2 / (1 - level)))
  noisy, _ = found.noise(fit.runs.clusters).simulate(rng, count)
  centre, truth = found.predict(found.theta), found.theta[index]
  rises = []
  for row in noisy:
    free = regression.refit_to(found, centre + row).objective
    rises.append(max(regression.fix(found, index, truth, centre + row) - free, 0.0))
  return float(np.quantile(rises, level))


def held_out(fit: FormFit, cuts: int = 2) -> list[dict[str, float]]:
  """Errors on the runs above a compute cut of the form fitted to those below.

  Below the cuts are 1/2, 3/4 … of the runs; cuts that leave too few are left out.
  """
  runs, results = fit.runs, []
  order = np.sort(runs.flops)
  for i in range(1, cuts + 1):
    below = runs.flops <= 1.2 * order[math.ceil(len(runs) * (1 - 0.5 ** i)) - 1]
    if below.all() or below.sum() <= len(fit.form.names) + 1:
      continue
    kept = runs.select(below)
    with np.errstate(all='ignore'):
      found = regression.fit(fit.form.predict(kept), fit.regression.minima[:4, 1:],
                             np.log(kept.loss), loss=fit.regression.loss, bounds=fit.form.box())
      miss = (np.log(runs.loss) - fit.form.predict(runs)(found.theta))[~below]
    results.append({'cut': float(kept.flops.max()), 'fitted': int(below.sum()),
                    'tested': int((~below).sum()), 'error': float(np.abs(miss).mean()),
                    'bias': float(miss.mean()),
                    'reach': float(runs.flops.max() / kept.flops.max())})
  return results


def far_runs(fit: FormFit) -> list[int]:
  """Indices of the runs further from the law than five robust standard deviations."""
  if not fit.scale > 0:
    return []
  return [int(i) for i in np.flatnonzero(np.abs(fit.residuals) > _FAR * fit.scale)]
