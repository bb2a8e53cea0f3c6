"""The classes that gin may name: frozen dataclasses of this project, and of modules one trusts.

Importing a module runs its code, so a gin file imports these modules and no others.
"""

from collections.abc import Iterable, Mapping, Sequence
import dataclasses
import importlib.util
import pkgutil
import re
from types import ModuleType
from typing import Any

from t5x_lite.core.dataclass_checks import nearest, short_repr
from t5x_lite.core.errors import UserError
from t5x_lite.core.process import search_working_directory
from t5x_lite.experiment.gin_reader import COMMAND_LINE, MODULES, shipped_modules

PROJECT = ('t5x_lite', 'tasks', 'scaling')   # packages that gin files may always import


class Names:
  """What the names in gin statements stand for.

  Attributes:
    modules: class -> the module by which it was named first.
  """

  def __init__(self, trusted: Sequence[str] = (), known: Iterable[type] = ()):
    """For a config that is only read, `known` are its classes that are trusted, as it imports none.

    Raises UserError for a name of `trusted` that is no module.
    """
    self.trusted, self.known = tuple(trusted), frozenset(known)
    self.imported: list[str] = []
    self.modules: dict[type, str] = {}
    if self.trusted:
      search_working_directory()
    for name in self.trusted:
      if not _exists(name):
        raise UserError(f'--trusted_modules={name}: there is no module {name}, here or installed: '
                        'start in the folder that holds it, or put that folder on PYTHONPATH')

  def read_imports(self, imports: Iterable[tuple[str, str]]) -> None:
    """Imports what gin files import, (module, 'file:line') each.

    Raises UserError for what they may not, and for what there is not.
    """
    for module, location in imports:
      package = module.split('.')[0]
      if package == '__gin__':
        if module != '__gin__.dynamic_registration':
          raise UserError(f'{location}: {module}: __gin__ has only dynamic_registration')
        continue
      self.check_module(module, location)
      load_module(module, location)
      self.imported.append(module)

  def check_module(self, module: str, location: str) -> None:
    """Raises UserError for a module outside this project that is not trusted."""
    if not re.fullmatch(r'[^\W\d]\w*(\.[^\W\d]\w*)*', module):
      raise UserError(f'{location}: {short_repr(module)} is not the name of a module')
    names = (*PROJECT, *self.trusted)
    if '__main__' in module or not any(f'{module}.'.startswith(f'{name}.') for name in names):
      package = module.split('.')[0]
      raise UserError(f'{location}: {module} is not part of this project: pass --trusted_modules='
                      f'{package} to let gin import it and run its code')

  def class_of(self, selector: str, imports: Mapping[str, str], location: str) -> type:
    """The class of a selector, 'models.ModelConfig' or a bare 'ModelConfig'.

    Raises UserError for an unknown name, with the nearest.
    """
    names, _, owner = selector.rpartition('.')
    first, *attributes = names.split('.')
    if not first:
      return self._class_named(owner, location)
    if first not in imports and location == COMMAND_LINE:
      imports = {module.rpartition('.')[2]: module for module in shipped_modules()} | {**imports}
    if first not in imports:
      raise UserError(f'{location}: {names!r} of {selector!r} is not imported; '
                      + nearest(first, imports))
    name = '.'.join([imports[first], *attributes])
    self.check_module(name, location)
    module = load_module(name, location)
    classes = self._classes_of(module)
    if owner not in classes:
      if isinstance(vars(module).get(owner), type):
        raise UserError(f'{location}: {selector} is not a frozen dataclass of this project or of '
                        'a trusted module: decorate a class of your own with '
                        '@dataclasses.dataclass(frozen=True, kw_only=True)')
      known = set(classes) | {n for m in self._searched() for n in self._classes_of(m, own=True)}
      raise UserError(f'{location}: unknown name {selector!r}; {nearest(owner, known)}')
    self.modules.setdefault(classes[owner], name)
    return classes[owner]

  def _class_named(self, owner: str, location: str) -> type:
    found = {}
    for module in (*self._searched(), None):
      if module is None and not found:   # of what gin files of the project import
        shipped = [load_module(name, location) for name in shipped_modules()]
        found = {cls: m.__name__ for m in shipped
                 if (cls := self._classes_of(m, own=True).get(owner))}
      elif module and (cls := self._classes_of(module, own=True).get(owner)):
        found.setdefault(cls, module.__name__)
    if not found:
      known = {name for m in self._searched() for name in self._classes_of(m, own=True)}
      raise UserError(f'{location}: unknown name {owner!r}; {nearest(owner, known)}')
    if len(found) > 1:
      raise UserError(f'{location}: {owner!r} is in {" and in ".join(found.values())}: write the '
                      'module before it, as in a file that imports it')
    cls, module = next(iter(found.items()))
    self.modules.setdefault(cls, module)
    return cls

  def _searched(self) -> list[ModuleType]:
    return [load_module(m, '') for m in dict.fromkeys((*self.imported, *MODULES))]

  def _classes_of(self, module: ModuleType, own: bool = False) -> dict[str, type]:
    """The frozen dataclasses of a module that gin may name; only its `own`, or all it has."""
    names = (*PROJECT, *self.trusted)
    mine = lambda cls: hasattr(module, '__path__') or cls.__module__ == module.__name__
    return {name: value for name, value in vars(module).items() if is_frozen_dataclass(value)
            and any(f'{value.__module__}.'.startswith(f'{n}.') for n in names)
            and (mine(value) or not own)}


class ForeignClass:
  """Stands for a class of a module that is not imported, in a config that is only compared."""

  def __init__(self, selector: str):
    self.__name__ = selector


class ComparedNames(Names):
  """Names in the config of another run: no module of a user's is imported for it.

  Classes outside this project are those of `known`, else each is a ForeignClass.
  """

  def read_imports(self, imports: Iterable[tuple[str, str]]) -> None:
    super().read_imports((m, at) for m, at in imports if m.split('.')[0] in (*PROJECT, '__gin__'))

  def class_of(self, selector: str, imports: Mapping[str, str], location: str) -> Any:
    names, _, owner = selector.rpartition('.')
    module = imports.get(names.split('.')[0], names)
    if not names or module.split('.')[0] in PROJECT:
      return super().class_of(selector, imports, location)
    own = [cls for cls in self.known if cls.__name__ == owner]
    return own[0] if own else ForeignClass(selector)


def load_module(module: str, location: str) -> ModuleType:
  """A module; UserError if there is none of that name. What its own code raises passes through."""
  try:
    return pkgutil.resolve_name(f'{module}:')   # the colon: a module, not something in one
  except ModuleNotFoundError as e:
    if e.name and f'{module}.'.startswith(f'{e.name}.'):
      raise UserError(f'{location}: cannot import {module}: there is no module {e.name}') from e
    e.add_note(f'imported by {location}')
    raise   # it exists, and imports something that does not
  except ValueError as e:
    raise UserError(f'{location}: {module!r} is not the name of a module') from e
  except Exception as e:
    e.add_note(f'imported by {location}')
    raise


def is_frozen_dataclass(value: Any) -> bool:
  """Whether a value is a class that gin may fill."""
  return isinstance(value, type) and dataclasses.is_dataclass(value) and (
      value.__dataclass_params__.frozen)


def _exists(module: str) -> bool:
  try:
    return importlib.util.find_spec(module) is not None
  except (ImportError, ValueError, AttributeError):
    return False
