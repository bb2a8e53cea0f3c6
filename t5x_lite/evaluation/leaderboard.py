"""Models and tasks in a table: the headline metric of each with its error, and the average."""

from collections.abc import Mapping, Sequence
import csv
import dataclasses
import decimal
import html
import io
import math
import pathlib

from t5x_lite.core.errors import UserError
from t5x_lite.evaluation.paired_items import newest_results
from t5x_lite.evaluation.results import Metric, TaskResult, mean_of_metrics, read_result

# The suite of the Open LLM Leaderboard of 2023: {task: (shots, metric)}. Its average is the plain
# mean; MMLU's accuracy is the mean over subjects, whatever their sizes.
OPEN_LLM_V1 = {'arc_challenge': (25, 'acc_norm'), 'hellaswag': (10, 'acc_norm'),
               'mmlu': (5, 'acc_of_groups'), 'truthfulqa_mc2': (0, 'mc2')}
AVERAGE = 'average'
# What is in the names of metrics that are no fractions of 1.
_NO_FRACTIONS = (
    'perplexity', 'ppl', 'bits', 'nats', 'nll', 'loss', 'bleu', 'rouge', 'chrf', 'ter')


@dataclasses.dataclass(frozen=True)
class Leaderboard:
  """Rows of models, best average first.

  Attributes:
    columns: names of the tasks.
    rows: {model: {column: metric}}; a model may lack a column. Percent, but for `plain` columns.
    plain: columns whose metric is no fraction: they are shown as they are, and no part of an
      average.
  """
  columns: tuple[str, ...]
  rows: Mapping[str, Mapping[str, Metric]]
  plain: frozenset[str] = frozenset()

  def average(self, model: str) -> Metric | None:
    """Mean of all columns in percent, and its error, tasks being independent.

    None for a model that lacks one: an average over other tasks is no match.
    """
    averaged = [column for column in self.columns if column not in self.plain]
    cells = [self.rows[model].get(column) for column in averaged]
    if not cells or None in cells:
      return None
    return mean_of_metrics(cells)

  def ranked(self) -> list[str]:
    """The models, best average first, then those without one by name."""
    averages = {model: self.average(model) for model in self.rows}
    return sorted(averages, key=lambda model: (
        averages[model] is None, -averages[model].value if averages[model] else 0, model))


def is_fraction(metric: str) -> bool:
  """Whether a metric is a fraction of 1, which tables show in percent; its name says if not."""
  parts = metric.lower().split('_')
  return not any(word in parts for word in _NO_FRACTIONS)


def half_up(value: float, digits: int = 1) -> str:
  """The value as text, halves rounded away from 0, as leaderboards print it.

  Binary fractions that stand for a decimal half, such as 63.15, are taken as that half.
  """
  exact = decimal.Decimal(repr(round(value, 9)))
  step = decimal.Decimal(1).scaleb(-digits)
  return str(exact.quantize(step, rounding=decimal.ROUND_HALF_UP))


def read_runs(folders: Sequence[pathlib.Path], names: Sequence[str], suite: bool = False
              ) -> Leaderboard:
  """The newest results of run folders, under names of the models.

  Args:
    folders: of runs.
    names: of their rows.
    suite: take the tasks, shots and metrics of OPEN_LLM_V1 alone.

  Raises:
    UserError: a folder has no evaluations, a result lacks its metric, or a run lacks all of the
      suite.
  """
  rows, columns, plain = {}, {}, set()
  if suite:   # all of them: a model that lacks one has no average
    columns = {f'{task} ({shots}-shot {metric})': number
               for number, (task, (shots, metric)) in enumerate(OPEN_LLM_V1.items())}
  for folder, name in zip(folders, names):
    rows[name] = {}
    for (task, shots), path in newest_results(folder).items():
      if suite and OPEN_LLM_V1.get(task, (None,))[0] != shots:
        continue
      result = read_result(path)
      metric = OPEN_LLM_V1[task][1] if suite else result.headline
      column = f'{task} ({shots}-shot {metric})'
      columns.setdefault(column, 0)
      value = _cell(path, result, metric)
      if is_fraction(metric):
        value = Metric(100 * value.value, None if value.error is None else 100 * value.error)
      else:
        plain.add(column)
      rows[name][column] = value
    if not rows[name]:
      wanted = ', '.join(f'{task} {shots}-shot' for task, (shots, _) in OPEN_LLM_V1.items())
      raise UserError(f'{folder} has no result of the suite ({wanted}): evaluate it on these')
  return Leaderboard(tuple(sorted(columns, key=columns.get)), rows, frozenset(plain))


def _cell(path: pathlib.Path, result: TaskResult, metric: str) -> Metric:
  if metric not in result.metrics:
    raise UserError(f'{path} has no {metric}, but {", ".join(result.metrics)}: evaluate again')
  return result.metrics[metric]


def read_csv(path: pathlib.Path) -> Leaderboard:
  """A table with a column 'model' and one of each task, in percent, as `to_csv` writes it.

  A column 'TASK error' has errors; 'average' is computed again. An empty cell is a task that a
  model lacks.

  Raises UserError with the line of what is no number, of a model that is listed twice or has none.
  """
  reader = csv.DictReader(io.StringIO(path.read_text(encoding='utf-8-sig')))
  header = reader.fieldnames or []
  if 'model' not in header:
    raise UserError(f'{path} has no column "model": the first line names model and tasks')
  left = ('model', AVERAGE, f'{AVERAGE} error')
  columns = tuple(name for name in header if name not in left and not name.endswith(' error'))
  if not columns:
    raise UserError(f'{path} has no column of a task: add one beside "model"')
  rows = {}
  for row in reader:
    where, model = f'{path}, line {reader.line_num}', row['model']
    if not model or model in rows:
      raise UserError(f'{where}: model {model!r} is ' + ('listed twice' if model else 'missing'))
    cells = {column: (_number(row, column, where), _number(row, f'{column} error', where))
             for column in columns}
    rows[model] = {column: Metric(value, error)
                   for column, (value, error) in cells.items() if value is not None}
  if not rows:
    raise UserError(f'{path} has no models: add a line for each')
  plain = {column for column in columns if not is_fraction(column.strip(')').split(' ')[-1])}
  return Leaderboard(columns, rows, frozenset(plain))


def _number(row: Mapping[str, str | None], column: str, where: str) -> float | None:
  text = row.get(column) or ''
  try:
    value = float(text) if text.strip() else None
  except ValueError:
    value = math.nan
  if value is not None and not math.isfinite(value):
    raise UserError(f'{where}: {column} is {text!r}, which is no number')
  return value


def to_markdown(board: Leaderboard) -> str:
  """A table of GitHub's Markdown, values to one decimal, 'value ± error'."""
  escape = lambda text: text.replace('|', '\\|')
  header = ['model', AVERAGE, *board.columns]
  lines = [[escape(model), *(_show(cell) for cell in _cells(board, model))]
           for model in board.ranked()]
  bars = lambda cells: '| ' + ' | '.join(cells) + ' |'
  return '\n'.join([bars(map(escape, header)), bars(['---', *['---:'] * (len(header) - 1)]),
                    *map(bars, lines)]) + '\n'


def to_csv(board: Leaderboard) -> str:
  """All digits: model, then value and error of the average and of each column."""
  out = io.StringIO()
  writer = csv.writer(out, lineterminator='\n')
  names = [AVERAGE, *board.columns]
  writer.writerow(['model', *(f'{name}{end}' for name in names for end in ('', ' error'))])
  for model in board.ranked():
    writer.writerow([model, *(
        '' if number is None else repr(number) for cell in _cells(board, model)
        for number in (cell or (None, None)))])
  return out.getvalue()


def to_html(board: Leaderboard, title: str = 'Leaderboard') -> str:
  """One page that needs no network: a table that is sorted by a click or Enter on a heading."""
  cells = {model: _cells(board, model) for model in board.ranked()}
  names = [AVERAGE, *board.columns]
  best = [_best([row[i] for row in cells.values()], name in board.plain)
          for i, name in enumerate(names)]
  heads = ''.join(f'<th scope="col" aria-sort="none"><button>{_heading(name)}</button></th>'
                  for name in ['model', *names])
  rows = ''.join(
      f'<tr><th scope="row">{html.escape(model)}</th>' + ''.join(
          _html_cell(cell, top) for cell, top in zip(row, best)) + '</tr>\n'
      for model, row in cells.items())
  template = pathlib.Path(__file__).with_name('leaderboard.html').read_text(encoding='utf-8')
  note = f' No percent, and no part of the average: {", ".join(sorted(board.plain))}.'
  for name, text in {'TITLE': html.escape(title), 'HEADS': heads, 'ROWS': rows,
                     'NOTE': html.escape(note) if board.plain else ''}.items():
    template = template.replace(f'<!--{name}-->', text)
  return template


def _heading(name: str) -> str:
  """The name of a column, what is in brackets at its end in a line of its own."""
  task, bracket, rest = name.partition(' (')
  return html.escape(task) + (f'<small>{html.escape(rest.strip(")"))}</small>' if bracket else '')


def _html_cell(cell: Metric | None, best: float | None) -> str:
  if cell is None:
    return '<td data-value="">–</td>'
  error = '' if cell.error is None else f' <small>± {half_up(cell.error)}</small>'
  mark = ' class="best"' if cell.value == best else ''
  return f'<td data-value="{cell.value!r}"{mark}>{half_up(cell.value)}{error}</td>'


def _best(cells: Sequence[Metric | None], plain: bool) -> float | None:
  """The highest value; None of a plain column, of which lower may be better."""
  values = [cell.value for cell in cells if cell is not None]
  return None if plain or not values else max(values)


def _cells(board: Leaderboard, model: str) -> list[Metric | None]:
  return [board.average(model), *(board.rows[model].get(column) for column in board.columns)]


def _show(cell: Metric | None) -> str:
  if cell is None:
    return '-'
  return half_up(cell.value) + ('' if cell.error is None else f' ± {half_up(cell.error)}')
