"""The statements of gin files and bindings, with the file and line of each."""

from collections.abc import Iterator, Sequence
import dataclasses
import pathlib
import pkgutil
import re
import sys
from types import ModuleType
from typing import Any

from gin import config_parser

from t5x_lite.core.dataclass_checks import ORIGINS, nearest
from t5x_lite.core.errors import UserError

CONFIGS = pathlib.Path(__file__).resolve().parents[2] / 'configs'
PROJECT = ('__gin__', 't5x_lite', 'tasks', 'scaling')   # packages that gin files may always import
# Searched for classes that the command line names and no gin file imports.
MODULES = (
    't5x_lite.experiment', 't5x_lite.models', 't5x_lite.models.positions',
    't5x_lite.training.optimizers', 't5x_lite.training.schedules', 't5x_lite.parallel.mesh',
    't5x_lite.objectives.language_model', 't5x_lite.objectives.router',
    't5x_lite.objectives.next_sentence', 't5x_lite.adaptation.partial')


@dataclasses.dataclass(frozen=True)
class _Binding:
  """One statement that sets a field."""
  owner: str
  field: str
  scope: str      # the bindings of one scope go to one object
  value: Any      # as gin's parser gives it: references and macros as text
  location: str      # 'file:line'


class Source:
  """All statements of some gin files and bindings."""

  def __init__(self, trust: Sequence[str] = ()):
    self.trust = tuple(trust)
    self.files: set[pathlib.Path] = set()   # that were read
    self.imports: dict[str, str] = {}     # import statement -> module, all of them, in order
    self.lines: list[str] = []            # every other line, each include replaced by its file
    self.bindings: list[_Binding] = []
    self.macros: dict[str, tuple[Any, str]] = {}   # name -> (value, 'file:line')
    self.used_macros: list[tuple[str, str]] = []   # (name, 'file:line')

  def read_file(self, path: pathlib.Path) -> None:
    """Reads a file and those it includes, each once: what came after it stays as it is.

    The config.gin of a run means its own folder, wherever that was when it was written.
    """
    if path.resolve() in self.files:
      return
    self.files.add(path.resolve())
    self._read(path.read_text(encoding='utf-8'), str(path), path.parent)
    if is_run_config(path):
      self._read(f'MODEL_DIR = {str(path.parent)!r}', str(path), path.parent)

  def read_bindings(self, bindings: Sequence[str]) -> None:
    """Reads 'NAME=VALUE' statements, where classes need no module and words no quotes."""
    # name that statements use -> import statement
    named = {_bound_name(statement): statement for statement in self.imports}
    statements = []
    for binding in bindings:
      name, equals, value = binding.partition('=')
      name, value = name.strip(), value.strip()
      if not equals or not re.fullmatch(r'[\w./]+', name):
        raise UserError(f'--gin.{binding}: expected --gin.NAME=VALUE')
      scope, _, selector = name.rpartition('/')
      owner, dot, field = selector.partition('.')
      if dot and (module := self._module_with(owner)):
        package, _, last = module.rpartition('.')
        named.setdefault(last, f'from {package} import {last}')
        name = f'{scope}/{last}.{owner}.{field}'.lstrip('/')
      statements.append(f'{name} = {value if _is_literal(value) else repr(value)}')
    used = {word for s in statements for word in re.findall(r'\w+', s)}
    header = [line for name, line in named.items() if name in used or line in self.imports]
    self._read('\n'.join(['from __gin__ import dynamic_registration', *header, *statements]),
               'the command line', None)

  def _read(self, text: str, name: str, folder: pathlib.Path | None) -> None:
    try:
      statements = list(config_parser.ConfigParser(text, _Delegate()))
    except (SyntaxError, ValueError) as e:
      raise UserError(f'{name}, line {getattr(e, "lineno", "?")}: not valid gin: '
                      f'{one_line(e)}') from e
    self._take_lines(text, name, folder)
    imports = {}   # name that the statements of this text use -> module
    for statement in statements:
      location = name if folder is None else f'{name}:{statement.location.line_num}'
      if isinstance(statement, config_parser.IncludeStatement):
        continue  # its lines are read above
      if isinstance(statement, config_parser.ImportStatement):
        self._check_trusted(statement.module, location)
        imports[statement.bound_name()] = statement.module
      elif isinstance(statement, config_parser.BlockDeclaration):
        self._class_of(statement.selector, None, imports, location)
      else:
        self._take_binding(statement, imports, location)

  def _take_lines(self, text: str, name: str, folder: pathlib.Path | None) -> None:
    for number, line in enumerate(text.splitlines(), 1):
      if included := re.match(r'include\s+[\'"](.+?)[\'"]', line):
        try:
          path = find_file(included[1], folder)
        except UserError as e:
          raise UserError(f'{name}:{number}: {e}') from e
        self.read_file(path)
      elif re.match(r'(from|import)\s', line):
        self.imports[line.split('#')[0].strip()] = _module_of(line)
      else:
        self.lines.append(line)

  def read_default(self, macro: str, value: str) -> None:
    """Sets a macro that is not set, or required."""
    if self.macros.get(macro, ('%gin.REQUIRED',))[0] == '%gin.REQUIRED':
      self.read_bindings([f'{macro}={value}'])

  def text(self) -> str:
    """All of it as one gin file."""
    return '\n'.join([*self.imports, *self.lines])

  def _take_binding(self, statement, imports: dict[str, str], location: str) -> None:
    self.used_macros += [(macro, location) for macro in _macros(statement.value)]
    for reference in _references(statement.value):
      self._class_of(reference, None, imports, location)
    if not statement.arg_name:
      self.macros[statement.selector] = (statement.value, location)
      return
    owner = self._class_of(statement.selector, statement.arg_name, imports, location)
    self.bindings.append(_Binding(owner, statement.arg_name, statement.scope, statement.value,
                                  location))

  def _check_trusted(self, module: str, location: str) -> None:
    """Raises UserError for a module outside this project, as importing it runs its code.

    A module that this process has imported already runs nothing new.
    """
    package = module.split('.')[0]
    if package not in (*PROJECT, *self.trust) and module not in (*self.trust, *sys.modules):
      raise UserError(f'{location}: {module} is not part of this project: pass --trust={package} '
                      'to let gin import it and run its code')

  def _class_of(self, selector: str, field: str | None, imports: dict[str, str], location: str
                ) -> str:
    """The class a selector names; UserError if it or its field is unknown, with the nearest."""
    names, _, owner = selector.rpartition('.')
    first, *attributes = names.split('.')
    if first and first not in imports:
      raise UserError(f'{location}: {names!r} of {selector!r} is not imported; '
                      + nearest(first, imports))
    if not first:
      module = self._module_with(owner)
      if module is None:
        raise UserError(f'{location}: unknown name {selector!r}; {nearest(owner, self._known())}')
      attributes, first = [], None
    module = _import('.'.join([imports[first] if first else module, *attributes]), location)
    classes = _dataclasses_of(module)
    if owner not in classes:
      if isinstance(vars(module).get(owner), type):
        raise UserError(f'{location}: {selector} is not a frozen dataclass: decorate it with '
                        '@dataclasses.dataclass(frozen=True, kw_only=True)')
      known = set(classes) | self._known()
      raise UserError(f'{location}: unknown name {selector!r}; {nearest(owner, known)}')
    fields = [f.name for f in dataclasses.fields(classes[owner])]
    if field is not None and field not in fields:
      raise UserError(f'{location}: {owner} has no {field!r}; {nearest(field, fields)}')
    return owner

  def _module_with(self, owner: str) -> str | None:
    """The module of a class named without one: among the files' imports, or ours."""
    for module in (*self.imports.values(), *MODULES):
      if module and module.split('.')[0] != '__gin__' and owner in _dataclasses_of(
          _import(module, 'the command line')):
        return module
    return None

  def _known(self) -> set[str]:
    """The classes that may be named without a module."""
    modules = [m for m in (*self.imports.values(), *MODULES) if m and not m.startswith('__gin__')]
    return {name for m in modules for name in _dataclasses_of(_import(m, ''))}

  def bound_classes(self) -> set[str]:
    """The classes of which some field is set."""
    return {binding.owner for binding in self.bindings}

  def bound_fields(self, name: str) -> dict[str, Any]:
    """The fields of a class that are set, and their values."""
    return {b.field: self._resolved(b.value) for b in self.bindings if b.owner == name}

  def check(self) -> None:
    """Raises UserError for a macro that is used and not set, or required and not set."""
    for name, location in self.used_macros:
      if name not in self.macros and not name.startswith('gin.'):
        raise UserError(f'{location}: %{name} is not set anywhere; {nearest(name, self.macros)}')
    for name, (value, location) in self.macros.items():
      if value == '%gin.REQUIRED':
        raise UserError(f'{name} is required ({location}): pass --gin.{name}=VALUE')

  def origin_of(self, owner: Any, field: str) -> str:
    """' (file:line)' of the binding of a field of a config, or of its class; '' without one."""
    cls = owner if isinstance(owner, type) else type(owner)
    found = [b for b in self.bindings if (b.owner, b.field) == (cls.__name__, field)]
    if not isinstance(owner, type) and len({b.scope for b in found}) > 1:
      value = getattr(owner, field)   # several objects of the class: those with this value
      found = [b for b in found if self._resolved(b.value) == value] or found
    return f' ({found[-1].location})' if found else ''

  def attach_origins(self, config: Any) -> None:
    """Records in a config where its fields are bound, for later errors."""
    names = [f.name for f in dataclasses.fields(config)]
    origins = {name: origin for name in names if (origin := self.origin_of(config, name))}
    object.__setattr__(config, ORIGINS, origins)

  def _resolved(self, value: Any) -> Any:
    """The value of a macro; any other value as it is."""
    while isinstance(value, str) and value.startswith('%') and value[1:] in self.macros:
      value = self.macros[value[1:]][0]
    return value


def find_file(name: str, beside: pathlib.Path | None = None) -> pathlib.Path:
  """The path of a gin file: as given, else in configs/, else beside the file that includes it."""
  folders = [pathlib.Path(), CONFIGS, CONFIGS.parent, *([beside] if beside else [])]
  for folder in folders:
    for candidate in (folder / name, folder / f'{name}.gin'):
      if candidate.is_file():
        return candidate
  known = [str(p.relative_to(CONFIGS)) for p in CONFIGS.rglob('*.gin')]
  searched = ', '.join(str(f.resolve()) for f in folders)
  raise UserError(f'gin file {name!r} not found in {searched}; {nearest(name, known)}')


def is_run_config(path: pathlib.Path) -> bool:
  """Whether a gin file is the config.gin of a run."""
  beside = [path.parent / name for name in ('checkpoints', 'metrics.jsonl')]
  return path.name == 'config.gin' and any(other.exists() for other in beside)


def one_line(error: BaseException) -> str:
  """The message of an error, without line breaks."""
  return re.sub(r'\s+', ' ', str(error)).strip()


class _Delegate:
  """Leaves references and macros as text, so that statements are checked before they apply."""

  def configurable_reference(self, name, evaluate):
    return f'@{name}' + ('()' if evaluate else '')

  def macro(self, name):
    return f'%{name}'


def _import(module: str, location: str) -> ModuleType:
  """A module; UserError if there is none of that name. What its own code raises passes through."""
  try:
    return pkgutil.resolve_name(f'{module}:')   # the colon: a module, not something in one
  except ModuleNotFoundError as e:
    if not e.name or not f'{module}.'.startswith(f'{e.name}.'):
      raise   # it exists, and imports something that does not
    raise UserError(f'{location}: cannot import {module}: there is no module {e.name}') from e


def _dataclasses_of(module: ModuleType) -> dict[str, type]:
  """The frozen dataclasses that a module has, its own and those it exports, by name."""
  return {name: value for name, value in vars(module).items()
          if isinstance(value, type) and dataclasses.is_dataclass(value)
          and value.__dataclass_params__.frozen}


def _module_of(statement: str) -> str:
  """'a.b' of 'import a.b', 'from a import b' and 'import a.b as c'."""
  words = statement.split('#')[0].split()
  return f'{words[1]}.{words[3]}' if words[0] == 'from' else words[1]


def _bound_name(statement: str) -> str:
  """The name under which an import statement's module is used."""
  words = statement.split()
  if 'as' in words:
    return words[-1]
  return words[-1] if words[0] == 'from' else words[1].split('.')[0]


def _is_literal(value: str) -> bool:
  try:
    next(iter(config_parser.ConfigParser(f'x = {value}', _Delegate())))
    return bool(value)
  except (SyntaxError, ValueError):
    return False


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
