"""gin files and --gin.NAME=VALUE bindings -> an Experiment, with errors that name file and line.

gin's state is cleared before and after `load_experiment`, and what comes out is a frozen dataclass
and the operative config as text. Any frozen dataclass that a gin
file imports may be bound; gin_source.py reads the statements.
"""

from collections.abc import Iterator, Sequence
import contextlib
import dataclasses
import pathlib

import gin
from gin import config

from t5x_lite.core.dataclass_checks import FieldError, check_types
from t5x_lite.core.errors import UserError
from t5x_lite.data.source import NoData
from t5x_lite.experiment.experiment import Experiment, TrainConfig
from t5x_lite.experiment.gin_source import CONFIGS, Source, find_file, one_line
from t5x_lite.parallel.mesh import MeshConfig
from t5x_lite.training.optimizers import AdamW
from t5x_lite.training.resuming import BRANCH
from t5x_lite.training.schedules import Constant

_PASS_ONE = 'pass one that does, e.g. --gin_file=experiments/tiny_lm.gin'
LENGTH = 2048   # tokens of a row of a model that is described alone and has no max_length
PROMPT_LENGTH, ANSWER_LENGTH = 512, 128   # tokens at most where no task says how many
# What a run may change when it is resumed; everything else affects its results.
MAY_CHANGE = ('model_dir', 'train', 'mesh', 'eval', 'infer', 'init_from', 'hooks', 'writers')
TRAIN_MAY_CHANGE = ('steps', 'log_every', 'eval_every', 'checkpoint_every', 'keep_checkpoints',
                    'microbatches', 'profile')


def load_experiment(gin_files: Sequence[str], bindings: Sequence[str] = (),
                    trust: Sequence[str] = (), *, trains: bool = True) -> tuple[Experiment, str]:
  """The experiment that gin files and bindings ('NAME=VALUE') describe, and its operative config.

  Files are looked for in the working directory, then in configs/. Raises UserError, in one line
  with file and line, for anything that is not known, not found, not set or of the wrong type; what
  a user's own code raises passes through.

  Args:
    gin_files: what comes later wins.
    bindings: win over all files.
    trust: modules outside this project that gin files may import.
    trains: whether what training alone reads must be set: STEPS, BATCH_SIZE, LEARNING_RATE; and
      TASK and its lengths, without which there is only a tokenizer, of VOCABULARY.
  """
  with _parsed(gin_files, bindings, trust, trains) as source:
    if 'Experiment' not in source.bound_classes():
      raise UserError(f'No file binds an Experiment: {_PASS_ONE}')
    return _make(source, 'Experiment'), gin.operative_config_str()


def load_described(gin_files: Sequence[str], bindings: Sequence[str] = (),
                   trust: Sequence[str] = (), *, trains: bool = False) -> Experiment:
  """As `load_experiment`, for `describe`: MODEL_DIR is optional, and a model may be bound alone.

  A model alone, with or without a mesh, takes one step of AdamW on one row of its max_length, or of
  LENGTH tokens if it has none (on either side of an encoder-decoder).
  """
  with _parsed(gin_files, ["MODEL_DIR = ''", *bindings], trust, trains) as source:
    bound = source.bound_classes()
    if 'Experiment' in bound:
      return _make(source, 'Experiment')
    if unused := sorted(bound - {'ModelConfig', 'RopeScaling', 'MeshConfig'}):
      raise UserError(f'{unused[0]} is set, and no file binds the Experiment that it would be part '
                      f'of: {_PASS_ONE}')
    if 'ModelConfig' not in bound:
      raise UserError(f'No file binds an Experiment or a ModelConfig: {_PASS_ONE}')
    model = _make(source, 'ModelConfig')
    mesh = _make(source, 'MeshConfig') if 'MeshConfig' in bound else MeshConfig()
  length = model.max_length or LENGTH
  lengths = {'targets': length} | ({} if model.family == 'decoder_only' else {'inputs': length})
  return Experiment(
      model_dir='', model=model, mesh=mesh, train=TrainConfig(steps=1), data=NoData(lengths),
      optimizer=AdamW(learning_rate=Constant(rate=1e-3)))


@contextlib.contextmanager
def _parsed(gin_files: Sequence[str], bindings: Sequence[str], trust: Sequence[str], trains: bool
            ) -> Iterator[Source]:
  """The parsed statements; gin holds them until the context ends."""
  if not gin_files:
    raise UserError('No gin file: pass --gin_file=FILE, e.g. --gin_file=experiments/tiny_lm.gin')
  paths = [find_file(name) for name in gin_files]
  source = Source(trust)
  for path in paths:
    source.read_file(path)
  source.read_bindings(bindings)
  if not trains and 'Experiment' in source.bound_classes():
    _set_untrained(source)
  source.check()
  gin.clear_config()
  try:
    try:
      with config.interactive_mode():   # a notebook may have redefined a class
        gin.parse_config(source.text())
    except (ValueError, TypeError, NameError, AttributeError, RuntimeError, ImportError) as e:
      raise UserError(one_line(e)) from e
    yield source
  finally:
    gin.clear_config()


def _set_untrained(source: Source) -> None:
  """Sets what training alone reads, and, without a task, the lengths of a prompt and its answer."""
  source.read_default('STEPS', '1')
  source.read_default('BATCH_SIZE', '1')
  source.read_default('LEARNING_RATE', '1.0')
  if 'optimizer' not in source.bound_fields('Experiment'):
    source.read_bindings(['Experiment.optimizer=@optimizers.AdamW()',
                          'AdamW.learning_rate=@schedules.Constant()', 'Constant.rate=1.0'])
  if source.macros.get('TASK', ('%gin.REQUIRED',))[0] == '%gin.REQUIRED':
    source.read_default('TASK', "''")
    model = source.bound_fields('ModelConfig')
    longest = model.get('max_length') or LENGTH
    source.read_default('TARGETS_LENGTH', str(min(longest // 2, ANSWER_LENGTH)))
    inputs = source.macros.get('INPUTS_LENGTH', (1,))[0]
    if model.get('family') != 'decoder_only' and inputs is None:
      source.read_bindings([f'INPUTS_LENGTH={min(longest, PROMPT_LENGTH)}'])


def _make(source: Source, name: str):
  """The configurable of this class, with the dataclasses in it checked."""
  try:
    made = gin.get_configurable(name)()
    for part in _dataclasses_in(made):
      check_types(part)
      source.attach_origins(part)
    return made
  except UserError as e:
    message = str(e).splitlines()[0]   # gin appends lines on the location
    if isinstance(e, FieldError) and not message.endswith(')'):
      message += source.origin_of(e.owner, e.field)
    raise UserError(message) from None
  except Exception as e:
    if _is_bug(e):
      raise
    raise UserError(one_line(e)) from e


def _dataclasses_in(value) -> Iterator:
  """A dataclass and those that it holds, innermost first."""
  if isinstance(value, (tuple, list)):
    for part in value:
      yield from _dataclasses_in(part)
  elif dataclasses.is_dataclass(value) and not isinstance(value, type):
    for field in dataclasses.fields(value):
      yield from _dataclasses_in(getattr(value, field.name))
    yield value


def _is_bug(error: BaseException) -> bool:
  """Whether an error was raised by the code of a class, not by gin's call of it."""
  trace = error.__traceback__
  while trace.tb_next is not None:
    trace = trace.tb_next
  return pathlib.Path(gin.__file__).parent not in pathlib.Path(
      trace.tb_frame.f_code.co_filename).parents


def differences(old: Experiment, new: Experiment) -> list[str]:
  """Differences that two configs of one run must not have, e.g. 'model.num_layers: 2 → 4'."""
  def compare(name, a, b, skip=()):
    if a == b:
      return []
    if dataclasses.is_dataclass(a) and type(a) is type(b):
      return [d for f in dataclasses.fields(a) if f.name not in skip
              for d in compare(f'{name}.{f.name}', getattr(a, f.name), getattr(b, f.name))]
    if isinstance(a, tuple) and isinstance(b, tuple) and len(a) == len(b):
      return [d for x, y in zip(a, b) for d in compare(name, x, y)]
    return [f'{name}: {a!r} → {b!r}']

  found = compare('train', old.train, new.train, TRAIN_MAY_CHANGE)
  for field in dataclasses.fields(Experiment):
    if field.name not in MAY_CHANGE:
      found += compare(field.name, getattr(old, field.name), getattr(new, field.name))
  return found


def check_same_run(path: pathlib.Path, experiment: Experiment) -> None:
  """Raises UserError if the config.gin at `path` is of another run than `experiment`."""
  try:
    old, _ = load_experiment([str(path)])
  except UserError as e:
    raise UserError(f'{path} cannot be read by this version ({e}): use another MODEL_DIR') from e
  changed = differences(old, experiment)
  if changed:
    more = f' and {len(changed) - 1} more' if len(changed) > 1 else ''
    raise UserError(f'{path.parent} holds a run of another config ({changed[0]}{more}): use '
                    'another MODEL_DIR, or the config that run was started with; to go on with '
                    'another batch size or schedule, ' + BRANCH.format(folder=path.parent))


__all__ = ['CONFIGS', 'check_same_run', 'differences', 'load_described', 'load_experiment']
