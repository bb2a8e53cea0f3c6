"""A trace of some steps by jax.profiler, for XProf, TensorBoard and Perfetto."""

from collections.abc import Callable
import pathlib

import jax

from t5x_lite.training.loop import Hook, Run


class Profile(Hook):
  """Traces the steps after `first` up to `last` into a folder, in the first process."""

  def __init__(self, folder: pathlib.Path, first: int, last: int, say: Callable[[str], None]):
    self.folder, self.first, self.last, self.say = folder, first, last, say
    self._tracing = False

  def begin(self, run: Run) -> None:
    self._start(run)

  def pauses_after(self, step: int) -> bool:
    return step in (self.first, self.last)

  def pause(self, run: Run) -> None:
    if self._tracing:
      jax.block_until_ready(run.sums)   # the steps that were started belong to the trace
      self.end(run)

  def resume(self, run: Run) -> None:
    self._start(run)

  def end(self, run: Run) -> None:
    if self._tracing:
      self._tracing = False
      jax.profiler.stop_trace()
      self.say(f'Profile of the steps up to {run.step}: {self.folder}')

  def _start(self, run: Run) -> None:
    if self.first <= run.step < min(self.last, run.until) and jax.process_index() == 0:
      self._tracing = True
      jax.profiler.start_trace(self.folder, create_perfetto_trace=True)
