"""A figure of what a form says beside its residuals: one for each, by the name of --form."""

from collections.abc import Callable

import numpy as np

from scaling import figures
from scaling.forms.experts import expansions
from scaling.forms.form_fit import FormFit

_STEPS = 60


def form_figure(name: str, fit: FormFit, level: float):
  """(file name, matplotlib Figure) of a fit with samples."""
  return _FIGURES[name](fit, level)


def _band(axes, x, fit: FormFit, level: float, of: Callable, **style):
  """A curve of the law and the central interval of its samples."""
  tail = (1 - level) / 2
  with np.errstate(all='ignore'):
    low, high = np.nanquantile([of(law) for law in fit.laws], [tail, 1 - tail], axis=0)
    axes.fill_between(x, low, high, alpha=0.2, linewidth=0, color=style.get('color'))
    axes.plot(x, of(fit.law), **style)


def _repeats(fit: FormFit, level: float):
  figure, axes = figures.new_axes('What repeats are worth', 'epochs', 'effective epochs')
  epochs = np.geomspace(1, max(2.0, fit.runs.epochs.max()), _STEPS)
  _band(axes, epochs, fit, level, lambda law: law.effective_tokens(epochs, 1.0), color='C0',
        label=f'effective tokens over unique ones, {100 * level:g} %')
  axes.plot(epochs, epochs, color='0.5', linewidth=0.8, linestyle='--', label='as good as new')
  axes.plot(fit.runs.epochs, np.ones(len(fit.runs)), '|', color='0.3', label='epochs of the runs')
  top = 1.5 * float(fit.law.effective_tokens(epochs[-1], 1.0))
  axes.set(xscale='log', ylim=(0, min(epochs[-1], top)))
  axes.legend(frameon=False, fontsize=8, loc='upper left')
  return 'repeats', figure


def _precision(fit: FormFit, level: float):
  figure, axes = figures.new_axes('What bits leave of N', 'bits', 'effective N over N')
  for i, column in enumerate(fit.form.settings):
    values = fit.runs.settings[column]
    part = column.removesuffix('_bits')
    bits = np.linspace(values.min(), values.max(), _STEPS)
    _band(axes, bits, fit, level, lambda law, part=part, bits=bits: law.fraction(**{part: bits}),
          color=f'C{i}', label=f'{part}, {100 * level:g} %')
    axes.plot(np.unique(values), np.zeros(len(np.unique(values))), '|', color=f'C{i}')
  axes.set(ylim=(0, 1.05))
  axes.legend(frameon=False, fontsize=8)
  return 'precision', figure


def _over_training(fit: FormFit, level: float):
  runs = fit.runs
  figure, axes = figures.new_axes('Loss by tokens a parameter', 'training FLOPs', 'loss')
  flops = np.geomspace(runs.flops.min(), 100 * runs.flops.max(), _STEPS)
  of_runs = np.log(runs.tokens / runs.parameters)
  groups = np.unique(np.round(of_runs, 1))
  groups = groups[np.linspace(0, len(groups) - 1, min(len(groups), 4)).astype(int)]
  for i, group in enumerate(groups):
    near = np.round(of_runs, 1) == group
    ratio = float(np.exp(of_runs[near].mean()))
    n = np.sqrt(flops / 6 / ratio)
    _band(axes, flops, fit, level, lambda law, n=n, ratio=ratio: law.loss(n, ratio * n),
          color=f'C{i}', label=f'D / N {ratio:.3g}')
    axes.plot(runs.flops[near], runs.loss[near], 'o', color=f'C{i}', markersize=4)
  axes.set(xscale='log')
  axes.legend(frameon=False, fontsize=8)
  return 'over_training', figure


def _experts(fit: FormFit, level: float):
  runs, found = fit.runs, expansions(fit.runs)
  figure, axes = figures.new_axes('Loss at the optimum, by experts over active ones',
                                       'training FLOPs', 'loss')
  flops = np.geomspace(runs.flops.min(), 100 * runs.flops.max(), _STEPS)
  for i, expansion in enumerate(np.unique(found)):
    def lowest(law, expansion=float(expansion)):
      form = law.at(expansion)
      return form.loss(*form.optimum(flops))

    _band(axes, flops, fit, level, lowest, color=f'C{i}', label=f'{expansion:.3g}')
    of = found == expansion
    axes.plot(runs.flops[of], runs.loss[of], 'o', color=f'C{i}', markersize=3)
  axes.set(xscale='log')
  axes.legend(frameon=False, fontsize=8)
  return 'experts', figure


_FIGURES = {'repeats': _repeats, 'precision': _precision, 'over_training': _over_training,
            'experts': _experts}
