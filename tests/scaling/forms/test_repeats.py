"""Repeated data: the published constants and the better ones, recovery, doubt, and refusals."""

import os
import pathlib

import numpy as np
import pytest

from scaling.fitting import regression
from scaling.fitting.runs import Runs, read_csv
from scaling.forms import form_fit
from scaling.forms.repeats import FORM
from scaling.laws.laws import LAWS, DataConstrainedLaw
from t5x_lite.core.errors import UserError

TRUTH = DataConstrainedLaw(1.87, 521.0, 0.353, 1488.0, 0.353, 15.0, 5.0)
DATA = os.environ.get('T5X_LITE_TEST_DATA')


def published_runs() -> Runs:
  if not DATA:
    pytest.skip('T5X_LITE_TEST_DATA is not set')
  path = pathlib.Path(DATA) / 'scaling' / 'datablations_points.csv'
  return read_csv(path, {'loss': 'val_loss_c4'})


def grid(epochs=(1, 4, 30, 200), noise=0.0, seed=0) -> Runs:
  """Runs of four sizes and three amounts of unique tokens, each repeated."""
  rows = [(n, u * r, u) for n in np.geomspace(5e7, 3e9, 4) for u in (1e8, 1e9, 1e10)
          for r in epochs]
  n, d, u = np.array(rows).T
  loss = TRUTH.data_constrained_loss(n, d, u)
  loss = loss * np.exp(noise * np.random.default_rng(seed).normal(size=len(n)))
  return Runs(n, d, loss, 6 * n * d, tuple(map(str, range(len(n)))), unique_tokens=u)


def test_the_form_is_the_law_that_plans_with_it():
  runs = grid()
  theta = FORM.pack(dict(a=521.0, b=1488.0, e=1.87, alpha=0.353, r_tokens=15.0, r_parameters=5.0))
  want = [TRUTH.data_constrained_loss(*row) for row in zip(
      runs.parameters, runs.tokens, runs.unique_tokens)]
  np.testing.assert_allclose(np.exp(FORM.predict(runs)(theta)), want, rtol=1e-12)


def test_the_published_constants_of_repetition_are_a_local_minimum():
  """With their A, B, E and alpha: 0.01582594 at (15.39, 5.31), and 0.01580467 at (95.4, 1.71)."""
  runs, law = published_runs(), LAWS['muennighoff'].form
  values = dict(a=law.a, b=law.b, e=law.e, alpha=law.alpha)
  log_loss = FORM.predict(runs)
  predict = lambda r: log_loss(FORM.pack({**values, 'r_tokens': np.exp(r[0]),
                                          'r_parameters': np.exp(r[1])}))
  fit = lambda starts: regression.fit(predict, np.log(starts), np.log(runs.loss),
                                      bounds=np.log([0.05, 1e4]))
  theirs = np.abs(np.log(runs.loss) - predict(np.log([15.387756, 5.309743]))) / 1e-3
  objective = np.where(theirs < 1, theirs ** 2 / 2, theirs - 0.5).sum()
  assert 1e-6 * objective == pytest.approx(0.01582594, abs=1e-8)
  assert 1e-6 * fit([[15.387756, 5.309743]]).objective == pytest.approx(0.01582594, abs=2e-8)
  best = fit([[r_d, r_n] for r_d in (3, 15, 100, 1000) for r_n in (0.5, 5, 50)])
  np.testing.assert_allclose(np.exp(best.theta), (95.4, 1.71), rtol=3e-3)
  assert 1e-6 * best.objective == pytest.approx(0.01580467, abs=1e-8)
  # From 12 to 200, R_D* changes it by less than a half percent.
  flat = [regression.fix(best, 0, np.log(r)) / best.objective for r in (12, 200)]
  assert max(flat) < 1.005


@pytest.mark.slow
def test_the_published_runs_hardly_tell_what_repeats_are_worth():
  fit = form_fit.fit_form(FORM, published_runs())
  assert fit.law.alpha == pytest.approx(0.403, abs=0.002)
  of_tokens = form_fit.profile(fit, 'r_tokens', 0.95)
  assert of_tokens.wide and of_tokens.low < 30 and of_tokens.high > 70
  of_parameters = form_fit.profile(fit, 'r_parameters', 0.95)
  assert of_parameters.open_high and 10 < of_parameters.low < 60


def test_known_constants_are_recovered_within_the_intervals():
  fit = form_fit.bootstrap(form_fit.fit_form(FORM, grid(noise=0.003), 'linear'), 40)
  for name, (low, high) in fit.intervals(0.95).items():
    assert low * 0.97 <= getattr(TRUTH, name) <= high * 1.03, name
  found = form_fit.profile(fit, 'r_tokens', 0.95)
  assert found.low * 0.95 < 15 < found.high * 1.05 and not found.wide


def test_few_epochs_put_no_upper_limit_on_the_worth_of_repeats():
  fit = form_fit.fit_form(FORM, grid(epochs=(1, 1.5, 2.5), noise=0.01), 'linear')
  found = form_fit.profile(fit, 'r_tokens', 0.95)
  assert found.wide and found.high > 15


@pytest.mark.parametrize('epochs, match', [
    ((1, 1.02, 1.04, 1.5), '0 of 48 runs have more than 2 epochs'),
    ((4, 8, 30), 'fewer than 3 runs have new tokens alone')])
def test_runs_that_cannot_tell_are_refused(epochs, match):
  with pytest.raises(UserError, match=match):
    form_fit.fit_form(FORM, grid(epochs))
