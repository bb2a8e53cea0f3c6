"""How long runs take that were published, which is the range of a plan's hours.

A run's utilisation is its model FLOPs over the peak of the chip-hours that were paid for: MFU of a
step, times goodput, the share of the time in steps that were kept. It is compared between runs as
the utilisation of the hardware, where recomputed passes count. The range of a plan is that of the
NEAREST runs by size and kind of chip; scaling/data/published_runs.toml has them all.
"""

import dataclasses
import functools
import importlib.resources
import math
import tomllib

from scaling.planning.budget import RECOMPUTED
from t5x_lite.cost import hardware

NEAREST = 11
OTHER_KIND = 0.7   # decades of size that a run on another kind of chip is farther away


@dataclasses.dataclass(frozen=True, kw_only=True)
class PublishedRun:
  """A run; see scaling/data/published_runs.toml for its fields."""
  name: str
  parameters: float
  tokens: float
  length: int
  attention: tuple[int, int]
  chip: str
  chip_hours: float
  recomputed: bool
  source: str
  read: bool
  mfu: float | None = None
  note: str = ''

  @property
  def flops(self) -> float:
    """Of training: 6 N D and all of attention."""
    layers, width = self.attention
    return (6 * self.parameters + 12 * layers * width * self.length) * self.tokens

  @property
  def utilisation(self) -> float:
    """Model FLOPs over the peak of all chip-hours: MFU times goodput."""
    return self.flops / (self.chip_hours * 3600 * hardware.find_chip(self.chip).flops)

  @property
  def hardware_utilisation(self) -> float:
    """`utilisation`, with recomputed passes counted as work."""
    return self.utilisation / (RECOMPUTED if self.recomputed else 1)

  @property
  def goodput(self) -> float | None:
    """Utilisation over the MFU of a step; None if that was not published."""
    return None if self.mfu is None else self.utilisation / self.mfu


def kind_of(chip: str) -> str:
  """'a100', 'h100', 'tpu' of a name in the catalogue."""
  return chip.partition('_')[0]


@functools.cache
def load_runs() -> tuple[PublishedRun, ...]:
  """All published runs."""
  text = (importlib.resources.files('scaling') / 'data' / 'published_runs.toml').read_text('utf-8')
  return tuple(PublishedRun(name=name, **{**table, 'attention': tuple(table['attention'])})
               for name, table in tomllib.loads(text).items())


@dataclasses.dataclass(frozen=True)
class Range:
  """The lowest and highest utilisation of the nearest runs, whose names are `runs`."""
  low: float
  high: float
  runs: tuple[str, ...]

  def chip_hours(self, flops: float, chip: hardware.Chip) -> tuple[float, float]:
    """(fewest, most) chip-hours of so many model FLOPs."""
    peak = 3600 * chip.flops
    return flops / peak / self.high, flops / peak / self.low

  def around(self, hours: float, flops: float, chip: hardware.Chip) -> tuple[float, float]:
    """`chip_hours`, wide enough for an estimate of the hours."""
    low, high = self.chip_hours(flops, chip)
    return min(low, hours), max(high, hours)


def utilisation_range(parameters: float, chip: str, recomputed: bool, exclude: str = '') -> Range:
  """The utilisation of runs like one of so many parameters on this chip.

  Args:
    exclude: the name of a run that is left out.
  """
  def distance(run: PublishedRun) -> float:
    other = OTHER_KIND * (kind_of(run.chip) != kind_of(chip))
    return abs(math.log10(parameters / run.parameters)) + other

  near = sorted((run for run in load_runs() if run.name != exclude), key=distance)[:NEAREST]
  of_hardware = [run.hardware_utilisation for run in near]
  passes = RECOMPUTED if recomputed else 1
  return Range(min(of_hardware) * passes, max(of_hardware) * passes,
               tuple(run.name for run in near))
