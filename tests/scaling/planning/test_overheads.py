"""The price of a wrong N, and of a constraint, under the constraints of the plan."""

import dataclasses
import itertools
import json
import math

import numpy as np
import pytest

from scaling.commands import plan as plan_command
from scaling.laws.laws import FACTORS, LAWS, ParametricLaw
from scaling.planning import plan_text, planner
from scaling.planning.constraints import Constraints
from scaling.planning.request import Request
from t5x_lite.core.strict_json import format_json

FORM = LAWS['besiroglu'].form
# Of an N for which attention and embeddings cost more in small models.
COSTS = {'6N': lambda n: 6 * n, 'exact': lambda n: 6 * n * (1 + (1e8 / n) ** 0.4)}


def cheapest(limits: Constraints, parameters: float, loss: float, cost) -> float:
  """FLOPs, serving included, for a loss with this N, by bisection of the tokens; inf if none."""
  low, high = 0.0, 80.0
  if limits.loss(FORM, parameters, math.exp(high)) > loss:
    return math.inf
  for _ in range(200):
    middle = (low + high) / 2
    low, high = (low, middle) if limits.loss(FORM, parameters, math.exp(middle)) < loss else (
        middle, high)
  return cost(parameters) * (math.exp(high) + (limits.served_tokens or 0) / 3)


def grid():
  for unique, most, served in itertools.product((None, 2e9, 5e10), (None, 3e8, 3e9),
                                                (None, 1e10, 1e12)):
    yield Constraints(unique_tokens=unique, max_parameters=most, served_tokens=served)


@pytest.mark.parametrize('flops', [1e20, 1e22])
@pytest.mark.parametrize('cost', COSTS.values(), ids=COSTS)
def test_overheads_are_those_of_the_constrained_optimum(flops, cost):
  for limits in grid():
    n, d = limits.optimum(FORM, flops, cost)
    loss = limits.loss(FORM, n, d)
    assert cost(n) * (d + (limits.served_tokens or 0) / 3) == pytest.approx(flops, rel=1e-9)
    found = limits.compute_overheads(FORM, flops, cost)
    assert list(found) == list(FACTORS) and found[1.0] == pytest.approx(1)
    for factor, overhead in found.items():
      if factor == 1:   # more tokens may be of no use at all
        continue
      if limits.max_parameters and factor * n > limits.max_parameters * (1 + 1e-9):
        assert overhead is None
      else:
        assert overhead == pytest.approx(
            cheapest(limits, factor * n, loss, cost) / flops, rel=1e-5)
        assert overhead >= 1 - 1e-5   # the optimum is the cheapest


@pytest.mark.parametrize('cost', COSTS.values(), ids=COSTS)
def test_what_a_constraint_costs(cost):
  for limits in grid():
    loss = limits.loss(FORM, *limits.optimum(FORM, 1e21, cost))
    prices = limits.prices(FORM, 1e21, cost)
    assert set(prices) == {name for name in ('unique_tokens', 'max_parameters')
                           if getattr(limits, name) is not None}
    for name, (needed, better) in prices.items():
      free = dataclasses.replace(limits, **{name: None})
      most = free.max_parameters or 2e11
      best = min(cheapest(free, n, loss, cost) for n in np.geomspace(most / 5e3, most, 300))
      assert needed == pytest.approx(best, rel=0.02)
      assert needed <= 1e21 * (1 + 1e-4) and better <= loss + 1e-7


@pytest.mark.parametrize('n, served, saved', [(13e9, 2e12, 0.1745), (30e9, 10e12, 0.280)])
def test_what_serving_saves_over_training_alone(n, served, saved):
  """Sardana et al. 2024, figure 1: models of the quality of 13B and 30B."""
  form = ParametricLaw(1.69, 406.4, 0.336, 410.7, 0.283)
  chinchilla = (form.beta * form.b / (form.alpha * form.a) * n ** form.alpha) ** (1 / form.beta)
  limits = Constraints(served_tokens=served)
  flops = limits.flops_for(form, form.loss(n, chinchilla))
  parameters, both = limits.trained_alone(form, flops)
  assert parameters == pytest.approx(n, rel=1e-3)
  assert 1 - flops / both == pytest.approx(saved, abs=0.002)


def test_without_constraints_it_is_the_laws_own():
  assert Constraints().compute_overheads(FORM, 1e22) == pytest.approx(
      FORM.compute_overheads(1e22), rel=1e-6)


def test_a_plan_says_what_its_constraints_cost():
  """The unconstrained law's overheads were printed under every constraint."""
  plan = planner.make_plan(Request(flops=1e21, unique_tokens=5e9))
  text = plan_text.format_plan(plan)
  assert 'under these constraints' in text and '0.5 N never' in text
  needed, better = plan.prices['unique_tokens']
  assert f'--unique_tokens costs a factor of {plan.flops / needed:.3g}: without it, ' in text
  assert f'this budget reaches {better:.3f}' in text
  limited = planner.make_plan(Request(flops=1e21, max_parameters=5e8))
  text = plan_text.format_plan(limited)
  assert '2 N is above --max_parameters' in text and '--max_parameters costs a factor of' in text
  assert 'under these constraints' not in plan_text.format_plan(
      planner.make_plan(Request(flops=1e20)))


def test_json_tells_a_size_that_is_refused_from_one_that_never_gets_there():
  """Both were null."""
  show = lambda **given: json.loads(format_json(plan_command.as_json(
      planner.make_plan(Request(flops=1e21, **given)))))
  repeats = show(unique_tokens=5e9)
  assert repeats['compute_overhead']['0.5'] == 'never reached'
  assert repeats['compute_overhead']['1.0'] == pytest.approx(1)
  limited = show(max_parameters=5e8)
  assert limited['compute_overhead']['2.0'] == 'above max_parameters'
  found = json.loads(format_json(plan_command.as_json(planner.make_plan(Request(
      loss=1.75, hardware='h100', fit=None, law='hoffmann_3')))))['predictions']
  assert found['besiroglu']['reason'] == 'never reached'
  assert found['deepseek']['reason'] == 'no prediction' and found['hoffmann_3']['reason'] == ''


@pytest.mark.parametrize('law, says', [('besiroglu', False), ('deepseek', True), ('kaplan', True)])
def test_a_law_without_a_loss_of_n_and_d_is_said_to_allocate_6nd(law, says):
  text = plan_text.format_plan(planner.make_plan(Request(flops=1e21, law=law)))
  assert (f'{law} has no loss of N and D to minimise' in text) == says
