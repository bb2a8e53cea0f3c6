"""The law L = E + A / N^alpha + B / D^beta of few runs, as a posterior under wide published priors.

At the middle of the runs, the geometric means of N and D, the law is L0 (e + a + b), where e, a and
b are the shares of E and of the two terms. The priors are of that point, so they say nothing of the
unit of the loss, of the vocabulary, or of the sizes: e is uniform, so E is anywhere between 0 and
the loss; a / b, alpha and beta are near those of the published laws, several times as wide. Noise
is normal in log loss, of each run and of its cluster (noise.py). Its total variance is integrated
out, which makes the likelihood Student's: with few runs it would be the neck of a funnel, in which
a sampler stays.

A point [6] is (ln L0, logit e, ln a / b, ln sqrt(alpha beta), ln beta / alpha, logit of the shared
fraction of the variance). P runs, G clusters, C chains, T draws of each.
"""

from concurrent import futures
import dataclasses
import functools
import math
import os

import jax
import jax.numpy as jnp
import numpy as np
from scipy import special

from scaling.fitting.noise import percent
from scaling.fitting.parametric import Fit, percentiles, refuse_misfit
from scaling.fitting.runs import Runs, check_settings, check_unique
from scaling.laws.laws import ParametricLaw
from t5x_lite.core.errors import UserError

MIN_RUNS, MAX_RUNS = 3, 500
# (mean, standard deviation) of each coordinate. That of ln L0 is about the mean of the runs, and e
# is uniform: logit e has a logistic prior, of this deviation.
PRIORS = {
    'ln L0': (0.0, 1.0),
    'logit e': (0.0, 1.8),
    'ln a / b': (0.0, 1.25),                        # published: -0.4 to 0 at N = 1e9, D = 2e10
    'ln sqrt(alpha beta)': (math.log(0.33), 0.4),   # published: ln 0.31 to ln 0.36
    'ln beta / alpha': (0.0, 0.5),                  # published: -0.2 to 0.1; the exponent of N* is
                                                    # 0.27 to 0.73 at 95 %
    'logit shared': (1.5, 2.5),                     # nearly even in the log of the own fraction
}
# The largest fraction of the variance that clusters share: own noise is at least a tenth of theirs,
# or a sampler would stay where there is none.
_SHARED = 0.99
# The variance of the noise is _FREEDOM _NOISE^2 over a chi^2 of _FREEDOM degrees: its root is 0.16
# to 1.9 % at 95 %.
_FREEDOM, _NOISE = 2, 0.003
_MEANS, _SPREADS = np.array(list(PRIORS.values())).T
CHAINS = 4
_WARMUP, _DRAWS = 400, 1000
_ACCEPTANCE = 0.9
_REFUSED = {'rhat': 1.1, 'effective': 50, 'divergent': 0.05}
_WARNED = {'rhat': 1.02, 'effective': 150, 'divergent': 0.01}


@dataclasses.dataclass(frozen=True)
class Posterior(Fit):
  """A Fit whose samples are draws of the posterior; `law` is the draw nearest to their middle.

  Attributes:
    own, shared: [samples], standard deviations of the noise.
    prior: laws of the prior, [samples], with the draws' loss at the middle of the runs.
    rhat: the greatest of the coordinates, which is 1 where all chains agree (split R-hat).
    effective: the smallest effective number of draws of the coordinates.
    divergent: fraction of the sampler's steps that failed.
  """
  own: np.ndarray = None
  shared: np.ndarray = None
  prior: ParametricLaw = None
  rhat: float = math.nan
  effective: float = math.nan
  divergent: float = math.nan

  @property
  def scale(self) -> float:
    """Posterior median of the standard deviation of a new run."""
    return float(np.median(np.hypot(self.own, self.shared)))

  @property
  def resampling(self) -> str:
    own, shared = (percent(float(np.median(x))) for x in (self.own, self.shared))
    return (f'percentiles of {len(self.noise)} draws of the posterior, by NUTS in {CHAINS} chains; '
            f'priors of published laws, widened; noise of {shared} shared by a cluster and {own} a '
            'run')

  def prior_shares(self, flops: float, level: float = 0.95) -> dict[str, float]:
    """The prior's share of what is known of ln N* and of ln L* of a budget, from 0 to 1.

    It is the squared ratio of the widths of the posterior's and the prior's intervals, which for
    normal ones is the prior's share of the precision. The prior of the loss is that of its ratio to
    the loss at the middle of the runs.
    """
    widths = []
    for laws in (self.with_optimum(), self.prior):
      n, d = laws.optimum(flops)
      middle = laws.loss(*_middle(self.runs))
      low, high = np.transpose([percentiles(x, level) for x in (
          np.log(n), np.log(laws.loss(n, d) / middle))])
      widths.append(high - low)
    shares = np.minimum((widths[0] / widths[1]) ** 2, 1.0)
    return {'parameters': float(shares[0]), 'loss': float(shares[1])}

  def sampler_warnings(self) -> list[str]:
    """A line if the chains hardly agree, or failed at many steps."""
    if _worse(self, _WARNED):
      return [f'the sampler has not settled ({_state(self)}): intervals are rough; try another '
              '--seed, or add runs']
    return []


def fit_posterior(runs: Runs, count: int = 1000, seed: int = 0) -> Posterior:
  """The posterior of a law from 3 runs on, as `count` draws of NUTS.

  Raises UserError if blackjax is missing, the runs are too few or repeat tokens, if they contradict
  the law, or if the chains do not agree.
  """
  if not MIN_RUNS <= len(runs) <= MAX_RUNS:
    raise UserError(f'{len(runs)} run{"s" if len(runs) != 1 else ""}: --bayes is for {MIN_RUNS} to '
                    f'{MAX_RUNS}; ' + ('add runs' if len(runs) < MIN_RUNS else 'leave it out'))
  check_unique(runs)
  check_settings(runs)
  draws = max(_DRAWS, math.ceil(count / CHAINS))
  for longer in (1, 4):   # the first is enough unless few runs leave the posterior bent
    points, failed = sample_points([runs], seed, longer * draws)
    found = make_posterior(runs, points[0], failed[0], count, seed)
    if not _worse(found, _WARNED):
      break
  if _worse(found, _REFUSED):
    raise UserError(f'the sampler found no posterior of these {len(runs)} runs ({_state(found)}): '
                    'correct runs that are far off, or add runs')
  refuse_misfit(found)
  return found


def sample_points(all_runs: list[Runs], seed: int = 0, draws: int = _DRAWS, warmup: int = _WARMUP,
                  chains: int = CHAINS) -> tuple[np.ndarray, np.ndarray]:
  """Draws of the posterior of each of S sets of as many runs: ([S, C, T, 6], diverged [S, C, T]).

  All sets are one compiled program, in two halves at a time.
  """
  try:
    import blackjax  # noqa: F401 (an optional package)
  except ImportError:
    raise UserError("--bayes needs blackjax: pip install -e '.[bayes]'") from None
  groups = max(int(runs.clusters.max()) + 1 for runs in all_runs)
  columns = [(*_centred(runs), np.log(runs.loss), np.eye(groups)[runs.clusters])
             for runs in all_runs]
  n, d, y, members = (np.repeat(np.stack(x), chains, 0) for x in zip(*columns))
  rng = np.random.default_rng(seed)
  starts = _MEANS + 0.5 * _SPREADS * rng.standard_normal((len(y), len(_MEANS)))
  starts[:, 0] = y.mean(1)

  def run(part):
    with jax.enable_x64(True):   # of this thread alone
      keys = jax.random.split(jax.random.fold_in(jax.random.key(seed), part[0]), len(part))
      found = _draw(keys, starts[part], y[part], n[part], d[part], members[part],
                    warmup=warmup, draws=draws)
      return [np.asarray(x) for x in found]

  halves = np.split(np.arange(len(y)), 2 if len(y) % 2 == 0 else 1)
  with futures.ThreadPoolExecutor(os.cpu_count()) as pool:
    points, failed = (np.concatenate(x) for x in zip(*pool.map(run, halves)))
  shape = len(all_runs), chains, draws
  return points.reshape(*shape, -1), failed.reshape(shape)


def make_posterior(runs: Runs, points: np.ndarray, failed: np.ndarray, count: int = 1000,
                   seed: int = 0) -> Posterior:
  """The Posterior of points [C, T, 6] of chains, thinned to `count` draws."""
  from blackjax import diagnostics
  rng = np.random.default_rng([seed, 1])
  flat = points.reshape(-1, points.shape[-1])
  kept = flat[np.linspace(0, len(flat) - 1, count).round().astype(int)]
  deviation = np.sqrt(_noise_scales(kept, runs) / rng.chisquare(len(runs) + _FREEDOM, count))
  fraction = _SHARED * special.expit(kept[:, 5])
  own, shared = deviation * np.sqrt(1 - fraction), deviation * np.sqrt(fraction)
  samples = _laws(kept, runs)
  index = _middle_draw(samples, runs)
  law = ParametricLaw(*(float(x[index]) for x in dataclasses.astuple(samples)))
  misses = np.log(runs.loss) - np.log(law.loss(runs.parameters, runs.tokens))
  prior = _MEANS + _SPREADS * rng.standard_normal(kept.shape)
  prior[:, 0], prior[:, 1] = kept[:, 0], rng.logistic(size=count)
  with jax.enable_x64(True):
    rhat = float(np.max(diagnostics.potential_scale_reduction(points)))
    effective = float(np.min(diagnostics.effective_sample_size(points)))
  return Posterior(
      law, runs, 'normal', float((misses ** 2).sum()), 'posterior', samples,
      deviation * rng.standard_normal(count), own=own, shared=shared,
      prior=_laws(prior, runs), rhat=rhat, effective=effective, divergent=float(failed.mean()))


@functools.partial(jax.jit, static_argnames=('warmup', 'draws'))
def _draw(keys, starts, y, n, d, members, *, warmup, draws):
  """NUTS of C chains from starts [C, 6]: (points [C, T, 6], whether a step diverged [C, T])."""
  import blackjax

  def chain(key, start, *data):
    density = functools.partial(_log_density, data=data)
    first, second = jax.random.split(key)
    adapt = blackjax.window_adaptation(blackjax.nuts, density, is_mass_matrix_diagonal=False,
                                       target_acceptance_rate=_ACCEPTANCE)
    (state, tuned), _ = adapt.run(first, start, num_steps=warmup)
    kernel = blackjax.nuts(density, **tuned)

    def step(state, key):
      state, info = kernel.step(key, state)
      return state, (state.position, info.is_divergent)

    return jax.lax.scan(step, state, jax.random.split(second, draws))[1]

  return jax.vmap(chain)(keys, starts, y, n, d, members)


def _log_density(x, data):
  """Log of prior and likelihood of a point [6], up to a constant."""
  y, n, d, members = data   # [P], [P] and [P] from their middle, [P, G]
  z = (x - _MEANS) / _SPREADS
  prior = (-0.5 * ((z[0] - y.mean()) ** 2 + (z[2:] ** 2).sum())
           + jax.nn.log_sigmoid(x[1]) + jax.nn.log_sigmoid(-x[1]))
  log_e, log_a, log_b, alpha, beta = _constants(x, jax.nn.log_sigmoid, jnp)
  law = jnp.logaddexp(jnp.logaddexp(log_a - alpha * n, log_b - beta * d), log_e)
  fraction, sizes = _SHARED * jax.nn.sigmoid(x[5]), members.sum(0)
  own, total = 1 - fraction, 1 - fraction + sizes * fraction
  determinant = jnp.where(sizes > 0, (sizes - 1) * jnp.log(own) + jnp.log(total), 0.0).sum()
  scale = _FREEDOM * _NOISE ** 2 + _squares(y - law, fraction, members)
  return prior - 0.5 * (determinant + (len(y) + _FREEDOM) * jnp.log(scale))


def _squares(miss, fraction, members):
  """Squares of misses [..., P] over their covariance, but for the total variance.

  That of a cluster of m runs is (1 - f) I + f 1 1^T, with the determinant
  (1 - f)^(m - 1) (1 - f + m f).
  """
  own, shared = 1 - fraction, fraction
  total = own[..., None] + members.sum(0) * shared[..., None]
  return ((miss ** 2).sum(-1) - shared * ((miss @ members) ** 2 / total).sum(-1)) / own


def _noise_scales(points: np.ndarray, runs: Runs) -> np.ndarray:
  """[T], over which a chi^2 of P + _FREEDOM degrees of freedom is the variance, given a point."""
  laws = _laws(points, runs)
  law = np.log([laws.loss(n, d) for n, d in zip(runs.parameters, runs.tokens)]).T   # [T, P]
  members = np.eye(int(runs.clusters.max()) + 1)[runs.clusters]
  return _FREEDOM * _NOISE ** 2 + _squares(
      np.log(runs.loss) - law, _SHARED * special.expit(points[:, 5]), members)


def _constants(x, log_sigmoid, xp):
  """(ln E, ln A, ln B, alpha, beta), A and B at the middle, of a point [6] or of [6, T]."""
  left = log_sigmoid(-x[1])
  return (x[0] + log_sigmoid(x[1]), x[0] + left + log_sigmoid(x[2]), x[0] + left
          + log_sigmoid(-x[2]), xp.exp(x[3] - x[4] / 2), xp.exp(x[3] + x[4] / 2))


def _laws(points: np.ndarray, runs: Runs) -> ParametricLaw:
  """The laws of points [T, 6]."""
  log_e, log_a, log_b, alpha, beta = _constants(points.T, lambda x: -np.logaddexp(0, -x), np)
  n, d = np.log(_middle(runs))
  return ParametricLaw(np.exp(log_e), np.exp(log_a + alpha * n), alpha,
                       np.exp(log_b + beta * d), beta)


def _middle(runs: Runs) -> tuple[float, float]:
  """Geometric means of N and D."""
  return tuple(math.exp(np.log(x).mean()) for x in (runs.parameters, runs.tokens))


def _centred(runs: Runs) -> list[np.ndarray]:
  return [np.log(x) - np.log(x).mean() for x in (runs.parameters, runs.tokens)]


def _middle_draw(laws: ParametricLaw, runs: Runs) -> int:
  """The draw nearest to the medians of what the laws predict, in standard deviations.

  That is the loss of the runs, and the optimal N and its loss at 1, 10 and 100 times the largest. A
  mean of the constants would be no law of the runs, since their posterior is bent.
  """
  groups = [np.log([laws.loss(n, d) for n, d in zip(runs.parameters, runs.tokens)])]
  for factor in (1, 10, 100):
    n, d = laws.optimum(factor * runs.flops.max())
    groups.append(np.log([n, laws.loss(n, d)]))
  distance = 0.0
  for x in groups:
    spread = np.maximum(x.std(1, keepdims=True), 1e-12)
    distance = distance + (((x - np.median(x, 1, keepdims=True)) / spread) ** 2).mean(0)
  return int(np.argmin(distance))


def _worse(found: Posterior, limits: dict[str, float]) -> bool:
  return not (found.rhat <= limits['rhat'] and found.effective >= limits['effective']
              and found.divergent <= limits['divergent'])


def _state(found: Posterior) -> str:
  return (f'R-hat {found.rhat:.3g}, {found.effective:.0f} effective draws, '
          f'{100 * found.divergent:.2g} % divergent')
