"""The report of `t5x-lite scaling downstream`: as data, as text, and as a picture."""

from collections.abc import Sequence
import dataclasses
from typing import Any

import numpy as np

from scaling.fitting.downstream import Downstream, Form

_FORMULAS = {
    'exponential': 'error = eps - k exp(-gamma L)',
    'sigmoid': 'accuracy = a / (1 + exp(-k (L - L0))) + b',
}


@dataclasses.dataclass(frozen=True)
class Target:
  """A loss to predict the metric at.

  Attributes:
    loss: expected.
    draws: of it, [any], where it is uncertain.
    label: what it is of.
  """
  loss: float
  draws: np.ndarray | None = None
  label: str = ''


def report_downstream(found: Downstream, targets: Sequence[Target], error: bool, level: float
                      ) -> dict[str, Any]:
  """The report, for JSON; predictions are of the error where `error`."""
  return {
      'runs': len(found.scores), 'loss': found.scores.loss_name,
      'metric': found.scores.metric_name, 'error': error, 'chance': found.chance, 'level': level,
      'fitted': [float(found.scores.loss.min()), float(found.scores.loss.max())],
      'p_flat': found.p_flat,
      'forms': [_form(found, form, weight, level)
                for form, weight in zip(found.forms, found.weights)],
      'predictions': [_prediction(found, target, error, level) for target in targets],
  }


def _form(found: Downstream, form: Form, weight: float, level: float) -> dict[str, Any]:
  drawn = [form.constants(theta) for theta in form.samples]
  ends = [(1 - level) / 2, (1 + level) / 2]
  tested, off = found.held_out.get(form.name, (0, None))
  return {'name': form.name, 'weight': float(weight), 'noise_beyond_examples': form.excess,
          'constants': {name: [value, *np.quantile([one[name] for one in drawn], ends)]
                        for name, value in form.constants().items()},
          'held_out': {'tested': tested, 'error': off}}


def _prediction(found: Downstream, target: Target, error: bool, level: float) -> dict[str, Any]:
  values = found.predict(target.loss, target.draws, level)
  if error:
    values = {name: (1 - value, 1 - high, 1 - low) for name, (value, low, high) in values.items()}
  loss = [target.loss, *(np.quantile(target.draws, [(1 - level) / 2, (1 + level) / 2])
                         if target.draws is not None else ())]
  return {'label': target.label, 'loss': loss, 'metric': values['law'],
          'one_run': values['one_run'], 'extrapolation': found.extrapolation(target.loss)}


def list_warnings(report: dict[str, Any]) -> list[str]:
  """A line for each reason to doubt a prediction."""
  low, high = report['fitted']
  lines = [f'{report["loss"]} {p["loss"][0]:.4g} is outside the runs ({low:.4g} to {high:.4g}) by '
           f'{100 * p["extrapolation"]:.3g} % of their range' for p in report['predictions']
           if p['extrapolation'] > 0]
  width = max((p['metric'][2] - p['metric'][1] for p in report['predictions']), default=0.0)
  if width > 0.5 * (1 - report['chance']):
    lines.append(f'an interval is {width:.2g} wide: these runs do not tell {report["metric"]} '
                 'there; add runs of lower loss')
  return lines


def format_downstream(report: dict[str, Any]) -> str:
  """The report as text."""
  kind = 'error' if report['error'] else 'accuracy'
  lines = [f'{report["metric"]} ({kind}) over {report["loss"]}, {report["runs"]} runs of '
           f'{report["fitted"][0]:.4g} to {report["fitted"][1]:.4g}; p {report["p_flat"]:.2g} that '
           'it does not move']
  for form in report['forms']:
    values = ', '.join(f'{name} {value:.4g} ({low:.3g} to {high:.3g})'
                       for name, (value, low, high) in form['constants'].items())
    lines += [f'{form["name"]}: {_FORMULAS[form["name"]]}, weight {form["weight"]:.2g}',
              f'  {values}',
              f'  noise beyond that of the examples {form["noise_beyond_examples"]:.2g}'
              + (f'; held out, the {form["held_out"]["tested"]} runs of lowest loss: error '
                 f'{form["held_out"]["error"]:.3g}' if form['held_out']['tested'] else '')]
  percent = f'{100 * report["level"]:g} %'
  lines += ['', f'{report["loss"]:<26}{kind + ", " + percent + " interval":<32}of one run']
  for p in report['predictions']:
    value, *ends = p['metric']
    loss = f'{p["loss"][0]:.4g}' + (f' ({p["loss"][1]:.4g} to {p["loss"][2]:.4g})'
                                    if len(p['loss']) > 1 else '')
    lines.append(f'{loss:<26}{f"{value:.4f} ({_between(ends)})":<32}{_between(p["one_run"][1:])}'
                 + (f'  {p["label"]}' if p['label'] else ''))
  return '\n'.join(lines)


def _between(ends: Sequence[float]) -> str:
  return f'{ends[0]:.4f} to {ends[1]:.4f}'


def draw_downstream(found: Downstream, targets: Sequence[Target], error: bool, level: float):
  """A matplotlib Figure: the runs, the curve with its interval, and the predictions."""
  from matplotlib.figure import Figure
  shown = (lambda values: 1 - np.asarray(values)) if error else np.asarray
  scores, figure = found.scores, Figure(figsize=(5.4, 4), layout='constrained')
  axes = figure.subplots()
  ends = [*scores.loss, *(t.loss for t in targets)]
  margin = 0.05 * (max(ends) - min(ends))
  dense = np.linspace(min(ends) - margin, max(ends) + margin, 80)
  band = np.array([found.predict(loss, level=level)['law'] for loss in dense])
  axes.fill_between(dense, *shown(band[:, 1:]).T, color='tab:blue', alpha=0.18, lw=0,
                    label=f'{level:.0%} interval')
  for form, style in zip(found.forms, ('-', ':')):
    axes.plot(dense, shown(form.accuracy(dense)), style, color='tab:blue', lw=1.5, label=form.name)
  spread = np.nan_to_num(np.sqrt(scores.accuracy * (1 - scores.accuracy) / scores.examples))
  axes.errorbar(scores.loss, shown(scores.accuracy), spread, fmt='o', color='0.25', markersize=4,
                lw=1, label='runs')
  for i, target in enumerate(targets):
    value, low, high = found.predict(target.loss, target.draws, level)['one_run']
    axes.errorbar(target.loss, shown(value), np.abs([[value - (high if error else low)],
                                                     [(low if error else high) - value]]),
                  fmt='*', color='tab:red', markersize=11, capsize=3, lw=1,
                  label=None if i else 'prediction, one run')
  if found.chance:
    axes.axhline(shown(found.chance), color='0.5', lw=0.8, ls='--', label='chance')
  axes.set(xlabel=scores.loss_name,
           ylabel=f'{scores.metric_name} ({"error" if error else "accuracy"})')
  axes.set_title(f'{scores.metric_name} over {scores.loss_name}', fontsize=10)
  axes.grid(alpha=0.25)
  axes.spines[['top', 'right']].set_visible(False)
  figure.legend(*axes.get_legend_handles_labels(), frameon=False, fontsize=8, ncols=3,
                loc='outside lower center')
  return figure
