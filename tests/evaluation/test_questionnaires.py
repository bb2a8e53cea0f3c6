"""A published table of dialogue systems, tests against statsmodels, files that are none."""

import json
import pathlib

import pytest

from t5x_lite.core.errors import UserError
from t5x_lite.evaluation import questionnaires
from t5x_lite.evaluation.comparison import mcnemar
from t5x_lite.evaluation.questionnaires import Answer

ORACLES = json.loads(pathlib.Path(__file__).with_name('oracles.json').read_text())['proportions']
# Jurcicek, Keizer, Gasic, Mairesse, Thomson, Yu and Young 2011, 'Real user evaluation of spoken
# dialogue systems using Amazon Mechanical Turk', Interspeech: calls, and success in percent with
# its half-width, as users saw it and as their goals say. The objective half-widths of HDC and NAC
# are printed exchanged: 1.96 sqrt(p (1 - p) / n) gives 3.79 and 3.81, the paper 3.81 and 3.79.
CALLS = {'HDC': 627, 'NBC': 573, 'NAC': 588, 'NABC': 566}
PRINTED = {
    ('subjective', 'HDC'): (82.30, 2.99), ('objective', 'HDC'): (62.36, 3.81),
    ('subjective', 'NBC'): (84.47, 2.97), ('objective', 'NBC'): (63.53, 3.95),
    ('subjective', 'NAC'): (89.63, 2.46), ('objective', 'NAC'): (66.84, 3.79),
    ('subjective', 'NABC'): (90.28, 2.44), ('objective', 'NABC'): (65.55, 3.91)}
EXCHANGED = {('objective', 'HDC'): 3.79, ('objective', 'NAC'): 3.81}


def answers_of(question, system, successes, number) -> list[Answer]:
  return [Answer(system, question, i < successes) for i in range(number)]


def published() -> list[Answer]:
  return [answer for (question, system), (percent, _) in PRINTED.items()
          for answer in answers_of(question, system, round(percent / 100 * CALLS[system]),
                                   CALLS[system])]


def test_the_published_table_recomputes():
  cells = {(cell.question, cell.system): cell for cell in questionnaires.tabulate(published())}
  assert cells.keys() == PRINTED.keys()
  for key, (percent, half_width) in PRINTED.items():
    cell = cells[key]
    assert f'{100 * cell.successes / cell.number:.2f}' == f'{percent:.2f}'
    assert 100 * cell.half_width == pytest.approx(half_width, abs=0.03)
    exact = EXCHANGED.get(key)
    if exact is not None:
      assert f'{100 * cell.half_width:.2f}' == f'{exact:.2f}' != f'{half_width:.2f}'
    elif key != ('objective', 'NBC'):   # 3.94, printed as 3.95
      assert f'{100 * cell.half_width:.2f}' == f'{half_width:.2f}'
    low, high = cell.wilson
    assert cell.exact.low < low < cell.successes / cell.number < high < cell.exact.high


def test_the_published_systems_compared():
  """Users say NABC does better than HDC; by their goals the two cannot be told apart."""
  tests = {(test.question, test.a, test.b): test
           for test in questionnaires.compare_systems(published())}
  assert len(tests) == 2 * 6
  subjective = tests['subjective', 'HDC', 'NABC']
  assert subjective.difference == pytest.approx((82.30 - 90.28) / 100, abs=1e-4)
  assert subjective.p_value < 0.001 and not subjective.paired
  assert tests['objective', 'HDC', 'NABC'].p_value > 0.2


def test_two_proportions_are_statsmodels():
  for a, b, want in ORACLES['ztest']:
    assert questionnaires.two_proportions(*a, *b) == pytest.approx(want)
  assert questionnaires.two_proportions(5, 5, 9, 9) == 1


def test_systems_on_the_same_items_are_paired():
  rows = [('x', 'q', True, 1), ('x', 'q', True, 2), ('x', 'q', False, 3), ('x', 'q', True, 9),
          ('y', 'q', False, 1), ('y', 'q', True, 2), ('y', 'q', False, 3)]
  (test,) = questionnaires.compare_systems([Answer(*row[:3], str(row[3])) for row in rows])
  assert test == ('q', 'x', 'y', pytest.approx(1 / 3), mcnemar(1, 0), True, 3)
  # Without the item of one answer there are no pairs.
  (test,) = questionnaires.compare_systems([Answer(*row[:3], str(row[3])) for row in rows[:-1]] + [
      Answer('y', 'q', False)])
  assert not test.paired and test.number == 7
  with pytest.raises(UserError, match="x, q: item '1' is answered twice"):
    questionnaires.compare_systems([Answer('x', 'q', True, '1')] * 2 + [
        Answer('y', 'q', True, '1')])


def test_csv_and_jsonl_say_the_same(tmp_path):
  table = tmp_path / 'answers.csv'
  table.write_text('\ufeffsystem,question,success,item,age\nHDC,found it,1,7,30\n'
                   'NBC,found it,no,,41\n')
  lines = tmp_path / 'answers.jsonl'
  lines.write_text('{"system": "HDC", "question": "found it", "success": true, "item": 7}\n\n'
                   '{"system": "NBC", "question": "found it", "success": 0}\n')
  want = [Answer('HDC', 'found it', True, '7'), Answer('NBC', 'found it', False)]
  assert questionnaires.read_answers(table) == questionnaires.read_answers(lines) == want


@pytest.mark.parametrize('name, text, message', [
    ('x.csv', 'system,question,success\nA,q,1\nA,q,5\n', "line 3: success is '5'; write 0 or 1"),
    ('x.csv', 'system,question,succes\nA,q,1\n', "success is missing; did you mean 'succes'"),
    ('x.csv', 'system,question,success\n,q,1\n', 'line 2: system is missing'),
    ('x.csv', 'system,question,success\n', 'has no answers'),
    ('x.jsonl', '', 'has no answers'),
    ('x.jsonl', '{"system"', 'line 1: no JSON'),
    ('x.jsonl', '[1]', 'line 1: no object'),
    ('x.txt', '', 'is a .csv or a .jsonl file')])
def test_files_that_are_no_questionnaire(name, text, message, tmp_path):
  (tmp_path / name).write_text(text)
  with pytest.raises(UserError, match=message):
    questionnaires.read_answers(tmp_path / name)
