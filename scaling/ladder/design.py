"""A ladder: a sweep of small runs that predicts a large one, as gin files in one folder.

Each size is trained for durations that double. The runs of a size share one stable phase: the
longest keeps checkpoints where the shorter ones begin to decay, and these branch off there (Hägele
et al. 2024), which saves the stable phases of all but the longest.
"""

from collections.abc import Sequence
import dataclasses
import json
import math
import pathlib

import numpy as np

from scaling.planning import architecture
from t5x_lite.core.errors import UserError
from t5x_lite.cost import accounting

MANIFEST = 'manifest.json'
DECAY = 0.2          # fraction of a run's steps in which the rate decays to 0
WARMUP = 0.05        # fraction of the shortest run's steps


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
  """One run of a ladder, or the target.

  Attributes:
    shape: the fields of ModelConfig that differ from the base experiment.
    parameters: all of them.
    tokens: positions of its batches.
    flops: 6 N D.
    exact_flops: the model's own, with unmasked attention only.
    branches_off: (name of the run, step) of its initial state.
    checkpoint_every: steps; other runs branch off at multiples of it.
  """
  name: str
  shape: dict[str, int | bool | None]
  parameters: int
  tokens: int
  steps: int
  flops: float
  exact_flops: float
  learning_rate: float
  warmup_steps: int
  decay_steps: int
  checkpoint_every: int
  branches_off: tuple[str, int] | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ladder:
  """The contents of `manifest.json`: target, base experiment and runs."""
  target_flops: float
  gin_files: tuple[str, ...]
  bindings: tuple[str, ...]
  optimizer: str                 # its class
  multiple: int                  # divisor of all widths
  tokens_per_step: int
  runs: tuple[Run, ...]
  versions: dict[str, str]       # of Python, JAX and this project at design time

  @property
  def flops(self) -> float:
    """The cost of the ladder: 6 N times the tokens computed, shared phases once."""
    saved = sum(6 * run.parameters * run.branches_off[1] * self.tokens_per_step
                for run in self.runs if run.branches_off)
    return sum(run.flops for run in self.runs) - saved


def make_ladder(gin_files: Sequence[str], bindings: Sequence[str], *, target_flops: float,
         largest: float | None = None, multiple: int = 128, **settings) -> Ladder:
  """The ladder of a target and a base experiment of gin files and bindings; see `design_runs`.

  `largest`: None: a fifth of the target.
  """
  from importlib.metadata import version
  import platform

  from t5x_lite import __version__
  from t5x_lite.experiment import gin_config

  experiment, _ = gin_config.load_experiment(gin_files, [*bindings, "MODEL_DIR=''"])
  runs = design_runs(experiment, target_flops=target_flops, largest=largest or target_flops / 5,
                multiple=multiple, **settings)
  return Ladder(
      target_flops=target_flops, gin_files=tuple(gin_files), bindings=tuple(bindings),
      optimizer=type(experiment.optimizer).__name__, multiple=multiple,
      tokens_per_step=tokens_per_step(experiment), runs=runs,
      versions={'python': platform.python_version(), 'jax': version('jax'),
                't5x_lite': __version__})


def design_runs(experiment, *, target_flops: float, largest: float, durations: int = 3,
                sizes: int = 4, spread: float = 8.0, tokens_per_parameter: float = 20.0,
                multiple: int = 128) -> tuple[Run, ...]:
  """The runs: `sizes` models at each of `durations` budgets, which double up to `largest`.

  Sizes are equally spaced in log N over the factor `spread`, around the optimum of the middle
  budget by `tokens_per_parameter`, so each budget has models smaller and larger than its optimum.
  The learning rate follows N ** (-1/3) from that of the base experiment (Porian et al. 2024).

  Raises UserError if two sizes are the same model, if there are too few steps to warm up and decay,
  or if the largest rung is not below the target.
  """
  if not 0 < largest < target_flops:
    raise UserError(f'--largest={largest:.3g}: give less than the target of {target_flops:.3g} '
                    'FLOPs, e.g. a fifth of it')
  if sizes < 3 or durations < 2:
    raise UserError(f'{sizes} sizes and {durations} durations: a law of five constants needs '
                    'at least 3 sizes and 2 durations')
  middle = largest / 2 ** ((durations - 1) / 2)
  centre = math.sqrt(middle / 6 / tokens_per_parameter)
  wanted = np.geomspace(centre / math.sqrt(spread), centre * math.sqrt(spread), sizes)
  configs = [architecture.config_for_size(experiment.model, n, multiple=multiple) for n in wanted]
  counts = [accounting.parameters(config).total for config in configs]
  if len(set(counts)) < len(counts):
    raise UserError(f'{sizes} sizes over a factor of {spread:g} around {centre:.3g} parameters are '
                    f'only {len(set(counts))} models whose widths are multiples of {multiple}: set '
                    'a smaller --multiple, fewer --sizes or a larger --spread')
  runs = []
  for config, parameters in zip(configs, counts):
    runs += _runs_of(experiment, config, parameters, largest, durations)
  return tuple(runs)


def _runs_of(experiment, config, parameters: int, largest: float, durations: int) -> list[Run]:
  """The runs of one size, the longest first; the others branch off it."""
  per_step = tokens_per_step(experiment)
  shortest = largest / 2 ** (durations - 1) / 6 / parameters / per_step
  stable = round((1 - DECAY) * shortest)     # each duration decays from a multiple of it
  if WARMUP * shortest < 1 or stable < 10:
    raise UserError(f'{parameters:,} parameters: the shortest run would have {shortest:.0f} steps '
                    f'of {per_step} tokens; raise --largest, or use a smaller batch')
  found = []
  for factor in sorted((2 ** i for i in range(durations)), reverse=True):
    steps = factor * stable + round(factor * DECAY * shortest)
    name = run_name(parameters, steps * per_step)
    found.append(make_run(
        experiment, config, name, steps, warmup=round(WARMUP * shortest),
        decay=steps - factor * stable, checkpoint_every=stable,
        branches_off=(found[0].name, factor * stable) if found else None))
  return found


def make_run(experiment, config, name: str, steps: int, *, warmup: int, decay: int,
             checkpoint_every: int, branches_off: tuple[str, int] | None = None) -> Run:
  """A run of `config` on the base experiment's data, with its learning rate scaled to the size."""
  parameters = accounting.parameters(config).total
  base = accounting.parameters(experiment.model).total
  rate = peak_rate(experiment) * (base / parameters) ** (1 / 3)
  tokens = steps * tokens_per_step(experiment)
  row = accounting.train_flops(config, *experiment.row_lengths, causal=True)
  shape = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)
           if getattr(config, field.name) != getattr(experiment.model, field.name)}
  return Run(name=name, shape=shape, parameters=parameters, tokens=tokens, steps=steps,
             flops=6.0 * parameters * tokens,
             exact_flops=float(row) * experiment.data.batch_size * steps,
             learning_rate=float(f'{rate:.4g}'), warmup_steps=warmup, decay_steps=decay,
             checkpoint_every=checkpoint_every, branches_off=branches_off)


def tokens_per_step(experiment) -> int:
  """Positions of a batch, of both stacks."""
  return experiment.data.batch_size * sum(experiment.row_lengths)


def peak_rate(experiment) -> float:
  """The peak rate of the base experiment's schedule; UserError if it has none."""
  schedule = experiment.optimizer.learning_rate
  rate = getattr(schedule, 'peak', None) or getattr(schedule, 'rate', None)
  if rate is None:
    raise UserError(f'{type(schedule).__name__} has no peak rate: use WSD, WarmupCosine or '
                    'Constant in the base experiment')
  return rate


def run_name(parameters: int, tokens: int) -> str:
  """'n1204224_d2211840': the exact figures, so that names are unique."""
  return f'n{parameters}_d{tokens}'


def format_gin(ladder: Ladder, run: Run, folder: pathlib.Path) -> str:
  """The gin file of a run: the base experiment's files, and the differences."""
  lines = [f'# {run.parameters:,} parameters, {run.tokens:,} tokens, {run.flops:.3g} FLOPs '
           '(6 N D).',
           'from __gin__ import dynamic_registration', 'from t5x_lite import experiment',
           'from t5x_lite import models', 'from t5x_lite.training import optimizers',
           'from t5x_lite.training import schedules', '']
  lines += [f"include '{name}'" for name in ladder.gin_files]
  lines += ['', *[binding.replace('=', ' = ', 1) for binding in ladder.bindings]]
  lines += [f'models.ModelConfig.{name} = {value!r}' for name, value in run.shape.items()]
  lines += [f'STEPS = {run.steps}', f'LEARNING_RATE = {run.learning_rate!r}',
            f'optimizers.{ladder.optimizer}.learning_rate = @schedules.WSD()', 'schedules.WSD:',
            '  peak = %LEARNING_RATE', f'  warmup_steps = {run.warmup_steps}',
            f'  decay_steps = {run.decay_steps}', f'  total_steps = {run.steps}',
            'experiment.TrainConfig:', f'  checkpoint_every = {run.checkpoint_every}',
            f'  keep_checkpoints = {run.steps // run.checkpoint_every + 2}']
  if run.branches_off:
    source, step = run.branches_off
    lines += ['experiment.Experiment.init_from = @experiment.InitFrom()', 'experiment.InitFrom:',
              f"  model_dir = '{run_folder(folder, source)}'", f'  step = {step}',
              '  restore_state = True']
  return '\n'.join(lines) + '\n'


def run_folder(folder: pathlib.Path, name: str) -> pathlib.Path:
  """MODEL_DIR of a run."""
  return folder / 'runs' / name


def gin_path(folder: pathlib.Path, name: str) -> pathlib.Path:
  return folder / 'gin' / f'{name}.gin'


def write_ladder(ladder: Ladder, folder: pathlib.Path) -> None:
  """Writes the manifest and a gin file for each run; UserError if there is another ladder."""
  path = folder / MANIFEST
  if path.exists():
    if read_ladder(folder) != ladder:
      raise UserError(f'{path} is of another ladder: use another --folder, or the settings it was '
                      'designed with')
    return
  (folder / 'gin').mkdir(parents=True, exist_ok=True)
  for run in ladder.runs:
    gin_path(folder, run.name).write_text(format_gin(ladder, run, folder))
  path.write_text(json.dumps(dataclasses.asdict(ladder), indent=1) + '\n')   # written last


def read_ladder(folder: pathlib.Path) -> Ladder:
  """The ladder of a folder; UserError if there is none."""
  path = folder / MANIFEST
  if not path.exists():
    raise UserError(f'{path} is missing: design a ladder there first (t5x-lite scaling ladder '
                    'design --help)')
  saved = json.loads(path.read_text())
  runs = tuple(Run(**run | {'branches_off': run['branches_off'] and tuple(run['branches_off'])})
               for run in saved['runs'])
  lists = {name: tuple(saved[name]) for name in ('gin_files', 'bindings')}
  return Ladder(**saved | lists | {'runs': runs})


def format_ladder(ladder: Ladder) -> str:
  """The runs as a table."""
  lines = [f'{"run":<26}{"parameters":>12}{"tokens":>14}{"D/N":>8}{"steps":>8}{"FLOPs":>11}'
           f'{"rate":>10}  branches off']
  for run in ladder.runs:
    off = f'{run.branches_off[0]} at {run.branches_off[1]}' if run.branches_off else ''
    lines.append(f'{run.name:<26}{run.parameters:>12,}{run.tokens:>14,}'
                 f'{run.tokens / run.parameters:>8.1f}{run.steps:>8,}{run.flops:>11.3g}'
                 f'{run.learning_rate:>10.3g}  {off}')
  fraction = ladder.flops / ladder.target_flops
  unshared = sum(run.flops for run in ladder.runs)
  lines.append(f'Total {ladder.flops:.3g} FLOPs, {fraction:.0%} of the target ({unshared:.3g} '
               'without shared stable phases)')
  return '\n'.join(lines)
