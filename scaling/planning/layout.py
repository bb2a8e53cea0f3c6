"""The mesh and batch of a model on the devices of a budget, such that a step fits their memory."""

from collections.abc import Sequence
import dataclasses
import math

from t5x_lite.cost import accounting, memory
from t5x_lite.cost.hardware import Chip
from t5x_lite.models import ModelConfig
from t5x_lite.parallel.mesh import indivisible

MEMORY_FRACTION = 0.9   # of a device's memory that a step may take; the rest is the compiler's
TENSOR = (1, 2, 4, 8)
_STATE = 16             # bytes a parameter of the state of AdamW and of gradients, in float32


@dataclasses.dataclass(frozen=True, kw_only=True)
class Layout:
  """A mesh and a batch that fit.

  Attributes:
    mesh: axis -> devices.
    rows: of a global batch, a multiple of data x fsdp x microbatches.
    remat: of ModelConfig.
    memory: of one device.
  """
  mesh: dict[str, int]
  rows: int
  microbatches: int
  remat: str
  memory: 'memory.Memory'


def find_layout(config: ModelConfig, chip: Chip, chips: int, wanted_rows: float,
                lengths: tuple[int, int], tensor: int | None = None,
                remats: Sequence = ('none', 'full')) -> Layout | None:
  """The layout that fits with minimum communication and recomputation; None if none does.

  In order of preference: no rematerialisation, few microbatches, few shards of the state. Tensor
  parallelism comes last, over `tensor` devices if given.

  Args:
    wanted_rows: of a global batch; the nearest power of two for each part of the mesh is taken.
    lengths: (inputs, targets) of a row.
    remats: of ModelConfig, tried in this order.
  """
  devices = chips * chip.devices
  for size in TENSOR if tensor is None else (tensor,):
    if devices % size or any(indivisible(config, {'tensor': size})):
      continue
    for remat in remats:
      trial = dataclasses.replace(config, remat=remat)
      found = _with_tensor(trial, chip, devices // size, size, wanted_rows, lengths)
      if found is not None:
        return found
  return None


def state_bytes(config: ModelConfig) -> float:
  """Bytes of the parameters, their gradients and AdamW's state in training."""
  return _STATE * accounting.parameters(config).total


def _with_tensor(config: ModelConfig, chip: Chip, parts: int, tensor: int, wanted_rows: float,
                 lengths: tuple[int, int]) -> Layout | None:
  """The layout with fewest microbatches, then shards.

  Tracing memory takes a second, so layouts that a linear extrapolation of the traced ones excludes
  are skipped.
  """
  each = 2 ** max(0, round(math.log2(wanted_rows / parts)))   # rows of a device, a power of two
  slices = [n for n in _divisors(parts) if config.embed_dim % n == 0]
  limit = MEMORY_FRACTION * chip.device_memory
  state = state_bytes(config) / tensor
  if state / slices[-1] > limit:
    return None

  def needs(microbatches: int, fsdp: int) -> memory.Memory:
    mesh = {'data': parts // fsdp, 'fsdp': fsdp, 'tensor': tensor}
    return memory.per_device(config, mesh=mesh, rows=each * parts, inputs_length=lengths[0],
                             targets_length=lengths[1], microbatches=microbatches,
                             platform=chip.platform)

  smallest = needs(each, slices[-1])
  if smallest.total > limit:
    return None
  fixed, slope = 0.0, float(smallest.activations)   # bytes of a pass, and of each of its rows
  for microbatches in _divisors(each):
    rows = each // microbatches
    for fsdp in slices:
      if state / fsdp + fixed + slope * rows > limit:
        continue
      found = needs(microbatches, fsdp)
      if found.total <= limit:
        return Layout(mesh={'data': parts // fsdp, 'fsdp': fsdp, 'tensor': tensor},
                      rows=each * parts, microbatches=microbatches, remat=config.remat,
                      memory=found)
      if rows > 1:
        one = smallest.total - state / slices[-1]
        slope = (found.total - state / fsdp - one) / (rows - 1)
        fixed = one - slope
  return None


def _divisors(n: int) -> list[int]:
  small = [i for i in range(1, math.isqrt(n) + 1) if n % i == 0]
  return sorted({*small, *(n // i for i in small)})

