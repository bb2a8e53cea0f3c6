"""Models with experts: recovery of a known joint law, and refusals."""

import numpy as np
import pytest

from scaling.fitting.runs import Runs
from scaling.forms import form_fit
from scaling.forms.experts import FORM
from scaling.laws.experts import JOINT
from t5x_lite.core.errors import UserError


def ladder(experts=(1, 4, 16), top_k=1, noise=0.0, seed=0) -> Runs:
  """Three sizes at three budgets for each number of experts."""
  rows = []
  for count in experts:
    form = JOINT.at(count / top_k)
    for flops in (1e18, 4e18, 1.6e19):
      best, _ = form.optimum(flops)
      rows += [(best * f, flops / 6 / best / f, form.loss(best * f, flops / 6 / best / f), count)
               for f in (0.4, 1, 2.5)]
  n, d, loss, count = np.array(rows).T
  loss = loss * np.exp(noise * np.random.default_rng(seed).normal(size=len(n)))
  return Runs(n, d, loss, 6 * n * d, tuple(map(str, range(len(n)))),
              settings={'experts': count, 'top_k': np.full(len(n), float(top_k))})


def test_a_known_law_is_recovered():
  fit = form_fit.fit_form(FORM, ladder(), 'linear')
  for expansion in (1, 8, 16):
    want, got = JOINT.at(expansion), fit.law.at(expansion)
    assert got.optimum(1e21)[0] == pytest.approx(want.optimum(1e21)[0], rel=0.02)
    assert got.loss(3e9, 6e10) == pytest.approx(want.loss(3e9, 6e10), rel=1e-3)


def test_what_noise_leaves_is_inside_the_intervals():
  fit = form_fit.bootstrap(form_fit.fit_form(FORM, ladder(noise=0.003), 'linear'), 40)
  form = JOINT.at(16)
  n, d = form.optimum(1e21)
  for of, want in ((lambda law: law.at(16.0).loss(n, d), form.loss(n, d)),
                   (lambda law: law.at(16.0).optimum(1e21)[0], n)):
    _, low, high = fit.quantity(of, 0.95)
    assert low <= want <= high
  gain = JOINT.at(1).flops_for(form.loss(*form.optimum(1.6e19))) / 1.6e19
  _, low, high = fit.quantity(lambda law: FORM.extra(law, fit.runs)['compute gain'], 0.95)
  assert low <= gain <= high


def test_active_experts_divide_the_experts():
  runs = ladder((2, 8, 32), top_k=2)
  theta = FORM.pack({name: getattr(JOINT, name) for name in FORM.names})
  np.testing.assert_allclose(np.exp(FORM.predict(runs)(theta)), runs.loss, rtol=1e-12)


@pytest.mark.parametrize('runs, match', [
    (ladder((8, 8)), 'experts over active experts of 8: the form needs 3 runs of each of two'),
    (ladder((4, 16), top_k=8), 'correct the columns experts and top_k'),
    (ladder().select(range(9)), '9 runs do not identify 9 parameters')])
def test_runs_that_cannot_tell_are_refused(runs, match):
  with pytest.raises(UserError, match=match):
    form_fit.fit_form(FORM, runs)
