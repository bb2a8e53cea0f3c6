"""Chips, meshes and batches of plans over grids of requests, and the cures of those refused."""

import dataclasses
import itertools
import re

import pytest

from scaling.planning import amounts, budget, planner, sizing
from scaling.planning.request import Request
from t5x_lite.core.errors import UserError
from t5x_lite.cost.hardware import find_chip
from t5x_lite.parallel.mesh import indivisible

BUDGETS = (1e20, 1e22, 1e23, 5.76e23, 1e25)
DEADLINES = (24, 120, 240, 480, 1440, 8760)


def cured(request: Request, message: str):
  """Each request with one of the cures of a message: '--name=value', alternatives after 'or'."""
  kinds = {field.name: str(field.type) for field in dataclasses.fields(Request)}
  for part in re.split(r',? or ', message.rpartition('give ')[2]):
    flags = re.findall(r'--(\w+)=([^\s,]+)', part)
    assert flags, message
    changes = {name: value if 'str' in kinds[name] else
               amounts.parse_count(value) if 'int' in kinds[name] else amounts.parse_amount(value)
               for name, value in flags}
    yield dataclasses.replace(request, **changes)


def check_plan(plan: planner.Plan) -> None:
  """A mesh that divides its model and batch, on chips that one can have, in time, that fit."""
  placed, chip, request = plan.layout, plan.budget.chip, plan.request
  mesh = placed.mesh
  parts = mesh['data'] * mesh['fsdp']
  assert parts * mesh['tensor'] == plan.budget.chips * chip.devices
  assert not list(indivisible(plan.config, mesh))
  assert placed.rows % (parts * placed.microbatches) == 0
  assert placed.memory.total <= 0.9 * chip.device_memory
  assert mesh['tensor'] <= chip.node * chip.devices
  if request.chips is None:
    assert plan.budget.chips in set(budget.chip_counts(chip))
  if request.deadline is not None:
    assert plan.chip_hours / plan.budget.chips <= request.deadline * 1.011
  rule = 0.58 * plan.tokens ** 0.571 / sum(plan.lengths)   # of Step Law
  assert placed.rows <= (4.1 if request.deadline else 1.6) * rule or parts == 1


@pytest.mark.slow
@pytest.mark.parametrize('deadlines, flops, hardware', [
    (DEADLINES[i % 2::2], *case) for i, case in enumerate([
        *((flops, 'h100') for flops in BUDGETS), (5.76e23, 'a100_80'), (1e22, 'tpu_v5p'),
        (1e27, 'tpu_v6e')])])
@pytest.mark.sweep
def test_every_budget_and_deadline_has_a_mesh_that_divides_or_a_cure(deadlines, flops, hardware):
  """Half of the deadlines at each budget, the others at the next."""
  for deadline in deadlines:
    request = Request(flops=flops, deadline=deadline, hardware=hardware)
    try:
      plan = planner.make_plan(request)
    except UserError as e:
      for other in cured(request, str(e)):
        check_plan(planner.make_plan(other))
    else:
      check_plan(plan)


@pytest.mark.parametrize('flops, deadline', [
    (5.76e23, 480), pytest.param(1e23, 240, marks=pytest.mark.slow),
    pytest.param(1e25, 480, marks=pytest.mark.slow)])
def test_deadlines_of_large_models_are_met(flops, deadline):
  """ceil(chip-hours) gave 843 = 3 x 281 chips, which no mesh divides."""
  check_plan(planner.make_plan(Request(flops=flops, deadline=deadline)))


@pytest.mark.parametrize('name', ['h100', 'a100_40', 'tpu_v4', 'tpu_v5e', 'tpu_7x', 't4'])
def test_numbers_of_chips_are_parts_of_a_node_or_whole_nodes(name):
  chip = find_chip(name)
  counts = list(budget.chip_counts(chip))
  assert counts == sorted(set(counts)) and counts[-1] <= 2 ** 20
  for low, high in itertools.pairwise(n for n in counts if n >= chip.node):
    assert high <= 2 * low and high % chip.node == 0
  for n in counts:
    if n < chip.node:
      assert chip.node % n == 0
    odd = n >> ((n & -n).bit_length() - 1)
    assert odd in ((1,) if chip.platform == 'tpu' else (1, 3))
  assert budget.round_up_chips(chip, 843) >= 843


def test_a_billion_tokens_is_no_batch():
  """1e27 FLOPs were planned on a million chips with batches of 2.15e9 tokens."""
  plan = planner.make_plan(Request(flops=1e27))
  check_plan(plan)
  assert plan.layout.mesh['tensor'] > 1 and plan.budget.chips < 300_000
  assert plan.layout.rows * sum(plan.lengths) < 1e8
  assert plan.budget.hours > 24 * 30   # which is said


def test_recomputation_lowers_the_mfu_and_a_measured_one_is_kept():
  plan = planner.make_plan(Request(flops=5.76e23))
  assert plan.layout.remat == 'full' and plan.budget.mfu == pytest.approx(0.3)
  assert plan.chip_hours == pytest.approx(plan.flops / 989.4e12 / 0.3 / 3600)
  measured = planner.make_plan(Request(flops=5.76e23, mfu=0.38))
  assert measured.budget.mfu == 0.38
  small = planner.make_plan(Request(flops=1e20))
  assert small.layout.remat == 'none' and small.budget.mfu == 0.4


@pytest.mark.parametrize('given', [
    {'dollars': 2e6}, pytest.param({'chips': 512, 'hours': 720}, marks=pytest.mark.slow)])
def test_a_budget_of_money_or_hours_buys_what_the_mfu_of_its_own_layout_gives(given):
  plan = planner.make_plan(Request(**given))
  assert plan.layout.remat == 'full' and plan.budget.mfu == pytest.approx(0.3)
  if 'dollars' in given:
    assert plan.dollars == pytest.approx(2e6, rel=1e-2)
  else:
    assert plan.chip_hours == pytest.approx(512 * 720, rel=1e-2)


def test_attention_and_embeddings_count_in_the_allocation():
  """At 131,072 tokens a row, attention takes FLOPs from the tokens.

  The reference minimises the law's loss over models that are built, at the exact cost of each.
  """
  request = Request(flops=1e22, length=131072)
  plan = planner.make_plan(request)
  base = sizing.base_config(request)
  best = min(
      (plan.law.form.loss(n := sizing.count_parameters(config, 'all', request.lengths),
                          1e22 / sizing.token_flops(config, request.lengths)), n)
      for config in (sizing.config_for_count(base, 'all', x * 1e9, request)
                     for x in (2, 3, 4, 4.5, 5, 5.5, 6, 6.5, 7, 8, 9, 10, 12)))
  assert plan.prediction.parameters / plan.parameters > 1.4
  assert plan.parameters == pytest.approx(best[1], rel=0.15)
  assert plan.law.form.loss(plan.parameters, plan.tokens) == pytest.approx(best[0], abs=2e-3)


REFUSED = [
    {'flops': 2e12}, {'flops': 1e17, 'max_parameters': 1e5}, {'loss': 2.5, 'vocab_size': 50257},
    {'flops': 1e22, 'chips': 8, 'deadline': 24}, {'flops': 1e24, 'chips': 8},
    {'dollars': 1e-6}, {'chips': 1, 'hours': 1e-6}, {'loss': 11.0}, {'flops': 1e15},
    {'flops': 1e25, 'deadline': 1}, {'flops': 1e27, 'hardware': 'tpu_v6e', 'deadline': 24},
    {'flops': 1e17, 'chips': 65536, 'vocab_size': 384}]


@pytest.mark.parametrize('fields', [*REFUSED[:3], *(
    pytest.param(fields, marks=pytest.mark.slow) for fields in REFUSED[3:])])
@pytest.mark.sweep
def test_each_cure_that_a_refusal_names_is_one(fields):
  request = Request(**fields)
  with pytest.raises(UserError) as error:
    planner.make_plan(request)
  message = str(error.value)
  assert '\n' not in message
  tried = 0
  for other in cured(request, message.replace('--fit=FOLDER, a law of runs like yours, or ', '')):
    planner.make_plan(other)
    tried += 1
  assert tried
