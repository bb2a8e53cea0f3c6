"""Coverage of scaling fits: the posterior of `fit --bayes` beside the bootstrap, on made-up laws.

    python benchmarks/coverage.py --seeds=100

For each number of runs it draws laws near the published ones (exponents of 0.33, give or take
15 %; terms of 0.35 nats at 1e9 parameters and 2e10 tokens, 30 %; E even from 0.8 to 2.2), makes up
runs of the same sizes at each of a few budgets, each 4 times the last, and predicts the optimal N
and its loss at 30 times the largest budget. It prints how often the 95 % intervals hold the truth,
and their median width. A bootstrap counts where the fit is not refused as unidentified.
"""

import argparse
import json

import numpy as np

from scaling.fitting import bayesian, parametric, solver
from scaling.fitting.runs import Runs
from scaling.laws.laws import ParametricLaw
from t5x_lite.core.errors import UserError

DESIGNS = {4: (2, 2), 6: (3, 2), 9: (3, 3), 20: (5, 4)}   # runs -> sizes, budgets
NOISES = {'shared': (0.003, 0.0005), 'own': (0.0, 0.003)}
LARGEST, BEYOND = 6.4e19, 30


def make_law(rng: np.random.Generator) -> ParametricLaw:
  alpha, beta = 0.33 * np.exp(0.15 * rng.standard_normal(2))
  a, b = 0.35 * np.exp(0.3 * rng.standard_normal(2))
  return ParametricLaw(rng.uniform(0.8, 2.2), a * 1e9 ** alpha, alpha, b * 2e10 ** beta, beta)


def make_runs(law: ParametricLaw, sizes: int, budgets: int, shared: float, own: float,
              rng: np.random.Generator) -> Runs:
  """The same sizes at each budget, about the optimum of an eighth of the largest."""
  flops = np.repeat(LARGEST * 0.25 ** np.arange(budgets), sizes)
  n = np.tile(law.optimum(LARGEST / 8)[0] * np.geomspace(0.2, 5, sizes), budgets)
  d = flops / 6 / n
  noise = np.tile(shared * rng.standard_normal(sizes), budgets) + own * rng.standard_normal(n.size)
  return Runs(n, d, law.loss(n, d) * np.exp(noise), flops, tuple(map(str, range(n.size))))


def score(found, law: ParametricLaw) -> list[float]:
  """(N* covered, loss covered, factor of N*'s interval, width of the loss's over it)."""
  flops = BEYOND * LARGEST
  optimum, n = found.optimum(flops), law.optimum(flops)[0]
  (_, low, high), (_, least, most) = optimum['parameters'], optimum['loss']
  return [low <= n <= high, least <= law.loss(n, flops / 6 / n) <= most, high / low,
          most / least - 1]


def bootstrapped(runs: Runs, seed: int, resamples: int):
  """The bootstrap of the fit; None if the fit is refused."""
  grid = solver.standard_starts()
  starts = grid[np.random.default_rng(seed).choice(len(grid), 48, replace=False)]
  try:
    return parametric.bootstrap(parametric.fit_law(runs, starts=starts), resamples, seed)
  except UserError:
    return None


def measure(count: int, noise: str, seeds: int, resamples: int) -> dict:
  rngs = [np.random.default_rng([seed, count]) for seed in range(seeds)]
  laws = [make_law(rng) for rng in rngs]
  runs = [make_runs(law, *DESIGNS[count], *NOISES[noise], rng) for law, rng in zip(laws, rngs)]
  drawn = zip(*bayesian.sample_points(runs, draws=400, chains=2))
  found = {'bayes': [bayesian.make_posterior(own, *chains, resamples)
                     for own, chains in zip(runs, drawn)],
           'bootstrap': [bootstrapped(own, seed, resamples) for seed, own in enumerate(runs)]}
  report = {'runs': count, 'noise': noise, 'seeds': seeds}
  for name, fits in found.items():
    rows = np.array([score(fit, law) for fit, law in zip(fits, laws) if fit is not None])
    report[name] = {'refused': seeds - len(rows)}
    if len(rows):
      report[name] |= dict(zip(
          ('covers N*', 'covers loss', 'median factor of N*', 'median width of loss'),
          map(float, [*rows[:, :2].mean(0), *np.median(rows[:, 2:], 0)])))
  return report


def line(report: dict) -> str:
  cells = [f'{report["runs"]} runs, {report["noise"]}']
  for name in ('bayes', 'bootstrap'):
    found = report[name]
    if len(found) == 1:
      cells += ['-', '-', f'refuses {found["refused"]} of {report["seeds"]}']
      continue
    cells += [f'{found["covers N*"]:.0%}, x {found["median factor of N*"]:.2g}',
              f'{found["covers loss"]:.0%}, {found["median width of loss"]:.1%}',
              f'{found["refused"]}']
  return '| ' + ' | '.join(cells) + ' |'


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--seeds', type=int, default=100)
  parser.add_argument('--resamples', type=int, default=400)
  args = parser.parse_args()
  print('| | Bayes: N* | loss | refused | bootstrap: N* | loss | refused |')
  print('| --- | --- | --- | --- | --- | --- | --- |')
  reports = []
  for noise in NOISES:
    for count in DESIGNS:
      reports.append(measure(count, noise, args.seeds, args.resamples))
      print(line(reports[-1]), flush=True)
  print(json.dumps(reports, indent=1))


if __name__ == '__main__':
  main()
