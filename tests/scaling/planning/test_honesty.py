"""What a plan does not know, it says: recipes outside their runs, losses of other models."""

import math

import pytest

from scaling.laws import hyperparameters
from scaling.laws.laws import LAWS
from scaling.planning import plan_gin, plan_text, planner, predictions
from scaling.planning.request import PRESETS, Request
from t5x_lite.core.errors import UserError


@pytest.mark.parametrize('name', hyperparameters.RECIPES)
def test_a_recipe_outside_its_runs_is_said(name):
  ranges = hyperparameters.RECIPES[name]
  inside = {'parameters': 3e8, 'tokens': 1e10, 'flops': 1e18}
  assert hyperparameters.list_warnings(name, **inside) == []
  for quantity, (low, high) in ranges.items():
    for value, factor in ((low / 3, 3), (5 * high, 5)):
      line, *_ = hyperparameters.list_warnings(name, **{**inside, quantity: value})
      assert f'extrapolated by {name}' in line and f'a factor of {factor} outside' in line
    for value in (low, high):
      assert hyperparameters.list_warnings(name, **{**inside, quantity: value}) == []


@pytest.mark.parametrize('name', hyperparameters.RECIPES)
def test_no_recipe_gives_a_rate_above_all_sweeps(name):
  """2e12 FLOPs had a peak rate of 0.083."""
  for n in (1e3, 1e5, 1e7, 1e9, 1e12):
    for d in (1e6, 1e9, 1e13):
      run = {'parameters': n, 'tokens': d, 'flops': 6 * n * d}
      rate = hyperparameters.compute_recipe(name, **run).learning_rate
      assert 0 < rate <= hyperparameters.MAX_RATE
      bounded = any('is planned' in line for line in hyperparameters.list_warnings(name, **run))
      assert bounded == (rate == hyperparameters.MAX_RATE)


def test_a_bounded_rate_is_in_the_plan_and_its_gin():
  plan = planner.make_plan(Request(flops=1e16, vocab_size=384, law='porian', multiple=8))
  assert plan.learning_rate <= hyperparameters.MAX_RATE
  assert any('extrapolated by step_law' in line for line in plan.warnings)


@pytest.mark.parametrize('law', [
    'besiroglu', *(pytest.param(name, marks=pytest.mark.slow) for name, law in LAWS.items()
                   if hasattr(law.form, 'loss') and name != 'besiroglu')])
@pytest.mark.sweep
def test_no_loss_above_that_of_guessing(law):
  for flops in (2e12, 1e16, 1e18):
    try:
      plan = planner.make_plan(Request(flops=flops, law=law, vocab_size=LAWS[law].vocabulary))
    except UserError as e:
      assert 'of a uniform guess' in str(e) or 'the nearest model has' in str(e)
      assert ': give --' in str(e)
    else:
      assert plan.loss < math.log(LAWS[law].vocabulary)


def comparable_laws(family, vocabulary):
  decoder = not PRESETS[family].lengths[0]
  return {name for name, law in LAWS.items()
          if not predictions.why_not_comparable(law, decoder, vocabulary)}


def test_which_losses_are_those_of_a_model():
  assert 'besiroglu' in comparable_laws('llama', 32_000) and 'muennighoff' not in comparable_laws(
      'llama', 32_000)
  assert {'muennighoff', 'kaplan', 'cerebras'} <= comparable_laws('gpt2', 50_304)   # padded
  assert comparable_laws('llama', 384) == comparable_laws('t5', 32_128) == set()
  assert comparable_laws('bert', 30_522) == set()


@pytest.mark.parametrize('fields, reason', [
    pytest.param({'family': 't5'}, 'its runs are of decoder-only language models',
                 marks=pytest.mark.slow),
    pytest.param({'family': 'bert'}, 'its runs are of decoder-only language models',
                 marks=pytest.mark.slow),
    ({'vocab_size': 128_256}, 'its tokens are of a vocabulary of 32,000, not 128,256'),
    pytest.param({'family': 'gpt2'}, 'its tokens are of a vocabulary of 32,000, not 50,257',
                 marks=pytest.mark.slow)])
def test_losses_of_other_models_are_not_printed(fields, reason):
  """'t5 beats llama', and a larger vocabulary 'improved' the loss."""
  plan = planner.make_plan(Request(flops=1e19, **fields))
  assert plan.loss is None and plan.loss_interval is None and plan.loss_reason == reason
  assert f'not that of besiroglu: {reason}' in plan_text.format_plan(plan)
  assert 'expected loss' not in plan_gin.format_gin(plan)
  with pytest.raises(UserError, match=f'--loss=2.5: not the loss of this model: {reason}: give'):
    planner.make_plan(Request(loss=2.5, **fields))


@pytest.mark.parametrize('name', ['t4', pytest.param('v100', marks=pytest.mark.slow)])
def test_chips_without_bfloat16_are_planned_in_float32(name):
  plan = planner.make_plan(Request(flops=1e17, hardware=name))
  chip = plan.budget.chip
  assert plan.config.dtype == 'float32' and chip.flops == chip.peak['float32']
  assert plan.chip_hours == pytest.approx(plan.flops / chip.peak['float32'] / 0.4 / 3600)
  assert "  dtype = 'float32'" in plan_gin.format_gin(plan)
  assert any('has no bfloat16' in line for line in plan.warnings)
  assert 'dtype' not in plan_gin.format_gin(planner.make_plan(Request(flops=1e17)))
