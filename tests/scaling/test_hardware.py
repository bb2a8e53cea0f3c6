"""Peak speeds by the names that JAX gives to devices."""

import math

import pytest

from scaling import hardware


@pytest.mark.parametrize('kind, teraflops', [
    ('TPU v4', 275), ('TPU v4 lite', 138), ('TPU v5 lite', 197), ('TPU v5p', 459), ('TPU v5', 459),
    ('TPU v6 lite', 918), ('NVIDIA A100-SXM4-80GB', 312), ('NVIDIA H100 80GB HBM3', 989),
    ('NVIDIA H100 PCIe', 756), ('NVIDIA L4', 121), ('Tesla T4', 65)])
def test_known_devices(kind, teraflops):
  assert hardware.peak_flops(kind) == teraflops * 1e12


@pytest.mark.parametrize('kind', ['cpu', '', 'Radeon', 'NVIDIA', 'NVIDIA L40S', 'NVIDIA L40'])
def test_a_device_that_is_not_known_has_no_peak(kind):
  assert math.isnan(hardware.peak_flops(kind))


def test_a_longer_name_comes_before_the_name_it_begins_with():
  names = list(hardware.PEAK_FLOPS)
  for i, name in enumerate(names):
    assert not any(later.startswith(name) for later in names[i + 1:])
