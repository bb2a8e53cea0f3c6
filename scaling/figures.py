"""Figures of scaling laws, in matplotlib, of publication quality.

Each function returns a Figure; `save_figure` writes it. Colours are ordered from the smallest
budget or model to the largest, and remain distinct in greyscale.
"""

from collections.abc import Mapping
import pathlib

import matplotlib
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
import numpy as np

from scaling.laws.laws import ParametricLaw
from scaling.laws.parabolas import fit_budgets
from t5x_lite.core import files

_SIZE = (5.4, 3.8)    # inches: one column and a half
_SHADES = 'viridis'


def save_figure(figure: Figure, path: pathlib.Path | str) -> pathlib.Path:
  """Writes a figure in the format of the suffix, .png, .pdf or .svg; returns the path."""
  return files.save_figure(figure, pathlib.Path(path), dpi=200)


def save_figures(fit, folder: pathlib.Path) -> list[pathlib.Path]:
  """Writes the figures of a fit: IsoFLOP curves, surface, frontier, compute overhead."""
  drawn = {'isoflop': isoflop(fit.runs, fit.law), 'surface': surface(fit),
           'frontier': frontier(fit),
           'compute_overhead': compute_overhead({'this fit': fit.law},
                                                float(fit.runs.flops.max()))}
  return [save_figure(figure, folder / f'{name}.png') for name, figure in drawn.items()]


def new_axes(title: str, xlabel: str, ylabel: str, size: tuple[float, float] = _SIZE):
  """(Figure, axes) in the style of these figures."""
  figure = Figure(figsize=size, layout='constrained')
  axes = figure.subplots()
  axes.set(xlabel=xlabel, ylabel=ylabel)
  axes.set_title(title, fontsize=10)
  axes.grid(alpha=0.25, which='major')
  axes.spines[['top', 'right']].set_visible(False)
  return figure, axes


def _shades(number: int) -> np.ndarray:
  return matplotlib.colormaps[_SHADES](np.linspace(0.05, 0.85, number))


def isoflop(runs, law: ParametricLaw | None = None) -> Figure:
  """Loss against N, a curve a budget: the runs, a parabola through them, and the law's curve.

  Budgets and parabolas are those of approach 2 (`parabolas.fit_budgets`). Budgets of fewer than
  three sizes are left out; a parabola without a minimum inside its runs is not drawn.
  """
  figure, axes = new_axes('Loss against size, by budget', 'parameters N', 'loss (nats a token)')
  budgets = [budget for budget in fit_budgets(runs.parameters, runs.flops, runs.loss)
             if budget.coefficients is not None]
  for budget, colour in zip(budgets, _shades(len(budgets))):
    n = runs.parameters[budget.index]
    axes.plot(n, runs.loss[budget.index], 'o', color=colour, markersize=5,
              label=f'runs of {budget.flops:.2g} FLOPs')
    dense = np.geomspace(n.min() / 1.3, n.max() * 1.3, 200)
    if not budget.reason:
      axes.plot(dense, budget(dense), '-', lw=1, color=colour, alpha=0.6)
    if law is not None:
      axes.plot(dense, law.loss(dense, budget.flops / 6 / dense), '--', lw=1, color=colour)
      best, tokens = law.optimum(budget.flops)
      if dense[0] <= best <= dense[-1]:
        axes.plot(best, law.loss(best, tokens), '*', color=colour, markersize=10)
  axes.set_xscale('log')
  grey = {'color': '0.4', 'lw': 1}
  handles, labels = axes.get_legend_handles_labels()
  styles = {'parabola': Line2D([], [], **grey)}
  if law is not None:
    styles |= {'fitted law': Line2D([], [], linestyle='--', **grey),
               'optimal N of the law': Line2D([], [], marker='*', markersize=10, linestyle='',
                                              color='0.4')}
  figure.legend([*handles, *styles.values()], [*labels, *styles], frameon=False, fontsize=8,
                ncols=3, loc='outside lower center')
  return figure


def surface(fit) -> Figure:
  """The fitted loss over compute and size, the runs, and the frontier of optimal sizes."""
  figure, axes = new_axes('The fitted loss', 'training FLOPs C', 'parameters N')
  runs, law = fit.runs, fit.law
  flops = np.geomspace(runs.flops.min() / 2, runs.flops.max() * 8, 120)
  sizes = np.geomspace(runs.parameters.min() / 2, runs.parameters.max() * 4, 120)
  grid = law.loss(sizes[:, None], flops[None, :] / 6 / sizes[:, None])
  # Equal steps of the logarithm of the reducible loss, up to that of the worst run.
  max_loss = min(grid.max(), runs.loss.max() * 1.1)
  levels = law.e + np.geomspace(grid.min() - law.e, max_loss - law.e, 16)
  shades = axes.contourf(flops, sizes, grid, levels=levels, cmap=f'{_SHADES}_r', extend='max')
  axes.plot(flops, law.optimum(flops)[0], color='black', lw=1.5, label='optimal N')
  axes.scatter(runs.flops, runs.parameters, c=runs.loss, cmap=f'{_SHADES}_r', vmin=levels[0],
               vmax=levels[-1], edgecolor='white', s=22, linewidth=0.7, label='runs')
  axes.set(xscale='log', yscale='log', xlim=(flops[0], flops[-1]), ylim=(sizes[0], sizes[-1]))
  axes.grid(False)
  axes.legend(frameon=True, fontsize=8, loc='upper left')
  figure.colorbar(shades, ax=axes, label='loss (nats a token)', format='%.2f')
  return figure


def envelope(curves) -> Figure:
  """Training curves (fitting.isoflop.Curve), and their minimum at each number of FLOPs."""
  figure, axes = new_axes('Training curves and their envelope', 'training FLOPs C',
                       'loss (nats a token)')
  ordered = [(c.flops[i], c.loss[i]) for c in curves for i in [np.argsort(c.flops)]]
  for i, ((flops, loss), colour) in enumerate(zip(ordered, _shades(len(ordered)))):
    axes.plot(flops, loss, color=colour, lw=0.8, alpha=0.8, label=None if i else 'runs')
  grid = np.geomspace(min(f[0] for f, _ in ordered), max(f[-1] for f, _ in ordered), 400)
  lowest = np.nanmin([np.interp(np.log(grid), np.log(f), y, left=np.nan, right=np.nan)
                      for f, y in ordered], axis=0)
  axes.plot(grid, lowest, color='black', lw=1.5, label='envelope')
  axes.set(xscale='log', yscale='log')
  axes.legend(frameon=False, fontsize=8)
  return figure


def frontier(fit, level: float = 0.95) -> Figure:
  """The optimal N of each budget by a fit, with its interval, and the runs."""
  figure, axes = new_axes('Optimal size of each budget', 'training FLOPs C',
                       'optimal number of parameters N')
  span = fit.runs.flops.min() / 1.5, fit.runs.flops.max() * 100
  flops = np.geomspace(*span, 60)
  bands = np.array([fit.optimum(c, level)['parameters'] for c in flops])
  axes.fill_between(flops, bands[:, 1], bands[:, 2], color='black', alpha=0.15, lw=0)
  axes.plot(flops, bands[:, 0], color='black', lw=1.8, label=f'this fit, {level:.0%}')
  axes.scatter(fit.runs.flops, fit.runs.parameters, s=10, color='black', alpha=0.5, zorder=3,
               label='runs')
  axes.set(xscale='log', yscale='log', xlim=span)
  figure.legend(*axes.get_legend_handles_labels(), frameon=False, fontsize=8, ncols=2,
                loc='outside lower center')
  return figure


def compute_overhead(laws: Mapping[str, ParametricLaw], flops: float) -> Figure:
  """Compute for the same loss, as a multiple, with a quarter to four times the optimal N."""
  figure, axes = new_axes(f'Compute overhead of a wrong N at {flops:.3g} FLOPs', 'N / optimal N',
                       'compute for the same loss, as a multiple')
  factors = np.geomspace(0.25, 4, 61)
  for (name, law), colour in zip(laws.items(), matplotlib.colormaps['tab10'].colors):
    overheads = np.array([law.compute_overhead(flops, factor) for factor in factors])
    overheads[~np.isfinite(overheads)] = np.nan
    axes.plot(factors, overheads, color=colour, label=name)
  axes.axhline(1, color='grey', lw=0.6)
  axes.set(xscale='log', ylim=(0.95, min(4.0, axes.get_ylim()[1])))
  axes.set_xticks([0.25, 0.5, 1, 2, 4], ['¼', '½', '1', '2', '4'])
  axes.minorticks_off()
  axes.legend(frameon=False, fontsize=8)
  return figure
