"""The report of `t5x-lite scaling curve`: as data, as text, and as a picture."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from scaling.fitting import annealing
from scaling.fitting.annealing import Curve, CurveFit


def report_curve(curves: Sequence[Curve], fits: Sequence[CurveFit], weights: np.ndarray,
                 target: np.ndarray, decay_steps: int, level: float) -> dict[str, Any]:
  """The report, for JSON."""
  steps, first = len(target), curves[0]
  best = fits[int(np.argmax(weights))]
  found = annealing.forecast(fits, weights, target, level=level)
  start = annealing.forecast(fits, weights, target, step=max(steps - decay_steps, 1), level=level)
  return {
      'run': first.name, 'steps': steps, 'decay_steps': decay_steps, 'level': level,
      'rate': float(target.max()), 'records': int((best.records.run == 0).sum()),
      'last_step': int(first.steps.max()), 'others': [curve.name for curve in curves[1:]],
      'noise': best.noise, 'evaluation_noise': best.eval_noise,
      'memories': {fit.memory: weight for fit, weight in zip(fits, weights)},
      'constants': best.constants(), 'held_out': annealing.hold_out(best), 'forecast': found,
      'before_decay': {'training': start.training, 'evaluation': start.evaluation},
  }


def list_warnings(report: dict[str, Any]) -> list[str]:
  """A line for each reason to doubt the forecast."""
  found, lines = report['forecast'], []
  if found.longer > 1.5:
    lines.append(f'the plan is {found.longer:.3g} times as long as the run (sums of rates): the '
                 'forecast is extrapolated')
  if found.deeper > 1.25:
    lines.append(f'the plan anneals {found.deeper:.3g} times as much (S2) as any of the runs: '
                 'decay a run for as many steps to tell more')
  if found.gain[1] < 0.05 * found.gain[2]:
    lines.append('the runs do not tell that a decay lowers the loss: their losses are too noisy')
  if report['held_out'] and abs(report['held_out'][1]) > 4 * report['held_out'][2]:
    lines.append('the last losses of the run do not follow the law of the others: the forecast is '
                 'off by as much')
  value, low, high = found.evaluation or found.training
  if high - low > 0.1 * value:
    lines.append(f'the interval is {100 * (high - low) / value:.2g} % of the loss wide: log means '
                 'over more batches, evaluate more often, or decay more branches')
  return lines


def format_curve(report: dict[str, Any]) -> str:
  """The report as text."""
  found, before = report['forecast'], report['before_decay']
  constants = report['constants']
  lambdas = ', '.join(f'{memory:g} ({weight:.2f})' for memory, weight in report['memories'].items())
  show = lambda values: '-' if values is None else (
      f'{values[0]:.4f} ({values[1]:.4f} to {values[2]:.4f})')
  percent = f'{100 * report["level"]:g} %'
  steps, start = report['steps'], report['steps'] - report['decay_steps']
  return '\n'.join([
      f'{report["run"]}: {report["records"]} losses up to step {report["last_step"]:,}, noise '
      f'{report["noise"]:.2g}; told with {", ".join(report["others"]) or "itself alone"}',
      f'L = L0 + A S1^-alpha - C S2: L0 {constants["L0"]:.4g}, A {constants["A"]:.4g}, alpha '
      f'{constants["alpha"]:.3g}, C {constants["C"]:.3g}',
      f'lambda, with its weight: {lambdas}', _held_out(report), '',
      f'{"":26}{"training loss, " + percent:<30}evaluation, {percent} of one',
      f'{f"before decay, {start:,}":<26}{show(before["training"]):<30}{show(before["evaluation"])}',
      f'{f"at the end, {steps:,}":<26}{show(found.training):<30}{show(found.evaluation)}',
      f'{"what the decay gives":<26}{show(found.gain)}'])


def _held_out(report: dict[str, Any]) -> str:
  if report['held_out'] is None:
    return 'Held out: none, the losses are few'
  count, off, noise = report['held_out']
  return (f'Held out: the mean of the last {count} losses of the run is {off:+.2g} off the law of '
          f'the others (noise {noise:.2g})')


def draw_curve(curves: Sequence[Curve], fits: Sequence[CurveFit], weights: np.ndarray,
               target: np.ndarray, level: float):
  """A matplotlib Figure: the run's losses, the law, and the plan with its interval."""
  from matplotlib.figure import Figure
  figure = Figure(figsize=(6, 4), layout='constrained')
  axes = figure.subplots()
  first = curves[0]
  axes.plot(first.steps, first.losses, '.', color='0.75', markersize=3, label='logged losses')
  for curve in curves[1:]:
    if curve.model == 0:
      axes.plot(curve.steps, curve.losses, '.', color='tab:olive', markersize=3, alpha=0.7,
                label=None if 'decayed runs' in axes.get_legend_handles_labels()[1]
                else 'decayed runs')
  warm = max(2 * first.warmup, int(0.03 * len(target)), 1)
  at = np.unique(np.geomspace(warm, len(target), 30).astype(int))
  at = np.unique(np.append(at, np.linspace(0.75 * len(target), len(target), 16).astype(int)))
  found = [annealing.forecast(fits, weights, target, step=int(step), level=level) for step in at]
  values = np.array([one.training for one in found])
  axes.fill_between(at, values[:, 1], values[:, 2], color='tab:blue', alpha=0.2, lw=0,
                    label=f'{level:.0%} interval')
  axes.plot(at, values[:, 0], color='tab:blue', lw=1.6, label='the law, through the plan')
  mine = [curve for curve in curves if curve.model == 0 and len(curve.eval_steps)]
  for i, curve in enumerate(mine):
    axes.plot(curve.eval_steps, curve.eval_losses, 'D', color='tab:green', markersize=5,
              label=None if i else 'evaluations')
  if found[-1].evaluation:
    value, low, high = found[-1].evaluation
    axes.errorbar(len(target), value, [[max(value - low, 0)], [max(high - value, 0)]], fmt='*',
                  color='tab:red', markersize=11, capsize=3, label='evaluation to expect')
  shown = np.concatenate([values.ravel(), first.losses[first.steps > warm]])
  axes.set(xlabel='step', ylabel='loss (nats a token)',
           ylim=np.quantile(shown, [0.0, 0.99]) + np.array([-0.02, 0.02]) * np.ptp(shown))
  axes.set_title('Through the decay of the learning rate', fontsize=10)
  axes.grid(alpha=0.25)
  axes.spines[['top', 'right']].set_visible(False)
  figure.legend(*axes.get_legend_handles_labels(), frameon=False, fontsize=8, ncols=3,
                loc='outside lower center')
  return figure
