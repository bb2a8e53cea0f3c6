"""Predictions of laws with intervals, constraints on them, and layouts."""

import dataclasses
import math

import numpy as np
import pytest

from scaling.laws import intervals
from scaling.laws.laws import LAWS, Allocation, Law, ParametricLaw
from scaling.planning import layout, predictions, sizing
from scaling.planning.budget import solve_budget
from scaling.planning.constraints import Constraints
from scaling.planning.request import Request
from t5x_lite.core.errors import UserError
from t5x_lite.cost import accounting
from t5x_lite.cost.hardware import find_chip
from t5x_lite.cost.memory import Memory
from t5x_lite.experiment import gin_config

GOPHER = 5.76e23
BESIROGLU = LAWS['besiroglu']
SARDANA = ParametricLaw(1.69, 406.4, 0.336, 410.7, 0.283)
FREE = Constraints()


def predict(**budget):
  """The prediction of besiroglu for a budget on H100s."""
  return predictions.predict_all(
      solve_budget(find_chip('h100'), **budget), {'besiroglu': BESIROGLU}, FREE)[0]


def test_the_refits_spread_as_the_errors_that_were_published():
  """Besiroglu et al. 2024: standard errors of a, b, e, alpha and beta, and of N's exponent."""
  forms = intervals.load_bootstrap_samples('besiroglu_bootstrap_samples.csv')
  table = np.array([dataclasses.astuple(form) for form in forms])
  published = (0.026, 124.5, 0.015, 1293, 0.021)
  np.testing.assert_allclose(table.std(0), published, rtol=0.15)
  exponent = table[:, 4] / (table[:, 2] + table[:, 4])
  assert exponent.std() == pytest.approx(0.020, rel=0.1)
  np.testing.assert_allclose(np.quantile(table[:, 0], [0.025, 0.975]), (1.769, 1.871), atol=0.006)


def test_the_interval_of_an_exponent_is_that_of_n():
  """Porian et al. 2024 print both: 0.491 to 0.505, and 70.0e9 to 86.4e9 at 5.88e23 FLOPs."""
  low, high = intervals.exponent_interval(LAWS['porian'], 5.88e23)
  assert low == pytest.approx(70.0e9, rel=0.012) and high == pytest.approx(86.4e9, rel=0.012)


def test_intervals_contain_the_prediction_and_widen_with_the_distance_from_the_runs():
  widths = []
  for flops in (1e20, 1e22, GOPHER):
    found = predict(flops=flops)
    for value, (low, high) in ((found.parameters, found.parameters_interval),
                               (found.tokens / found.parameters, found.ratio_interval),
                               (found.loss, found.loss_interval)):
      assert low < value < high
    widths.append(math.log(found.parameters_interval[1] / found.parameters_interval[0]))
  assert widths == sorted(widths)
  # At Gopher's budget D / N is uncertain by a factor of about five.
  assert 4 < found.ratio_interval[1] / found.ratio_interval[0] < 7


def test_a_law_without_refits_or_range_has_no_interval():
  law = Law(BESIROGLU.form, 'arXiv', 'N:', 'text', (1e18, 1e20))
  assert intervals.bootstrap_intervals(law, lambda form: (form.e,)) is None
  assert intervals.exponent_interval(law, 1e21) is None


def test_refits_that_never_reach_a_loss_count_as_the_most_expensive():
  forms = tuple(ParametricLaw(e, 482, 0.35, 2085, 0.37) for e in np.linspace(1.7, 2.4, 101))
  law = Law(BESIROGLU.form, 'arXiv', 'N:', 'text', (1e18, 1e20), bootstrap_samples=forms)
  found = predictions.predict_all(solve_budget(find_chip('h100'), loss=2.3), {'x': law}, FREE)[0]
  assert math.isfinite(found.flops_interval[0]) and found.flops_interval[1] == math.inf


@pytest.mark.parametrize('n, served', [(13e9, 2e12), (7e9, 1e12), (30e9, 10e12), (70e9, 2e12)])
def test_a_budget_that_includes_serving_gives_sardanas_model(n, served, inference_optimum,
                                                             optimal_tokens):
  """The best loss of a whole cost and the least cost of a loss are the same model."""
  best_n, best_d = inference_optimum(SARDANA, n, served)
  total = 6 * best_n * best_d + 2 * best_n * served
  limits = Constraints(served_tokens=served)
  got_n, got_d = limits.optimum(SARDANA, total)
  assert got_n == pytest.approx(best_n, rel=1e-3) and got_d == pytest.approx(best_d, rel=1e-3)
  assert 6 * got_n * got_d + 2 * got_n * served == pytest.approx(total, rel=1e-9)
  loss = SARDANA.loss(n, optimal_tokens(SARDANA, n))
  assert limits.flops_for(SARDANA, loss) == pytest.approx(total, rel=1e-6)


def test_constraints_that_do_not_bind_change_nothing():
  form = LAWS['muennighoff'].form
  n, d = form.optimum(1e22)
  for limits in (FREE, Constraints(max_parameters=2 * n), Constraints(unique_tokens=50 * d)):
    got_n, got_d = limits.optimum(form, 1e22)
    assert (got_n, got_d) == pytest.approx((n, d), rel=1e-4)
    assert limits.flops_for(form, form.loss(n, d)) == pytest.approx(1e22, rel=1e-6)


def test_unique_tokens_as_in_the_law_itself(data_constrained_optimum):
  form = LAWS['muennighoff'].form
  got = Constraints(unique_tokens=25e9).optimum(form, 1e22)
  assert got == pytest.approx(data_constrained_optimum(form, 1e22, 25e9), rel=1e-4)


@pytest.mark.parametrize('limits', [
    Constraints(max_parameters=1e9), Constraints(unique_tokens=20e9),
    Constraints(max_parameters=1e9, unique_tokens=20e9),
    Constraints(max_parameters=2e9, served_tokens=1e12),
    Constraints(max_parameters=2e9, served_tokens=1e12, unique_tokens=1e11)])
def test_no_model_of_a_grid_is_better(limits):
  form = BESIROGLU.form
  n, d = limits.optimum(form, 1e22)
  served = limits.served_tokens or 0
  assert n <= (limits.max_parameters or math.inf) * (1 + 1e-9)
  best = min(limits.loss(form, x, (1e22 / x - 2 * served) / 6)
             for x in np.geomspace(1e8, min(limits.max_parameters or 1e12, 4e9), 4000)
             if 1e22 / x > 2 * served)
  assert limits.loss(form, n, d) <= best * (1 + 1e-9)


@pytest.mark.parametrize('limits, loss', [
    (FREE, 1.8), (Constraints(max_parameters=1e8), 2.5), (Constraints(unique_tokens=1e8), 3.0)])
def test_a_loss_that_no_budget_reaches_names_the_least(limits, loss):
  budget = solve_budget(find_chip('h100'), loss=loss)
  found = predictions.predict_all(budget, {'besiroglu': BESIROGLU}, limits)
  min_loss = limits.min_loss(BESIROGLU.form)
  assert found[0].flops == math.inf
  with pytest.raises(UserError, match=f'no budget gets below {min_loss:.4g}'):
    predictions.select_prediction('besiroglu', found, LAWS, budget, limits)
  assert math.isfinite(limits.flops_for(BESIROGLU.form, min_loss + 0.01))
  if limits.max_parameters:
    assert min_loss == pytest.approx(1.8172 + 482.01 / 1e8 ** 0.3478, rel=1e-6)


def test_a_law_without_a_loss_cannot_be_followed_to_one():
  budget = solve_budget(find_chip('h100'), loss=2.5)
  found = predictions.predict_all(budget, LAWS, FREE)
  with pytest.raises(UserError, match='llama3 has no loss.*choose one of.*besiroglu'):
    predictions.select_prediction('llama3', found, LAWS, budget, FREE)
  with pytest.raises(UserError, match='--law=chinchilla: choose from hoffmann_1'):
    predictions.select_prediction('chinchilla', found, LAWS, budget, FREE)
  assert {a.law for a in found if a.parameters is None} == {
      name for name, law in LAWS.items() if isinstance(law.form, Allocation)
      and not hasattr(law.form, 'loss')}


def test_a_budget_outside_the_runs_is_warned_of_with_the_factor():
  found = predictions.predict_all(solve_budget(find_chip('h100'), flops=GOPHER), LAWS, FREE)
  of = {prediction.law: predictions.extrapolation_warning(prediction.law, prediction)
        for prediction in found}
  assert 'a factor of 44.3 outside the runs that besiroglu' in of['besiroglu']
  assert of['kaplan'] is None    # its runs are not known
  inside = predict(flops=1e21)
  assert predictions.extrapolation_warning('besiroglu', inside) is None


@pytest.mark.parametrize('counted, n', [
    ('all', 124_439_808), ('no_input_embedding', 124_439_808),
    ('no_embedding', 124_439_808 - 50257 * 768 - 1024 * 768)])
def test_what_laws_count_of_gpt2(counted, n):
  config = gin_config.load_described(['models/gpt2_small.gin']).model
  assert sizing.count_parameters(config, counted, (0, 1024)) == n


def test_deepseeks_count_is_the_flops_without_embeddings():
  """72 L d^2 + 12 L d s a token for a model whose blocks have 12 d^2 weights; a sixth is N."""
  config = gin_config.load_described(['models/gpt2_small.gin']).model
  expected = (72 * 12 * 768 ** 2 + 12 * 12 * 768 * 1024) / 6
  assert sizing.count_parameters(config, 'flops', (0, 1024)) == pytest.approx(expected, rel=1e-12)


class Fake:
  """Memory that is easily foreseen: 16 bytes a parameter, `each` bytes a row of activations."""

  def __init__(self, each):
    self.each = each

  def __call__(self, config, *, mesh, rows, microbatches=1, **_):
    parts = mesh['data'] * mesh['fsdp']
    state = 4 * accounting.parameters(config).total // (mesh['fsdp'] * mesh['tensor'])
    recompute = 10 if config.remat == 'full' else 1
    kept = round(self.each * rows / parts / microbatches / mesh['tensor'] / recompute)
    return Memory(state, state, 2 * state, kept, 0, 0, 0)


@pytest.fixture
def small():
  return gin_config.load_described(['models/ladder_1024.gin']).model


@pytest.mark.parametrize('each, microbatches, fsdp, remat', [
    (1e9, 1, 1, 'none'), (10e9, 2, 1, 'none'), (60e9, 8, 1, 'none'), (100e9, 2, 1, 'full')])
def test_layouts_take_the_least_that_fits(monkeypatch, small, each, microbatches, fsdp, remat):
  monkeypatch.setattr(layout.memory, 'per_device', Fake(each))
  found = layout.find_layout(small, find_chip('h100'), 8, 64, (0, 128))
  assert (found.rows, found.microbatches, found.mesh['fsdp'], found.remat) == (
      64, microbatches, fsdp, remat)
  assert math.prod(found.mesh.values()) == 8


def test_the_state_is_cut_no_more_than_it_must_be(monkeypatch, small):
  monkeypatch.setattr(layout.memory, 'per_device', Fake(1e6))
  state = 16 * accounting.parameters(small).total
  chip = dataclasses.replace(find_chip('h100'), memory=state / 3)   # 0.9 of it: 4 parts are enough
  found = layout.find_layout(small, chip, 16, 64, (0, 128))
  assert found.mesh == {'data': 4, 'fsdp': 4, 'tensor': 1}
  assert layout.find_layout(small, chip, 2, 64, (0, 128)) is None


def test_tensor_parallelism_where_a_row_is_too_long(monkeypatch, small):
  monkeypatch.setattr(layout.memory, 'per_device', Fake(1000e9))
  found = layout.find_layout(small, find_chip('h100'), 8, 64, (0, 128))
  assert found.mesh['tensor'] == 2 and found.remat == 'full' and found.microbatches == 16


@pytest.mark.parametrize('fields, message', [
    ({'family': 'gpt'}, '--family=gpt: choose from llama'), ({'recipe': 'mine'}, '--recipe=mine'),
    ({'vocab_size': 10}, '--vocab_size=10: give 128 to 16,777,216'),
    ({'length': 0}, '--length=0'), ({'length': 10 ** 9}, 'give 8 to 1,048,576'),
    ({'unique_tokens': -1}, '--unique_tokens=-1'), ({'served_tokens': math.inf}, 'above 0')])
def test_requests_that_make_no_sense(fields, message):
  with pytest.raises(UserError, match=message):
    Request(flops=1e20, **fields)
