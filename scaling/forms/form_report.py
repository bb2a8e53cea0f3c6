"""The report of `t5x-lite scaling fit --form`: as data, and as text."""

from collections.abc import Sequence
import dataclasses
from typing import Any

import numpy as np

from scaling.fitting.runs import describe_settings
from scaling.forms import form_fit
from scaling.forms.form_fit import FormFit

_LOSSES = {'huber': 'Huber loss, delta 1e-3', 'linear': 'least squares of log loss'}
_QUANTITIES = ('parameters', 'tokens', 'ratio', 'loss')


def report_form(name: str, fit: FormFit, budgets: Sequence[float], level: float, seed: int
                ) -> dict[str, Any]:
  """The report of a fit with samples, for JSON; `scaling.forms.saved` reads it again."""
  runs, found, form = fit.runs, fit.regression, fit.form
  values, intervals = form.unpack(found.theta), fit.intervals(level)
  profiles = {doubtful: form_fit.profile(fit, doubtful, level, seed) for doubtful in form.doubtful}
  shared, own = fit.samples.model.estimate
  settings = {field: [float(x) for x in np.unique(column)]
              for field, column in {**runs.settings, **form.derived(runs)}.items()}
  report = {
      'form': name, 'formula': form.formula, 'source': form.source,
      'kind': type(fit.law).__name__, 'law': dataclasses.asdict(fit.law), 'loss': found.loss,
      'objective': found.objective, 'runs': len(runs), 'settings': settings,
      'fitted': [float(runs.flops.min()), float(runs.flops.max())], 'level': level,
      'parameters': {key: {'value': values[key], 'interval': intervals[key]} for key in values},
      'profiles': {key: dataclasses.asdict(x) for key, x in profiles.items()},
      'at': form.at(fit.law, runs)[1],
      'budgets': [_budget(fit, flops, level) for flops in budgets],
      'extra': {key: fit.quantity(lambda law, key=key: form.extra(law, runs)[key], level)
                for key in form.extra(fit.law, runs)},
      'noise': fit.scale, 'shared_noise': shared, 'own_noise': own,
      'clusters': int(runs.clusters.max()) + 1,
      'misfit': fit.misfit and {key: getattr(fit.misfit, key) for key in (
          'p', 'explained', 'quantity', 'at', 'change', 'error')},
      'condition': found.condition, 'held_out': form_fit.held_out(fit),
      'resampling': (f'percentiles of {len(fit.laws)} refits to the law plus simulated noise; '
                     + fit.samples.model.describe()),
      'residuals': dict(zip(runs.names, map(float, fit.residuals))),
      'bootstrap_samples': {field.name: [getattr(law, field.name) for law in fit.laws]
                            for field in dataclasses.fields(fit.law)}}
  return {**report, 'warnings': list(_doubts(fit, report))}


def _budget(fit: FormFit, flops: float, level: float) -> dict[str, Any]:
  """The optimum of a budget; its loss is also that of one run, with the noise."""
  def of(law, quantity):
    plain, _ = fit.form.at(law, fit.runs)
    n, d = plain.optimum(flops)
    return {'parameters': n, 'tokens': d, 'ratio': d / n, 'loss': plain.loss(n, d)}[quantity]

  found = {name: fit.quantity(lambda law, name=name: of(law, name), level) for name in _QUANTITIES}
  plain, _ = fit.form.at(fit.law, fit.runs)
  n, d = plain.optimum(flops)
  with np.errstate(all='ignore'):
    noisy = [fit.form.at(law, fit.runs)[0].loss(n, d) * np.exp(noise)
             for law, noise in zip(fit.laws, fit.samples.noise)]
  tail = (1 - level) / 2
  return {'flops': flops, 'extrapolation': fit.runs.extrapolation(flops), **found,
          'one_run': [float(x) for x in np.quantile(noisy, [tail, 1 - tail])]}


def list_warnings(report: dict[str, Any]) -> list[str]:
  """The doubts of the report, and a line for each budget outside the runs."""
  low, high = report['fitted']
  return [*report['warnings'], *(
      f'{b["flops"]:.3g} FLOPs are a factor of {b["extrapolation"]:.3g} outside the runs '
      f'({low:.3g} to {high:.3g})' for b in report['budgets'] if b['extrapolation'] > 1.001)]


def _doubts(fit: FormFit, report: dict[str, Any]):
  yield from describe_settings(fit.runs)
  if fit.misfit is None:
    yield 'the runs are too few to test whether they follow the form'
  elif fit.misfit.doubted:
    yield (f'the runs may not follow this form: {fit.misfit.describe()}; the intervals cover the '
           'law of either side')
  for name, found in report['profiles'].items():
    if found['open_low'] or found['open_high'] or found['high'] > form_fit.WIDE * found['low']:
      yield (f'{name} is hardly identified: {_profile(found)} fit the runs as well as '
             f'{report["parameters"][name]["value"]:.3g} does')
  yield from fit.form.doubts(fit.law, fit.runs)
  far = form_fit.far_runs(fit)
  if far:
    names = ', '.join(fit.runs.names[i] for i in far[:4]) + (' …' if len(far) > 4 else '')
    yield (f'{len(far)} outlier{"s" if len(far) > 1 else ""} among the {len(fit.runs)} runs: '
           f'{names}; find their cause, or fit without them')
  if report['law']['e'] < 1e-3:
    yield ('E is 0: the runs do not identify the irreducible loss, so losses of larger budgets are '
           'underestimated; add larger runs')


def _profile(found: dict[str, Any]) -> str:
  if found['open_low'] and found['open_high']:
    return 'all values'
  if found['open_high']:
    return f'all above {found["low"]:.3g}'
  if found['open_low']:
    return f'all below {found["high"]:.3g}'
  return f'{found["low"]:.3g} to {found["high"]:.3g}'


def format_form(report: dict[str, Any]) -> str:
  """The report as text."""
  percent = f'{100 * report["level"]:g} %'
  lines = [f'{report["formula"]} by {_LOSSES[report["loss"]]}, {report["runs"]} runs of '
           f'{report["fitted"][0]:.3g} to {report["fitted"][1]:.3g} FLOPs',
           f'({report["source"]})', '', f'{"":14}{"value":>12}   {percent + " interval":>24}']
  for name, found in report['parameters'].items():
    between = _between(found['interval'])
    if name in report['profiles']:
      between = f'{_profile(report["profiles"][name])} (profile)'
    lines.append(f'{name:14}{found["value"]:>12.6g}   {between:>24}')
  for name, found in report['extra'].items():
    lines.append(f'{name:14}{found[0]:>12.6g}   {_between(found[1:]):>24}')
  at = f', {report["at"]}' if report['at'] else ''
  rows = [['FLOPs', 'N', '', 'D', '', 'D / N', '', 'loss', '', 'one run']]
  for budget in report['budgets']:
    cells = [f'{budget["flops"]:.3g}']
    for name in _QUANTITIES[:3]:
      cells += [f'{budget[name][0]:.3g}', _between(budget[name][1:], 3)]
    rows.append([*cells, f'{budget["loss"][0]:.4f}', _between(budget['loss'][1:]),
                 _between(budget['one_run'])])
  widths = [max(map(len, column)) for column in zip(*rows)]
  lines += ['', f'The optimum of each budget{at}, and its {percent} interval (loss: of the law; of '
            'one run, with its noise)', *(
                '  '.join(f'{cell:>{width}}' for cell, width in zip(row, widths)) for row in rows)]
  return '\n'.join([*lines, '', *_check_lines(report)])


def _check_lines(report: dict[str, Any]) -> list[str]:
  misfit = report['misfit']
  lines = ['Noise (robust standard deviation of log loss about the law): '
           f'{100 * report["noise"]:.2g} %', f'Intervals: {report["resampling"]}',
           'Misfit: ' + ('not tested, the runs are too few' if misfit is None else
                         f'p {misfit["p"]:.2g} (the most likely bend: the exponent of '
                         f'{misfit["quantity"]} changes by {misfit["change"]:+.2g} at '
                         f'{misfit["quantity"]} = {misfit["at"]:.3g})'),
           '', 'Held out: fitted below a compute cut, tested above']
  return lines + ([
      f'  below {x["cut"]:.3g} FLOPs, {x["fitted"]} runs: error {100 * x["error"]:.2f} % (bias '
      f'{100 * x["bias"]:+.2f} %) on the {x["tested"]} above, up to {x["reach"]:.3g} times the cut'
      for x in report['held_out']] or ['  too few runs to hold some out'])


def _between(ends: Sequence[float], digits: int = 4) -> str:
  return f'{ends[0]:.{digits}g} to {ends[1]:.{digits}g}'
