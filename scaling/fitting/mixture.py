"""Mixtures of data by a swarm of proxy runs: losses as functions of the shares of the sources.

A proxy is trained on shares r of J sources and evaluated on V validation sets. For each set the
loss is one of three functions of r, the same for all sets, chosen by the error on held-out proxies:

  exponential: c + exp(sum_j t_j r_j), the data mixing law of Ye et al. 2024 (arXiv 2403.16952)
  linear: sum_j b_j r_j, the linear regression of Liu et al. 2024 ("RegMix", arXiv 2407.01492)
  quadratic: r' Q r, Scheffe's polynomial, which has sources that help each other

P proxies, J sources, V validation sets, K parameters, S samples.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import math
import pathlib

import numpy as np

from scaling.fitting import regression
from scaling.fitting.table import read_table
from t5x_lite.core.errors import UserError

FORMS = ('exponential', 'linear', 'quadratic')
MIN_EXPLAINED = 0.25   # share of the variance of held-out proxies below which nothing is told
_SUM = 0.005          # difference of the shares of a proxy from 1 that rounding explains
_SPARE = 2            # proxies beyond the parameters that a form needs
_FOLDS = 10
_STEEP = 50.0         # bound of t


@dataclasses.dataclass(frozen=True)
class Swarm:
  """Proxy runs.

  Attributes:
    shares: [P, J], rows that sum to 1.
    losses: [P, V].
    sources, sets: names, [J] and [V].
    weights: [V] of the sets in the loss that is minimised; they sum to 1.
  """
  shares: np.ndarray
  losses: np.ndarray
  sources: tuple[str, ...]
  sets: tuple[str, ...]
  weights: np.ndarray

  def __len__(self) -> int:
    return len(self.shares)

  @property
  def loss(self) -> np.ndarray:
    """[P], weighted over the sets."""
    return self.losses @ self.weights


def read_swarm(path: pathlib.Path | str, sources: Sequence[str], sets: Mapping[str, float]
               ) -> Swarm:
  """The proxies of a CSV file with a column for each source and each validation set.

  Args:
    sets: column of losses -> weight.

  Raises:
    UserError: for missing columns, shares that are negative or do not sum to 1, sources whose
      shares do not move or move together, and losses that are not above 0.
  """
  table = read_table(path)
  for name in sources:
    table.check(name, '--sources')
  for name in sets:
    table.check(name, '--losses')
  shares = np.stack([table.numbers(name) for name in sources], 1)
  losses = np.stack([table.numbers(name) for name in sets], 1)
  for i, name in enumerate(table.names):
    wrong = ~(np.isfinite(losses[i]) & (losses[i] > 0))
    if wrong.any():
      raise UserError(f'{name}: {list(sets)[wrong.argmax()]} is {losses[i][wrong.argmax()]:g}, '
                      'expected a number above 0: leave diverged runs out')
    negative = ~(shares[i] >= 0)
    if negative.any():
      raise UserError(f'{name}: {sources[negative.argmax()]} is {shares[i][negative.argmax()]:g}, '
                      'expected a share between 0 and 1')
    if abs(shares[i].sum() - 1) > _SUM:
      raise UserError(f'{name}: the shares sum to {shares[i].sum():.5g}, not to 1: name all '
                      'sources with --sources, as fractions')
  weights = np.array(list(sets.values()))
  swarm = Swarm(shares / shares.sum(1, keepdims=True), losses, tuple(sources), tuple(sets),
                weights / weights.sum())
  _check_varied(swarm)
  return swarm


def _check_varied(swarm: Swarm) -> None:
  spread = np.ptp(swarm.shares, axis=0)
  for name, width in zip(swarm.sources, spread):
    if width < 1e-3:
      raise UserError(f'{name}: its share is the same in all proxies, which tells nothing of it: '
                      'add proxies with other shares (--design draws some)')
  need = len(swarm.sources) + _SPARE
  if len(swarm) < need:
    raise UserError(f'{len(swarm)} proxies for {len(swarm.sources)} sources: {need} or more are '
                    'needed, and several times as many for a narrow interval')
  singular = np.linalg.svd(swarm.shares - swarm.shares.mean(0), compute_uv=False)
  if singular[len(swarm.sources) - 2] < 1e-3 * singular[0]:
    raise UserError('the shares of some sources move together over all proxies, and cannot be told '
                    'apart: add proxies with other shares (--design draws some)')


@dataclasses.dataclass(frozen=True)
class MixtureFit:
  """One form fitted to all sets.

  Attributes:
    theta: [V, K].
    samples: [S, V, K], refits to simulated noise.
    noise: [V], standard deviation of the loss of a proxy about the fit.
    held_out: rms error of the weighted loss on held-out proxies.
  """
  form: str
  swarm: Swarm
  theta: np.ndarray
  samples: np.ndarray
  noise: np.ndarray
  held_out: float

  def loss(self, shares: np.ndarray, theta: np.ndarray | None = None) -> np.ndarray:
    """Weighted loss [...] at shares [..., J]; by theta [..., V, K] where given."""
    theta = self.theta if theta is None else theta
    values = _predict(self.form, theta, shares[..., None, :])
    return (values * self.swarm.weights).sum(-1)

  def slope(self, shares: np.ndarray, theta: np.ndarray) -> np.ndarray:
    """Derivatives [..., J] of the weighted loss by the shares."""
    values = _slope(self.form, theta, shares[..., None, :])
    return (values * self.swarm.weights[:, None]).sum(-2)


def count_parameters(form: str, sources: int) -> int:
  """K."""
  return {'exponential': sources + 1, 'linear': sources,
          'quadratic': sources * (sources + 1) // 2}[form]


def _matrix(theta: np.ndarray, sources: int) -> np.ndarray:
  """Q [..., J, J] of the coefficients of its upper triangle."""
  rows, columns = np.triu_indices(sources)
  full = np.zeros((*theta.shape[:-1], sources, sources))
  full[..., rows, columns] = theta / 2
  return full + np.swapaxes(full, -1, -2)


def _predict(form: str, theta: np.ndarray, shares: np.ndarray) -> np.ndarray:
  """Loss [...] of one set at shares [..., J] by theta [..., K]."""
  if form == 'exponential':
    return theta[..., 0] + np.exp((theta[..., 1:] * shares).sum(-1))
  if form == 'linear':
    return (theta * shares).sum(-1)
  return np.einsum('...i,...ij,...j->...', shares, _matrix(theta, shares.shape[-1]), shares)


def _slope(form: str, theta: np.ndarray, shares: np.ndarray) -> np.ndarray:
  """Derivatives [..., J] of `_predict` by the shares."""
  if form == 'exponential':
    return theta[..., 1:] * np.exp((theta[..., 1:] * shares).sum(-1))[..., None]
  if form == 'linear':
    return np.broadcast_to(theta, (*shares.shape[:-2], *theta.shape[-2:]))
  return 2 * np.einsum('...ij,...j->...i', _matrix(theta, shares.shape[-1]), shares)


def _columns(form: str, shares: np.ndarray) -> np.ndarray:
  """Regressors [P, K] of a form that is linear in its parameters."""
  if form == 'linear':
    return shares
  rows, columns = np.triu_indices(shares.shape[1])
  return shares[:, rows] * shares[:, columns]


def _solve(form: str, shares: np.ndarray, y: np.ndarray, near: np.ndarray | None = None
           ) -> np.ndarray:
  """theta [K] by least squares; of the exponential from `near`, or from several c."""
  if form != 'exponential':
    return np.linalg.lstsq(_columns(form, shares), y, rcond=None)[0]
  span = max(np.ptp(y), 1e-6)
  starts = [near] if near is not None else [
      np.array([c, *np.linalg.lstsq(shares, np.log(y - c), rcond=None)[0]])
      for c in y.min() - span * np.array([0.05, 0.5, 3.0])]
  def jacobian(theta):
    rise = np.exp(shares @ theta[1:])
    return np.concatenate([np.ones((len(y), 1)), rise[:, None] * shares], 1)
  bounds = (np.append(y.min() - 10 * span, np.full(shares.shape[1], -_STEEP)),
            np.append(y.max(), np.full(shares.shape[1], _STEEP)))
  return regression.fit(lambda theta: theta[0] + np.exp(shares @ theta[1:]), starts, y,
                        loss='linear', delta=span, jacobian=jacobian, bounds=bounds).theta


def fit_mixture(swarm: Swarm, form: str | None = None, count: int = 200, seed: int = 0
                ) -> tuple[MixtureFit, dict[str, float]]:
  """(the fit, form -> rms error on held-out proxies, with that of the mean under 'mean').

  Of several forms the one of least held-out error is taken.

  Raises:
    UserError: too few proxies for the form; or it predicts held-out proxies no better than their
      mean does.
  """
  size = len(swarm.sources)
  able = [name for name in FORMS if len(swarm) >= count_parameters(name, size) + _SPARE]
  names = able if form is None else [name for name in able if name == form]
  if not names:
    raise UserError(f'{len(swarm)} proxies: the {form} form of {size} sources has '
                    f'{count_parameters(form, size)} parameters and needs '
                    f'{count_parameters(form, size) + _SPARE}')
  held = {name: _held_out(name, swarm, seed) for name in names}
  mean = _held_out('mean', swarm, seed)
  best = min(held, key=held.get)
  explained = 1 - (held[best] / mean) ** 2
  if explained < MIN_EXPLAINED:
    raise UserError(f'the shares do not tell the loss: on held-out proxies the {best} form is off '
                    f'by {held[best]:.3g}, their mean by {mean:.3g}. Train proxies longer, over '
                    'several seeds, or over more different shares')
  theta = np.stack([_solve(best, swarm.shares, y) for y in swarm.losses.T])
  fitted = _predict(best, theta[None], swarm.shares[:, None])
  residuals, freedom = swarm.losses - fitted, len(swarm) - theta.shape[1]
  covariance = residuals.T @ residuals / freedom
  samples = _resample(best, swarm, theta, fitted, covariance, freedom, count, seed)
  fit = MixtureFit(best, swarm, theta, samples, np.sqrt(np.diag(covariance)), held[best])
  return fit, {**held, 'mean': mean}


def _resample(form, swarm, theta, fitted, covariance, freedom, count, seed) -> np.ndarray:
  """Refits [S, V, K] to noise that the sets of a proxy share by their covariance."""
  rng = np.random.default_rng(seed)
  values, vectors = np.linalg.eigh(covariance)
  root = vectors * np.sqrt(np.maximum(values, 0))
  noise = rng.standard_normal((count, *fitted.shape)) @ root.T
  noisy = fitted + noise * np.sqrt(freedom / rng.chisquare(freedom, (count, 1, 1)))
  if form != 'exponential':
    inverse = np.linalg.pinv(_columns(form, swarm.shares))
    return np.einsum('kp,spv->svk', inverse, noisy)
  return np.array([[_solve(form, swarm.shares, noisy[s, :, v], theta[v])
                    for v in range(len(theta))] for s in range(count)])


def _held_out(form: str, swarm: Swarm, seed: int) -> float:
  """Root mean squared error of the weighted loss of proxies, each left out with its fold."""
  order = np.random.default_rng(seed).permutation(len(swarm))
  errors = []
  for fold in np.array_split(order, min(_FOLDS, len(swarm))):
    kept = np.setdiff1d(order, fold)
    if form == 'mean':
      predicted = swarm.losses[kept].mean(0)[None]
    else:
      theta = np.stack([_solve(form, swarm.shares[kept], y[kept]) for y in swarm.losses.T])
      predicted = _predict(form, theta[None], swarm.shares[fold][:, None])
    errors.append(((predicted - swarm.losses[fold]) @ swarm.weights) ** 2)
  return math.sqrt(np.concatenate(errors).mean())


def draw_design(natural: np.ndarray, count: int, limits: np.ndarray, seed: int = 0) -> np.ndarray:
  """Shares [count, J] of a swarm: the natural ones, then draws about them as RegMix has it.

  Each is of a Dirichlet distribution about the square roots of the natural shares, whose strength
  is between 0.1 and 5; shares below 2e-4 are none.

  Raises UserError where hardly a draw is within the limits [J].
  """
  rng = np.random.default_rng(seed)
  centre = np.sqrt(natural) / np.sqrt(natural).sum()
  found = [natural] if (natural <= limits + 1e-9).all() else []
  for _ in range(2000 * count):
    if len(found) >= count:
      break
    strength = math.exp(rng.uniform(math.log(0.1), math.log(5)))
    drawn = rng.dirichlet(np.maximum(centre * strength, 1e-3))
    drawn = np.where(drawn < 2e-4, 0.0, drawn)
    drawn = np.round(drawn / drawn.sum(), 4)
    drawn[drawn.argmax()] += 1 - drawn.sum()
    if (drawn <= limits + 1e-9).all() and not any(np.abs(drawn - x).max() < 1e-3 for x in found):
      found.append(drawn)
  if len(found) < count:
    raise UserError(f'{len(found)} of {count} mixtures were found within the limits: raise them, '
                    'or draw fewer')
  return np.array(found)
