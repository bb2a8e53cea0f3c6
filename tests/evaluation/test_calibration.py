"""Calibration against scikit-learn and netcal, by hand, and a temperature that is known."""

import gzip
import json
import math
import os
import pathlib

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from t5x_lite.core.errors import UserError
from t5x_lite.core.files import save_figure
from t5x_lite.evaluation import calibration
from t5x_lite.evaluation.calibration import ChoiceScores
from t5x_lite.evaluation.calibration_plot import draw_reliability

ORACLES = json.loads(pathlib.Path(__file__).with_name('oracles.json').read_text())['calibration']
PEERS = pathlib.Path(os.environ.get('T5X_LITE_TEST_DATA', '/nonexistent')) / (
    'peers/metrics/metrics.json.gz')
SCORES = ChoiceScores(logprobs_NC=np.array(ORACLES['logprobs']), gold_N=np.array(ORACLES['gold']))


def test_figures_are_those_of_netcal_and_scikit_learn():
  got = calibration.measure(SCORES)
  assert got.ece == pytest.approx(ORACLES['ece'], abs=1e-7)   # netcal computes in float32
  assert got.max_error == pytest.approx(ORACLES['mce'], abs=1e-7)
  assert got.brier_binary == pytest.approx(ORACLES['brier_binary'])
  assert got.nll == pytest.approx(ORACLES['nll'])


@pytest.mark.parametrize('binning', ['equal_width', 'equal_mass'])
def test_the_reliability_table_is_scikit_learns(binning):
  table = calibration.reliability(*calibration.confidences(SCORES.probs_NC(), SCORES.gold_N),
                                  binning=binning)
  filled = [row for row in table if row.number]
  accuracy, confidence = ORACLES['curve'][binning]
  np.testing.assert_allclose([row.accuracy for row in filled], accuracy)
  np.testing.assert_allclose([row.confidence for row in filled], confidence)
  assert len(table) == 15 and sum(row.number for row in table) == 400
  if binning == 'equal_mass':
    assert {row.number for row in table} <= {26, 27}


@pytest.mark.skipif(not PEERS.exists(), reason='T5X_LITE_TEST_DATA is not set')
def test_figures_of_a_published_fixture():
  with gzip.open(PEERS, 'rt') as file:
    want = json.load(file)['golden']['calibration']
  scores = ChoiceScores(logprobs_NC=np.log(want['probs']), gold_N=np.array(want['labels']))
  got = calibration.measure(scores)
  assert got.nll == pytest.approx(want['log_loss'])
  assert got.brier == pytest.approx(want['brier_sum_over_classes'])
  filled = [row for row in calibration.reliability(*calibration.confidences(
      scores.probs_NC(), scores.gold_N)) if row.number]
  np.testing.assert_allclose([row.accuracy for row in filled], want['sklearn_frac_15'])
  np.testing.assert_allclose([row.confidence for row in filled], want['sklearn_conf_15'])


def test_bins_are_closed_on_the_right_and_empty_ones_count_nothing():
  confidence = np.array([0.0, 0.2, 0.4, 0.4000001, 1.0])
  correct = np.array([True, False, True, True, False])
  table = calibration.reliability(confidence, correct, bins=5)
  assert [row.number for row in table] == [2, 1, 1, 0, 1]
  assert (table[0].low, table[-1].high) == (0, 1)
  assert math.isnan(table[3].accuracy) and math.isnan(table[3].confidence)
  # |.5 - .1| 2/5 + |1 - .4| 1/5 + |1 - .4000001| 1/5 + |0 - 1| 1/5
  assert calibration.expected_error(table) == pytest.approx(0.16 + 0.12 + 0.11999998 + 0.2)
  assert calibration.max_error(table) == 1
  with pytest.raises(UserError, match='0 bins'):
    calibration.reliability(confidence, correct, bins=0)


def test_equal_confidences_share_a_bin_of_equal_mass():
  table = calibration.reliability(np.full(10, 0.3), np.arange(10) < 3, bins=4,
                                  binning='equal_mass')
  assert sorted(row.number for row in table) == [0, 0, 0, 10]
  assert calibration.expected_error(table) == pytest.approx(0)


def test_two_items_by_hand():
  """One sure and right, one of three choices at chance and wrong; a missing choice has no share."""
  logprobs = [[math.log(0.75) - 7, math.log(0.25) - 7, -math.inf], [-7.0, -7, -7]]
  scores = ChoiceScores(logprobs_NC=np.array(logprobs), gold_N=np.array([0, 2]))
  got = calibration.measure(scores, bins=2)
  assert (got.accuracy, got.confidence) == (0.5, pytest.approx((0.75 + 1 / 3) / 2))
  assert got.brier == pytest.approx((2 * 0.0625 + 6 / 9) / 2)
  assert got.brier_binary == pytest.approx((0.0625 + 1 / 9) / 2)
  assert got.nll == pytest.approx(-(math.log(0.75) + math.log(1 / 3)) / 2)
  assert got.ece == pytest.approx((0.25 + 1 / 3) / 2)


@pytest.mark.filterwarnings('ignore')
def test_the_temperature_of_two_choices_is_a_logistic_regression():
  """P(gold) = sigmoid(gap / T): the coefficient of the gap, without constant or penalty, is 1/T."""
  rng = np.random.default_rng(0)
  logprobs = rng.normal(size=(500, 2)) * 3
  gap = logprobs[:, 1] - logprobs[:, 0]
  gold = (rng.random(500) < 1 / (1 + np.exp(-gap / 2.5))).astype(int)
  fit = LogisticRegression(C=1e12, fit_intercept=False, tol=1e-10).fit(gap[:, None], gold)
  got = calibration.fit_temperature(ChoiceScores(logprobs_NC=logprobs, gold_N=gold))
  assert got == pytest.approx(1 / fit.coef_[0, 0], rel=1e-5)


def test_the_fitted_temperature_is_the_best_and_helps_other_items():
  """The items were drawn at a temperature of 1 / 0.4."""
  half = lambda part: ChoiceScores(logprobs_NC=SCORES.logprobs_NC[part],
                                   gold_N=SCORES.gold_N[part])
  validation, test = half(slice(200)), half(slice(200, None))
  fitted = calibration.fit_temperature(validation)
  assert 1.8 < fitted < 3.5
  best = calibration.negative_log_likelihood(validation, fitted)
  for other in (0.5 * fitted, 0.99 * fitted, 1.01 * fitted, 2 * fitted):
    assert calibration.negative_log_likelihood(validation, other) > best
  before, after = calibration.measure(test), calibration.measure(test, fitted)
  assert after.ece < before.ece / 2 and after.nll < before.nll
  assert after.accuracy == before.accuracy


@pytest.mark.parametrize('gold, message', [
    ([0, 0], 'every item is right'), ([1, 1], 'no more than chance')])
def test_a_temperature_that_runs_away_is_an_error(gold, message):
  scores = ChoiceScores(logprobs_NC=np.array([[0.0, -1], [0, -2]]), gold_N=np.array(gold))
  with pytest.raises(UserError, match=message):
    calibration.fit_temperature(scores)


@pytest.mark.parametrize('logprobs, gold, message', [
    (np.zeros((0, 2)), [], 'no items'), (np.zeros((2, 2)), [0], '2 rows of log-likelihoods, 1'),
    ([[0.0, -1], [-np.inf, 0]], [0, 0], r'row 1 \(from 0\)'), ([[np.nan, 0]], [1], 'not finite')])
def test_scores_that_are_none(logprobs, gold, message):
  with pytest.raises(UserError, match=message):
    ChoiceScores(logprobs_NC=np.array(logprobs), gold_N=np.array(gold, int))
  with pytest.raises(UserError, match='a temperature of 0'):
    SCORES.probs_NC(0)


def test_the_diagram_shows_bins_that_have_items(tmp_path):
  table = calibration.reliability(*calibration.confidences(SCORES.probs_NC(), SCORES.gold_N))
  figure = draw_reliability({'as it is': table})
  line = figure.axes[0].lines[1]
  np.testing.assert_allclose(line.get_ydata(), ORACLES['curve']['equal_width'][0])
  assert 'as it is, ECE 0.252' in line.get_label()
  assert figure.axes[1].get_xlim() == (0, 1)
  path = save_figure(draw_reliability({'x': table}), tmp_path / 'new/reliability.png')
  assert path.read_bytes().startswith(b'\x89PNG')
  with pytest.raises(UserError, match='reliability.nothing'):
    save_figure(draw_reliability({'x': table}), tmp_path / 'reliability.nothing')
