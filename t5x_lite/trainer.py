"""The training loop: state, batches, steps, metrics, checkpoints, evaluation."""

import contextlib
import dataclasses
import itertools
import math
import pathlib
import signal
import time
from typing import Any

import jax
import numpy as np

from scaling import accounting, hardware
from t5x_lite import checkpointing, configuration, input_pipeline, metrics, train_step
from t5x_lite.checkpointing import Checkpoints
from t5x_lite.errors import UserError
from t5x_lite.evaluation import Evaluation
from t5x_lite.experiment import Experiment
from t5x_lite.partitioning import Partitioner, check_fits

CONFIG = 'config.gin'


@dataclasses.dataclass(frozen=True)
class Result:
  """How a run ended."""
  step: int                      # steps taken so far
  finished: bool                 # False: a signal stopped it; it can be taken up again
  metrics: dict[str, float]      # of the evaluation after the last step


def train(experiment: Experiment, config_gin: str) -> Result:
  """Trains, or takes up where the run in `experiment.model_dir` stopped.

  Raises UserError before anything is compiled or written if the config does not fit the data, the
  devices or what the folder holds, and if the loss is no longer finite.
  """
  folder, config, settings = experiment.folder, experiment.model, experiment.train
  mesh = experiment.mesh.make()
  check_fits(config, mesh, experiment.data.batch_size, settings.microbatches)
  partitioner = Partitioner(mesh, experiment.mesh.rules)
  resuming = (folder / CONFIG).exists()
  if resuming:
    configuration.check_same_run(folder / CONFIG, experiment)
  checkpoints, start, source = None, 0, None
  if resuming and (folder / checkpointing.FOLDER).is_dir():
    checkpoints = Checkpoints(folder, settings.keep_checkpoints)
    start = checkpoints.latest_step() or 0
    if start >= settings.steps:
      checkpoints.close()
      print(f'{folder} is already trained to step {start}')
      return Result(start, True, _last_evaluation(folder, start))
  elif experiment.init_from is not None:
    source = experiment.init_from
    with checkpointing.open_source(_path(source.model_dir), source.step) as (_, step):
      start = step if source.branch else 0
    if start >= settings.steps:
      raise UserError(f'TrainConfig.steps is {settings.steps} and {source.model_dir} was at step '
                      f'{start} already: branch off an earlier checkpoint')
  task = input_pipeline.get_task(experiment.data)
  vocabulary = input_pipeline.fingerprint(task)
  batches = _open_batches(experiment, start)   # what is wrong with the data is said here
  progress = metrics.Progress(settings.steps)
  optimizer = experiment.optimizer.make()
  abstract = train_step.abstract_state(config, optimizer, partitioner)
  meta = {'seed': experiment.seed, 'batch_size': experiment.data.batch_size,
          'vocabulary': vocabulary}
  if start and source is not None:
    state = checkpointing.branch(abstract, _path(source.model_dir), start, meta)
    progress.say(f'Branched off {source.model_dir} at step {start}')
  elif start:
    state, saved = checkpoints.restore(abstract, start)
    checkpointing.check_vocabulary(saved, vocabulary, f'{folder}, step {start}')
    progress.say(f'Resumed {folder} at step {start}')
  else:
    state = _initial_state(experiment, optimizer, abstract, vocabulary, progress)

  # From here on the run is written.
  folder.mkdir(parents=True, exist_ok=True)
  (folder / CONFIG).write_text(config_gin)
  checkpoints = checkpoints or Checkpoints(folder, settings.keep_checkpoints)
  can_evaluate = has_metrics(task, experiment.eval.split)
  evaluation = Evaluation(experiment, partitioner, task) if can_evaluate else None
  loop = _Loop(experiment, partitioner, optimizer, checkpoints, evaluation, progress, start, meta)
  with contextlib.closing(loop), _stop_signals(loop):
    return loop.run(state, batches, start)


def _last_evaluation(folder: pathlib.Path, step: int) -> dict[str, float]:
  """The metrics a run has logged of its evaluation at `step`, if any."""
  records = [r for r in metrics.read(folder / metrics.FILE)
             if r['kind'] == 'eval' and r['step'] == step]
  values = records[-1] if records else {}
  return {name: value for name, value in values.items() if name not in ('kind', 'step')}


def has_metrics(task: Any, split: str) -> bool:
  """Whether seqio's Evaluator can evaluate the task or mixture on `split`."""
  seqio = input_pipeline.import_seqio()
  return any(split in t.splits and t.metric_objs for t in seqio.get_subtasks(task))


def _path(name: str) -> pathlib.Path:
  return pathlib.Path(name).expanduser()


def _open_batches(experiment: Experiment, start: int):
  """The stream of batches from batch `start` on, with its first batch already drawn."""
  batches = input_pipeline.train_batches(
      experiment.data, experiment.model, seed=experiment.seed, start=start,
      process_index=jax.process_index(), process_count=jax.process_count())
  return itertools.chain([next(batches)], batches)


def _initial_state(experiment: Experiment, optimizer, abstract, vocabulary: str, progress):
  """Parameters drawn from the seed, or taken from another run."""
  shardings = train_step.shardings_of(abstract)
  one_device = all(len(s.device_set) == 1 for s in jax.tree.leaves(shardings))
  state = jax.jit(lambda: train_step.init_state(
      experiment.model, optimizer, experiment.seed, one_device), out_shardings=shardings)()
  source = experiment.init_from
  if source is not None:
    state['params'], line = checkpointing.initial_params(
        state['params'], abstract['params'], _path(source.model_dir), source.step, source.new,
        vocabulary)
    progress.say(line)
  return state


class _Loop:
  """One call of `train`: steps, and what happens between them."""

  def __init__(self, experiment, partitioner, optimizer, checkpoints, evaluation, progress, start,
               meta):
    settings = experiment.train
    self.experiment, self.settings, self.partitioner = experiment, settings, partitioner
    self.checkpoints, self.evaluation, self.progress = checkpoints, evaluation, progress
    self.writer, self.meta = metrics.MetricWriter(experiment.folder, start), meta
    self.step_fn = train_step.make_train_step(
        experiment.model, optimizer, partitioner, seed=experiment.seed,
        microbatches=settings.microbatches, label_smoothing=settings.label_smoothing,
        z_loss=settings.z_loss)
    self.stopped_by = None    # name of the signal that asked to stop
    devices = partitioner.mesh.devices.flat
    self.peak_flops = hardware.peak_flops(devices[0].device_kind) * len(devices)

  def run(self, state, batches, start: int) -> Result:
    settings = self.settings
    step, sums, batch = start, None, None
    pending = None            # metrics of a step are fetched after the next one has started
    self.clock, self.logged = time.monotonic(), start   # when metrics last came, and of what step
    while step < settings.steps and self.stopped_by is None:
      batch = next(batches)
      state, sums = self.step_fn(state, self.partitioner.put_batch(batch))
      step += 1
      pending = self._log(pending)
      if step % settings.log_every == 0 or step == settings.steps:
        pending = step, sums, batch
      evaluate = settings.eval_every is not None and step % settings.eval_every == 0
      if step < settings.steps and (step % settings.checkpoint_every == 0 or evaluate):
        pending = self._log(pending)
        self._save(state, step, sums)   # first: a failing evaluation loses nothing
        if evaluate:
          self._evaluate(state, step)
        self.clock, self.logged = time.monotonic(), step   # saving and evaluating are not steps
    self._log(pending)
    if sums is not None:
      self._save(state, step, sums)
    if self.stopped_by is not None:
      self.progress.say(f'Stopped by {self.stopped_by} after step {step}: saved; the same command '
                        'takes it up again')
      return Result(step, False, {})
    values = self._evaluate(state, step)
    self.progress.say(f'Trained to step {step}: {self.experiment.folder}')
    return Result(step, True, values)

  def _log(self, pending) -> None:
    """Waits for the metrics of a step, (step, sums, batch), and writes them."""
    if pending is None:
      return
    step, sums, batch = pending
    sums = {name: float(x) for name, x in jax.device_get(sums).items()}
    now = time.monotonic()
    seconds = (now - self.clock) / (step - self.logged)
    self.clock, self.logged = now, step
    weight = max(sums['weight'], 1.0)
    experiment = self.experiment
    flops = accounting.train_flops(experiment.model, *_row_lengths(batch)) * len(
        next(iter(batch.values()))) * jax.process_count()
    values = {
        'loss': sums['loss'] / weight, 'objective': sums['objective'] / weight,
        'accuracy': sums['correct'] / weight, 'target_tokens': sums['weight'],
        'learning_rate': float(experiment.optimizer.learning_rate(np.int32(step - 1))),
        'grad_norm': sums['grad_norm'], 'update_norm': sums['update_norm'],
        'seconds_per_step': seconds, 'tokens_per_second': _num_tokens(batch) / seconds,
        'mfu': flops / seconds / self.peak_flops,
    }
    self.writer.write(step, 'train', values)
    self.progress.show(step, values, (self.settings.steps - step) * seconds)
    self._check_finite(step, sums)

  def _check_finite(self, step, sums):
    if not math.isfinite(sums['objective']) or not math.isfinite(sums['grad_norm']):
      good = self.checkpoints.latest_step()
      kept = 'there is no checkpoint yet' if good is None else f'step {good} is saved and good'
      raise UserError(f'The loss or its gradient is not finite at step {step} ({kept}): lower the '
                      'learning rate or clip_norm, or look at the data')

  def _save(self, state, step, sums):
    self._check_finite(step, {name: float(x) for name, x in jax.device_get(sums).items()})
    self.checkpoints.save(state, step, self.meta)

  def _evaluate(self, state, step) -> dict[str, float]:
    if self.evaluation is None:
      return {}
    values = self.evaluation(state['params'], step)
    self.writer.write(step, 'eval', values)
    self.progress.say(f'step {step}  ' + '  '.join(f'{k} {v:.4g}' for k, v in values.items()))
    return values

  def close(self):
    """Waits for checkpoints that are being written."""
    self.progress.finish()
    self.writer.close()
    self.checkpoints.close()


def _num_tokens(batch) -> int:
  """Tokens of a global batch, padding left out."""
  local = sum(int((x > 0).sum()) for name, x in batch.items() if name.endswith('_segment_ids'))
  return local * jax.process_count()


def _row_lengths(batch) -> tuple[int, int]:
  """(encoder length, decoder length) of a batch; 0 for what it has not."""
  length = lambda name: batch[name].shape[1] if name in batch else 0
  return length('encoder_input_tokens'), length('decoder_input_tokens')


@contextlib.contextmanager
def _stop_signals(loop):
  """Ctrl-C and SIGTERM ask the loop to save and stop after the step that runs; twice stops now."""
  def ask(number, frame):
    if loop.stopped_by is not None:
      raise KeyboardInterrupt
    loop.stopped_by = signal.Signals(number).name

  numbers = (signal.SIGINT, signal.SIGTERM)
  try:
    before = {n: signal.signal(n, ask) for n in numbers}
  except ValueError:   # not in the main thread, e.g. under a notebook's widget: leave them alone
    before = {}
  try:
    yield
  finally:
    for number, handler in before.items():
      signal.signal(number, handler)
