"""What `scaling kbit` says and draws of its measurements and their fit."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import matplotlib
from matplotlib.ticker import FuncFormatter
import numpy as np

from scaling import figures
from scaling.kbit.fit import KbitFit, choose
from scaling.kbit.measurements import Measurement


def report(fit: KbitFit) -> dict[str, Any]:
  """The fit as JSON holds it."""
  return {'level': fit.level, 'models': [one.model for one in next(iter(fit.chosen.values()))],
          'codes': {width: row[0].code for width, row in fit.chosen.items()},
          'comparisons': [
              {'total_bits': round(one.total_bits), 'loss': one.loss, 'best': one.best,
               'cannot_be_told_apart': one.tied,
               'behind': {width: dict(zip(('difference', 'low', 'high'), values))
                          for width, values in one.behind.items()}}
              for one in fit.comparisons],
          'statement': statement(fit)}


def statement(fit: KbitFit) -> str:
  """Which width is best, in one sentence or two."""
  total = len(fit.comparisons)
  clear = Counter(one.best for one in fit.comparisons if not one.tied)
  lines = [f'{width} bits have the lowest loss for their total bits at {count} of {total} sizes'
           for width, count in sorted(clear.items(), key=lambda item: -item[1])]
  if unclear := [one for one in fit.comparisons if one.tied]:
    among = sorted({width for one in unclear for width in (one.best, *one.tied)})
    lines.append(f'at {len(unclear)} of {total} the best cannot be told apart, among '
                 f'{", ".join(map(str, among[:-1]))} and {among[-1]} bits')
  return '; '.join(lines)


def format_report(fit: KbitFit) -> str:
  """Tables of the widths and of their losses at equal bits, and the statement."""
  lines = [f'{"bits":>4}  best format and block, over {len(next(iter(fit.chosen.values())))} models'
           '          mean loss']
  for width, row in fit.chosen.items():
    lines.append(f'{width:>4}  {row[0].code:<44}{np.mean([one.loss for one in row]):>9.4f}')
  widths = [*fit.chosen]
  lines += ['', 'Fitted loss at equal total bits (nats a token); * the lowest, ~ cannot be told '
            f'apart from it at {100 * fit.level:g} %',
            f'{"total bits":>12}' + ''.join(f'{f"{width} bits":>11}' for width in widths)]
  for one in fit.comparisons:
    mark = lambda width, one=one: '*' if width == one.best else '~' if width in one.tied else ' '
    cells = (f'{one.loss[width]:>10.4f}{mark(width)}' for width in widths)
    lines.append(f'{one.total_bits:>12,.0f}' + ''.join(cells))
  return '\n'.join([*lines, '', statement(fit)])


def draw(found: Sequence[Measurement], fit: KbitFit | None):
  """A matplotlib Figure: loss over total bits, a colour a width; a dot a format and block."""
  figure, axes = figures.new_axes('Loss by the bits of a model', 'total bits of the model',
                                  'loss (nats a token)', (6.4, 4.8))
  chosen = choose(found)
  shades = matplotlib.colormaps['viridis'](np.linspace(0.0, 0.92, len(chosen)))
  for (width, row), colour, marker in zip(chosen.items(), shades, 'os^Dv*Pph<>'):
    others = [one for one in found if one.bits == width and one not in row]
    axes.plot([one.total_bits for one in others], [one.loss for one in others], '.', markersize=4,
              color=colour, alpha=0.45)
    bits = np.array([one.total_bits for one in row], float)
    label = f'{width} bits' + ('' if width == 16 else f': {row[0].code}')
    axes.plot(bits, [one.loss for one in row], marker, color=colour, markersize=6,
              markeredgecolor='white', markeredgewidth=0.5, zorder=3,
              linestyle='' if fit else '-', label=label)
    if fit is not None:
      dense = np.geomspace(bits.min(), bits.max(), 60)
      axes.plot(dense, fit.loss(width, dense), color=colour, lw=1.3)
  axes.set_xscale('log', base=2)
  best = [one.loss for row in chosen.values() for one in row]
  # Far above them all, widths that fail would hide how the others differ.
  top = np.quantile(best, 0.9) + 0.35 * np.ptp(np.quantile(best, [0, 0.9]))
  axes.set_ylim(min(best) - 0.04 * (top - min(best)), min(top, max(best) * 1.02))
  axes.xaxis.set_major_formatter(FuncFormatter(
      lambda x, _: f'{x / 1e6:.3g} M' if x < 1e9 else f'{x / 1e9:.3g} G'))
  axes.plot([], [], '.', color='0.5', markersize=4, label='other formats and blocks')
  if fit is not None:
    axes.plot([], [], '-', color='0.5', lw=1.3, label='fitted loss of a width')
  figure.legend(*axes.get_legend_handles_labels(), frameon=False, fontsize=8, ncols=2,
                loc='outside lower center')
  return figure
