"""Runs of one's own, whose utilisation a plan takes in place of the default MFU.

They are folders of `t5x-lite train`, which log the MFU of every step, or a TOML file in the format
of scaling/data/published_runs.toml, of which the chip-hours are known.
"""

from collections.abc import Sequence
import dataclasses
import math
import pathlib
import tomllib

from scaling.planning.budget import RECOMPUTED
from scaling.planning.goodput import PublishedRun
from t5x_lite.core.errors import UserError, why
from t5x_lite.core.paths import local_path
from t5x_lite.cost import hardware

_OPTIONAL = {'source': '', 'read': True}


@dataclasses.dataclass(frozen=True, kw_only=True)
class OwnRun:
  """Attributes:
    parameters: used by a token.
    chip: None: that of the plan, as folders do not say.
    utilisation: model FLOPs over the peak of the hardware in all its time, or in all its steps.
    recomputed: whether blocks were.
  """
  name: str
  parameters: float
  chip: str | None
  utilisation: float
  recomputed: bool

  @property
  def mfu(self) -> float:
    """The utilisation of such a run that recomputes nothing."""
    return min(self.utilisation / (RECOMPUTED if self.recomputed else 1), 1.0)

  def describe(self) -> str:
    return f'of your {self.name}, {self.parameters:,.0f} parameters'


def nearest_run(paths: Sequence[str], chip: str, parameters: float) -> OwnRun:
  """The run on this chip whose size is nearest; UserError if there is none."""
  runs = [run for path in paths for run in read_runs(path)]
  fitting = [run for run in runs if run.chip in (None, chip)]
  if not fitting:
    others = sorted({run.chip for run in runs})
    raise UserError(f'--runs: none is on {chip}; they are on {", ".join(others)}: give '
                    f'--hardware={others[0]}, or --mfu')
  return min(fitting, key=lambda run: abs(math.log(run.parameters / parameters)))


def read_runs(path: str) -> list[OwnRun]:
  """The runs of a TOML file, or the one of a folder; UserError, with a cure, if there are none."""
  path = local_path(path)
  if path.is_dir():
    return [_read_folder(path)]
  try:
    tables = tomllib.loads(path.read_text(encoding='utf-8'))
  except (OSError, ValueError) as e:
    raise UserError(f'--runs={path} cannot be read ({why(e)}): give a MODEL_DIR of t5x-lite train, '
                    'or a TOML file like scaling/data/published_runs.toml') from e
  if not tables:
    raise UserError(f'--runs={path} has no run: add a table [NAME] for each')
  return [_read_table(path, name, table) for name, table in tables.items()]


def _read_table(path: pathlib.Path, name: str, table: object) -> OwnRun:
  fields = {field.name: field for field in dataclasses.fields(PublishedRun)
            if field.name != 'name'}
  if not isinstance(table, dict):
    raise UserError(f'{path}: {name} is no table: write [{name}], and its fields below')
  for key in table:
    if key not in fields:
      raise UserError(f'{path}, [{name}]: {key!r} is no field: they are {", ".join(fields)}')
  values = {**_OPTIONAL, **table}
  for key, field in fields.items():
    if key not in values and field.default is dataclasses.MISSING:
      raise UserError(f'{path}, [{name}] has no {key}: add it, as scaling/data/published_runs.toml '
                      'has it')
  number = lambda x: type(x) in (int, float) and 0 < x < math.inf
  for key in ('parameters', 'tokens', 'length', 'chip_hours'):
    if not number(values[key]):
      raise UserError(f'{path}, [{name}]: {key} = {values[key]!r}: give a number above 0')
  if type(values['recomputed']) is not bool:
    raise UserError(f'{path}, [{name}]: recomputed = {values["recomputed"]!r}: give true or false')
  pair = values['attention']
  if not (isinstance(pair, list) and len(pair) == 2 and all(map(number, pair))):
    raise UserError(f'{path}, [{name}]: attention = {pair!r}: give [layers, width of the heads]')
  run = PublishedRun(name=name, **{**values, 'attention': tuple(pair),
                                   'chip': hardware.find_chip(values['chip']).name})
  if not 0.001 <= run.utilisation <= 1:
    raise UserError(f'{path}, [{name}]: {run.flops:.3g} FLOPs in {run.chip_hours:g} hours are '
                    f'{run.utilisation:.3g} of the peak of {run.chip}, expected 0.001 to 1: '
                    'correct tokens or chip_hours')
  return OwnRun(name=name, parameters=run.parameters, chip=run.chip,
                utilisation=run.utilisation, recomputed=run.recomputed)


def _read_folder(path: pathlib.Path) -> OwnRun:
  """The run of a MODEL_DIR: what its logged steps did, over the time of all of them.

  Steps that were repeated after a restart count as time only. Time between steps, for evaluation
  and checkpoints, is not logged.
  """
  from t5x_lite.cost import accounting
  from t5x_lite.experiment import gin_config
  from t5x_lite.training.run_folder import RunFolder
  folder = RunFolder(path)
  for file in (folder.config, folder.metrics):
    if not file.exists():
      raise UserError(f'--runs={path} has no {file.name}: pass the MODEL_DIR of a run')
  steps = [record for record in folder.read_metrics()
           if record['kind'] == 'train' and record.get('mfu') and record.get('seconds_per_step')]
  if not steps:
    raise UserError(f'--runs={path} logged no MFU, as the peak of its device is not known: write '
                    'its chip_hours to a TOML file like scaling/data/published_runs.toml')
  kept = {record['step']: record for record in steps}
  utilisation = (sum(record['mfu'] * record['seconds_per_step'] for record in kept.values())
                 / sum(record['seconds_per_step'] for record in steps))
  if not 0.001 <= utilisation <= 1:
    raise UserError(f'--runs={path} logged an MFU of {utilisation:.3g}, expected 0.001 to 1: give '
                    '--mfu')
  model = gin_config.load_experiment([str(folder.config)])[0].model
  return OwnRun(name=str(path), parameters=accounting.parameters(model).active, chip=None,
                utilisation=utilisation, recomputed=model.remat == 'full')
