"""`t5x-lite train`: trains a model, or resumes a stopped run."""

import argparse
import dataclasses
import itertools

from t5x_lite.commands import gin_flags
from t5x_lite.core.paths import local_path

EXAMPLE = 't5x-lite train --gin_file=experiments/tiny_lm.gin --gin.MODEL_DIR=runs/lm'


def add_flags(parser: argparse.ArgumentParser) -> None:
  gin_flags.add_flags(parser)


def run(args: argparse.Namespace) -> int:
  import jax

  from t5x_lite.commands import next_steps
  experiment, config_gin = gin_flags.load_experiment(args)
  result = train(experiment, config_gin)
  if result.finished and jax.process_index() == 0:
    next_steps.show(experiment, args.trusted_modules)
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
  from t5x_lite.core.files import naming
  from t5x_lite.parallel.mesh import check_fits
  from t5x_lite.training.lock import locked
  from t5x_lite.training.run_folder import RunFolder
  mesh = experiment.mesh.make()
  check_fits(experiment.model, mesh, experiment.data.batch_size, experiment.train.microbatches,
             experiment.mesh.rules)
  folder = RunFolder(experiment.folder)
  with naming(folder.path), locked(folder):
    return _train(experiment, config_gin, folder, mesh)


def _train(experiment, config_gin: str, folder, mesh) -> Result:
  import jax

  from t5x_lite.core.console import Progress
  from t5x_lite.core.files import write_text
  from t5x_lite.experiment import gin_config
  from t5x_lite.training import initial_params, loop, resuming, source_checks
  from t5x_lite.training.checkpoints import Checkpoints
  from t5x_lite.training.live_source import LiveSource, RunContext
  from t5x_lite.training.state import abstract_state
  from t5x_lite.training.step import make_train_step
  settings, data = experiment.train, experiment.data

  # Errors in the model, the mesh, the folder or the data are raised before anything is allocated.
  _check_trains(experiment)
  if resuming.check_folder(folder):
    gin_config.check_same_run(folder.config, experiment)
  network, partitioner = experiment.build_network(mesh)
  meta = {'seed': experiment.seed, 'batch_size': data.batch_size,
          'vocabulary': data.fingerprint(), 'data': data.data_digest(),
          initial_params.ADDED: initial_params.added_paths(network)}
  optimizer = experiment.optimizer.make()
  abstract = abstract_state(network, optimizer, partitioner)
  progress = Progress(settings.steps, silent=jax.process_index() != 0)
  saved = Checkpoints(folder.path, settings.keep_checkpoints)
  origin = _origin(experiment, network, abstract, saved, meta)
  start, examples = (origin.step, origin.examples) if origin else (0, 0)
  if start >= settings.steps and (experiment.eval is None or folder.evaluation_at(start)):
    progress.say(f'{folder.path} is already trained to step {start}')
    return Result(start, True, folder.evaluation_at(start))
  shard = jax.process_index(), jax.process_count()
  live = None
  if isinstance(data, LiveSource):
    live = data.open(RunContext(network, partitioner, folder, experiment.seed, examples, shard,
                                progress.say))
    batches = source_checks.checked_live(live, data, experiment.model, experiment.objectives,
                                         jax.process_count())
  else:
    read = source_checks.checked(
        data.batches(experiment.model, seed=experiment.seed, start=examples, shard=shard),
        data, experiment.model, experiment.objectives, jax.process_count())
    batches = loop.stream(
        itertools.chain([next(read)], read) if start < settings.steps else read)
  evaluator = experiment.eval and experiment.eval.make(network, partitioner, data, experiment.seed)

  # The state before the first step.
  if origin:
    progress.say(origin.line)
    state = origin.state
  else:
    state = _fresh_state(experiment, network, partitioner, optimizer, abstract, meta, progress)

  # From here on files of the run are written.
  if jax.process_index() == 0:
    write_text(folder.config, config_gin)
    if (chat := data.chat()) is not None:
      write_text(folder.chat_template, chat.source)
  meta_at = lambda step: meta | {'examples': examples + (step - start) * data.batch_size}
  hooks = _hooks(experiment, network, evaluator, partitioner, folder, saved, start, meta_at,
                 progress, live)
  step_fn = make_train_step(
      network, experiment.objectives, optimizer, partitioner, seed=experiment.seed,
      microbatches=settings.microbatches)
  ended = loop.run(state, step_fn, batches, hooks, settings.steps,
                   partitioner=partitioner, start=start)
  if ended.stopped_by is not None:
    progress.say(f'Stopped by {ended.stopped_by} after step {ended.step}: saved; the same command '
                 'resumes it')
  else:
    progress.say(f'Trained to step {ended.step}: {folder.path}')
  return Result(ended.step, ended.finished, ended.metrics)


def _check_trains(experiment) -> None:
  """Raises FieldError for settings that only a run which answers has."""
  from t5x_lite.adaptation.adaptation import innermost
  from t5x_lite.core.dataclass_checks import FieldError
  if experiment.adapters is not None:
    raise FieldError(experiment, 'adapters', 'are of infer and eval: to train one of them further, '
                     'give its config.gin')
  if experiment.adaptation is not None and innermost(experiment.adaptation) is None:
    raise FieldError(experiment.adaptation, 'adaptation', 'trains nothing: set it to an adapter on '
                     'this base, such as @lora.Lora() (--gin_file=runs/qlora.gin)')


def _origin(experiment, network, abstract, saved, meta):
  """What the run goes on from: its own checkpoint, another run's, or None."""
  from t5x_lite.core.errors import UserError
  from t5x_lite.training import resuming
  from t5x_lite.training.checkpoints import reader_of
  if saved.steps():
    return resuming.resume(saved, network, abstract, meta)
  init = experiment.init_from
  if init is None:
    return None
  path = local_path(init.model_dir)
  step = reader_of(path).find_step(init.step)
  if not init.restore_state:
    return None
  if step >= experiment.train.steps:
    raise UserError(f'TrainConfig.steps is {experiment.train.steps} and {init.model_dir} was at '
                    f'step {step} already: branch off an earlier checkpoint')
  return resuming.branch(path, init.step, network, abstract, meta)


def _fresh_state(experiment, network, partitioner, optimizer, abstract, meta, progress):
  """The state at step 0: of the seed, or with the parameters of another run."""
  from t5x_lite.training import initial_params
  init = experiment.init_from
  return initial_params.fresh_state(
      network, partitioner, optimizer, abstract, experiment.seed,
      None if init is None else local_path(init.model_dir),
      init and init.step, init.missing_ok if init else (), meta, progress.say)


def _hooks(experiment, network, evaluator, partitioner, folder, saved, start, meta_at, progress,
           live) -> list:
  """The hooks of every run, then the experiment's own."""
  import jax

  from t5x_lite.cost import accounting, hardware
  from t5x_lite.data import features
  from t5x_lite.training import hooks
  from t5x_lite.training.metric_writer import MetricWriter
  from t5x_lite.training.profiling import Profile
  from t5x_lite.training.state import all_params
  settings, devices = experiment.train, partitioner.mesh.devices.flat
  writer = MetricWriter(folder, start, experiment.writers)

  def flops_of(batch) -> float:
    rows = features.num_rows(batch) * jax.process_count()
    return rows * accounting.train_flops(
        experiment.model, *features.row_lengths(batch), network=network)

  found = [
      hooks.StopOnSignals(),
      hooks.LogMetrics(
          writer, progress, settings.log_every, flops_of=flops_of,
          learning_rate=getattr(experiment.optimizer, 'learning_rate', None),
          peak_flops=hardware.peak_flops(devices[0].device_kind) * len(devices),
          **({'metrics_of': live.metrics} if live else {})),
      hooks.StopIfNotFinite(settings.log_every, saved.finished_steps),
      hooks.SaveCheckpoints(saved, meta_at, settings.checkpoint_every, settings.eval_every),
  ]
  if settings.profile is not None:   # first, as the other hooks' pauses do not belong to it
    found.insert(0, Profile(folder.profile, *settings.profile, progress.say))
  if evaluator is not None:
    params_of = lambda run: all_params(run.state)
    found.append(hooks.Evaluate(evaluator, settings.eval_every, params_of, writer, progress))
  return [*found, *experiment.hooks]
