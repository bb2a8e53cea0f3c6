"""A published leaderboard recomputed, runs in a table, and the three forms of it."""

import csv
import dataclasses
import io
import re

import pytest

from t5x_lite.core.errors import UserError
from t5x_lite.evaluation import leaderboard
from t5x_lite.evaluation.leaderboard import Leaderboard
from t5x_lite.evaluation.results import Metric, TaskResult, write_result

# The Open LLM Leaderboard of June 2023, in percent: ARC 25-shot, HellaSwag 10-shot, MMLU 5-shot,
# TruthfulQA 0-shot, and the average as printed. The copies of it that are left have no name beside
# the sixth row.
PUBLISHED = {
    'falcon-40b-instruct': (61.6, 84.4, 54.1, 52.5, '63.2'),
    'guanaco-65b-merged': (60.2, 84.6, 52.7, 51.3, '62.2'),
    '30B-Lazarus': (57.6, 81.7, 45.2, 58.3, '60.7'),
    'falcon-40b': (61.9, 85.3, 52.7, 41.7, '60.4'),
    'llama-65b': (57.8, 84.2, 48.8, 42.3, '58.3'),
    'row of 57.9': (56.7, 81.4, 43.6, 49.7, '57.9'),
    'llama-30b': (57.1, 82.6, 45.7, 42.3, '56.9')}
SUITE = {'arc_challenge': (25, 'acc_norm'), 'hellaswag': (10, 'acc_norm'),
         'mmlu': (5, 'acc_of_groups'), 'truthfulqa_mc2': (0, 'mc2')}


def result(task='arc_challenge', shots=25, headline='acc_norm', value=0.5, error=0.01, step=7,
           **more) -> TaskResult:
  return TaskResult(task=task, shots=shots, number=100, headline=headline, step=step,
                    metrics={headline: Metric(value, error)} | more.pop('metrics', {}), **more)


def write(run, *results):
  for each in results:
    write_result(run / 'evaluations', each, [])
  return run


def suite_of(run, values):
  return write(run, *(result(task, shots, metric, value / 100) for (task, (shots, metric)), value
                      in zip(SUITE.items(), values)))


def test_the_published_averages_recompute(tmp_path):
  runs = [suite_of(tmp_path / name, row) for name, row in PUBLISHED.items()]
  board = leaderboard.read_runs(runs, list(PUBLISHED), suite=True)
  assert board.ranked() == list(PUBLISHED)   # best first, as printed
  for name, (*_, printed) in PUBLISHED.items():
    assert leaderboard.half_up(board.average(name).value) == printed


@pytest.mark.parametrize('value, text', [
    (63.15, '63.2'), (0.05, '0.1'), (-0.05, '-0.1'), (62.25, '62.3'), (56.925, '56.9'),
    ((61.6 + 84.4 + 54.1 + 52.5) / 4, '63.2'), (2.0, '2.0')])
def test_halves_are_rounded_up(value, text):
  assert leaderboard.half_up(value) == text


def test_the_average_has_equal_parts(tmp_path):
  run = suite_of(tmp_path / 'run', (40, 50, 30, 70))
  board = leaderboard.read_runs([run], ['run'], suite=True)
  assert board.rows['run']['mmlu (5-shot acc_of_groups)'].value == pytest.approx(30)
  assert board.average('run').value == pytest.approx((40 + 50 + 30 + 70) / 4)
  assert board.average('run').error == pytest.approx(0.5)   # 1 / sqrt(4) of four errors of 1


def test_a_run_stands_for_its_newest_step(tmp_path):
  run = write(tmp_path / 'run', result(step=9, value=0.3), result(step=100, value=0.4),
              result(step=None, value=0.2), result(shots=0, step=9, value=0.1))
  board = leaderboard.read_runs([run], ['run'])
  assert {name: round(cell.value) for name, cell in board.rows['run'].items()} == {
      'arc_challenge (25-shot acc_norm)': 40, 'arc_challenge (0-shot acc_norm)': 10}


def test_a_model_that_lacks_a_task_has_no_average_and_comes_last(tmp_path):
  part = write(tmp_path / 'part', result(value=0.99))
  full = suite_of(tmp_path / 'full', (1, 1, 1, 1))
  board = leaderboard.read_runs([part, full], ['part', 'full'])
  assert board.average('part') is None and board.ranked() == ['full', 'part']
  assert '| part | - | 99.0 ± 1.0 | - | - | - |' in leaderboard.to_markdown(board)
  alone = leaderboard.read_runs([part], ['part'], suite=True)   # also where no other model has it
  assert len(alone.columns) == 4 and alone.average('part') is None


def test_perplexities_are_no_part_of_the_average(tmp_path):
  run = write(tmp_path / 'run', result(), result('wikitext', 0, 'word_perplexity', 31.25, None))
  board = leaderboard.read_runs([run], ['run'])
  assert board.average('run') == pytest.approx((50, 1))
  assert '| 50.0 ± 1.0 | 50.0 ± 1.0 | 31.3 |' in leaderboard.to_markdown(board)
  assert [name for name in ('acc', 'mc2', 'bits_per_byte', 'rouge', 'acc_norm', 'f1')
          if not leaderboard.is_fraction(name)] == ['bits_per_byte', 'rouge']


def test_the_csv_is_read_again(tmp_path):
  board = leaderboard.read_runs([suite_of(tmp_path / 'run', (57.6, 81.7, 45.2, 58.3)),
                                 write(tmp_path / 'other', result(error=None))], ['a,b', 'x'])
  path = tmp_path / 'board.csv'
  path.write_text(leaderboard.to_csv(board))
  again = leaderboard.read_csv(path)
  assert dataclasses.asdict(again) == dataclasses.asdict(board)
  assert leaderboard.to_csv(again) == path.read_text()
  (row, _) = csv.DictReader(io.StringIO(path.read_text()))
  assert (row['model'], float(row['average'])) == ('a,b', pytest.approx(60.7))


def test_the_markdown_is_one_table():
  board = Leaderboard(('t|1',), {'a|b': {'t|1': Metric(1.25, None)}})
  assert leaderboard.to_markdown(board) == (
      '| model | average | t\\|1 |\n| --- | ---: | ---: |\n| a\\|b | 1.3 | 1.3 |\n')


def test_the_page_needs_no_network_and_escapes_names():
  board = Leaderboard(('<t>',), {'<script>x</script>': {'<t>': Metric(10.0, 0.5)},
                                 'y': {'<t>': Metric(20.0, None)}, 'z': {}})
  page = leaderboard.to_html(board, 'Mine & yours')
  assert '<title>Mine &amp; yours</title>' in page and '<!--' not in page
  assert '&lt;script&gt;x&lt;/script&gt;' in page and '<script>x' not in page
  assert not re.search(r'https?:|src=|@import|url\(', page)
  assert '<td data-value="20.0" class="best">20.0</td>' in page
  assert '<td data-value="10.0">10.0 <small>± 0.5</small></td>' in page
  assert '<td data-value="">–</td>' in page
  assert page.count('<button>') == 3


def test_a_published_table_as_csv(tmp_path):
  path = tmp_path / 'table.csv'
  path.write_text('model,ARC,HellaSwag,MMLU,TruthfulQA,average\n' + ''.join(
      f'{name},{",".join(map(str, row))}\n' for name, row in PUBLISHED.items()))
  board = leaderboard.read_csv(path)
  assert board.columns == ('ARC', 'HellaSwag', 'MMLU', 'TruthfulQA')
  assert [leaderboard.half_up(board.average(name).value) for name in PUBLISHED] == [
      row[-1] for row in PUBLISHED.values()]


@pytest.mark.parametrize('text, message', [
    ('name,ARC\nx,1\n', 'has no column "model"'), ('model,average\nx,1\n', 'no column of a task'),
    ('model,ARC\nx,1\nx,2\n', "line 3: model 'x' is listed twice"),
    ('model,ARC\n,1\n', "line 2: model '' is missing"),
    ('model,ARC\nx,good\n', "line 2: ARC is 'good', which is no number"),
    ('model,ARC\nx,inf\n', 'which is no number'), ('model,ARC\n', 'has no models')])
def test_tables_that_are_no_leaderboard(text, message, tmp_path):
  (tmp_path / 'table.csv').write_text(text)
  with pytest.raises(UserError, match=message):
    leaderboard.read_csv(tmp_path / 'table.csv')


def test_runs_that_have_nothing_to_show(tmp_path):
  with pytest.raises(UserError, match='has no evaluations: run `t5x-lite evaluate`'):
    leaderboard.read_runs([tmp_path], ['x'])
  run = write(tmp_path / 'run', result(shots=0))
  with pytest.raises(UserError, match=r'no result of the suite \(arc_challenge 25-shot'):
    leaderboard.read_runs([run], ['x'], suite=True)
  write(run, result(headline='acc'))
  with pytest.raises(UserError, match='has no acc_norm, but acc: evaluate again'):
    leaderboard.read_runs([run], ['x'], suite=True)
