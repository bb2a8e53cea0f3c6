"""Hours, money and carbon of published runs, and what a served token costs."""

import dataclasses
import tomllib

import numpy as np
import pytest

from scaling.laws.laws import LAWS
from scaling.planning import calculator, goodput, plan_text, planner, serving
from scaling.planning.budget import CARBON, Budget
from scaling.planning.constraints import Constraints
from scaling.planning.request import Request
from t5x_lite.cost import accounting
from t5x_lite.cost.hardware import find_chip
from t5x_lite.experiment import gin_config

RUNS = {run.name: run for run in goodput.load_runs()}
TWELVE = ('llama_7b', 'llama_13b', 'llama_33b', 'llama_65b', 'llama2_7b', 'llama2_70b',
          'llama3_70b', 'llama3_405b', 'opt_175b', 'bloom_176b', 'palm_540b', 'pythia_6_9b')
OUTSIDE = {
    'llama_13b': 'the fastest of all: 135,168 hours are fewer than 13/7 of those of its 7B',
    'llama3_8b': 'its card counts twice the hours that 8B on 15T tokens take elsewhere',
    'pythia_70m': 'the smallest of all: nothing of its size is in the table',
}


def inside(run) -> bool:
  """Whether the run's hours are in the range that is printed, which all other runs give."""
  found = goodput.utilisation_range(run.parameters, run.chip, run.recomputed, exclude=run.name)
  low, high = found.chip_hours(run.flops, find_chip(run.chip))
  assert run.name not in found.runs
  return low <= run.chip_hours <= high


def test_chip_hours_of_published_runs_are_in_the_range_of_the_others():
  assert sum(inside(RUNS[name]) for name in TWELVE) >= 10
  assert {name for name, run in RUNS.items() if not inside(run)} == set(OUTSIDE)


@pytest.mark.parametrize('name, hours', [
    ('llama_7b', 82_432), ('llama_13b', 135_168), ('llama_65b', 1_022_362),
    ('llama2_7b', 184_320), ('llama2_70b', 1_720_320), ('llama3_70b', 6_400_000)])
def test_the_calculator_prints_a_range_around_the_bill(name, hours):
  experiment = gin_config.load_described([f'models/{name}.gin', 'hardware/accelerator.gin'])
  run = RUNS[name]
  found = calculator.estimate_training(
      experiment.model, (0, run.length), Budget(chip=find_chip(run.chip)), {}, run.tokens)
  low, high = found.chip_hours_range
  if name not in OUTSIDE:
    assert low <= hours <= high
  assert low <= found.chip_hours <= high < 4 * low
  assert found.flops['exact'] == pytest.approx(run.flops, rel=0.09)


def test_goodput_of_runs_that_publish_their_mfu():
  """PaLM lost a third of its time to restarts; Llama 3 had 90 % of it."""
  found = {name: run.goodput for name, run in RUNS.items() if run.mfu is not None}
  assert found['palm_540b'] == pytest.approx(0.67, abs=0.01)
  assert found['llama3_405b'] == pytest.approx(0.9, abs=0.03)
  assert all(0.5 < value < 1 for value in found.values())


def test_recomputation_lowers_the_range_by_a_quarter():
  plain, recomputed = (goodput.utilisation_range(7e9, 'h100', x) for x in (False, True))
  assert (recomputed.low, recomputed.high) == pytest.approx((0.75 * plain.low, 0.75 * plain.high))


def test_every_run_names_its_source_and_whether_it_was_read():
  for run in RUNS.values():
    assert run.source and isinstance(run.read, bool) and 0.1 < run.utilisation < 0.6
  text = (goodput.importlib.resources.files('scaling') / 'data/published_runs.toml').read_text()
  assert len(tomllib.loads(text)) == len(RUNS) >= 20


@pytest.mark.parametrize('hours, tonnes', [(82_432, 14), (135_168, 23), (1_022_362, 173)])
def test_carbon_of_llama(hours, tonnes):
  """Touvron et al. 2023a, table 15: 400 W, a PUE of 1.1, 0.385 kg a kWh."""
  assert hours * 0.4 * 1.1 * CARBON / 1000 == pytest.approx(tonnes, abs=0.6)


def server(name='llama_7b', chip='h100', prompt=1024, generated=1024, **changes):
  model = gin_config.load_described([f'models/{name}.gin', 'hardware/accelerator.gin']).model
  config = dataclasses.replace(model, **changes)
  return config, serving.estimate_serving(config, Budget(chip=find_chip(chip)), prompt, generated)


def test_a_served_token_by_hand():
  """LLaMA 7B: 13.5 GB of weights, half a megabyte of keys and values a token."""
  config, found = server(generated=1024)
  weights, token = 2 * 6_738_415_616, 2 * 32 * 4096 * 2
  n = found.chips
  assert found.cache_bytes == pytest.approx(2048 * token, rel=1e-4)
  assert found.rows == min(int((0.9 * 80e9 * n - weights) // found.cache_bytes), 512)
  seconds = (weights + found.rows * 1536 * token) / (0.6 * 3350e9 * n)
  assert found.seconds == pytest.approx(seconds, rel=1e-3) and found.limit == 'bandwidth'
  assert found.generated_hours == pytest.approx(n * seconds / found.rows / 3600, rel=1e-3)
  whole = accounting.forward_flops(config, 0, 1024, causal=True)
  assert found.prompt_hours == pytest.approx(whole / 1024 / (0.4 * 989.4e12) / 3600, rel=1e-6)
  assert found.prompt_hours < found.hours < found.generated_hours


def test_servers_of_other_models():
  # Grouped queries: small caches.
  assert server('llama3_8b')[1].generated_hours < 0.6 * server()[1].generated_hours
  large = server('llama2_70b')[1]   # two chips hold it, and a cache or two; a node serves many
  assert large.chips == 8 and large.rows > 100
  assert server('bert_base')[1] is None and server(chip='t4')[1] is None
  assert server('t5_base', prompt=512, generated=128)[1].rows > 1
  # Fewer tokens of context: more requests at a time, until arithmetic limits.
  short = server('gpt2_small', prompt=16, generated=1)[1]
  assert short.rows == serving.MAX_ROWS


def test_a_plan_shows_serving_beside_training():
  plan = planner.make_plan(Request(flops=1e22, served_tokens=1e12, prompt=512, generated=128))
  served = 1e12 * accounting.forward_flops(plan.config, 0, 2048) / 2048
  assert plan.serving_flops == pytest.approx(served, rel=1e-9)
  assert plan.flops + plan.serving_flops == pytest.approx(1e22, rel=1e-2)
  assert (plan.serving.prompt, plan.serving.generated) == (512, 128)
  low, high = plan.chip_hours_range
  assert low <= plan.chip_hours <= high
  assert planner.make_plan(Request(flops=1e20, mfu=0.5)).chip_hours_range is None


@pytest.mark.parametrize('given', [
    dict(dollars=1e6, served_tokens=1e12),
    dict(dollars=3e4, served_tokens=2e10, hardware='a100_80'),
    dict(kwh=2e5, served_tokens=1e12, prompt=64, generated=512)])
def test_training_and_serving_spend_a_budget_of_money_or_energy(given):
  """The served share was by FLOPs, and its bill by bandwidth, on top of the budget."""
  plan = planner.make_plan(Request(price=3.0, **given))
  hours = plan.chip_hours + given['served_tokens'] * plan.serving.hours
  budget = plan.budget
  spent = (hours * budget.chip.price if 'dollars' in given
           else hours * budget.chip.power * budget.pue / 1000)
  assert spent == pytest.approx(given.get('dollars') or given['kwh'], rel=0.01)
  assert plan.serving_share == pytest.approx(1 - plan.chip_hours / hours, rel=1e-6)
  text = plan_text.format_plan(plan)
  assert f'{plan.serving_share:.0%} of the chip-hours of training and serving' in text
  assert 'training and serving: ' in text


def test_the_optimum_under_money_is_the_best_of_all_sizes():
  """Other N with the same bill, one by one."""
  form, flops = LAWS['besiroglu'].form, 1e21
  limits = Constraints(served_tokens=1e11, serving=lambda n: 5 * n ** 0.95 * 3)
  n, d = limits.optimum(form, flops)
  assert 6 * n * d + 1e11 * limits.serving(n) == pytest.approx(flops, rel=1e-9)
  sizes = np.geomspace(n / 30, n * 30, 4001)
  tokens = (flops - 1e11 * limits.serving(sizes)) / 6 / sizes
  losses = form.loss(sizes[tokens > 0], tokens[tokens > 0])
  assert form.loss(n, d) <= losses.min() * (1 + 1e-9)
  assert limits.compute_overheads(form, flops)[1.0] == pytest.approx(1)


def test_the_share_of_a_budget_in_flops_is_by_flops():
  plan = planner.make_plan(Request(flops=1e22, served_tokens=1e12))
  assert plan.serving_share == pytest.approx(
      plan.serving_flops / (plan.serving_flops + plan.flops), rel=1e-9)
