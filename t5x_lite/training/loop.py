"""The training loop: batches in, steps, and hooks that do everything between steps."""

from collections.abc import Callable, Sequence
import contextlib
import dataclasses
from typing import Any

from t5x_lite.data.features import Batch
from t5x_lite.objectives.objective import LossSums
from t5x_lite.parallel.partitioner import Partitioner
from t5x_lite.training.state import TrainState


@dataclasses.dataclass
class Run:
  """The progress of a run; hooks read it, and stop it by setting `stopped_by`.

  Attributes:
    state: after `step` steps. The next step donates it: a hook keeps no reference.
    step, until: steps taken, and at which the run ends.
    batch, sums: of the last step, None before the first; reading `sums` waits for the device.
    metrics: of the last evaluation.
    stopped_by: why the run ends before `until`; None while nothing stops it.
  """

  state: TrainState
  step: int
  until: int
  batch: Batch | None = None
  sums: LossSums | None = None
  metrics: dict[str, float] = dataclasses.field(default_factory=dict)
  stopped_by: str | None = None

  @property
  def finished(self) -> bool:
    return self.stopped_by is None and self.step >= self.until


class Hook:
  """Code that runs around steps; a hook defines the moments it uses.

  At each moment hooks run in order. A pause lets the device finish: metrics are
  written, then checkpoints, then evaluations, so that a failing evaluation loses nothing.
  """

  def begin(self, run: Run) -> None:
    """Before the first step."""

  def after_step(self, run: Run) -> None:
    """A step has been started; waiting for the device here makes it idle."""

  def pauses_after(self, step: int) -> bool:
    """Whether the device is to finish after this step, for the sake of this hook."""
    return False

  def pause(self, run: Run) -> None:
    """At every pause, and once when the run ends."""

  def resume(self, run: Run) -> None:
    """After a pause, before the next step."""

  def end(self, run: Run) -> None:
    """The run has finished, was stopped, or failed."""


def run(state: TrainState, step_fn: Callable[[TrainState, Batch], tuple[TrainState, LossSums]],
        batches: Callable[[TrainState], Batch], hooks: Sequence[Hook], until: int, *,
        partitioner: Partitioner, start: int = 0) -> Run:
  """Takes steps from `start` to `until`, or until a hook stops the run; returns its last state.

  Args:
    state: after `start` steps.
    step_fn: of make_train_step.
    batches: the host's next batch; it may read the parameters of the state that is given.
    hooks: called in order at each of their moments.
    until: the step at which the run ends.
    partitioner: puts batches on the mesh.
    start: steps taken before.
  """
  now = Run(state, start, until)
  with contextlib.ExitStack() as ends:
    for hook in hooks:
      ends.callback(hook.end, now)
      hook.begin(now)
    while now.step < until and now.stopped_by is None:
      now.batch = batches(now.state)
      now.state, now.sums = step_fn(now.state, partitioner.put_batch(now.batch))
      now.step += 1
      for hook in hooks:
        hook.after_step(now)
      if now.step < until and any([hook.pauses_after(now.step) for hook in hooks]):
        for moment in ('pause', 'resume'):
          for hook in hooks:
            getattr(hook, moment)(now)
    for hook in hooks:
      hook.pause(now)
  return now


def every(number: int | None, step: int) -> bool:
  """Whether `step` is a multiple of `number`; never for None."""
  return number is not None and step % number == 0


def stream(batches: Any) -> Callable[[TrainState], Batch]:
  """An iterator of batches that reads no parameters, as `run` takes it."""
  return lambda state: next(batches)
