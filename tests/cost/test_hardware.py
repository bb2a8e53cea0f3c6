"""The catalogue: peaks by the names that JAX gives to devices, prices and files of a user's own."""

import datetime
import math

import pytest

from t5x_lite.core.errors import UserError
from t5x_lite.cost import hardware


@pytest.mark.parametrize('kind, teraflops', [
    ('TPU v2', 22.5), ('TPU v3', 61.5), ('TPU v4', 275), ('TPU v4 lite', 138), ('TPU v5 lite', 197),
    ('TPU v5p', 459), ('TPU v5', 459), ('TPU v6 lite', 918), ('TPU7x', 1153.5),
    ('NVIDIA A100-SXM4-80GB', 312), ('NVIDIA A100-SXM4-40GB', 312),
    ('NVIDIA H100 80GB HBM3', 989.4), ('NVIDIA H100 PCIe', 756), ('NVIDIA H100 NVL', 835),
    ('NVIDIA H200', 989.4), ('NVIDIA B200', 2250), ('NVIDIA L4', 121), ('Tesla T4', 8.1),
    ('Tesla V100-SXM2-16GB', 15.7)])
def test_known_devices(kind, teraflops):
  """Of one JAX device, which is half a chip of TPU v2, v3 and 7x."""
  assert hardware.peak_flops(kind) == teraflops * 1e12


@pytest.mark.parametrize('kind', ['cpu', '', 'Radeon', 'NVIDIA', 'NVIDIA L40S', 'NVIDIA L40'])
def test_a_device_that_is_not_known_has_no_peak(kind):
  assert math.isnan(hardware.peak_flops(kind))


def test_no_name_is_of_two_chips():
  kinds = [kind for chip in hardware.shipped_catalogue().values() for kind in chip.kinds]
  assert len(kinds) == len(set(kinds))


@pytest.mark.parametrize('name', ['tpu_v3', 'tpu_v4', 'tpu_v5e', 'tpu_v5p', 'tpu_v6e', 'tpu_7x',
                                  'a100_40', 'a100_80', 'h100', 'h200', 'b200'])
def test_chips_of_the_catalogue_say_what_a_plan_needs_and_where_it_is_from(name):
  chip = hardware.find_chip(name)
  assert chip.source and chip.bandwidth > 5e11 and 1e10 < chip.memory < 3e11
  # NVIDIA prints sparse peaks twice as large: of dense ones, 8 bits are at most twice 16.
  assert max(chip.peak.values()) <= 2.01 * chip.flops
  assert (chip.price is None) == (chip.price_date is None) == (not chip.price_source)


def test_units_of_memory():
  assert hardware.find_chip('h100').memory == 80e9                    # printed in GB
  assert hardware.find_chip('tpu_v5p').memory == 95 * 2 ** 30         # in GiB
  assert hardware.find_chip('TPU-v3').device_memory == 16 * 2 ** 30   # two devices a chip


def test_a_chip_that_is_not_known_is_named_with_the_nearest():
  with pytest.raises(UserError, match='h1000: not known; did you mean h100'):
    hardware.find_chip('h1000')


def test_prices_are_stale_from_day_91():
  chip = hardware.find_chip('h100')
  day = chip.price_date
  assert chip.stale(day + datetime.timedelta(days=90)) is None
  line = chip.stale(day + datetime.timedelta(days=91))
  assert str(day) in line and '91 days' in line and '--prices' in line and '\n' not in line
  assert hardware.find_chip('b200').stale(datetime.date(2099, 1, 1)) is None   # it has no price


def test_a_file_of_a_users_own_replaces_and_adds(tmp_path):
  path = tmp_path / 'mine.toml'
  path.write_text('[h100]\nprice = 1.5\nprice_date = 2026-11-01\n'
                  '[mine]\ntitle = "Mine"\npeak = { bfloat16 = 1e15 }\nmemory = "64 GiB"\n'
                  'source = "me"\n')
  chips = hardware.load_catalogue(str(path))
  assert chips['h100'].price == 1.5 and chips['h100'].flops == 989.4e12
  assert chips['mine'].memory == 64 * 2 ** 30 and chips['tpu_v4'] == hardware.find_chip('tpu_v4')
  assert hardware.find_chip('h100').price != 1.5    # what is shipped stays


@pytest.mark.parametrize('text, message', [
    ('[h100]\nprice = -1\nprice_date = 2026-01-01', r'\[h100\] price = -1: expected a number'),
    ('[h100]\nprice = 2', 'add price_date'),
    ('[h100]\nprice = 2\nprice_date = "may"', 'expected a date without quotes'),
    ('[h100]\nprize = 2', 'did you mean price'),
    ('[h100]\nmemory = 80', "expected e.g. '80 GB'"),
    ('[h100]\npeak = 9e14', 'expected e.g'),
    ('[h100]\npeak = { bfloat16 = "fast" }', 'peak.bfloat16'),
    ('[new]\ntitle = "x"', 'needs memory, peak, source'),
    ('h100 = 2', 'expected a table'), ('[h100', 'not valid TOML')])
def test_a_file_that_makes_no_sense(tmp_path, text, message):
  path = tmp_path / 'mine.toml'
  path.write_text(text)
  with pytest.raises(UserError, match=message) as error:
    hardware.load_catalogue(str(path))
  assert 'mine.toml' in str(error.value) and '\n' not in str(error.value)


def test_a_file_that_is_not_there(tmp_path):
  with pytest.raises(UserError, match='No such file'):
    hardware.load_catalogue(str(tmp_path / 'none.toml'))
