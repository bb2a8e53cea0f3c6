"""The hooks of every run: logging, health, checkpoints, evaluation, and signals that stop it."""

import abc
from collections.abc import Callable
import dataclasses
import math
import signal
import time
from typing import Any

import jax
import numpy as np

from t5x_lite.core.console import Progress
from t5x_lite.core.errors import UserError
from t5x_lite.data.features import Batch
from t5x_lite.objectives.objective import LossSums
from t5x_lite.training.checkpoints import Checkpoints
from t5x_lite.training.loop import Hook, Run, every
from t5x_lite.training.metric_writer import MetricWriter


class _StepLate(Hook, abc.ABC):
  """Reads the sums of a step after the next one has started, so that the device does not wait.

  Every n-th step is read, and the last.
  """

  _pending: tuple[int, Batch, LossSums] | None = None

  def __init__(self, interval: int):
    self.interval = interval

  @abc.abstractmethod
  def read(self, run: Run, step: int, batch: Batch, sums: LossSums) -> None:
    """Called with what the step was given and gave."""

  def after_step(self, run: Run) -> None:
    self._read_pending(run)
    if every(self.interval, run.step) or run.step == run.until:
      self._pending = run.step, run.batch, run.sums

  def pause(self, run: Run) -> None:
    self._read_pending(run)

  def _read_pending(self, run: Run) -> None:
    if self._pending is not None:
      pending, self._pending = self._pending, None
      self.read(run, *pending)


class LogMetrics(_StepLate):
  """Writes the metrics of every n-th step and of the last, and shows a progress line."""

  def __init__(self, writer: MetricWriter, progress: Progress, log_every: int, *,
               learning_rate: Callable[[Any], Any] | None,
               flops_of: Callable[[Batch], float], peak_flops: float,
               metrics_of: Callable[[Batch], dict[str, float]] = lambda batch: {}):
    """Costs of a step: `flops_of` the global batch, and the peak of all devices; `metrics_of` what
    a batch says besides."""
    super().__init__(log_every)
    self.metrics_of = metrics_of
    self.writer, self.progress = writer, progress
    self.learning_rate, self.flops_of, self.peak_flops = learning_rate, flops_of, peak_flops

  def begin(self, run: Run) -> None:
    if run.step < run.until:
      self.progress.say('Compiling the train step')
    self._clock = None

  def after_step(self, run: Run) -> None:
    if self._clock is None:   # the first step was compiled before it was started
      self._clock, self._logged = time.monotonic(), run.step - 1
    super().after_step(run)

  def resume(self, run: Run) -> None:
    self._clock, self._logged = time.monotonic(), run.step   # a pause is not part of a step

  def read(self, run: Run, step: int, batch: Batch, sums: LossSums) -> None:
    sums = jax.device_get(sums)
    now = time.monotonic()
    seconds = (now - self._clock) / (step - self._logged)
    self._clock, self._logged = now, step
    values = metric_means(sums)
    if self.learning_rate is not None:
      values['learning_rate'] = float(self.learning_rate(np.int32(step - 1)))
    tokens = values.pop('tokens')
    values |= self.metrics_of(batch)
    values |= {'seconds_per_step': seconds, 'tokens_per_second': tokens / seconds,
               'mfu': self.flops_of(batch) / seconds / self.peak_flops}
    self.writer.write(step, 'train', values)
    self.progress.show(step, values, (run.until - step) * seconds)

  def end(self, run: Run) -> None:
    self.progress.finish()
    self.writer.close()


def metric_means(sums: LossSums) -> dict[str, float]:
  """The logged metrics of a step: each metric's sum over its weight, and the objective's."""
  mean = lambda total, weight: float(total) / max(float(weight), 1.0)
  metrics = {name: mean(*pair) for name, pair in sums.metrics.items()}
  first = {'loss': metrics.pop('loss')} if 'loss' in metrics else {}
  return first | {'objective': mean(sums.total, sums.weight)} | metrics | {
      'target_tokens': float(sums.weight)}


class StopIfNotFinite(_StepLate):
  """Fails with a UserError when objective, gradient or update are no longer finite.

  Every n-th step is checked, and each step at which the run pauses, so that no such state is
  saved. The objective of a step is of the parameters before it: a checkpoint is good when that of
  the step after it was finite.
  """

  def __init__(self, check_every: int, saved_steps: Callable[[], list[int]]):
    """`saved_steps`: of the checkpoints, when they are finished."""
    super().__init__(check_every)
    self.saved_steps = saved_steps

  def begin(self, run: Run) -> None:
    self._finite = run.step

  def pause(self, run: Run) -> None:
    super().pause(run)
    if run.sums is not None:
      self.read(run, run.step, run.batch, run.sums)

  def read(self, run: Run, step: int, batch: Batch, sums: LossSums) -> None:
    norms = [x for name, (x, _) in sums.metrics.items() if name in ('grad_norm', 'update_norm')]
    finite = [math.isfinite(float(x)) for x in (sums.total, *norms)]
    if finite[0]:
      self._finite = step
    if all(finite):
      return
    raise UserError(f'The loss, its gradient or the update is not finite at step {step} '
                    f'({self._kept()}): lower the learning rate or clip_norm, or look at the data')

  def _kept(self) -> str:
    """The checkpoints to go on from."""
    steps = self.saved_steps()
    good, unsure = ([s for s in steps if (s < self._finite) == known] for known in (True, False))
    parts = [f'step {good[-1]} is saved and good'] if good else []
    parts += [f'step {unsure[-1]} is saved, and may be past what went wrong'] if unsure else []
    return '; '.join(parts) or 'there is no checkpoint yet'


class SaveCheckpoints(Hook):
  """Saves at intervals, before each evaluation, and when the run ends or is stopped."""

  def __init__(self, checkpoints: Checkpoints, meta_at: Callable[[int], dict[str, Any]],
               *intervals: int | None):
    """`meta_at` a step; `intervals`: of checkpoints, and of what each checkpoint precedes."""
    self.checkpoints, self.meta_at, self.intervals = checkpoints, meta_at, intervals

  def pauses_after(self, step: int) -> bool:
    return any(every(n, step) for n in self.intervals)

  def pause(self, run: Run) -> None:
    ended = run.step >= run.until or run.stopped_by is not None
    if run.sums is not None and (ended or self.pauses_after(run.step)):
      self.checkpoints.save(run.state, run.step, self.meta_at(run.step))

  def end(self, run: Run) -> None:
    """Waits for checkpoints that are being written."""
    self.checkpoints.close()


class Evaluate(Hook):
  """Evaluates at intervals, and after the last step."""

  def __init__(self, evaluator: Callable[[Any, int], dict[str, float]], interval: int | None,
               all_params: Callable[[Run], Any], writer: MetricWriter, progress: Progress):
    self.evaluator, self.interval, self.all_params = evaluator, interval, all_params
    self.writer, self.progress = writer, progress

  def pauses_after(self, step: int) -> bool:
    return every(self.interval, step)

  def pause(self, run: Run) -> None:
    if not run.finished and (run.stopped_by is not None or not self.pauses_after(run.step)):
      return
    run.metrics = self.evaluator(self.all_params(run), run.step)
    self.writer.write(run.step, 'eval', run.metrics)
    values = '  '.join(f'{name} {value:.4g}' for name, value in run.metrics.items())
    self.progress.say(f'step {run.step}  {values}')


@dataclasses.dataclass
class StopOnSignals(Hook):
  """Ctrl-C and SIGTERM save and end the run after the current step; a second one stops it now.

  A third is for whoever handled them before.
  """

  numbers: tuple[signal.Signals, ...] = (signal.SIGINT, signal.SIGTERM)
  before: dict = dataclasses.field(default_factory=dict)
  count: int = 0

  def begin(self, run: Run) -> None:
    def ask(number, frame):
      self.count += 1
      if self.count == 1:
        run.stopped_by = run.stopped_by or signal.Signals(number).name
      elif self.count > 2 and callable(self.before[number]):
        self.before[number](number, frame)
      else:
        raise KeyboardInterrupt

    try:
      self.before = {n: signal.signal(n, ask) for n in self.numbers}
    except ValueError:   # not in the main thread, e.g. under a notebook's widget: leave them alone
      self.before = {}

  def end(self, run: Run) -> None:
    for number, handler in self.before.items():
      signal.signal(number, handler)
