"""The protocol of a source whose batches follow from the parameters that are trained."""

from collections.abc import Callable
import dataclasses
from typing import Protocol, runtime_checkable

from t5x_lite.data.features import Batch
from t5x_lite.models import Network
from t5x_lite.parallel.partitioner import Partitioner
from t5x_lite.training.run_folder import RunFolder
from t5x_lite.training.state import TrainState


@dataclasses.dataclass(frozen=True)
class RunContext:
  """The run whose parameters a source follows.

  Attributes:
    network, partitioner: of the state.
    folder: of the run.
    seed: of all randomness.
    start: the position: how many examples (rows) were read before.
    shard: (index, count) of this process; it takes the rows index, index + count, … of a batch.
    say: shows a line.
  """
  network: Network
  partitioner: Partitioner
  folder: RunFolder
  seed: int
  start: int
  shard: tuple[int, int]
  say: Callable[[str], None]


class LiveBatches(Protocol):
  """The batches of a live source."""

  def __call__(self, state: TrainState) -> Batch:
    """This shard's rows of the next batch, given the state before the step that reads it."""

  def metrics(self, batch: Batch) -> dict[str, float]:
    """What is logged beside the metrics of the step that read a batch."""


@runtime_checkable
class LiveSource(Protocol):
  """A Source that has, in place of `batches`, those that follow from the parameters."""

  def open(self, run: RunContext) -> LiveBatches:
    """The batches of a run; UserError if the source does not fit it. Nothing is written yet."""
