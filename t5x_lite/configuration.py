"""gin files and --gin.NAME=VALUE bindings -> an Experiment, with errors that name file and line.

This is the only module that knows gin: its state is cleared before and after `load`, and what
comes out is a frozen dataclass and the operative config as text.
"""

from collections.abc import Iterator, Sequence
import contextlib
import dataclasses
import importlib
import pathlib
import re

import gin
from gin import config_parser

from t5x_lite.errors import UserError
from t5x_lite.experiment import Experiment, TrainConfig
from t5x_lite.input_pipeline import DataConfig
from t5x_lite.optimizers import AdamW, Constant
from t5x_lite.partitioning import MeshConfig
from t5x_lite.validation import FieldError, nearest

CONFIGS = pathlib.Path(__file__).resolve().parent.parent / 'configs'
# The classes gin fills, and the modules gin files import them from.
CONFIGURABLES = {
    'Experiment': 't5x_lite.experiment', 'TrainConfig': 't5x_lite.experiment',
    'EvalConfig': 't5x_lite.experiment', 'InferConfig': 't5x_lite.experiment',
    'InitFrom': 't5x_lite.experiment', 'ModelConfig': 't5x_lite.models',
    'RopeScaling': 't5x_lite.models.positions',
    'DataConfig': 't5x_lite.input_pipeline', 'MeshConfig': 't5x_lite.partitioning',
    'AdamW': 't5x_lite.optimizers', 'Adafactor': 't5x_lite.optimizers',
    'Constant': 't5x_lite.optimizers', 'Rsqrt': 't5x_lite.optimizers',
    'WarmupCosine': 't5x_lite.optimizers', 'WSD': 't5x_lite.optimizers',
    'FileTask': 'tasks.files', 'Mixture': 'tasks.mixtures',
}
_PASS_ONE = 'pass one that does, e.g. --gin_file=experiments/tiny_lm.gin'
LENGTH = 2048   # tokens of a row of a model that is described alone and has no max_length
# What a run may change when it is taken up again; everything else decides what its numbers mean.
MAY_CHANGE = ('model_dir', 'train', 'mesh', 'eval', 'infer', 'init_from')
TRAIN_MAY_CHANGE = ('steps', 'log_every', 'eval_every', 'checkpoint_every', 'keep_checkpoints',
                    'microbatches')


def load(gin_files: Sequence[str], bindings: Sequence[str] = ()) -> tuple[Experiment, str]:
  """The experiment that gin files and bindings ('NAME=VALUE') describe, and its operative config.

  Files are looked for in the working directory, then in configs/. Raises UserError, in one line
  with file and line, for anything that is not known, not found, not set or of the wrong type.
  """
  with _parsed(gin_files, bindings) as source:
    if 'Experiment' not in source.owners():
      raise UserError(f'No file binds an Experiment: {_PASS_ONE}')
    return gin.get_configurable('Experiment')(), gin.operative_config_str()


def load_described(gin_files: Sequence[str], bindings: Sequence[str] = ()) -> Experiment:
  """As `load`, for looking at: no MODEL_DIR is needed, and a model may stand alone.

  A model alone, with or without a mesh, gets one step of AdamW on one row of its max_length, or of
  LENGTH tokens if it has none (on either side of an encoder-decoder).
  """
  with _parsed(gin_files, ["MODEL_DIR = ''", *bindings]) as source:
    bound = source.owners()
    if 'Experiment' in bound:
      return gin.get_configurable('Experiment')()
    if unused := sorted(bound - {'ModelConfig', 'RopeScaling', 'MeshConfig'}):
      raise UserError(f'{unused[0]} is set, and no file binds the Experiment that it would be part '
                      f'of: {_PASS_ONE}')
    if 'ModelConfig' not in bound:
      raise UserError(f'No file binds an Experiment or a ModelConfig: {_PASS_ONE}')
    model = gin.get_configurable('ModelConfig')()
    mesh = gin.get_configurable('MeshConfig')() if 'MeshConfig' in bound else MeshConfig()
  length = model.max_length or LENGTH
  inputs_length = None if model.family == 'decoder_only' else length
  return Experiment(
      model_dir='', model=model, mesh=mesh, train=TrainConfig(steps=1),
      optimizer=AdamW(learning_rate=Constant(rate=1e-3)),
      data=DataConfig(task='', inputs_length=inputs_length, targets_length=length, batch_size=1))


@contextlib.contextmanager
def _parsed(gin_files: Sequence[str], bindings: Sequence[str]) -> Iterator['_Source']:
  """gin with all of it parsed, until the context ends; errors inside become UserErrors."""
  if not gin_files:
    raise UserError('No gin file: pass --gin_file=FILE, e.g. --gin_file=experiments/tiny_lm.gin')
  paths = [find(name) for name in gin_files]
  source = _Source()
  for path in paths:
    source.read_file(path)
  source.read('\n'.join([*_header(), *map(_statement, bindings)]), 'the command line')
  source.check()
  gin.clear_config()
  try:
    gin.parse_config(source.text())
    yield source
  except UserError as e:
    message = str(e).splitlines()[0]
    place = source.place(e) if isinstance(e, FieldError) else ''
    raise UserError(message + place) from None
  except (ValueError, TypeError, NameError, AttributeError, RuntimeError, ImportError) as e:
    raise UserError(_one_line(e)) from e
  finally:
    gin.clear_config()


def find(name: str, beside: pathlib.Path | None = None) -> pathlib.Path:
  """The path of a gin file: as given, else in configs/, else beside the file that includes it."""
  folders = [pathlib.Path(), CONFIGS, CONFIGS.parent, *([beside] if beside else [])]
  for folder in folders:
    for candidate in (folder / name, folder / f'{name}.gin'):
      if candidate.is_file():
        return candidate
  known = [str(p.relative_to(CONFIGS)) for p in CONFIGS.rglob('*.gin')]
  searched = ', '.join(str(f.resolve()) for f in folders)
  raise UserError(f'gin file {name!r} not found in {searched}; {nearest(name, known)}')


def differences(old: Experiment, new: Experiment) -> list[str]:
  """What must be equal in two configs of one run and is not, e.g. 'model.num_layers: 2 → 4'."""
  def compare(name, a, b, skip=()):
    if a == b:
      return []
    if dataclasses.is_dataclass(a) and type(a) is type(b):
      return [d for f in dataclasses.fields(a) if f.name not in skip
              for d in compare(f'{name}.{f.name}', getattr(a, f.name), getattr(b, f.name))]
    return [f'{name}: {a!r} → {b!r}']

  found = compare('train', old.train, new.train, TRAIN_MAY_CHANGE)
  for field in dataclasses.fields(Experiment):
    if field.name not in MAY_CHANGE:
      found += compare(field.name, getattr(old, field.name), getattr(new, field.name))
  return found


def check_same_run(path: pathlib.Path, experiment: Experiment) -> None:
  """Raises UserError if the config.gin at `path` is of another run than `experiment`."""
  try:
    old, _ = load([str(path)])
  except UserError as e:
    raise UserError(f'{path} cannot be read by this version ({e}): use another MODEL_DIR') from e
  changed = differences(old, experiment)
  if changed:
    more = f' and {len(changed) - 1} more' if len(changed) > 1 else ''
    raise UserError(f'{path.parent} holds a run of another config ({changed[0]}{more}): use '
                    'another MODEL_DIR, or the config that run was started with')


class _Source:
  """What the gin files and bindings say, statement by statement, with the place of each."""

  def __init__(self):
    self.imports = {}        # import statement -> None: all of them, in order
    self.lines = []          # every other line, each include replaced by the lines of its file
    self.bindings = {}       # (class, field) -> 'file:line'
    self.macros = {}         # name -> (value, 'file:line')
    self.used = []           # (macro name, 'file:line')

  def read_file(self, path: pathlib.Path):
    self.read(path.read_text(encoding='utf-8'), str(path), path.parent)

  def read(self, text: str, name: str, folder: pathlib.Path | None = None):
    try:
      statements = list(config_parser.ConfigParser(text, _Delegate()))
    except (SyntaxError, ValueError) as e:
      raise UserError(f'{name}, line {getattr(e, "lineno", "?")}: not valid gin: '
                      f'{_one_line(e)}') from e
    self._take_lines(text, name, folder)
    imports = {}
    for statement in statements:
      place = name if folder is None else f'{name}:{statement.location.line_num}'
      if isinstance(statement, config_parser.IncludeStatement):
        continue  # read below, where its lines belong
      if isinstance(statement, config_parser.ImportStatement):
        imports[statement.bound_name()] = statement.module
      elif isinstance(statement, config_parser.BlockDeclaration):
        self._check_name(statement.selector, None, imports, place)
      else:
        self._binding(statement, imports, place)

  def _take_lines(self, text: str, name: str, folder: pathlib.Path | None):
    for number, line in enumerate(text.splitlines(), 1):
      if included := re.match(r'include\s+[\'"](.+?)[\'"]', line):
        try:
          path = find(included[1], folder)
        except UserError as e:
          raise UserError(f'{name}:{number}: {e}') from e
        self.read_file(path)
      elif re.match(r'(from|import)\s', line):
        self.imports[line.split('#')[0].strip()] = None
      else:
        self.lines.append(line)

  def text(self) -> str:
    """All of it as one gin file."""
    return '\n'.join([*self.imports, *self.lines])

  def _binding(self, statement, imports, place):
    self.used += [(macro, place) for macro in _macros(statement.value)]
    for reference in _references(statement.value):
      self._check_name(reference, None, imports, place)
    if not statement.arg_name:
      self.macros[statement.selector] = (statement.value, place)
      return
    owner = self._check_name(statement.selector, statement.arg_name, imports, place)
    self.bindings[owner, statement.arg_name] = place

  def _check_name(self, selector: str, field: str | None, imports, place) -> str:
    """The class a selector names; UserError if it or its field is unknown, with the nearest."""
    module, _, owner = selector.rpartition('.')
    first = module.split('.')[0]
    if first and first not in imports:
      raise UserError(f'{place}: {module!r} of {selector!r} is not imported; '
                      + nearest(first, imports))
    known = owner in CONFIGURABLES and (
        not module or imports[first].split('.')[-1] == CONFIGURABLES[owner].split('.')[-1])
    if not known:
      if first and not imports[first].startswith(('t5x_lite', 'tasks')):
        return owner   # a class of the user's own module: gin looks at it
      raise UserError(f'{place}: unknown name {selector!r}; {nearest(owner, CONFIGURABLES)}')
    cls = getattr(importlib.import_module(CONFIGURABLES[owner]), owner)
    fields = [f.name for f in dataclasses.fields(cls)]
    if field is not None and field not in fields:
      raise UserError(f'{place}: {owner} has no {field!r}; {nearest(field, fields)}')
    return owner

  def owners(self) -> set[str]:
    """The classes of which some field is set."""
    return {owner for owner, _ in self.bindings}

  def check(self):
    """Raises UserError for a macro that is used and not set, or required and not set."""
    for name, place in self.used:
      if name not in self.macros and not name.startswith('gin.'):
        raise UserError(f'{place}: %{name} is not set anywhere; {nearest(name, self.macros)}')
    for name, (value, place) in self.macros.items():
      if value == '%gin.REQUIRED':
        raise UserError(f'{name} is required ({place}): pass --gin.{name}=VALUE')

  def place(self, error: FieldError) -> str:
    """' (file:line)' of the binding an error is about, if it was bound."""
    place = self.bindings.get((error.owner.__name__, error.field))
    return f' ({place})' if place else ''


class _Delegate:
  """Leaves references and macros as text, so that statements can be looked at before they count."""

  def configurable_reference(self, name, evaluate):
    return f'@{name}' + ('()' if evaluate else '')

  def macro(self, name):
    return f'%{name}'


def _leaves(value) -> Iterator[str]:
  if isinstance(value, dict):
    value = [*value.keys(), *value.values()]
  if isinstance(value, (list, tuple)):
    for v in value:
      yield from _leaves(v)
  elif isinstance(value, str):
    yield value


def _macros(value) -> list[str]:
  return [v[1:] for v in _leaves(value) if re.fullmatch(r'%[\w./]+', v)]


def _references(value) -> list[str]:
  return [v[1:].removesuffix('()').split('/')[-1] for v in _leaves(value)
          if re.fullmatch(r'@[\w./]+(\(\))?', v)]


def _header() -> list[str]:
  """Imports under which a binding of the command line may name any configurable."""
  modules = dict.fromkeys(CONFIGURABLES.values())
  lines = [f'from {m.rpartition(".")[0]} import {m.rpartition(".")[2]}' for m in modules]
  return ['from __gin__ import dynamic_registration', *lines]


def _statement(binding: str) -> str:
  """A gin statement from 'NAME=VALUE': short class names get their module, bare words quotes."""
  name, equals, value = binding.partition('=')
  name, value = name.strip(), value.strip()
  if not equals or not re.fullmatch(r'[\w./]+', name):
    raise UserError(f'--gin.{binding}: expected --gin.NAME=VALUE')
  owner, dot, field = name.partition('.')
  if dot and owner in CONFIGURABLES:
    name = f'{CONFIGURABLES[owner].rpartition(".")[2]}.{owner}.{field}'
  try:
    next(iter(config_parser.ConfigParser(f'x = {value}', _Delegate())))
    literal = bool(value)
  except (SyntaxError, ValueError):
    literal = False
  return f'{name} = {value if literal else repr(value)}'


def _one_line(error: BaseException) -> str:
  return re.sub(r'\s+', ' ', str(error)).strip()
