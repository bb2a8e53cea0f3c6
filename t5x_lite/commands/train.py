"""`t5x-lite train`: trains a model, or resumes a stopped run."""

import argparse
import dataclasses
import itertools
import pathlib

from t5x_lite.commands import gin_flags

EXAMPLE = 't5x-lite train --gin_file=experiments/tiny_lm.gin --gin.MODEL_DIR=runs/lm'


def add_flags(parser: argparse.ArgumentParser) -> None:
  gin_flags.add_flags(parser)


def run(args: argparse.Namespace) -> int:
  import jax

  from t5x_lite.commands import next_steps
  experiment, config_gin = gin_flags.load_experiment(args)
  result = train(experiment, config_gin)
  if result.finished and jax.process_index() == 0:
    next_steps.show(experiment)
  return 0


@dataclasses.dataclass(frozen=True)
class Result:
  """The outcome of a run."""
  step: int                      # steps taken so far
  finished: bool                 # False: a signal or a hook stopped it; it can be resumed
  metrics: dict[str, float]      # of the evaluation after the last step


def train(experiment, config_gin: str) -> Result:
  """Trains, or resumes the run in `experiment.model_dir`.

  Raises UserError before anything is compiled or written if the config does not fit the data, the
  devices or what the folder holds, and if the loss is no longer finite.
  """
  import jax

  from t5x_lite.core import trees
  from t5x_lite.core.console import Progress
  from t5x_lite.cost import accounting, hardware
  from t5x_lite.data import features
  from t5x_lite.experiment import gin_config
  from t5x_lite.parallel.mesh import check_fits
  from t5x_lite.training import hooks, loop
  from t5x_lite.training.checkpoints import Checkpoints
  from t5x_lite.training.metric_writer import MetricWriter
  from t5x_lite.training.run_folder import RunFolder
  from t5x_lite.training.state import abstract_state
  from t5x_lite.training.step import make_train_step
  folder, settings, data = RunFolder(experiment.folder), experiment.train, experiment.data

  # Errors in the model, the mesh, the folder or the data are raised before anything is allocated.
  mesh = experiment.mesh.make()
  check_fits(experiment.model, mesh, data.batch_size, settings.microbatches, experiment.mesh.rules)
  if folder.config.exists():
    gin_config.check_same_run(folder.config, experiment)
  resumed = folder.config.exists() and folder.checkpoints.is_dir()
  saved = Checkpoints(folder.path, settings.keep_checkpoints) if resumed else None
  start = _first_step(experiment, saved)
  if saved is not None and start >= settings.steps:
    saved.close()
    print(f'{folder.path} is already trained to step {start}')
    return Result(start, True, folder.evaluation_at(start))
  network, partitioner = experiment.build_network(mesh)
  meta = {'seed': experiment.seed, 'batch_size': data.batch_size,
          'vocabulary': data.fingerprint()}
  batches = data.batches(experiment.model, seed=experiment.seed, start=start * data.batch_size,
                         shard=(jax.process_index(), jax.process_count()))
  batches = itertools.chain([next(batches)], batches)

  # The state before the first step.
  progress = Progress(settings.steps)
  optimizer = experiment.optimizer.make()
  abstract = abstract_state(network, optimizer, partitioner)
  state = _state(experiment, network, partitioner, optimizer, abstract, saved, start, meta,
                 progress)

  # From here on files of the run are written.
  folder.path.mkdir(parents=True, exist_ok=True)
  folder.config.write_text(config_gin)
  saved = saved or Checkpoints(folder.path, settings.keep_checkpoints)
  writer = MetricWriter(folder, start)
  evaluator = experiment.eval and experiment.eval.make(
      network, partitioner, data, experiment.seed)
  devices = mesh.devices.flat

  def flops_of(batch) -> float:
    rows = len(next(iter(batch.values()))) * jax.process_count()
    return rows * accounting.train_flops(experiment.model, *features.row_lengths(batch))

  parts = [
      hooks.StopOnSignals(),
      hooks.LogMetrics(
          writer, progress, settings.log_every, flops_of=flops_of,
          learning_rate=getattr(experiment.optimizer, 'learning_rate', None),
          peak_flops=hardware.peak_flops(devices[0].device_kind) * len(devices)),
      hooks.StopIfNotFinite(settings.log_every, saved.latest_step),
      hooks.SaveCheckpoints(saved, meta, settings.checkpoint_every, settings.eval_every),
  ]
  if evaluator is not None:
    all_params = lambda run: trees.combine(run.state['params'], run.state['frozen'])
    parts.append(hooks.Evaluate(evaluator, settings.eval_every, all_params, writer, progress))
  step_fn = make_train_step(
      network, experiment.objectives, optimizer, partitioner, seed=experiment.seed,
      microbatches=settings.microbatches)
  ended = loop.run(state, step_fn, loop.stream(batches), [*parts, *experiment.hooks],
                   settings.steps, partitioner=partitioner, start=start)
  if ended.stopped_by is not None:
    progress.say(f'Stopped by {ended.stopped_by} after step {ended.step}: saved; the same command '
                 'resumes it')
  else:
    progress.say(f'Trained to step {ended.step}: {folder.path}')
  return Result(ended.step, ended.finished, ended.metrics)


def _first_step(experiment, saved) -> int:
  """The first step: that of the newest checkpoint, of another run's that it continues, or 0."""
  from t5x_lite.core.errors import UserError
  from t5x_lite.training.checkpoints import open_checkpoints
  if saved is not None:
    return saved.latest_step() or 0
  origin = experiment.init_from
  if origin is None:
    return 0
  with open_checkpoints(_path(origin.model_dir), origin.step) as (_, step):
    start = step if origin.restore_state else 0
  if start >= experiment.train.steps:
    raise UserError(f'TrainConfig.steps is {experiment.train.steps} and {origin.model_dir} was at '
                    f'step {start} already: branch off an earlier checkpoint')
  return start


def _state(experiment, network, partitioner, optimizer, abstract, saved, start, meta, progress):
  """The state at `start`: of the run's own checkpoint, of another run's, or fresh.

  Adds the source of frozen parameters to `meta`.
  """
  from t5x_lite.training import initial_params
  from t5x_lite.training.checkpoints import check_vocabulary, restore_full_state
  origin = experiment.init_from
  if start and saved is not None:
    state, written = saved.restore(abstract, start)
    check_vocabulary(written, meta['vocabulary'], f'{experiment.folder}, step {start}')
    progress.say(f'Resumed {experiment.folder} at step {start}')
  elif start:
    state = restore_full_state(abstract, _path(origin.model_dir), start, meta)
    with initial_params.open_checkpoints(_path(origin.model_dir), start) as (source, step):
      written = source.read_meta(step)
    progress.say(f'Branched off {origin.model_dir} at step {start}')
  else:
    return initial_params.fresh_state(
        network, partitioner, optimizer, abstract, experiment.seed,
        None if origin is None else _path(origin.model_dir),
        origin and origin.step, origin.missing_ok if origin else (), meta, progress.say)
  if abstract['frozen']:
    meta[initial_params.FROZEN_FROM] = written[initial_params.FROZEN_FROM]
  frozen = initial_params.load_frozen(network, abstract['frozen'], written) if (
      abstract['frozen']) else {}
  return state | {'frozen': frozen}


def _path(name: str) -> pathlib.Path:
  return pathlib.Path(name).expanduser()
