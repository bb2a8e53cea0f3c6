"""Intervals of proportions against statsmodels, the edges by hand, coverage by exact sums."""

import json
import pathlib

import numpy as np
import pytest
from scipy import stats

from t5x_lite.core.errors import UserError
from t5x_lite.evaluation import proportions

ORACLES = json.loads(pathlib.Path(__file__).with_name('oracles.json').read_text())['proportions']
INTERVALS = {'wald': proportions.wald_interval, 'wilson': proportions.wilson_interval,
             'exact': proportions.exact_interval}


@pytest.mark.parametrize('method', INTERVALS)
def test_intervals_are_those_of_statsmodels(method):
  for level, wanted in zip(ORACLES['levels'], ORACLES[method]):
    for (successes, number), ends in zip(ORACLES['counts'], wanted):
      got = INTERVALS[method](successes, number, level)
      np.testing.assert_allclose(got, ends, atol=1e-12, err_msg=f'{successes}/{number}')


def test_edges_by_hand():
  assert proportions.wald_interval(0, 10) == (0, 0)   # it claims to be certain
  # Nobody of n: 1 - (alpha / 2)^(1 / n) exactly, z² / (n + z²) by Wilson.
  z = 1.959963984540054
  assert proportions.exact_interval(0, 10) == pytest.approx((0, 1 - 0.025 ** 0.1), abs=1e-12)
  assert proportions.wilson_interval(0, 10) == pytest.approx((0, z * z / (10 + z * z)))
  for interval in INTERVALS.values():
    low, high = interval(3, 10)
    assert interval(7, 10) == pytest.approx((1 - high, 1 - low))


def test_coverage_of_small_samples():
  """The share of samples of 20 at p = 0.1 whose interval holds it: exact never less than 95 %."""
  weights = stats.binom.pmf(np.arange(21), 20, 0.1)
  covers = {name: sum(weight for x, weight in enumerate(weights)
                      if interval(x, 20)[0] <= 0.1 <= interval(x, 20)[1])
            for name, interval in INTERVALS.items()}
  assert covers['exact'] > 0.95 and 0.93 < covers['wilson'] < 0.97 and covers['wald'] < 0.9


@pytest.mark.parametrize('successes, number', [(1, 0), (-1, 5), (6, 5)])
def test_counts_that_are_no_share(successes, number):
  for interval in INTERVALS.values():
    with pytest.raises(UserError, match=f'{successes} successes of {number}'):
      interval(successes, number)


@pytest.mark.parametrize('level', [0, 1, 95])
def test_levels_are_between_0_and_1(level):
  with pytest.raises(UserError, match='such as 0.95'):
    proportions.exact_interval(1, 2, level)
