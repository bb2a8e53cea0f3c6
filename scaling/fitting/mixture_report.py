"""The report of `t5x-lite scaling mixture`: as data, as text, and as a picture."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from scaling.fitting.mixture import MixtureFit
from scaling.fitting.mixture_optimum import Optimum, distance_from_swarm

_FORMULAS = {'exponential': 'c + exp(sum t r)', 'linear': 'sum b r', 'quadratic': "r' Q r"}


def report_mixture(fit: MixtureFit, held: Mapping[str, float], found: Optimum, limits: np.ndarray,
                   natural: np.ndarray | None, level: float) -> dict[str, Any]:
  """The report, for JSON."""
  swarm, (low, high) = fit.swarm, found.interval(level)
  names = swarm.sources
  return {
      'proxies': len(swarm), 'form': fit.form, 'held_out': dict(held), 'level': level,
      'noise': dict(zip(swarm.sets, fit.noise)), 'weights': dict(zip(swarm.sets, swarm.weights)),
      'theta': dict(zip(swarm.sets, fit.theta)),
      'shares': {name: {'optimum': [found.shares[j], low[j], high[j]],
                        'natural': None if natural is None else natural[j],
                        'swept': [swarm.shares[:, j].min(), swarm.shares[:, j].max()],
                        'limit': limits[j]} for j, name in enumerate(names)},
      'loss': found.loss, 'natural_loss': found.natural, 'gain': found.gain,
      'natural_outside': 0.0 if natural is None else distance_from_swarm(fit, natural),
  }


def list_warnings(report: dict[str, Any]) -> list[str]:
  """A line for each reason to doubt the optimum."""
  lines = []
  for name, share in report['shares'].items():
    low, high = share['swept']
    value, *ends = share['optimum']
    if ends[0] == ends[1]:
      lines.append(f'{name}: its interval has no width, since every refit is at the edge of what '
                   'was swept')
    if value > high - 2e-3 and high < min(share['limit'], 1.0) - 2e-3:
      lines.append(f'{name}: the optimum is at the highest share that was swept, {high:.3g}: add '
                   'proxies beyond it')
    if value < low + 2e-3 and low > 2e-3:
      lines.append(f'{name}: the optimum is at the lowest share that was swept, {low:.3g}: add '
                   'proxies below it')
  if report['gain'] and report['gain'][1] <= 0:
    lines.append('the optimum is not told from the natural shares: its gain may be none')
  if report['natural_outside']:
    lines.append('the natural shares are outside what was swept, and their loss is extrapolated: '
                 'train a proxy on them')
  return lines


def format_mixture(report: dict[str, Any]) -> str:
  """The report as text, with the rates as gin."""
  percent = f'{100 * report["level"]:g} %'
  held = ', '.join(f'{name} {error:.3g}' for name, error in report['held_out'].items())
  lines = [f'loss = {_FORMULAS[report["form"]]} ({report["form"]}), {report["proxies"]} proxies, '
           f'noise {", ".join(f"{name} {noise:.2g}" for name, noise in report["noise"].items())}',
           f'Error on held-out proxies: {held}', '',
           f'{"source":<18}{"optimum":>9}   {percent + " interval":<18}{"natural":>9}{"swept":>18}'
           f'{"limit":>8}']
  for name, share in report['shares'].items():
    value, *ends = share['optimum']
    natural = '-' if share['natural'] is None else f'{share["natural"]:.4f}'
    limit = f'{share["limit"]:.3g}' if share['limit'] < 1 else '-'
    lines.append(f'{name:<18}{value:>9.4f}   {_between(ends, 3):<18}{natural:>9}'
                 f'{_between(share["swept"], 3):>18}{limit:>8}')
  lines.append('')
  if len(report['weights']) > 1:
    lines.append('loss: the mean of ' + ', '.join(
        f'{name} (weight {weight:.3g})' for name, weight in report['weights'].items()))
  for label, key in (('loss there', 'loss'), ('loss at natural shares', 'natural_loss'),
                     ('difference', 'gain')):
    if report[key]:
      lines.append(f'{label:<24}{report[key][0]:.4f}  ({_between(report[key][1:], 4)})')
  rates = ', '.join(f'{share["optimum"][0]:.4f}' for share in report['shares'].values())
  return '\n'.join([*lines, '', f'# {", ".join(report["shares"])}; rates are of examples: for '
                    'shares of tokens, divide each by the mean tokens of its examples',
                    f'mixtures.Mixture.rates = ({rates})'])


def _between(ends, digits: int) -> str:
  return f'{ends[0]:.{digits}f} to {ends[1]:.{digits}f}'


def draw_mixture(report: dict[str, Any]):
  """A matplotlib Figure: the optimal share of each source with its interval, and what was swept."""
  from matplotlib.figure import Figure
  shares = report['shares']
  figure = Figure(figsize=(6, 1.9 + 0.42 * len(shares)), layout='constrained')
  axes = figure.subplots()
  rows = np.arange(len(shares))
  swept = np.array([share['swept'] for share in shares.values()])
  value, low, high = np.array([share['optimum'] for share in shares.values()]).T
  axes.barh(rows, swept[:, 1] - swept[:, 0], left=swept[:, 0], height=0.75, color='0.9',
            label='swept')
  axes.barh(rows, value, height=0.45, color='tab:blue', alpha=0.75, label='optimum')
  axes.errorbar(value, rows, xerr=[np.maximum(value - low, 0), np.maximum(high - value, 0)],
                fmt='none', color='black', capsize=3, lw=1.2, label=f'{report["level"]:.0%}')
  natural = [share['natural'] for share in shares.values()]
  if natural[0] is not None:
    axes.plot(natural, rows, 'D', color='tab:orange', markersize=6, label='natural')
  for row, share in zip(rows, shares.values()):
    if share['limit'] < 1:
      axes.plot([share['limit']] * 2, [row - 0.4, row + 0.4], color='tab:red', lw=2,
                label='limit' if 'limit' not in axes.get_legend_handles_labels()[1] else None)
  axes.set_yticks(rows, list(shares))
  axes.invert_yaxis()
  axes.set(xlabel='share', xlim=(0, None))
  axes.set_title('The mixture of the lowest loss', fontsize=10)
  axes.spines[['top', 'right']].set_visible(False)
  figure.legend(*axes.get_legend_handles_labels(), frameon=False, fontsize=8, ncols=5,
                loc='outside lower center')
  return figure
