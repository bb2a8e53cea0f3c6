"""The outputs of the web page: a CSV file to a law; predictions, plans and fits to HTML.

All numbers come from the other modules of `scaling`, and most labels from `plan_text`.
"""

import base64
from collections.abc import Iterable, Sequence
import dataclasses
from html import escape
import io
import pathlib
from typing import Any

from scaling.app import charts
from scaling.fitting.parametric import Fit
from scaling.laws.laws import Law
from scaling.planning import calculator, plan_text
from scaling.planning.amounts import format_amount, format_hours, format_interval, format_money
from scaling.planning.planner import Plan
from scaling.planning.predictions import Prediction
from t5x_lite.core.errors import UserError
from t5x_lite.core.strict_json import format_json

Tiles = list[tuple[str, str, str]]

CHARTS = ('The optimal N of each budget by law, without constraints; dotted: outside the runs of '
          'the law. Diamond: this plan.',
          'Compute overhead of a wrong N, without constraints: FLOPs for the same loss.',
          'Memory of a device in a step by mesh, that of the plan first; at work: the largest of '
          'logits, a layer, and a copy.')
RESAMPLES = 20, 2000   # min and max of the page
_SPAN = 300            # factor around the budget in the figure of the laws


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
  _, found, outlying = diagnostics.fit_kept(runs, loss, drop=False)
  found = parametric.bootstrap(found, int(resamples))
  max_flops = float(runs.flops.max())
  report = fit_report.report_fit(found, [max_flops, 10 * max_flops, 100 * max_flops], 0.95,
                                 outlying)
  saved = folder / 'fit.json'
  saved.write_text(format_json(report))
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


def tiles_of(plan: Plan) -> Tiles:
  """(name, value, what is below it) of the figures of a plan."""
  chip, best = plan.budget.chip, plan.prediction
  none = lambda value, shown: 'not known' if value is None else shown(value)
  bare = lambda ends, show: '' if ends is None else f'{show(ends[0])}–{show(ends[1])}'
  loss = lambda x: f'{x:.3f}'
  price = '' if chip.price is None else f'${chip.price:g} an hour on {chip.price_date}'
  if chip.stale():
    price += ', an old price: set another'
  return [
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
      ('Training FLOPs', f'{plan.flops:.3g}', f'at an MFU of {plan.budget.mfu:.3g}'),
  ]


def plan_html(plan: Plan) -> str:
  """The plan: its figures, its warnings, and the run as the command prints it."""
  old_price = plan.budget.chip.stale()   # which the tile of the cost says
  return (''.join(f'<div class="warn">{escape(line)}</div>' for line in plan.warnings
                  if line != old_price)
          + '<div class="tiles" id="tiles">' + ''.join(
              f'<div class="tile"><span>{escape(name)}</span><b>{escape(value)}</b>'
              f'<span>{escape(below)}</span></div>' for name, value, below in tiles_of(plan))
          + '</div>'
          + '<table class="data rows" id="run" style="margin-top: 10px"><tbody>' + ''.join(
              f'<tr><td>{escape(name)}</td><td>{escape(text)}</td></tr>'
              for name, text in plan_text.run_rows(plan))
          + '</tbody></table>')


def answer_html(plan: Plan) -> str:
  """The plan in a line, which a phone shows while its fields are changed."""
  shown = {name: value for name, value, _ in tiles_of(plan)}
  cost = f', <b>{escape(shown["Cost"])}</b>' if plan.dollars is not None else ''
  return (f'<a href="#tiles"><b>{escape(shown["Parameters"])}</b> parameters, '
          f'<b>{escape(shown["Tokens"])}</b> tokens, loss <b>{escape(shown["Expected loss"])}</b>'
          f'{cost}, <b>{escape(shown["Time"])}</b></a>')


def failed_html(message: str) -> str:
  """As answer_html, of a request without a plan."""
  return f'<a href="#alert" class="failed">{escape(message)}</a>'


def name_of(plan: Plan) -> str:
  """What tells one plan from another: its law, budget and hardware."""
  return (f'{plan.prediction.law}, {plan.flops:.2g} FLOPs, {plan.budget.chips:,} × '
          f'{plan.budget.chip.title}')


def comparison_html(kept: tuple[str, Tiles] | None, shown: tuple[str, Tiles] | None) -> str:
  """Two plans side by side; '' if none is kept."""
  if kept is None:
    return ''
  (name, tiles), (other, others) = kept, shown or ('no plan', [('', '', '')] * len(kept[1]))
  return table_html(['', f'Kept: {name}', f'Now: {other}'],
                    [[what, value, now] for (what, value, _), (_, now, _) in zip(tiles, others)],
                    name='comparison')


def notes_html(plan: Plan) -> str:
  """The spread over laws, the meaning of intervals, and deviating counts of N."""
  return ''.join(f'<div>{escape(line)}</div>' for line in plan_text.list_notes(plan))


def plan_charts(plan: Plan, known: dict[str, Law]) -> list[dict[str, Any]]:
  """The charts CHARTS of a plan, but for the last one to its own mesh alone."""
  flops = plan.prediction.flops
  return [charts.frontier_chart(known, flops, plan.prediction.parameters, _SPAN),
          charts.overhead_chart(charts.overheads_of(known), flops),
          charts.memory_chart(_own_memory(plan), plan.budget.chip.device_memory)]


def memory_by_mesh(plan: Plan) -> dict[str, dict[str, float]]:
  """Mesh -> part -> bytes of a device, for the meshes of the plan's chips, its own first."""
  placed, own = plan.layout, _own_memory(plan)
  others = calculator.estimate_memory(plan.config, plan.budget, placed.rows, plan.lengths,
                                      placed.microbatches)
  return {**own, **{name: held.parts for name, held in others.items() if name not in own}}


def _own_memory(plan: Plan) -> dict[str, dict[str, float]]:
  mesh = ' x '.join(f'{axis} {size}' for axis, size in plan.layout.mesh.items() if size > 1)
  return {mesh or 'one device': plan.layout.memory.parts}


def pictures(shown: Iterable[tuple[str, Any, tuple[float, float]]]) -> str:
  """(caption, matplotlib figure, size in inches) as inline images."""
  return '<div class="pictures">' + ''.join(
      f'<figure><figcaption>{escape(caption)}</figcaption><a download="figure.svg" '
      f'href="{(image := _image(figure, size))}"><img alt="{escape(caption)}" src="{image}"></a>'
      '</figure>' for caption, figure, size in shown) + '</div>'


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
