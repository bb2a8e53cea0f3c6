"""The picture of the loss over how much a model has read."""

from collections.abc import Mapping, Sequence
import math

from t5x_lite.evaluation.calibration_plot import STYLES
from t5x_lite.evaluation.language_modelling import Band


def draw_positions(series: Mapping[str, Sequence[Band]]):
  """A matplotlib Figure: nats a token of each band, at the geometric middle of its positions.

  Args:
    series: {name in the legend: bands of language_modelling.by_position}.
  """
  from matplotlib.figure import Figure  # not pyplot, which has a state of its own
  figure = Figure(figsize=(5.6, 3.6), layout='constrained')
  axes = figure.subplots()
  for (name, bands), (color, marker, line) in zip(series.items(), STYLES * len(series)):
    axes.plot([math.sqrt(band.low * band.high) for band in bands], [band.loss for band in bands],
              line, marker=marker, color=color, label=name)
  axes.set_xscale('log', base=2)
  axes.set(xlabel='tokens read before', ylabel='loss (nats per token)')
  axes.grid(alpha=0.3)
  axes.spines[['top', 'right']].set_visible(False)
  axes.legend(frameon=False, fontsize='small')
  return figure
