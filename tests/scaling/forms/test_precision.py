"""Precision: recovery of a known law, the parts that are fitted, and refusals."""

import itertools

import numpy as np
import pytest

from scaling.fitting.runs import Runs
from scaling.forms import form_fit, form_report
from scaling.forms.precision import form_of
from scaling.laws.precision import PrecisionLaw
from t5x_lite.core.errors import UserError

TRUTH = PrecisionLaw(1.9, 400.0, 0.34, 410.0, 0.28, weight_gamma=2.6, weight_offset=0.3,
                     kv_gamma=1.0, kv_offset=2.0)


def grid(bits=(3, 4, 6, 8, 16), noise=0.0, **others) -> Runs:
  """Three sizes and three numbers of tokens in each of these bits of weights."""
  n, d, w = np.array([*itertools.product((3e7, 1e8, 3e8), (1e9, 4e9, 1.6e10), bits)]).T
  columns = {'weight': w, **{part: np.resize(values, len(n)) for part, values in others.items()}}
  loss = TRUTH.loss(n, d, **columns)
  loss = loss * np.exp(noise * np.random.default_rng(0).normal(size=len(n)))
  return Runs(n, d, loss, 6 * n * d, tuple(map(str, range(len(n)))),
              settings={f'{part}_bits': np.asarray(x, float) for part, x in columns.items()})


def test_a_known_law_is_recovered_within_its_intervals():
  runs = grid(noise=0.003)
  fit = form_fit.bootstrap(form_fit.fit_form(form_of(runs), runs, 'linear'), 40)
  for name, (low, high) in fit.intervals(0.95).items():
    assert low <= getattr(TRUTH, name) <= high, name
  found = form_fit.profile(fit, 'weight_gamma', 0.95)
  assert found.low < 2.6 < found.high and not found.wide


def test_two_parts_are_told_apart_and_constant_bits_are_not_fitted():
  runs = grid(kv=[16, 4, 5, 8, 4, 16, 6], activation=[8])
  form = form_of(runs)
  assert form.names[5:] == ('weight_gamma', 'weight_offset', 'kv_gamma', 'kv_offset')
  law = form_fit.fit_form(form, runs, 'linear').law
  assert (law.weight_gamma, law.kv_gamma) == pytest.approx((2.6, 1.0), rel=0.02)
  assert law.activation_gamma == 0


def test_an_optimum_outside_the_bits_of_the_runs_is_doubted():
  runs = grid(noise=0.003)
  fit = form_fit.bootstrap(form_fit.fit_form(form_of(runs), runs, 'linear'), 20)
  warnings = form_report.report_form('precision', fit, [1e20], 0.95, 0)['warnings']
  assert any('optimal bits are outside those of the runs (3 to 16)' in line for line in warnings)
  assert any('where activation and kv, too' in line for line in warnings)


@pytest.mark.parametrize('runs, match', [
    (grid((8, 8, 8)), 'no column of weight_bits'),
    (grid((4, 16)), 'weight_bits of the runs are 4 and 16: the form needs 3'),
    (grid(kv=[3, 4, 6, 8, 16]), 'weight_bits and kv_bits are the same in all runs')])
def test_runs_that_cannot_tell_are_refused(runs, match):
  with pytest.raises(UserError, match=match):
    form_of(runs)
