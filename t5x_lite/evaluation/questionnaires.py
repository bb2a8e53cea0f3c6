"""Answers of people, yes or no, to questions on systems -> a table with intervals, and tests.

A row is {system, question, success}: success 0 or 1. "item", where given, says which dialogue or
task was asked about, so that systems are compared on the same ones.
"""

from collections.abc import Sequence
import csv
import io
import itertools
import math
import pathlib
from typing import Any, NamedTuple

from scipy import stats

from t5x_lite.core.dataclass_checks import nearest
from t5x_lite.core.errors import UserError
from t5x_lite.core.strict_json import parse_lines
from t5x_lite.evaluation.comparison import mcnemar
from t5x_lite.evaluation.proportions import (
    Interval,
    exact_interval,
    wald_half_width,
    wald_interval,
    wilson_interval,
)

_SUCCESS = {'1': True, '0': False, 'true': True, 'false': False, 'yes': True, 'no': False}
_FIELDS = ('system', 'question', 'success')


class Answer(NamedTuple):
  """One person's answer; `item` is None where the file has none."""
  system: str
  question: str
  success: bool
  item: str | None = None


class Cell(NamedTuple):
  """The answers to a question on a system.

  Attributes:
    number, successes: of answers.
    half_width: Wald's, as papers print it; of 95 %, as the intervals.
  """
  system: str
  question: str
  number: int
  successes: int
  half_width: float
  wald: Interval
  wilson: Interval
  exact: Interval


class SystemTest(NamedTuple):
  """Two systems on a question.

  Attributes:
    difference: share of successes of a less that of b; of `number` items if paired.
    p_value: of no difference; by McNemar's exact test of items that both have (paired), else by the
      z-test of two proportions with a pooled variance, as statsmodels' proportions_ztest.
  """
  question: str
  a: str
  b: str
  difference: float
  p_value: float
  paired: bool
  number: int


def read_answers(path: pathlib.Path) -> list[Answer]:
  """The rows of a CSV file with a header, or of a JSONL file, by its suffix.

  Raises UserError with the line of what is no answer, and for a file without any.
  """
  try:
    text = path.read_text(encoding='utf-8-sig')
  except UnicodeDecodeError as e:
    raise UserError(f'{path} is not UTF-8: save it as UTF-8') from e
  if path.suffix not in ('.csv', '.jsonl'):
    raise UserError(f'{path}: a questionnaire is a .csv or a .jsonl file')
  rows = _csv_rows(path, text) if path.suffix == '.csv' else parse_lines(text, path)
  answers = [_answer(row, where) for where, row in rows]
  if not answers:
    raise UserError(f'{path} has no answers: a row is system, question, success (0 or 1)')
  return answers


def _csv_rows(path: pathlib.Path, text: str):
  reader = csv.DictReader(io.StringIO(text))
  for row in reader:
    yield f'{path}, line {reader.line_num}', row


def _answer(row: Any, where: str) -> Answer:
  if not isinstance(row, dict):
    raise UserError(f'{where}: no object with {", ".join(_FIELDS)}')
  for name in _FIELDS:
    if row.get(name) in (None, ''):
      cure = '' if name in row else f'; {nearest(name, [str(key) for key in row])}'
      raise UserError(f'{where}: {name} is missing{cure}')
  success = str(row['success']).strip().lower()
  if success not in _SUCCESS:
    raise UserError(f'{where}: success is {row["success"]!r}; write 0 or 1')
  item = row.get('item')
  return Answer(str(row['system']), str(row['question']), _SUCCESS[success],
                None if item in (None, '') else str(item))


def tabulate(answers: Sequence[Answer]) -> list[Cell]:
  """A cell for each question and system, in the order of their first answers."""
  cells = _by_cell(answers)
  return [_cell(system, question, sum(x.success for x in cells[question, system]),
                len(cells[question, system]))
          for question, systems in _asked(cells).items() for system in systems]


def _by_cell(answers: Sequence[Answer]) -> dict[tuple[str, str], list[Answer]]:
  """{(question, system): its answers}."""
  found = {}
  for answer in answers:
    found.setdefault((answer.question, answer.system), []).append(answer)
  return found


def _asked(cells: dict[tuple[str, str], Any]) -> dict[str, list[str]]:
  """{question: the systems it was asked on}."""
  found = {}
  for question, system in cells:
    found.setdefault(question, []).append(system)
  return found


def _cell(system: str, question: str, successes: int, number: int) -> Cell:
  return Cell(system, question, number, successes, wald_half_width(successes, number),
              wald_interval(successes, number), wilson_interval(successes, number),
              exact_interval(successes, number))


def compare_systems(answers: Sequence[Answer]) -> list[SystemTest]:
  """A test for each question and pair of systems that it was asked on.

  Paired where every answer on both has an item and each system has one answer for an item, and
  they share some. The p-values are of single tests: of many, some are small by chance.

  Raises UserError for two answers to a question on one item of a system.
  """
  cells = _by_cell(answers)
  return [_compare(cells[question, a], cells[question, b])
          for question, systems in _asked(cells).items()
          for a, b in itertools.combinations(systems, 2)]


def _compare(of_a: list[Answer], of_b: list[Answer]) -> SystemTest:
  names = of_a[0].question, of_a[0].system, of_b[0].system
  by_item = [_by_item(answers) for answers in (of_a, of_b)]
  if None not in by_item and (shared := by_item[0].keys() & by_item[1].keys()):
    pairs = [(by_item[0][item], by_item[1][item]) for item in shared]
    wins, losses = (sum(a > b for a, b in pairs), sum(a < b for a, b in pairs))
    return SystemTest(*names, (wins - losses) / len(pairs), mcnemar(wins, losses), True, len(pairs))
  a, b = (sum(answer.success for answer in answers) for answers in (of_a, of_b))
  difference = a / len(of_a) - b / len(of_b)
  return SystemTest(*names, difference, two_proportions(a, len(of_a), b, len(of_b)), False,
              len(of_a) + len(of_b))


def _by_item(answers: list[Answer]) -> dict[str, bool] | None:
  """{item: success}; None if an answer has no item."""
  found = {}
  for answer in answers:
    if answer.item is None:
      return None
    if answer.item in found:
      raise UserError(f'{answer.system}, {answer.question}: item {answer.item!r} is answered '
                      'twice; keep one answer, or leave out the column item')
    found[answer.item] = answer.success
  return found


def two_proportions(successes_a: int, number_a: int, successes_b: int, number_b: int) -> float:
  """p-value of equal shares, by the z-test with a pooled variance; 1 if all or none succeed."""
  pooled = (successes_a + successes_b) / (number_a + number_b)
  error = math.sqrt(pooled * (1 - pooled) * (1 / number_a + 1 / number_b))
  if error == 0:
    return 1.0
  return float(2 * stats.norm.sf(abs(successes_a / number_a - successes_b / number_b) / error))
