"""Paired comparisons against statsmodels, by hand, and their coverage by simulation."""

import json
import math
import pathlib

import numpy as np
import pytest
from scipy import stats

from t5x_lite.core.errors import UserError
from t5x_lite.evaluation import comparison

ORACLES = json.loads(pathlib.Path(__file__).with_name('oracles.json').read_text())['paired']
A, B, CLUSTERS = (np.array(ORACLES[name]) for name in ('a', 'b', 'clusters'))


def test_the_paired_t_is_that_of_statsmodels():
  got = comparison.compare(A, B, samples=100)
  assert got.error == pytest.approx(ORACLES['error'])
  assert got.interval == pytest.approx(ORACLES['interval'])
  assert got.p_value == pytest.approx(ORACLES['p_value'])
  assert got.mcnemar is None and got.clusters is None   # no values of 0 and 1


def test_clustered_error_is_millers_beside_statsmodels():
  """statsmodels' has the items' variance over n², Miller's over n (n - 1): he adds sd² / n²."""
  got = comparison.clustered_error(A - B, CLUSTERS)
  added = np.var(A - B, ddof=1) / len(A) ** 2
  assert got ** 2 == pytest.approx(ORACLES['clustered_error'] ** 2 + added)
  # By the equation as it is printed, a sum over pairs.
  gap = (A - B) - (A - B).mean()
  pairs = sum(gap[i] * gap[j] for i in range(len(A)) for j in range(len(A))
              if i != j and CLUSTERS[i] == CLUSTERS[j])
  assert got == pytest.approx(math.sqrt(ORACLES['error'] ** 2 + pairs / len(A) ** 2))


def test_clusters_of_one_item_are_independent_items():
  assert comparison.clustered_error(A, range(len(A))) == pytest.approx(comparison.mean_error(A))
  # Items that repeat are no more items.
  twice = comparison.clustered_error(np.repeat(A, 2), np.repeat(np.arange(len(A)), 2))
  assert twice == pytest.approx(comparison.mean_error(A), rel=0.01)


def test_mcnemar_is_that_of_statsmodels():
  for wins, losses, wanted in ORACLES['mcnemar']:
    assert comparison.mcnemar(wins, losses) == pytest.approx(wanted)
  assert comparison.mcnemar(0, 0) == 1
  a = np.array([1] * 10 + [0] * 2 + [1] * 5 + [0] * 3)
  b = np.array([0] * 10 + [1] * 2 + [1] * 5 + [0] * 3)
  got = comparison.compare(a, b, samples=100)
  assert (got.wins, got.losses) == (10, 2)
  assert got.decisive_p == got.mcnemar == comparison.mcnemar(10, 2)
  assert got.differ and 'A scores higher than B on these 20 items: +40' in got.verdict()


def _covers(differences_SN, clusters=None) -> float:
  """Share of simulated experiments whose interval holds the true difference, 0."""
  hits = 0
  for values in differences_SN:
    error = comparison.mean_error(values) if clusters is None else comparison.clustered_error(
        values, clusters)
    freedom = (len(values) if clusters is None else len(set(clusters))) - 1
    interval, _ = comparison._student(values.mean(), error, freedom)
    hits += interval.low <= 0 <= interval.high
  return hits / len(differences_SN)


def test_intervals_hold_the_truth_as_often_as_they_say():
  rng = np.random.default_rng(0)
  right_SN = rng.random((2000, 100)) < 0.6
  other_SN = np.where(rng.random((2000, 100)) < 0.3, rng.random((2000, 100)) < 0.6, right_SN)
  assert 0.93 < _covers(right_SN.astype(float) - other_SN) < 0.97


def test_intervals_of_clusters_hold_the_truth_where_those_of_items_do_not():
  rng = np.random.default_rng(1)
  clusters = np.repeat(np.arange(40), 4)
  values_SN = np.repeat(rng.normal(size=(1000, 40)), 4, axis=1) + rng.normal(size=(1000, 160))
  assert 0.93 < _covers(values_SN, clusters) < 0.97
  assert _covers(values_SN) < 0.85


def test_the_bootstrap_is_near_t_and_draws_whole_clusters():
  got = comparison.compare(A, B, samples=4000)
  assert got.bootstrap == pytest.approx(got.interval, abs=0.03)
  clustered = comparison.compare(A, B, CLUSTERS, samples=4000)
  assert clustered.bootstrap == pytest.approx(clustered.interval, abs=0.06)
  # Items that repeat within a cluster are no more items.
  width = lambda *args: np.ptp(comparison.bootstrap_interval(*args, samples=4000))
  repeated, clusters = np.repeat(A - B, 4), np.repeat(np.arange(len(A)), 4)
  assert width(repeated, clusters) == pytest.approx(width(A - B), rel=0.05)
  assert width(repeated) == pytest.approx(width(A - B) / 2, rel=0.05)
  assert comparison.compare(A, B, samples=4000) == got   # the seed is fixed


def test_as_many_items_as_it_says_find_the_difference():
  """Of experiments with that many items, four in five have p < 0.05."""
  number = comparison.items_needed(difference=0.2, error=1 / math.sqrt(50), number=50)
  assert number == math.ceil(((stats.norm.ppf(0.975) + stats.norm.ppf(0.8)) / 0.2) ** 2) == 197
  values = np.random.default_rng(2).normal(0.2, 1, (2000, number))
  found = np.mean(stats.ttest_1samp(values, 0, axis=1).pvalue < 0.05)
  assert 0.77 < found < 0.83
  assert comparison.items_needed(0.0, 1.0, 50) is None
  assert comparison.items_needed(1.0, 0.0, 2) == 6


def test_models_that_cannot_be_told_apart():
  a = np.array([1, 0, 1, 1, 0, 1, 0, 1])
  b = np.array([1, 1, 1, 1, 0, 0, 0, 0])
  text = comparison.compare(a, b, samples=100).verdict('lm', 'tuned')
  assert text.startswith('lm and tuned cannot be told apart on these 8 items: +12.5')
  assert 'needs about' in text
  same = comparison.compare(a, a, samples=100)
  assert (same.difference, same.error, same.p_value, same.needed) == (0, 0, 1, None)
  assert same.interval == same.bootstrap == (0, 0)
  assert 'they do not differ here' in same.verdict()


def test_two_items_that_both_differ_are_no_proof():
  got = comparison.compare(np.ones(2), np.zeros(2))
  assert (got.error, got.mcnemar, got.p_value, got.differ) == (0, 0.5, 0.5, False)


def test_seed_noise_is_welchs_test():
  a, b = [0.50, 0.52, 0.57], [0.40, 0.45]
  got, wanted = comparison.seed_noise(a, b), stats.ttest_ind(a, b, equal_var=False)
  assert got.difference == pytest.approx(0.53 - 0.425)
  assert got.sd_a == pytest.approx(math.sqrt((0.03 ** 2 + 0.01 ** 2 + 0.04 ** 2) / 2))
  assert got.p_value == pytest.approx(wanted.pvalue)
  assert got.interval == pytest.approx(tuple(wanted.confidence_interval()))
  assert 'cannot be told from the noise of seeds: +10.5' in got.verdict()
  assert 'is more than' in comparison.seed_noise([0.5, 0.51], [0.1, 0.12]).verdict()
  assert 'a test needs two runs' in comparison.seed_noise([0.5], b).verdict()
  assert comparison.seed_noise([1, 1], [1, 1]).p_value == 1


@pytest.mark.parametrize('a, b, clusters, message', [
    ([1, 0], [1], None, '2 and 1 values are no pairs'),
    ([1], [1], None, 'two items at least'),
    ([1, math.nan], [1, 0], None, r'item 1 \(from 0\) has a value that is not finite'),
    ([1, 0], [0, 0], ['x', 'x'], 'all items are one cluster'),
    ([1, 0], [0, 0], ['x'], '1 names of clusters of 2 items'),
])
def test_what_cannot_be_compared(a, b, clusters, message):
  with pytest.raises(UserError, match=message):
    comparison.compare(a, b, clusters)
