"""gin files and --gin.NAME=VALUE bindings -> an Experiment, with errors that name file and line.

gin's parser reads the statements (gin_reader.py); which classes they may name (gin_names.py), what
is made of what (gin_tree.py) and making it (gin_make.py) is ours, because gin would import and call
whatever a file names. What comes out is a frozen dataclass, and the text of its config.gin.
"""

from collections.abc import Iterator, Sequence
import dataclasses
import functools
import os
import pathlib
from typing import Any

from t5x_lite.core.dataclass_checks import short_repr
from t5x_lite.core.errors import UserError
from t5x_lite.core.paths import local_path
from t5x_lite.data.source import NoData
from t5x_lite.experiment.experiment import Experiment, TrainConfig
from t5x_lite.experiment.gin_make import Maker
from t5x_lite.experiment.gin_names import ComparedNames, ForeignClass, Names
from t5x_lite.experiment.gin_reader import CONFIGS, Reader, find_file
from t5x_lite.experiment.gin_tree import Config, Node, bind
from t5x_lite.models import ModelConfig
from t5x_lite.parallel.mesh import MeshConfig
from t5x_lite.training.optimizers import AdamW
from t5x_lite.training.resuming import BRANCH
from t5x_lite.training.run_folder import RunFolder
from t5x_lite.training.schedules import Constant

_PARTS = (ModelConfig, MeshConfig)   # what a file without an Experiment may be of
_PASS_ONE = 'pass one that does, e.g. --gin_file=experiments/tiny_lm.gin'
LENGTH = 2048   # tokens of a row of a model that is described alone and has no max_length
PROMPT_LENGTH, ANSWER_LENGTH = 512, 128   # tokens at most where no task says how many
# What a run may change when it is resumed; everything else affects its results.
MAY_CHANGE = ('model_dir', 'mesh', 'eval', 'infer', 'init_from', 'adapters', 'adapter', 'hooks',
              'writers')
PARTS_MAY_CHANGE = {   # fields of fields
    'train': ('steps', 'log_every', 'eval_every', 'checkpoint_every', 'keep_checkpoints',
              'microbatches', 'profile'),
    'optimizer': ('paged',)}


def load_experiment(gin_files: Sequence[str], bindings: Sequence[str] = (),
                    trusted_modules: Sequence[str] = (), *, trains: bool = True
                    ) -> tuple[Experiment, str]:
  """The experiment that gin files and bindings ('NAME=VALUE') describe, and its config.gin.

  Files are looked for in the working directory, then in configs/. Raises UserError, in one line
  with file and line, for anything that is not known, not found, not set, not used or of the wrong
  type; what a user's own code raises passes through.

  Args:
    gin_files: what comes later wins.
    bindings: win over all files.
    trusted_modules: modules outside this project that gin files may import.
    trains: whether what training alone reads must be set: STEPS, BATCH_SIZE, LEARNING_RATE; and
      TASK and its lengths, without which there is only a tokenizer, of VOCABULARY.
  """
  reader, config, names = _read(gin_files, bindings, trusted_modules)
  if Experiment not in config.fields:
    raise UserError(f'No file binds an Experiment: {_PASS_ONE}')
  return _make_experiment(reader, config, names, trains)


def load_run(folder: str | os.PathLike, trusted_modules: Sequence[str] = ()) -> Experiment:
  """The experiment of the folder of a run, to be read; raises UserError for what is none."""
  config = RunFolder(local_path(folder)).require_config()
  return load_experiment([str(config)], (), trusted_modules, trains=False)[0]


def load_described(gin_files: Sequence[str], bindings: Sequence[str] = (),
                   trusted_modules: Sequence[str] = (), *, trains: bool = False) -> Experiment:
  """As `load_experiment`, for `describe`: MODEL_DIR is optional, and a model may be bound alone.

  A model alone, with or without a mesh, takes one step of AdamW on one row of its max_length, or of
  LENGTH tokens if it has none (on either side of an encoder-decoder).
  """
  reader, config, names = _read(gin_files, bindings, trusted_modules)
  config.set_macro('MODEL_DIR', '', default=True)
  if not trains:
    config.set_macro('VOCABULARY', None, default=True)
  if Experiment in config.fields:
    return _make_experiment(reader, config, names, trains)[0]
  parts = {'ModelConfig', 'RopeScaling', 'MeshConfig'}
  if unused := sorted(set(config.classes) - parts):
    raise UserError(f'{unused[0]} is set, and no file binds the Experiment that it would be part '
                    f'of: {_PASS_ONE}')
  if ModelConfig not in config.fields:
    raise UserError(f'No file binds an Experiment or a ModelConfig: {_PASS_ONE}')
  config.check_used(_PARTS, _PARTS, reader, _exempt(reader))
  maker = Maker(config, names)
  model = maker.make(config.tree(ModelConfig))
  mesh = maker.make(config.tree(MeshConfig))
  length = model.max_length or LENGTH
  alone = model.family == 'decoder_only' and not model.classifies_texts
  lengths = {'targets': length} | ({} if alone else {'inputs': length})
  return Experiment(
      model_dir='', model=model, mesh=mesh, train=TrainConfig(steps=1), data=NoData(lengths),
      optimizer=AdamW(learning_rate=Constant(rate=1e-3)))


def _read(gin_files: Sequence[str], bindings: Sequence[str], trusted_modules: Sequence[str]
          ) -> tuple[Reader, Config, Names]:
  if not gin_files:
    raise UserError('No gin file: pass --gin_file=FILE, e.g. --gin_file=experiments/tiny_lm.gin')
  reader, names = Reader(), Names(trusted_modules)
  for path in [find_file(name) for name in gin_files]:
    reader.read_file(path)
  reader.read_bindings(bindings)
  names.read_imports(reader.imports)
  return reader, Config(bind(reader, names)), names


def _make_experiment(reader: Reader, config: Config, names: Names, trains: bool
                     ) -> tuple[Experiment, str]:
  if not trains:
    _set_untrained(config)
  config.check_used([Experiment], _PARTS, reader, _exempt(reader))
  maker = Maker(config, names)
  return maker.make(config.tree(Experiment)), maker.as_gin()


def _set_untrained(config: Config) -> None:
  """Sets what training alone reads, and, without a task, the lengths of a prompt and its answer."""
  for macro, value in {'STEPS': 1, 'BATCH_SIZE': 1, 'LEARNING_RATE': 1.0}.items():
    config.set_macro(macro, value, default=True)
  config.set_field(Experiment, 'optimizer', AdamW(learning_rate=Constant(rate=1.0)))
  if not config.is_set('TASK'):
    longest = config.value_of(ModelConfig, 'max_length') or LENGTH
    longest = longest if isinstance(longest, int) else LENGTH
    config.set_macro('TASK', '', default=True)
    config.set_macro('TARGETS_LENGTH', max(1, min(longest // 2, ANSWER_LENGTH)), default=True)
    inputs = config.macros.get('INPUTS_LENGTH')
    read = config.value_of(ModelConfig, 'family') != 'decoder_only' or any(
        config.value_of(ModelConfig, name) is not None for name in ('head', 'num_classes'))
    if read and inputs is not None and inputs.value is None:
      config.set_macro('INPUTS_LENGTH', min(longest, PROMPT_LENGTH))


def _exempt(reader: Reader):
  """Which bindings need no use: in the config.gin of a run, the macros of configs/runs."""
  return lambda bound: bound.statement.file in reader.run_folders and bound.key[0] == 'macro' and (
      bound.key[1] in _run_macros())


@functools.cache
def _run_macros() -> set[str]:
  reader = Reader()
  for path in sorted((CONFIGS / 'runs').glob('*.gin')):
    reader.read_file(path)
  return {s.macro for s in reader.statements}


def differences(old: Experiment, new: Experiment) -> list[str]:
  """Differences that two configs of one run must not have, e.g. 'model.num_layers: 2 → 4'."""
  found = []
  for field in dataclasses.fields(Experiment):
    if field.name not in MAY_CHANGE:
      found += _compare(field.name, getattr(old, field.name), getattr(new, field.name),
                        PARTS_MAY_CHANGE.get(field.name, ()))
  return found


def _compare(name: str, a: Any, b: Any, skip: Sequence[str] = ()) -> list[str]:
  if a == b:
    return []
  if dataclasses.is_dataclass(a) and type(a) is type(b):
    return [d for f in dataclasses.fields(a) if f.name not in skip
            for d in _compare(f'{name}.{f.name}', getattr(a, f.name), getattr(b, f.name))]
  if isinstance(a, tuple) and isinstance(b, tuple) and len(a) == len(b):
    return [d for x, y in zip(a, b) for d in _compare(name, x, y)]
  return [f'{name}: {short_repr(a)} → {short_repr(b)}']


def check_same_run(path: pathlib.Path, experiment: Experiment) -> None:
  """Raises UserError if the config.gin at `path` is of another run than `experiment`.

  It is compared as data: no module is imported for it, and no class made that `experiment` has not.
  """
  try:
    changed = _changes(path, experiment)
  except UserError as e:
    raise UserError(f'{path} cannot be read by this version ({e}): use another MODEL_DIR') from e
  if changed:
    more = f' and {len(changed) - 1} more' if len(changed) > 1 else ''
    raise UserError(f'{path.parent} holds a run of another config ({changed[0]}{more}): use '
                    'another MODEL_DIR, or the config that run was started with; to go on with '
                    'another batch size or schedule, ' + BRANCH.format(folder=path.parent))


def _changes(path: pathlib.Path, experiment: Experiment) -> list[str]:
  reader, names = Reader(), ComparedNames(known=map(type, dataclasses_in(experiment)))
  reader.read_file(path)
  names.read_imports(reader.imports)
  config = Config(bind(reader, names))
  _set_untrained(config)
  tree, maker, found = config.tree(Experiment), Maker(config, names), []
  for field in dataclasses.fields(Experiment):
    if field.name in MAY_CHANGE:
      continue
    new, part = getattr(experiment, field.name), tree.fields.get(field.name)
    if foreign := [n.cls.__name__ for n in nodes_in(part) if isinstance(n.cls, ForeignClass)]:
      found.append(f'{field.name}: {foreign[0]} → {short_repr(new)}')
      continue
    old = maker.make_field(tree, field.name)
    found += _compare(field.name, old, new, PARTS_MAY_CHANGE.get(field.name, ()))
  return found


def nodes_in(tree: Any) -> Iterator[Node]:
  """The classes of a tree, and those in their fields."""
  if isinstance(tree, Node):
    yield tree
    tree = [*tree.fields.values()]
  elif isinstance(tree, dict):
    tree = [*tree.values()]
  if isinstance(tree, (list, tuple)):
    for part in tree:
      yield from nodes_in(part)


def dataclasses_in(value: Any) -> Iterator[Any]:
  """A dataclass and those that it holds."""
  if isinstance(value, (tuple, list)):
    for part in value:
      yield from dataclasses_in(part)
  elif dataclasses.is_dataclass(value) and not isinstance(value, type):
    yield value
    for field in dataclasses.fields(value):
      yield from dataclasses_in(getattr(value, field.name))


__all__ = ['CONFIGS', 'check_same_run', 'differences', 'load_described', 'load_experiment']
