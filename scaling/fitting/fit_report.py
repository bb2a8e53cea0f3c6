"""The report of `t5x-lite scaling fit`: as data, as text, and a figure of the residuals."""

from collections.abc import Sequence
import dataclasses
from typing import Any

import numpy as np

from scaling.fitting import diagnostics, parametric
from scaling.fitting.isoflop import AllocationFit
from scaling.fitting.parametric import Fit
from scaling.fitting.runs import Runs
from scaling.laws.laws import FACTORS
from t5x_lite.core.errors import UserError

_NO_FLOOR = 1e-3   # nats; an E below it is zero
_OTHER_LOSS = {'huber': 'lad', 'lad': 'huber'}
_LOSSES = {'huber': 'Huber loss, delta 1e-3', 'lad': 'least absolute deviations'}


def report_fit(fit: Fit, budgets: Sequence[float], level: float,
           outliers: Sequence[diagnostics.Outlier]) -> dict[str, Any]:
  """The report of a parametric fit with bootstrap samples, for JSON.

  `outliers` are those of a fit to all runs, which this one may leave out.
  """
  runs = fit.runs
  errors, intervals = fit.standard_errors(), fit.intervals(level)
  near = parametric.perturbed_starts(fit)
  outlying = {outlier.name for outlier in outliers}
  keep = [name not in outlying for name in runs.names]
  found = diagnostics.diagnose(fit, outliers)
  shared, own = fit.noise_model.estimate
  return {
      'approach': 3, 'law': dataclasses.asdict(fit.law), 'loss': fit.loss,
      'objective': fit.objective, 'runs': len(runs),
      'fitted': [float(runs.flops.min()), float(runs.flops.max())], 'level': level,
      'parameters': {name: {'value': getattr(fit.law, name), 'standard_error': errors[name],
                            'interval': intervals[name]} for name in parametric.PARAMETERS},
      'budgets': [report_budget(fit, flops, level) for flops in budgets],
      'noise': fit.scale, 'shared_noise': shared, 'own_noise': own,
      'clusters': int(runs.clusters.max()) + 1,
      'misfit': fit.misfit and {
          name: getattr(fit.misfit, name)
          for name in ('p', 'explained', 'quantity', 'at', 'change', 'error')},
      'condition': diagnostics.condition_number(fit),
      'degenerate': float(fit.degenerate.mean()),
      'held_out': [dataclasses.asdict(x) for x in diagnostics.held_out(fit)],
      'outliers': [dataclasses.asdict(x) for x in outliers],
      'without_outliers': None if all(keep) else _law(runs.select(keep), fit.loss, near),
      'other_loss': {'loss': _OTHER_LOSS[fit.loss], 'law': _law(runs, _OTHER_LOSS[fit.loss], near)},
      'variable_projection': dataclasses.asdict(diagnostics.variable_projection(runs)),
      'resampling': found.resampling, 'warnings': found.warnings,
      'resampled': fit.resampled, 'resamples': len(fit.noise),
      'residuals': dict(zip(runs.names, map(float, fit.residuals))),
      'bootstrap_samples': {name: getattr(fit.with_optimum(), name).tolist()
                            for name in parametric.PARAMETERS},
  }


def _law(runs: Runs, loss: parametric.Loss, starts: np.ndarray) -> dict[str, float] | None:
  """The law of an alternative fit; None if it cannot be identified."""
  try:
    return dataclasses.asdict(parametric.fit_law(runs, loss, starts).law)
  except UserError:
    return None


def report_budget(fit: Fit, flops: float, level: float) -> dict[str, Any]:
  """The optimum of a budget, with intervals, and what another N costs."""
  found = fit.optimum(flops, level)
  n, d = found['parameters'][0], found['tokens'][0]
  return {'flops': flops, 'extrapolation': fit.runs.extrapolation(flops), **found,
          'one_run': fit.predict_loss(n, d, level)[1:],
          'compute_overhead': {str(factor): overhead for factor, overhead
                               in fit.law.compute_overheads(flops).items()}}


def report_allocation(found: AllocationFit, approach: int, fitted: tuple[float, float], runs: int,
                  budgets: Sequence[float], level: float) -> dict[str, Any]:
  """The report of approach 1 or 2, for JSON."""
  return {
      'approach': approach, 'law': dataclasses.asdict(found.law), 'runs': runs,
      'fitted': list(fitted), 'level': level,
      'exponent': [found.law.exponent, *found.exponent_interval(level)],
      'minima': [dataclasses.asdict(m) for m in found.minima] if approach == 2 else [],
      'dropped': list(found.dropped),
      'budgets': [{'flops': c, 'extrapolation': max(c / fitted[1], fitted[0] / c, 1.0),
                   **found.optimum(c, level)} for c in budgets],
      'bootstrap_samples': {'coefficient': found.bootstrap_samples.coefficient.tolist(),
                            'exponent': found.bootstrap_samples.exponent.tolist()},
  }


def format_report(report: dict[str, Any]) -> str:
  """The report as text."""
  lines = _allocation_lines(report) if report['approach'] != 3 else _fit_lines(report)
  return '\n'.join(lines)


def list_warnings(report: dict[str, Any]) -> list[str]:
  """A line for each reason to doubt the report: outliers, misfit, extrapolation, what vanished."""
  low, high = report['fitted']
  lines = [f'{b["flops"]:.3g} FLOPs are a factor of {b["extrapolation"]:.3g} outside the runs '
           f'({low:.3g} to {high:.3g})' for b in report['budgets'] if b['extrapolation'] > 1.001]
  if report.get('degenerate', 0) > 0.02:
    lines.append(f'{report["degenerate"]:.0%} of the resamples are degenerate (an exponent is at '
                 'a bound): add runs over a wider range of N and D')
  if report['approach'] == 3 and report['law']['e'] < _NO_FLOOR:
    lines.append('E is 0: the runs do not identify the irreducible loss, so losses of larger '
                 'budgets are underestimated; add larger runs')
  return [*report.get('warnings', []), *lines]


def _fit_lines(report: dict[str, Any]) -> list[str]:
  percent = f'{100 * report["level"]:g} %'
  lines = [f'L = E + A / N^alpha + B / D^beta by {_LOSSES[report["loss"]]}, {report["runs"]} runs '
           f'of {report["fitted"][0]:.3g} to {report["fitted"][1]:.3g} FLOPs', '',
           f'{"":10}{"value":>12}{"std. error":>12}   {percent + " interval":>24}']
  names = {'e': 'E', 'a': 'A', 'b': 'B'}
  for name, found in report['parameters'].items():
    low, high = found['interval']
    lines.append(f'{names.get(name, name):10}{found["value"]:>12.6g}'
                 f'{found["standard_error"]:>12.3g}   {between(low, high):>24}')
  lines += ['', *budget_lines(report, percent), '', 'Compute overhead of a wrong N: FLOPs '
            'for the same loss, as a multiple',
            f'{"FLOPs":>10}' + ''.join(f'{"N x " + str(f):>10}' for f in FACTORS)]
  for budget in report['budgets']:
    lines.append(f'{budget["flops"]:>10.3g}' + ''.join(
        f'{overhead:>10.3f}' if overhead < 1e3 else f'{"never":>10}'
        for overhead in budget['compute_overhead'].values()))
  return [*lines, '', *_check_lines(report)]


def budget_lines(report: dict[str, Any], percent: str) -> list[str]:
  """A table of the optimum of each budget, with intervals."""
  loss = 'loss' in report['budgets'][0]
  lines = [f'The optimum of each budget, and its {percent} interval'
           + (' (loss: of each refit at its own N; one run: of the N shown, with noise)' if loss
              else ''),
           f'{"FLOPs":>10}{"extrapolation":>15}{"N":>10}{"":>22}{"D":>10}{"":>22}'
           f'{"D / N":>8}{"":>21}'
           + (f'{"loss":>8}{"":>18}{"one run":>18}' if loss else '')]
  for b in report['budgets']:
    factor = f'x {b["extrapolation"]:.3g}' if b['extrapolation'] > 1.001 else '-'
    line = f'{b["flops"]:>10.3g}{factor:>15}'
    for name, width in (('parameters', 22), ('tokens', 22)):
      value, low, high = b[name]
      line += f'{value:>10.3g}{between(low, high, 3):>{width}}'
    value, low, high = b['ratio']
    line += f'{value:>8.3g}{between(low, high, 3):>21}'
    if loss:
      value, low, high = b['loss']
      line += f'{value:>8.4f}{between(low, high, 4):>18}{between(*b["one_run"], 4):>18}'
    lines.append(line)
  return lines


def _check_lines(report: dict[str, Any]) -> list[str]:
  lines = [f'Noise (robust standard deviation of log loss about the law): '
           f'{100 * report["noise"]:.2g} %',
           f'Intervals: {report["resampling"]}',
           f'Misfit: {_misfit(report["misfit"])}',
           f'Conditioning of the scaled J^T J: {report["condition"]:.2g}; degenerate '
           f'resamples, excluded from standard errors: {report["degenerate"]:.1%}', '',
           'Held out: fitted below a compute cut, tested above']
  lines += [f'  below {x["cut"]:.3g} FLOPs, {x["fitted"]} runs: error {100 * x["error"]:.2f} % '
            f'(bias {100 * x["bias"]:+.2f} %) on the {x["tested"]} above, up to '
            f'{x["reach"]:.3g} times the cut' for x in report['held_out']] or [
                '  too few runs to hold some out']
  lines += ['', f'Outliers (z from the law of the others, as rare as {diagnostics.RARE} standard '
            'deviations)']
  lines += [f'  {x["name"]}: loss {100 * x["residual"]:+.1f} % off, z {x["z"]:+.1f}'
            for x in report['outliers']] or ['  none']
  laws = {'this fit': report['law'], 'without the outliers': report['without_outliers'],
          f'by {_LOSSES[report["other_loss"]["loss"]]}': report['other_loss']['law'],
          'by variable projection': report['variable_projection']}
  lines += ['', f'{"Alternative fits":28}{"E":>9}{"A":>12}{"alpha":>9}{"B":>12}{"beta":>9}']
  lines += [f'{name:28}{law["e"]:>9.5g}{law["a"]:>12.5g}{law["alpha"]:>9.4f}{law["b"]:>12.5g}'
            f'{law["beta"]:>9.4f}' for name, law in laws.items() if law]
  return lines


def _misfit(found: dict[str, Any] | None) -> str:
  if found is None:
    return 'not tested, the runs are too few'
  return (f'p {found["p"]:.2g} (the most likely bend: the exponent of {found["quantity"]} changes '
          f'by {found["change"]:+.2g} at {found["quantity"]} = {found["at"]:.3g})')


def _allocation_lines(report: dict[str, Any]) -> list[str]:
  law, percent = report['law'], f'{100 * report["level"]:g} %'
  value, low, high = report['exponent']
  lines = [f'N = {law["coefficient"]:.4g} C^{value:.4f}, D = C / 6 N, by approach '
           f'{report["approach"]} ({report["runs"]} runs)',
           f'Exponent of N: {percent} interval {between(low, high, 4)}']
  if report['minima']:
    lines += ['', f'{"FLOPs":>10}{"optimal N":>12}{"loss":>10}']
    lines += [f'{m["flops"]:>10.3g}{m["parameters"]:>12.4g}{m["loss"]:>10.4f}'
              for m in report['minima']]
  lines += [f'Left out: {line}' for line in report['dropped']]
  return [*lines, '', *budget_lines(report, percent)]


def between(low: float, high: float, digits: int = 4) -> str:
  """An interval as text."""
  return f'{low:.{digits}g} to {high:.{digits}g}'


def residual_figure(fit: Fit):
  """A matplotlib Figure of the residuals (loss over law, less 1, in percent) against FLOPs.

  Colour is tokens a parameter; dashed lines are at twice the noise.
  """
  from matplotlib.figure import Figure
  runs = fit.runs
  figure = Figure(figsize=(6.4, 4), layout='constrained')
  axes = figure.subplots()
  points = axes.scatter(runs.flops, 100 * fit.residuals, c=runs.tokens / runs.parameters,
                        norm='log', cmap='viridis', s=18, label='runs')
  axes.axhline(0, color='0.3', linewidth=0.8, label='the law')
  for sign, label in ((-1, None), (1, 'twice the noise')):
    axes.axhline(200 * sign * fit.scale, color='0.5', linewidth=0.8, linestyle='--', label=label)
  axes.set(xscale='log', xlabel='training FLOPs', ylabel='log loss less law (%)')
  axes.set_title('Residuals of the fit', fontsize=10)
  axes.spines[['top', 'right']].set_visible(False)
  figure.legend(frameon=False, fontsize=8, ncols=3, loc='outside lower center')
  figure.colorbar(points, label='tokens a parameter')
  return figure
