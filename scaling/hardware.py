"""Peak speed of accelerators: FLOP/s of one JAX device, dense bfloat16 matrix products."""

import math

# From the vendors' data sheets; keys are what jax.Device.device_kind begins with. A TPU v2 or v3
# chip has two cores, each a JAX device.
PEAK_FLOPS = {
    'TPU v2': 22.5e12,
    'TPU v3': 61.5e12,
    'TPU v4 lite': 138e12,
    'TPU v4': 275e12,
    'TPU v5 lite': 197e12,
    'TPU v5e': 197e12,
    'TPU v5p': 459e12,
    'TPU v5': 459e12,
    'TPU v6 lite': 918e12,
    'TPU v6e': 918e12,
    'NVIDIA A100': 312e12,
    'NVIDIA H100 PCIe': 756e12,
    'NVIDIA H100 NVL': 835e12,
    'NVIDIA H100': 989e12,
    'NVIDIA H200': 989e12,
    'NVIDIA B200': 2250e12,
    'NVIDIA L4': 121e12,
    'Tesla V100': 125e12,
    'Tesla T4': 65e12,
}


def peak_flops(device_kind: str) -> float:
  """Peak FLOP/s of a device by its `device_kind`; nan where it is not known (a CPU, say)."""
  for name, peak in PEAK_FLOPS.items():
    if device_kind == name or device_kind.startswith((f'{name} ', f'{name}-')):
      return peak
  return math.nan
