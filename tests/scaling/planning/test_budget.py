"""Conversions of budgets, against published figures of large runs."""

import dataclasses

import pytest

from scaling.planning import amounts
from scaling.planning.budget import solve_budget
from t5x_lite.core.errors import UserError
from t5x_lite.cost.hardware import find_chip

H100, A100 = find_chip('h100'), find_chip('a100_80')


def utilisation(flops_per_token, tokens_per_second, chips, peak):
  return flops_per_token * tokens_per_second / (chips * peak)


@pytest.mark.parametrize('name, chips, hours', [
    ('tpu_v5p', 256, 34.75), ('tpu_v5e', 256, 80.97), ('tpu_v6e', 256, 17.38), ('h100', 64, 64.49),
    ('tpu_7x', 64, 27.66)])
def test_hours_of_7b_parameters_on_140b_tokens(name, chips, hours):
  got = solve_budget(find_chip(name), flops=6 * 7e9 * 140e9, chips=chips, mfu=0.4)
  assert got.hours == pytest.approx(hours, abs=0.005)


@pytest.mark.parametrize('gpu_hours, megawatt_hours', [
    (82_432, 36), (135_168, 59), (530_432, 233), (1_022_362, 449)])
def test_energy_of_llama(gpu_hours, megawatt_hours):
  """Touvron et al. 2023, table 15: 400 W and a PUE of 1.1. 233 is 530,432 h rounded down."""
  got = solve_budget(A100, chips=1024, hours=gpu_hours / 1024, pue=1.1)
  assert got.kwh(got.flops) / 1000 == pytest.approx(megawatt_hours, abs=1)


def test_speed_and_hours_of_llama_65b():
  """380 tokens a second and GPU on 2,048 of them: 1,022,362 GPU-hours for 1.4e12 tokens."""
  each = 6 * 65_285_660_672 + 12 * 80 * 8192 * 2048
  used = utilisation(each, 380 * 2048, 2048, A100.flops)
  got = solve_budget(A100, flops=each * 1.4e12, chips=2048, mfu=used)
  assert got.hours / 24 == pytest.approx(20.82, abs=0.01)
  assert got.hours * 2048 == pytest.approx(1_022_362, rel=2e-3)


def test_utilisation_of_palm():
  """Chowdhery et al. 2022, table 3: 46.2 % with attention, 45.7 % without."""
  parameters, attention = 540.35e9, 12 * 118 * 48 * 256 * 2048
  mfu = lambda each: 100 * utilisation(each, 238.3e3, 6144, find_chip('tpu_v4').flops)
  assert round(mfu(6 * parameters + attention), 1) == 46.2
  assert round(mfu(6 * parameters), 1) == 45.7


def test_flops_and_energy_of_lamda():
  """Thoppilan et al. 2022: 1,024 TPU v3 for 57.7 days at 56.5 %; 289 W a chip, PUE 1.1."""
  chip = dataclasses.replace(find_chip('tpu_v3'), power=289)
  got = solve_budget(chip, chips=1024, hours=57.7 * 24, mfu=0.565, pue=1.1)
  assert got.flops == pytest.approx(3.55e23, rel=2e-3)
  assert got.kwh(got.flops) == pytest.approx(451e3, rel=2e-3)


def test_llama_3_405b():
  """6 N D of 405.853e9 parameters and 15.6e12 tokens in 30.84e6 H100-hours: 342 TFLOP/s a GPU."""
  flops = 6 * 405_853_388_800 * 15.6e12
  assert flops == pytest.approx(3.799e25, rel=1e-4)
  got = solve_budget(H100, flops=flops, mfu=342e12 / H100.flops)
  assert got.chip_hours(flops) == pytest.approx(30.84e6, rel=2e-3)


@pytest.mark.parametrize('given', [
    {'dollars': 1000}, {'kwh': 500}, {'chips': 8, 'hours': 24}, {'flops': 3e20},
    {'chips': 8, 'deadline': 24}])
def test_each_way_to_say_a_budget_gives_the_others_back(given):
  """Every quantity of the result, given alone, is the same budget."""
  got = solve_budget(H100, **given)
  for name, value in (('dollars', got.dollars(got.flops)), ('kwh', got.kwh(got.flops)),
                      ('flops', got.flops)):
    assert solve_budget(H100, **{name: value}).flops == pytest.approx(got.flops, rel=1e-12)
  chips, hours = 7, got.chip_hours(got.flops) / 7
  assert solve_budget(H100, chips=chips, hours=hours).flops == pytest.approx(got.flops, rel=1e-12)
  assert solve_budget(H100, **{**given, 'flops': got.flops}).flops == pytest.approx(got.flops)


def test_chips_of_a_deadline_are_the_fewest_that_one_can_have():
  got = solve_budget(H100, flops=1e21, deadline=24)
  assert got.chip_hours(1e21) / 24 == pytest.approx(29.2, abs=0.1) and got.chips == 32
  assert got.hours * got.chips == pytest.approx(got.chip_hours(1e21))
  exact = solve_budget(H100, flops=got.rate * 48, hours=24)
  assert exact.chips == 2 and exact.hours == pytest.approx(24)


@pytest.mark.parametrize('given, message', [
    ({}, 'no budget is given'), ({'chips': 8}, 'no budget is given'),
    ({'hours': 8}, 'no budget is given'), ({'deadline': 8}, 'no budget is given'),
    ({'flops': 1e21, 'dollars': 1000}, 'contradict each other: 1e.21 and 4.83e.20'),
    ({'flops': 1e21, 'chips': 8, 'hours': 24}, 'or --hours=87.74, or --chips=32 with'),
    ({'flops': 1e21, 'chips': 8, 'deadline': 24}, 'give --chips=32, or --deadline=87.74'),
    ({'chips': 8, 'hours': 48, 'deadline': 24}, 'past --deadline=24'),
    ({'dollars': 1, 'loss': 2.5}, 'both set the budget'),
    ({'flops': -1}, '--flops=-1: give a number above 0'), ({'hours': float('nan')}, '--hours=nan'),
    ({'flops': 1e300}, '--flops=1e.300: above the limit of 1e.30'),
    ({'dollars': 1e15}, 'FLOPs, above the limit of 1e.30'),
    ({'chips': 10 ** 13, 'hours': 1}, '--chips=1e.13: above the limit'),
    ({'flops': 1e21, 'mfu': 0}, '--mfu=0'), ({'flops': 1e21, 'mfu': 40}, '--mfu=40'),
    ({'flops': 1e21, 'pue': 0.5}, '--pue=0.5')])
def test_what_cannot_be_met_names_what_can(given, message):
  with pytest.raises(UserError, match=message) as error:
    solve_budget(H100, **given)
  assert '\n' not in str(error.value)


def test_the_cure_of_a_contradiction_is_none():
  solve_budget(H100, flops=1e21, chips=8, hours=87.74)
  solve_budget(H100, flops=1e21, chips=32, deadline=24)


def test_prices_and_powers_that_are_not_known():
  with pytest.raises(UserError, match=r'--prices=FILE with \[b200\] price'):
    solve_budget(find_chip('b200'), dollars=100)
  with pytest.raises(UserError, match=r'\[tpu_v5e\] power'):
    solve_budget(find_chip('tpu_v5e'), kwh=100)
  got = solve_budget(find_chip('tpu_7x'), flops=1e21)
  assert got.dollars(1e21) is None and got.kwh(1e21) is None


@pytest.mark.parametrize('text, hours', [('36', 36), ('36h', 36), ('90m', 1.5), ('2d', 48),
                                         ('1e3', 1000), ('0.5d', 12), ('16.5 days', 396),
                                         ('1,000 hours', 1000), ('3 weeks', 504)])
def test_durations(text, hours):
  assert amounts.parse_duration(text) == hours


@pytest.mark.parametrize('text', ['', 'h', '3 fortnights', '-2', '1.2.3'])
def test_what_is_no_duration(text):
  with pytest.raises(UserError, match='expected hours'):
    amounts.parse_duration(text)
