"""What a ladder is: its runs and target, as `manifest.json` and gin files in one folder."""

import dataclasses
import json
import pathlib
import tempfile
from typing import Any

from t5x_lite.core.errors import UserError
from t5x_lite.core.files import write_text

MANIFEST = 'manifest.json'


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
    seed: of initialisation and data order.
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
  seed: int = 0

  @property
  def trunk(self) -> str:
    """The run whose initialisation and data it shares: itself, or the one it branches off."""
    return self.branches_off[0] if self.branches_off else self.name


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ladder:
  """The contents of `manifest.json`: target, base experiment, runs, and what was assumed.

  Attributes:
    target_flops: 6 N D of the run to predict.
    optimizer: its class.
    multiple: divisor of all widths.
    depth: layers of every model; None: by the usual aspect ratio.
    versions: of Python, JAX and this project at design time.
    assumed_law: e, a, alpha, b and beta, by which sizes were centred and the precision expected.
    noise: of log loss, assumed in the expected precision.
    seed_name: what sets the seed in gin.
  """
  target_flops: float
  gin_files: tuple[str, ...]
  bindings: tuple[str, ...]
  optimizer: str
  multiple: int
  tokens_per_step: int
  runs: tuple[Run, ...]
  versions: dict[str, str]
  depth: int | None = None
  assumed_law: dict[str, float] | None = None
  noise: float | None = None
  seed_name: str = 'SEED'

  @property
  def flops(self) -> float:
    """The cost of the ladder: 6 N times the tokens computed, shared phases once."""
    saved = sum(6 * run.parameters * run.branches_off[1] * self.tokens_per_step
                for run in self.runs if run.branches_off)
    return sum(run.flops for run in self.runs) - saved


def run_folder(folder: pathlib.Path, name: str) -> pathlib.Path:
  """MODEL_DIR of a run."""
  return folder / 'runs' / name


def gin_path(folder: pathlib.Path, name: str) -> pathlib.Path:
  return folder / 'gin' / f'{name}.gin'


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
            f'{ladder.seed_name} = {run.seed}',
            f'optimizers.{ladder.optimizer}.learning_rate = @schedules.WSD()', 'schedules.WSD:',
            '  peak = %LEARNING_RATE', f'  warmup_steps = {run.warmup_steps}',
            f'  decay_steps = {run.decay_steps}', f'  total_steps = {run.steps}',
            'experiment.TrainConfig:', f'  checkpoint_every = {run.checkpoint_every}',
            f'  keep_checkpoints = {run.steps // run.checkpoint_every + 2}']
  if run.branches_off:
    source, step = run.branches_off
    lines += ['experiment.Experiment.init_from = @experiment.InitFrom()', 'experiment.InitFrom:',
              f"  model_dir = {str(run_folder(folder, source))!r}", f'  step = {step}',
              '  restore_state = True']
  return '\n'.join(lines) + '\n'


def write_ladder(ladder: Ladder, folder: pathlib.Path) -> None:
  """Writes the manifest and a gin file for each run; UserError if there is another ladder."""
  path = folder / MANIFEST
  if path.exists():
    if read_ladder(folder) != ladder:
      raise UserError(f'{path} is of another ladder: use another --folder, or the settings it was '
                      'designed with')
    return
  check_gin(ladder)
  write_gin_files(ladder, ladder.runs, folder)
  save_ladder(ladder, folder)   # last, so that a manifest has its gin files


def check_gin(ladder: Ladder) -> None:
  """Raises UserError if a run's gin file cannot be read: a binding of a module it does not import.
  """
  from t5x_lite.experiment import gin_config

  with tempfile.TemporaryDirectory() as folder:
    path = pathlib.Path(folder) / 'run.gin'
    path.write_text(format_gin(ladder, ladder.runs[0], pathlib.Path(folder)))
    try:
      gin_config.load_experiment([str(path)], ["MODEL_DIR=''"])
    except UserError as e:
      raise UserError(f'{str(e).removeprefix(f"{path}:")}: set it in a gin file of your own, given '
                      'with --gin_file after the base experiment') from e


def save_ladder(ladder: Ladder, folder: pathlib.Path) -> None:
  """Writes or replaces the manifest."""
  write_text(folder / MANIFEST, json.dumps(dataclasses.asdict(ladder), indent=1) + '\n')


def write_gin_files(ladder: Ladder, runs, folder: pathlib.Path) -> None:
  """Writes the gin file of each of the runs, also where the folder was moved or lost some."""
  for run in runs:
    write_text(gin_path(folder, run.name), format_gin(ladder, run, folder))


def read_ladder(folder: pathlib.Path) -> Ladder:
  """The ladder of a folder; UserError if there is none."""
  path = folder / MANIFEST
  if not path.exists():
    raise UserError(f'{path} is missing: design a ladder there first (t5x-lite scaling ladder '
                    'design --help)')
  try:
    saved = json.loads(path.read_text())
    runs = tuple(map(run_of, saved['runs']))
    lists = {name: tuple(saved[name]) for name in ('gin_files', 'bindings')}
    return Ladder(**saved | lists | {'runs': runs})
  except (ValueError, KeyError, TypeError) as e:
    raise UserError(f'{path} is not the manifest of a ladder ({type(e).__name__}: {e}): put it '
                    'back from a copy, or design again in another folder') from e


def run_of(saved: dict[str, Any]) -> Run:
  """A run as it was saved in JSON."""
  branch = saved['branches_off']
  return Run(**saved | {'branches_off': tuple(branch) if branch else None})


def format_ladder(ladder: Ladder) -> str:
  """The runs as a table, and the cost."""
  lines = [f'{"run":<28}{"parameters":>14}{"tokens":>17}{"D/N":>8}{"steps":>13}{"FLOPs":>11}'
           f'{"rate":>10}  branches off']
  for run in ladder.runs:
    off = f'{run.branches_off[0]} at {run.branches_off[1]}' if run.branches_off else ''
    lines.append(f'{run.name:<28} {run.parameters:>13,} {run.tokens:>16,}'
                 f'{run.tokens / run.parameters:>8.3g}{run.steps:>13,}{run.flops:>11.3g}'
                 f'{run.learning_rate:>10.3g}  {off}')
  fraction = ladder.flops / ladder.target_flops
  unshared = sum(run.flops for run in ladder.runs)
  lines.append(f'Cost: {ladder.flops:.3g} FLOPs, {fraction:.1%} of the target '
               f'({unshared:.3g} without shared stable phases); {len(ladder.runs)} runs of '
               f'{len({run.parameters for run in ladder.runs})} sizes, the largest '
               f'1/{ladder.target_flops / max(run.flops for run in ladder.runs):.3g} of the target')
  return '\n'.join(lines)
