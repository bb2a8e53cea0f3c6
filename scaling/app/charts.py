"""The charts of the web page, which show a number under the hand: options of Apache ECharts.

Each is a dict that `ui.echart` takes. A key that begins with a colon holds JavaScript.
"""

from collections.abc import Mapping, Sequence
import csv
import io
import math
from typing import Any

import numpy as np

from scaling.laws.laws import Law, ParametricLaw

COLOURS = ('#1f5f99', '#d9730d', '#2f8f4e', '#b5338a', '#7a5cc7', '#0f8b8d', '#a8871a', '#c0392b',
           '#5b6b7b', '#4caf9a', '#8d5b3f', '#3f51b5', '#e07a9b')
_BLACK, _RED = '#1c2733', '#c0392b'
# 1.23e21 FLOPs, 72.3B parameters: three digits.
_POWER = "v => Number(v).toExponential(2).replace('e+', 'e')"
_AMOUNT = ("v => v >= 1e12 ? +(v / 1e12).toPrecision(3) + 'T' : v >= 1e9 ? "
           "+(v / 1e9).toPrecision(3) + 'B' : v >= 1e6 ? +(v / 1e6).toPrecision(3) + 'M' : "
           '+Number(v).toPrecision(3)')
_DIGITS = 'v => v == null ? "never" : Number(v).toPrecision(3)'
# What is under the hand: its x, and each series' y, the largest first.
_TOOLTIP = """ps => {
  const y = p => Array.isArray(p.value) ? p.value[1] : p.value, seen = new Set();
  const rows = ps.filter(p => y(p) != null && !seen.has(p.seriesName) && seen.add(p.seriesName));
  return '<b>' + (X)(ps[0].axisValue) + '</b>' + rows.sort((a, b) => y(b) - y(a)).map(
    p => '<br>' + p.marker + p.seriesName + ' <b>' + (Y)(y(p)) + '</b>').join('');
}"""
_POINTS = 61


def frontier_chart(laws: Mapping[str, Law], flops: float, parameters: float, span: float
                   ) -> dict[str, Any]:
  """The optimal N of budgets around `flops`, by law; dotted outside the runs of a law.

  A star marks this budget's N. Laws of one's own have the colour black.
  """
  budgets = np.geomspace(flops / span, flops * span, _POINTS)
  series = []
  for i, (name, law) in enumerate(laws.items()):
    colour = _BLACK if name == 'fit' else COLOURS[i % len(COLOURS)]
    inside = [law.fitted is not None and law.extrapolation(c) == 1 for c in budgets]
    sizes = [law.form.optimum(c)[0] for c in budgets]
    for kind, held in (('solid', inside), ('dotted', [not x for x in inside])):
      # A line is drawn between two of its points: what ends one begins the other.
      near = [any(held[max(0, j - 1):j + 2]) if kind == 'dotted' else h
              for j, h in enumerate(held)]
      data = [[_short(c), _short(n) if shown else None]
              for c, n, shown in zip(budgets, sizes, near)]
      series.append({'name': name, 'type': 'line', 'data': data, 'symbol': 'none',
                     'itemStyle': {'color': colour},
                     'lineStyle': {'type': kind, 'width': 2, 'color': colour}})
  series.append({'name': 'this budget', 'type': 'scatter', 'symbol': 'diamond', 'symbolSize': 14,
                 'itemStyle': {'color': _RED}, 'z': 5,
                 'data': [[_short(flops), _short(parameters)]]})
  return _chart(series, _axis('training FLOPs', kind='log'), _axis('optimal N', kind='log'),
                _POWER, _AMOUNT)


def overhead_chart(laws: Mapping[str, Any], flops: float) -> dict[str, Any]:
  """Compute for the same loss, as a multiple, with a quarter to four times the optimal N.

  Args:
    laws: name -> factor of N -> multiple; nothing of a law that is not parametric.
  """
  factors = np.geomspace(0.25, 4, _POINTS)
  series = [{'name': name, 'type': 'line', 'symbol': 'none', 'itemStyle': {'color': colour},
             'data': [[_short(f), _short(overhead(flops, f))] for f in factors]}
            for (name, overhead), colour in zip(laws.items(), COLOURS)]
  return _chart(series, _axis('N / optimal N', kind='log', base=2),
                _axis('FLOPs, as a multiple', low=1), _DIGITS, _DIGITS)


def overheads_of(laws: Mapping[str, Law]) -> dict[str, Any]:
  """Name -> function of (flops, factor), of the parametric laws."""
  return {name: law.form.compute_overhead for name, law in laws.items()
          if isinstance(law.form, ParametricLaw)}


def memory_chart(held: Mapping[str, Mapping[str, float]], capacity: float) -> dict[str, Any]:
  """Memory of a device in a step: {mesh: {part: bytes}} as stacked bars, with the capacity."""
  names = list(next(iter(held.values())))
  series = [{'name': name, 'type': 'bar', 'stack': 'memory', 'itemStyle': {'color': colour},
             'data': [_short(parts[name] / 1e9) for parts in held.values()]}
            for name, colour in zip(names, COLOURS)]
  series[-1]['markLine'] = {
      'symbol': 'none', 'data': [{'xAxis': _short(capacity / 1e9)}], 'lineStyle': {'color': _RED},
      'label': {'formatter': f'{capacity / 1e9:.3g} GB', 'color': _RED, 'position': 'start'}}
  largest = max(sum(parts.values()) for parts in held.values())
  chart = _chart(series, _axis('GB', high=_short(1.05 * max(capacity, largest) / 1e9)),
                 _axis('', kind='category'), 'v => v', _DIGITS)
  chart['yAxis'].update({'data': list(held), 'inverse': True, 'axisLabel': {}})
  chart['tooltip']['axisPointer'] = {'type': 'shadow'}
  chart['grid']['left'] = 120
  return chart


def format_csv(charts: Mapping[str, dict[str, Any]]) -> str:
  """What line charts show, as CSV: chart, series, x, y; points where nothing is drawn left out."""
  file = io.StringIO()
  rows = csv.writer(file, lineterminator='\n')
  rows.writerow(['chart', 'series', 'x', 'y'])
  for title, chart in charts.items():
    for series in chart['series']:
      if series['type'] != 'bar':
        rows.writerows([title, series['name'], x, y] for x, y in series['data'] if y is not None)
  return file.getvalue()


def _short(value: float) -> float | None:
  """Four digits, as JSON carries them; None if it is not finite."""
  return float(f'{value:.4g}') if math.isfinite(value) else None


def _axis(name: str, kind: str = 'value', base: int = 10, low: float | None = None,
          high: float | None = None) -> dict[str, Any]:
  axis = {'type': kind, 'name': name, 'nameLocation': 'middle', 'nameGap': 30}
  if kind == 'log':
    axis.update({'logBase': base, 'min': 'dataMin', 'max': 'dataMax'})
  bounds = {'min': low, 'max': high}
  return {**axis, **{end: value for end, value in bounds.items() if value is not None}}


def _chart(series: Sequence[dict], x: dict, y: dict, x_label: str, y_label: str) -> dict[str, Any]:
  """The chart of series on two axes; the labels are JavaScript functions of a number."""
  label = lambda function: {'axisLabel': {':formatter': function, 'hideOverlap': True}}
  return {
      'animation': False, 'series': list(series), 'xAxis': {**x, **label(x_label)},
      'yAxis': {**y, **label(y_label), 'nameGap': 50},
      'grid': {'left': 70, 'right': 24, 'top': 60, 'bottom': 46},
      'legend': {'type': 'scroll', 'top': 4, 'left': 8, 'right': 64},
      'tooltip': {'trigger': 'axis', 'confine': True, ':formatter': _TOOLTIP.replace(
          '(X)', f'({x_label})').replace('(Y)', f'({y_label})')},
      'toolbox': {'right': 8, 'top': 0, 'feature': {'saveAsImage': {
          'title': 'Save', 'pixelRatio': 2, 'backgroundColor': 'white'}}}}
