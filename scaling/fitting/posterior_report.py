"""The report of `t5x-lite scaling fit --bayes`: as data, which `plan --fit` reads, and as text."""

from collections.abc import Sequence
import dataclasses
from typing import Any

import numpy as np

from scaling.fitting import fit_report
from scaling.fitting.bayesian import PRIORS, Posterior
from scaling.fitting.parametric import PARAMETERS

LARGE_SHARE = 0.3     # of the prior in what is known, from which it is a warning
LARGE_NOISE = 0.02   # standard deviation above nearly all of the prior's


def report_posterior(fit: Posterior, budgets: Sequence[float], level: float) -> dict[str, Any]:
  """The report of a posterior, for JSON; its draws are `bootstrap_samples`, as of other fits."""
  runs = fit.runs
  errors, intervals = fit.standard_errors(), fit.intervals(level)
  report = {
      'approach': 3, 'law': dataclasses.asdict(fit.law), 'loss': fit.loss, 'runs': len(runs),
      'fitted': [float(runs.flops.min()), float(runs.flops.max())], 'level': level,
      'parameters': {name: {'value': getattr(fit.law, name), 'standard_error': errors[name],
                            'interval': intervals[name]} for name in PARAMETERS},
      'budgets': [{**fit_report.report_budget(fit, flops, level),
                   'prior_share': fit.prior_shares(flops, level)} for flops in budgets],
      'noise': fit.scale, 'shared_noise': float(np.median(fit.shared)),
      'own_noise': float(np.median(fit.own)), 'clusters': int(runs.clusters.max()) + 1,
      'misfit': fit.misfit and {
          name: getattr(fit.misfit, name)
          for name in ('p', 'explained', 'quantity', 'at', 'change', 'error')},
      'priors': {name: list(prior) for name, prior in PRIORS.items()},
      'sampler': {'rhat': fit.rhat, 'effective': fit.effective, 'divergent': fit.divergent},
      'resampling': fit.resampling, 'resampled': fit.resampled, 'resamples': len(fit.noise),
      'residuals': dict(zip(runs.names, map(float, fit.residuals))),
      'bootstrap_samples': {name: getattr(fit.bootstrap_samples, name).tolist()
                            for name in PARAMETERS},
  }
  return {**report, 'warnings': list_doubts(fit, report['budgets'])}


def list_doubts(fit: Posterior, budgets: Sequence[dict[str, Any]]) -> list[str]:
  """A line for each reason to doubt a posterior; `budgets` are those of its report."""
  lines = fit.sampler_warnings()
  if fit.misfit is None:
    lines.append('the runs are too few to test whether they follow the law')
  elif fit.misfit.doubted:
    lines.append(f'the runs may not follow one law: {fit.misfit.describe()}; the intervals assume '
                 'that they do')
  if fit.scale > LARGE_NOISE:
    worst = int(np.argmax(np.abs(fit.residuals)))
    lines.append(f'noise of {100 * fit.scale:.2g} % a run is above that of most runs; the farthest '
                 f'from the law is {fit.runs.names[worst]}, {100 * fit.residuals[worst]:+.2g} %')
  for name, what in (('parameters', 'optimal N'), ('loss', 'loss')):
    worst = max(budgets, key=lambda b: b['prior_share'][name], default=None)
    if worst and (share := worst['prior_share'][name]) > LARGE_SHARE:
      lines.append(f'{share:.0%} of what is known of the {what} of {worst["flops"]:.3g} FLOPs is '
                   'the prior, not the runs: add runs of other N and D')
  return lines


def format_posterior(report: dict[str, Any]) -> str:
  """The report as text."""
  percent, sampler = f'{100 * report["level"]:g} %', report['sampler']
  lines = [f'L = E + A / N^alpha + B / D^beta, a posterior under priors of published laws, '
           f'{report["runs"]} runs of {report["fitted"][0]:.3g} to {report["fitted"][1]:.3g} FLOPs',
           '', f'{"":10}{"value":>12}{"std. dev.":>12}   {percent + " interval":>24}']
  names = {'e': 'E', 'a': 'A', 'b': 'B'}
  for name, found in report['parameters'].items():
    interval = fit_report.between(*found['interval'])
    lines.append(f'{names.get(name, name):10}{found["value"]:>12.6g}'
                 f'{found["standard_error"]:>12.3g}   {interval:>24}')
  lines += ['', *fit_report.budget_lines(report, percent), '',
            'The prior\'s share of what is known (0 %: the runs alone speak)',
            f'{"FLOPs":>10}{"optimal N":>12}{"loss":>8}']
  lines += [f'{b["flops"]:>10.3g}{b["prior_share"]["parameters"]:>12.0%}'
            f'{b["prior_share"]["loss"]:>8.0%}' for b in report['budgets']]
  return '\n'.join([
      *lines, '', f'Intervals: {report["resampling"]}',
      f'Sampler: R-hat {sampler["rhat"]:.3f}, {sampler["effective"]:.0f} effective draws, '
      f'{100 * sampler["divergent"]:.2g} % divergent'])
