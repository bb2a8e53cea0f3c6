"""Fits of a scaling law from the 4,500 usual starts, ours beside scipy's: seconds and objectives.

    OMP_NUM_THREADS=1 python benchmarks/fitting.py csv --drop_highest=5

scipy minimises the same sum, with the same derivatives, one start after another in one process, by
L-BFGS-B to a tolerance of 1e-15 (the way of published fits, whose tolerance is mostly its default).
That is minutes for all of them. Ours holds compilation. With more threads than one, which help no
sum this small, BLAS makes scipy several times slower.
"""

import argparse
import json
import os
import time

import numpy as np
from scipy import optimize

from scaling.fitting import parametric, solver
from scaling.fitting.runs import read_csv


def objective(theta, n, d, log_loss):
  """The Huber sum over delta^2 and its gradient, in NumPy."""
  delta = solver.DELTA
  r = log_loss - solver.log_law(theta[None], n, d)[0]
  size = np.abs(r)
  value = np.where(size <= delta, 0.5 * r * r, delta * (size - 0.5 * delta)).sum()
  gradient = -solver.jacobian(theta, n, d).T @ np.clip(r, -delta, delta)
  return value / delta ** 2, gradient / delta ** 2


def scipy_fits(starts, n, d, log_loss) -> np.ndarray:
  """Objectives [starts] that scipy ends with."""
  return np.array([optimize.minimize(
      objective, start, (n, d, log_loss), 'L-BFGS-B', jac=True,
      options={'maxiter': 5000, 'maxfun': 20_000, 'ftol': 1e-15, 'gtol': 1e-8, 'maxcor': 20}).fun
      for start in starts])


def timed(function):
  begun = time.perf_counter()
  result = function()
  return result, time.perf_counter() - begun


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('csv')
  parser.add_argument('--drop_highest', type=int, default=0)
  parser.add_argument('--scipy_starts', type=int, default=4500, help='fewer are scaled up')
  parser.add_argument('--resamples', type=int, default=1000)
  args = parser.parse_args()
  runs = read_csv(args.csv)
  runs = runs.select(runs.loss.argsort()[:len(runs) - args.drop_highest])
  report = {'runs': len(runs), 'cores': os.cpu_count(), 'load': os.getloadavg()[0]}
  for loss in ('huber', 'lad'):
    fit, seconds = timed(lambda: parametric.fit_law(runs, loss))
    _, again = timed(lambda: parametric.bootstrap(fit, args.resamples, resample='runs'))
    report[f'ours, {loss}'] = {
        'seconds': round(seconds, 1), 'objective': fit.objective,
        f'seconds of {args.resamples} resamples': round(again, 1)}
  starts = solver.standard_starts()
  some = np.random.default_rng(0).permutation(len(starts))[:args.scipy_starts]
  logs = np.log(runs.parameters), np.log(runs.tokens), np.log(runs.loss)
  values, seconds = timed(lambda: scipy_fits(starts[some], *logs))
  seconds *= len(starts) / len(some)
  best, ours = values.min(), report['ours, huber']
  report['scipy, huber'] = {
      'starts': len(some), 'seconds for 4500': round(seconds, 1), 'objective': float(best),
      'share that reaches it': round(float((values < best * (1 + 1e-8)).mean()), 3)}
  report['seconds of scipy over ours'] = round(seconds / ours['seconds'], 1)
  report['objective of ours less the lowest of scipy'] = ours['objective'] - float(best)
  print(json.dumps(report, indent=1))


if __name__ == '__main__':
  main()
