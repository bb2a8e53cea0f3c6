"""The fewest chips, and the mesh on them, that train a model in time, with a sensible batch."""

from collections.abc import Callable, Iterator, Sequence
import dataclasses

from scaling.planning import layout
from scaling.planning.budget import TOLERANCE, Budget, chip_counts
from scaling.planning.layout import Layout
from t5x_lite.models import ModelConfig

DAYS = 30         # within which the default number of chips finishes, if a sensible batch allows
SENSIBLE = 1.5    # rows over those that the recipe recommends, that a plan takes unasked
MAX_BATCH = 4.0   # that a plan takes for a deadline


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sized:
  """A model for some tensor parallelism, and its training.

  Attributes:
    counted: its N as the law counts it.
    tokens, flops: of training.
    rows: of the batch that the recipe recommends.
  """
  config: ModelConfig
  counted: float
  tokens: float
  flops: float
  rows: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Found:
  """A model on its chips; `budget` has their number, the hours, and the MFU of the layout."""
  sized: Sized
  layout: Layout
  budget: Budget


def find_run(sized: Callable[[int], Sized | None], budget: Budget, lengths: tuple[int, int], *,
             chips: int | None, limit: float | None, remats: Sequence
             ) -> tuple[Found | None, Found | None]:
  """(the run, the fastest one if none is in time); None where nothing fits.

  Tensor parallelism comes after data parallelism with a sensible batch, and before a larger batch.
  Among the rest, the fewest chips. Without chips and limit, the run takes DAYS, or as long as a
  sensible batch makes it.

  Args:
    sized: tensor -> the model; None if there is none.
    chips: that the user chose; None: any of `chip_counts`.
    limit: hours.
    remats: of ModelConfig, in order of preference.
  """
  fastest = None
  for factor in (SENSIBLE, MAX_BATCH, float('inf')):
    if factor == float('inf') and fastest is not None and chips is None:
      break   # something fits: a batch without bounds is no way to be faster
    sizes = layout.TENSOR if factor == SENSIBLE else layout.TENSOR[::-1]
    for tensor in sizes:
      model = sized(tensor)
      if model is None:
        continue
      for found in _runs(model, tensor, budget, lengths, chips, limit, factor, remats):
        hours = found.budget.hours
        if hours <= (limit or 24 * DAYS) * (1 + TOLERANCE) or chips is not None and limit is None:
          return found, None
        if fastest is None or hours < fastest.budget.hours * (1 - TOLERANCE):
          fastest = found
    if fastest is not None and limit is None:
      return fastest, None
  return None, fastest


def _runs(model: Sized, tensor: int, budget: Budget, lengths: tuple[int, int], chips: int | None,
          limit: float | None, factor: float, remats: Sequence) -> Iterator[Found]:
  """The runs that fit, by number of chips."""
  chip = budget.chip
  most = max(factor * model.rows, 1) * tensor / chip.devices   # a row for each part of the batch
  if chips is None:
    possible = [n for n in chip_counts(chip) if n <= most] or [next(chip_counts(chip))]
    min_chips = budget.chip_hours(model.flops) / (limit or 24 * DAYS) / (1 + TOLERANCE)
    counts = [n for n in possible if n >= min_chips] or possible[-1:]
  else:
    counts = [chips] if chips <= most else []
  for n in counts:
    devices = n * chip.devices
    if devices % tensor or tensor > chip.node * chip.devices:
      continue
    placed = layout.find_layout(model.config, chip, n, model.rows, lengths, tensor, remats)
    if placed is not None:
      at = budget.with_remat(placed.remat)
      yield Found(sized=model, layout=placed, budget=dataclasses.replace(
          at, chips=n, hours=at.chip_hours(model.flops) / n, flops=model.flops))
    elif layout.state_bytes(model.config) / devices < 0.05 * chip.device_memory:
      return   # the activations are too large, which more devices do not change
