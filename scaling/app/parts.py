"""The inputs and outputs of the web page: fields to a request, a CSV file to a law, and
predictions, plans and fits to HTML and figures.

All numbers come from the other modules of `scaling`, and most labels from `plan_text`.
"""

import base64
from collections.abc import Callable, Iterable, Mapping, Sequence
import dataclasses
from html import escape
import io
import json
import math
import pathlib
import re
from typing import Any

from scaling.fitting.parametric import Fit
from scaling.laws.laws import Law, ParametricLaw
from scaling.planning import plan_text
from scaling.planning.amounts import (
  format_amount,
  format_hours,
  format_interval,
  format_money,
  parse_duration,
)
from scaling.planning.budget import MFU, PUE
from scaling.planning.planner import Plan
from scaling.planning.predictions import Prediction
from scaling.planning.request import Request
from t5x_lite.core.errors import UserError

RESAMPLES = 20, 2000   # min and max of the page
_SPAN = 300            # factor around the budget in the figure of the laws


@dataclasses.dataclass(frozen=True)
class Field:
  """A text field: its label, parser, hint and initial value.

  `decades` are the powers of ten of its slider; larger values than `max_value` take too long.
  """
  label: str
  read: Callable[[str], Any]
  hint: str
  value: str = ''
  decades: tuple[int, int] | None = None
  max_value: float = math.inf


FIELDS = {
    'flops': Field('Training FLOPs', float, 'e.g. 1e21', '1e21', (17, 27)),
    'hours': Field('Time', parse_duration, 'e.g. 36, 90m or 2d (hours if no unit)', '24'),
    'dollars': Field('Dollars', float, 'e.g. 1000', '1000', (1, 8)),
    'kwh': Field('Energy (kWh)', float, 'e.g. 500', '500', (1, 8)),
    'loss': Field('Target loss', float, 'nats a token, e.g. 2.5', '2.5'),
    'chips': Field('Chips', int, 'empty: as few as suffice', max_value=2 ** 20),
    'mfu': Field('MFU', float, f'fraction of the peak; empty: {MFU}'),
    'pue': Field('PUE', float, f'data centre over chips; empty: {PUE}'),
    'deadline': Field('Deadline', parse_duration, 'e.g. 36, 90m or 2d'),
    'unique_tokens': Field('Unique tokens', float, 'e.g. 1e11; more are repeats'),
    'served_tokens': Field('Tokens to be served', float, 'e.g. 1e12; the budget includes them'),
    'max_parameters': Field('Largest model', float, 'parameters, e.g. 8e9'),
    'length': Field('Row length', int, "tokens; empty: the family's", max_value=2 ** 20),
    'multiple': Field('Multiple of widths', int, 'empty: 128'),
    'vocab_size': Field('Vocabulary', int, "empty: the family's"),
}
BUDGETS = {'flops': 'FLOPs', 'chips': 'Chips', 'dollars': '$', 'kwh': 'kWh', 'loss': 'Loss'}
OF_BUDGET = ('flops', 'hours', 'dollars', 'kwh', 'loss')
DETAILS = tuple(name for name in FIELDS if name not in (*OF_BUDGET, 'chips'))


class TextError(UserError):
  """A text that its field cannot parse; `field` is its name."""

  def __init__(self, field: str, message: str):
    super().__init__(message)
    self.field = field


def shown_fields(budget: str) -> tuple[str, ...]:
  """The names of the fields of a kind of budget, one of BUDGETS."""
  return ('hours' if budget == 'chips' else budget, 'chips', *DETAILS)


def read_request(texts: Mapping[str, str], budget: str, **choices) -> Request:
  """The request of the fields' texts; TextError or UserError if it is invalid."""
  values = {}
  for name in shown_fields(budget):
    field, text = FIELDS[name], (texts.get(name) or '').strip()
    if text:
      try:
        values[name] = field.read(text)
      except ValueError:
        kind = 'whole number' if field.read is int else 'number'
        raise TextError(name, f'{field.label}: {text!r} is not a {kind}; {field.hint}') from None
      except UserError as e:
        raise TextError(name, f'{field.label}: {e}') from None
      if values[name] > field.max_value:
        raise TextError(name, f'{field.label}={text}: give {field.max_value:,} or less')
  return Request(**values, **choices)


def explain_message(message: str) -> tuple[str, str | None]:
  """A message with the page's labels in place of command-line flags, and its field."""
  name = re.match(r'--(\w+)', message)
  labels = {**{name: field.label for name, field in FIELDS.items()}, 'law': 'Law',
            'hardware': 'Hardware', 'family': 'Family', 'columns': 'Columns'}
  text = re.sub(r'--(\w+)', lambda found: labels.get(found[1], found[0]), message)
  return text, name[1] if name and name[1] in FIELDS else None


@dataclasses.dataclass(frozen=True)
class Fitted:
  """A law of a visitor's runs: the fit, its report, and its file, for a Request."""
  fit: Any
  report: dict[str, Any]
  text: str
  path: pathlib.Path


def fit_csv(folder: pathlib.Path, name: str, data: bytes, columns: str, loss: str, resamples: str
            ) -> Fitted:
  """The law of a CSV file, as in `t5x-lite scaling fit`; UserError if there is none."""
  from scaling.fitting import diagnostics, fit_report, parametric
  from scaling.fitting.runs import read_csv
  named = {}
  for item in filter(None, (item.strip() for item in columns.split(','))):
    quantity, equals, column = (part.strip() for part in item.partition('='))
    if not equals or not column:
      raise UserError(f'Columns: {item!r} is not QUANTITY=NAME, e.g. loss=val_loss')
    named[quantity] = column
  low, high = RESAMPLES
  if not resamples.isdecimal() or not low <= int(resamples) <= high:
    raise UserError(f'Resamples: {resamples!r} is not a whole number from {low} to {high}')
  path = folder / (pathlib.PurePath(name).name or 'runs.csv')
  path.write_bytes(data)
  try:
    runs = read_csv(path, named)
  except UserError as e:   # the visitor knows the name, not the folder
    raise UserError(str(e).replace(f'{folder}/', '')) from None
  found = parametric.bootstrap(parametric.fit_law(runs, loss), int(resamples))
  max_flops = float(runs.flops.max())
  report = fit_report.report_fit(found, [max_flops, 10 * max_flops, 100 * max_flops], 0.95,
                                 diagnostics.outliers(found))
  saved = folder / 'fit.json'
  saved.write_text(json.dumps(report))
  return Fitted(found, report, fit_report.format_report(report), saved)


def provenance_html(name: str, law: Law) -> str:
  """The source of a law, what it counts, and its runs, as HTML."""
  runs = 'not known'
  if law.fitted is not None:
    runs = f'{law.fitted[0]:.2g} to {law.fitted[1]:.2g} FLOPs'
  facts = {'Source': law.source, 'Counts': law.counts, 'Text': law.text, 'Fitted on': runs,
           'Interval': law.interval or 'none published', 'Note': law.note}
  return ''.join(f'<div><b>{name}</b> {escape(text)}</div>' for name, text in facts.items() if text)


def table_html(headers: Sequence[str], rows: Iterable[Sequence[str]], chosen: str = '',
               name: str = '') -> str:
  """An HTML table; a cell '1 (2–3)' has two lines, the row that begins with `chosen` is marked."""
  head = ''.join(f'<th>{escape(header)}</th>' for header in headers)
  body = ''.join(
      f'<tr{" class=chosen" if chosen and row[0] == chosen else ""}>'
      f'{"".join(f"<td>{_cell(cell)}</td>" for cell in row)}</tr>' for row in rows)
  return (f'<div class="scroll"><table class="data" id="{name}"><thead><tr>{head}</tr></thead>'
          f'<tbody>{body}</tbody></table></div>')


def _cell(text: str) -> str:
  value, bracket, rest = text.partition(' (')
  shown = escape(value).replace('_', '_<wbr>')
  return f'{shown}<small>{escape(rest.removesuffix(")"))}</small>' if bracket else shown


def predictions_html(found: Sequence[Prediction], chosen: str, target: bool) -> str:
  """The table of laws, with FLOPs for a target loss."""
  table = plan_text.table_cells(found, target)
  headers = next((list(row) for row in table if 'reason' not in row), ['law'])
  rows = [[row['law'], row['reason'], *[''] * (len(headers) - 2)] if 'reason' in row
          else list(row.values()) for row in table]
  return table_html([header[0].upper() + header[1:] for header in headers], rows, chosen,
                    'predictions')


def plan_html(plan: Plan) -> str:
  """The plan: its figures, its warnings, and the run as the command prints it."""
  chip, best = plan.budget.chip, plan.prediction
  none = lambda value, shown: 'not known' if value is None else shown(value)
  bare = lambda ends, show: '' if ends is None else f'{show(ends[0])}–{show(ends[1])}'
  loss = lambda x: f'{x:.3f}'
  price = '' if chip.price is None else f'${chip.price:g} an hour on {chip.price_date}'
  tiles = [
      ('Parameters', format_amount(plan.total_parameters), 'by the law '
       + format_interval(best.parameters, best.parameters_interval, format_amount)),
      ('Tokens', format_amount(plan.tokens), f'by the law {format_amount(best.tokens)}'),
      ('Tokens a parameter', f'{plan.tokens / plan.total_parameters:.3g}', bare(
          best.ratio_interval, lambda x: f'{x:.3g}')),
      ('Expected loss', 'not predicted' if plan.loss is None else loss(plan.loss),
       bare(plan.loss_interval, loss)),
      ('Time', format_hours(plan.budget.hours),
       f'on {plan.budget.chips:,} × {chip.title}'),
      ('Cost', none(plan.dollars, format_money), price),
      ('Energy', none(plan.kwh, lambda x: f'{x:,.0f} kWh'), f'with a PUE of {plan.budget.pue:g}'),
      ('Training FLOPs', f'{plan.flops:.3g}', f'at an MFU of {plan.budget.mfu:g}'),
  ]
  return (''.join(f'<div class="warn">{escape(line)}</div>' for line in plan.warnings)
          + '<div class="tiles" id="tiles">' + ''.join(
              f'<div class="tile"><span>{escape(name)}</span><b>{escape(value)}</b>'
              f'<span>{escape(below)}</span></div>' for name, value, below in tiles) + '</div>'
          + '<table class="data rows" id="run" style="margin-top: 10px"><tbody>' + ''.join(
              f'<tr><td>{escape(name)}</td><td>{escape(text)}</td></tr>'
              for name, text in plan_text.run_rows(plan))
          + '</tbody></table>')


def notes_html(plan: Plan) -> str:
  """The spread over laws, the meaning of intervals, and deviating counts of N."""
  return ''.join(f'<div>{escape(line)}</div>' for line in plan_text.list_notes(plan))


def plan_pictures(plan: Plan, known: dict[str, Law], fit: Fit | None) -> str:
  """Frontier with the budget marked, compute overhead, and memory of a device."""
  from scaling import figures
  flops = plan.prediction.flops
  span = flops / _SPAN, flops * _SPAN
  frontier = figures.frontier(fit, span=span, marked=(flops, plan.prediction.parameters))
  overhead = figures.compute_overhead(
      {name: law.form for name, law in known.items() if isinstance(law.form, ParametricLaw)}, flops)
  held = plan.layout.memory
  mesh = ' × '.join(f'{axis} {size}' for axis, size in plan.layout.mesh.items() if size > 1)
  bars = figures.memory_bars({mesh or 'one device': held.parts}, plan.budget.chip.device_memory)
  return pictures([
      ('The optimal N of each budget by law. Line and star: this budget. Dotted: extrapolation.',
       frontier, (4.2, 5.0)),
      ('Compute overhead of a wrong N, as a multiple.', overhead, (4.2, 3.6)),
      ('Memory of a device in a step; at work: the largest of logits, a layer, and a copy.', bars,
       (4.2, 2.0))])


def pictures(shown: Iterable[tuple[str, Any, tuple[float, float]]]) -> str:
  """(caption, matplotlib figure, size in inches) as inline images."""
  return '<div class="pictures">' + ''.join(
      f'<figure><figcaption>{escape(caption)}</figcaption><img alt="{escape(caption)}" '
      f'src="{_image(figure, size)}"></figure>' for caption, figure, size in shown) + '</div>'


def _image(figure, size: tuple[float, float]) -> str:
  figure.set_size_inches(*size)
  file = io.BytesIO()
  figure.savefig(file, format='svg')
  return 'data:image/svg+xml;base64,' + base64.b64encode(file.getvalue()).decode()


def fit_html(report: dict[str, Any], text: str) -> str:
  """A fitted law: its warnings, constants, budgets, and the report of the command."""
  from scaling.fitting import fit_report
  digits = lambda x: f'{x:.4g}'
  shown = {'e': 'E', 'a': 'A', 'b': 'B'}
  constants = [
      [shown.get(name, name), format_interval(found['value'], found['interval'], digits),
       f'{found["standard_error"]:.2g}'] for name, found in report['parameters'].items()]
  three = lambda found, show: format_interval(found[0], found[1:], show)
  budgets = [
      [f'{b["flops"]:.3g}', three(b['parameters'], format_amount),
       three(b['tokens'], format_amount), three(b['ratio'], lambda x: f'{x:.3g}'),
       three(b['loss'], lambda x: f'{x:.3f}'),
       plan_text.format_extrapolation(b['extrapolation'])] for b in report['budgets']]
  return (''.join(f'<div class="warn">{escape(line)}</div>'
                  for line in fit_report.list_warnings(report))
          + table_html(['L = E + A/N^alpha + B/D^beta', 'Value', 'Standard error'], constants,
                       name='constants')
          + '<div style="height: 12px"></div>'
          + table_html(['FLOPs', 'N', 'D', 'D/N', 'Loss', 'Extrapolation'], budgets, name='budgets')
          + '<details style="margin-top: 12px"><summary>The whole report: diagnostics, outliers, '
          f'alternative fits</summary><pre class="text">{escape(text)}</pre></details>')


def fit_pictures(found: Fit) -> str:
  """IsoFLOP curves if there are any, the surface, and the residuals."""
  from scaling import figures
  from scaling.fitting import fit_report
  shown = [('Runs by budget, and the law.', figures.isoflop(found.runs, found.law), (4.2, 3.6)),
           ('The fitted loss, the runs, and the optimal N.', figures.surface(found), (4.2, 3.6)),
           ('Residuals; dashed: twice the noise.', fit_report.residual_figure(found), (4.2, 3.6))]
  return pictures(item for item in shown if item[1].axes[0].has_data())


def text_html(content: str, name: str) -> str:
  """A text in a monospaced font."""
  return f'<pre class="text" id="{name}">{escape(content)}</pre>'
