"""The reliability diagram: accuracy over confidence, and where the items lie."""

from collections.abc import Mapping, Sequence

from t5x_lite.evaluation.calibration import Bin, expected_error

# A series differs in mark and dash as well, for whoever cannot tell colors apart.
STYLES = (('tab:blue', 'o', '-'), ('tab:orange', 's', '--'), ('tab:green', '^', '-.'),
           ('tab:purple', 'D', ':'))


def draw_reliability(tables: Mapping[str, Sequence[Bin]]):
  """A matplotlib Figure: accuracy against mean confidence of each bin, and counts below.

  Args:
    tables: {name in the legend: table of `reliability`}; bins without items are left out.
  """
  from matplotlib.figure import Figure  # not pyplot, which has a state of its own
  figure = Figure(figsize=(5, 5.6), layout='constrained')
  axes, counts = figure.subplots(2, sharex=True, height_ratios=(3, 1))
  axes.plot((0, 1), (0, 1), color='gray', linewidth=0.8, label='perfect calibration')
  for i, (name, table) in enumerate(tables.items()):
    color, marker, line = STYLES[i % len(STYLES)]
    filled = [row for row in table if row.number]
    axes.plot([row.confidence for row in filled], [row.accuracy for row in filled], line,
              marker=marker, color=color, clip_on=False,
              label=f'{name}, ECE {expected_error(table):.3f}')
    counts.stairs([row.number for row in table], [table[0].low, *(row.high for row in table)],
                  color=color, linestyle=line, fill=i == 0, alpha=0.4 if i == 0 else 1)
  axes.set(ylabel='accuracy', xlim=(0, 1), ylim=(0, 1))
  counts.set(xlabel='confidence', ylabel='items', ylim=(0, None))
  for each in (axes, counts):
    each.grid(alpha=0.3)
    each.spines[['top', 'right']].set_visible(False)
  axes.legend(frameon=False, fontsize='small', loc='upper left')
  return figure
