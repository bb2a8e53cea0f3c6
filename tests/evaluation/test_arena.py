"""Elo and Bradley-Terry against evalica and choix, by hand, and logs that are none."""

import json
import math
import pathlib

import numpy as np
import pytest

from t5x_lite.core.errors import UserError
from t5x_lite.evaluation import arena
from t5x_lite.evaluation.arena import Comparison

ORACLES = json.loads(pathlib.Path(__file__).with_name('oracles.json').read_text())['arena']
ROWS = [Comparison(a, b, arena.SCORES[winner]) for a, b, winner in ORACLES['rows']]
NAMES = ORACLES['names']


def log_of(tmp_path, *rows) -> pathlib.Path:
  path = tmp_path / 'log.jsonl'
  path.write_text(''.join((row if isinstance(row, str) else json.dumps(row)) + '\n'
                          for row in rows))
  return path


def line(a, b, winner, **more) -> dict:
  return {'a': a, 'b': b, 'winner': winner} | more


@pytest.mark.parametrize('k', [4.0, 32.0])
def test_elo_is_evalicas(k):
  got, want = arena.elo(ROWS, k=k), ORACLES['elo'][str(k)]
  assert got == pytest.approx(want, abs=1e-6)


def test_elo_by_hand_and_by_order():
  rows = [Comparison('x', 'y', 1.0), Comparison('x', 'y', 0.5)]
  # 1000 each: x gains half of K; then 16 points more are expected to score 1 / (1 + 10^(-16/400)).
  first = arena.elo(rows[:1], k=16)
  assert first == {'x': 1008, 'y': 992}
  expected = 1 / (1 + 10 ** (-16 / 400))
  assert arena.elo(rows, k=16)['x'] == pytest.approx(1008 + 16 * (0.5 - expected))
  assert arena.elo(rows[::-1], k=16)['x'] == 1008 != arena.elo(rows, k=16)['x']


def test_bradley_terry_is_choixs_and_evalicas():
  wins = arena.win_matrix(ROWS, NAMES)
  arena.check_ratable(wins, NAMES)
  got = arena.bradley_terry(wins)
  np.testing.assert_allclose(got, ORACLES['bradley_terry_choix'], atol=1e-6)
  want = np.log([ORACLES['bradley_terry_evalica'][name] for name in NAMES])
  np.testing.assert_allclose(got, want - want.mean(), atol=1e-6)


def test_two_sides_have_the_odds_of_their_wins():
  rows = [Comparison('x', 'y', 1.0)] * 7 + [Comparison('y', 'x', 1.0)] * 2 + [
      Comparison('y', 'x', 0.5)] * 2
  wins = arena.win_matrix(rows, ['x', 'y'])
  np.testing.assert_array_equal(wins, [[0, 8], [3, 0]])
  assert arena.win_rates(wins)[0, 1] == 8 / 11 and math.isnan(arena.win_rates(wins)[0, 0])
  x, y = arena.bradley_terry(wins)
  assert x - y == pytest.approx(math.log(8 / 3)) and x + y == pytest.approx(0)
  points = arena.to_points(np.array([x, y]))
  assert points.mean() == pytest.approx(1000)
  assert 10 ** ((points[0] - points[1]) / 400) == pytest.approx(8 / 3)


def test_intervals_hold_the_truth_and_order_is_best_first():
  got = arena.rate(ROWS, samples=200)
  assert list(got.points) == NAMES   # best first
  assert got.samples == 200 and got.unit == 'comparisons'
  for name, (low, high) in got.intervals.items():
    assert low < got.points[name] < high
  # The standard error of a log odds of two sides: sqrt(1/8 + 1/8) of 8 wins each.
  even = [Comparison('x', 'y', 1.0)] * 40 + [Comparison('x', 'y', 0.0)] * 40
  low, high = arena.rate(even, samples=400).intervals['x']
  error = 400 / math.log(10) * math.sqrt(1 / 40 + 1 / 40) / 2   # half the gap lies on each side
  assert high - low == pytest.approx(2 * 1.96 * error, rel=0.15)


def test_prompts_are_drawn_whole():
  """Forty judgements of eight prompts, five alike each, say no more than eight."""
  rows = [Comparison('x', 'y', float(i % 2), prompt=i) for i in range(8) for _ in range(5)]
  width = lambda rows: np.ptp(arena.rate(rows, samples=300).intervals['x'])
  assert arena.rate(rows, samples=10).unit == 'prompts'
  assert width(rows) > 1.7 * width([row._replace(prompt=None) for row in rows])


def test_what_has_no_finite_rating_is_one_line():
  lonely = [Comparison('x', 'y', 0.5), Comparison('u', 'v', 0.5)]
  with pytest.raises(UserError, match='u, v and x, y were never compared: .*--prior=0.5'):
    arena.rate(lonely)
  best = [Comparison('x', 'y', 1.0), Comparison('y', 'z', 1.0), Comparison('z', 'y', 1.0)]
  with pytest.raises(UserError, match='^x won every comparison with the others.*--prior=0.5'):
    arena.rate(best)
  last = [Comparison('x', 'y', 1.0), Comparison('y', 'x', 1.0), Comparison('y', 'z', 1.0)]
  with pytest.raises(UserError, match='^x, y won every comparison with the others'):
    arena.rate(last)
  for rows in (lonely, best, last):
    points = arena.rate(rows, prior=0.5, samples=20).points
    assert all(math.isfinite(value) for value in points.values())
  with pytest.raises(UserError, match='a prior of -1 wins'):
    arena.rate(best, prior=-1)


def test_samples_without_a_rating_are_counted():
  rows = [Comparison('x', 'y', 1.0)] * 3 + [Comparison('y', 'x', 1.0)]
  got = arena.rate(rows, samples=200)
  # Three of four lines are alike: a sample has both kinds unless it draws one four times.
  share = 1 - 0.75 ** 4 - 0.25 ** 4
  assert got.samples / 200 == pytest.approx(share, abs=0.1)


def test_a_prior_is_wins_added_to_both_sides_of_each_pair():
  wins = np.array([[0, 3.0], [0, 0]])
  np.testing.assert_allclose(arena.bradley_terry(wins, prior=0.5),
                             arena.bradley_terry(wins + 0.5 * (1 - np.eye(2))))


def test_position_bias_of_both_orders():
  rows = [Comparison('x', 'y', 1.0, 'p', False), Comparison('x', 'y', 1.0, 'p', True),   # the same
          Comparison('x', 'y', 1.0, 'q', False), Comparison('y', 'x', 1.0, 'q', False),  # first
          Comparison('x', 'y', 1.0)]
  got = arena.position_bias(rows)
  assert got == (4, 0.75, 2, 0.5)
  assert arena.position_bias(rows[4:])[0] == 0


def test_a_log_is_read_in_its_order(tmp_path):
  path = log_of(tmp_path, line('x', 'y', 'a', prompt=3, swapped=True, judge='me'), '',
                line('y', 'x', 'tie'))
  assert arena.read_comparisons(path) == [
      Comparison('x', 'y', 1.0, 3, True), Comparison('y', 'x', 0.5)]


@pytest.mark.parametrize('row, message', [
    (line('x', 'x', 'a'), "line 2: 'x' is compared with itself"),
    (line('x', 'y', 'x'), 'line 2: winner is \'x\'; write "a", "b" or "tie"'),
    ({'a': 'x', 'b': 'y'}, 'line 2: winner is None'),
    ({'a': 'x', 'winner': 'a'}, "line 2: 'b' is None"),
    (line('x', 'y', 'a', swapped='yes'), "line 2: swapped is 'yes'"),
    (line('x', 'y', 'a', prompt=['?']), 'line 2: prompt is'),
    ('{"a": ', 'line 2: no JSON'), ('[1]', 'line 2: .* is no object')])
def test_lines_that_are_no_comparison(row, message, tmp_path):
  with pytest.raises(UserError, match=message):
    arena.read_comparisons(log_of(tmp_path, line('x', 'y', 'a'), row))


def test_a_log_without_comparisons(tmp_path):
  with pytest.raises(UserError, match='has no comparisons'):
    arena.read_comparisons(log_of(tmp_path, '', ' '))


def test_verdicts_that_a_judge_left_unparsed_are_counted(tmp_path, capsys):
  log = log_of(tmp_path, line('x', 'y', 'a'), line('x', 'y', 'unparsed'), line('y', 'x', 'tie'))
  assert [row.score for row in arena.read_comparisons(log)] == [1.0, 0.5]
  assert '1 verdicts of a judge are unparsed' in capsys.readouterr().err
