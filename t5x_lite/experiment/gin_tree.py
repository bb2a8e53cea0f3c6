"""What statements say a class is made of: a tree of classes and values, before anything is made.

Scopes are gin's. A class named in one, `@a/X()`, takes the bindings of `a/X` over those of `X`, and
so do the classes that it names without one. What a macro names is in the scope of its name.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
import dataclasses
import pathlib
from typing import Any

from t5x_lite.core.dataclass_checks import nearest
from t5x_lite.core.errors import UserError
from t5x_lite.experiment.gin_names import ForeignClass, Names
from t5x_lite.experiment.gin_reader import Macro, Reader, Reference, Statement, leaves

DEFAULT = 'a default of this command'
MAX_VALUES = 100_000   # of a tree: macros of macros grow fast


@dataclasses.dataclass(frozen=True)
class Call:
  """@SCOPE/X(), with the class that it names."""
  scope: str
  cls: Any


@dataclasses.dataclass(frozen=True)
class Bound:
  """A statement with the classes that it names; `key` is what it sets."""
  key: tuple[Any, ...]    # ('macro', name) or (class, field, scope)
  value: Any              # with Macro and Call
  statement: Statement


@dataclasses.dataclass(frozen=True)
class Leaf:
  """A value, and the text it was written as, if on the command line."""
  value: Any
  text: str | None
  macro: str | None       # the one that held it


@dataclasses.dataclass(frozen=True)
class Node:
  """A class to make: its fields that are set, each a Leaf, a Node, or these in brackets."""
  cls: Any
  scope: str
  location: str           # of the reference to it
  fields: dict[str, Any]
  bound: dict[str, Bound]
  origins: dict[str, str]   # ' (file:line)' of a field, or of the macro that holds its value


class Config:
  """The statements of files and bindings, by what they set; the last one wins."""

  def __init__(self, bounds: Sequence[Bound]):
    self.bounds = list(bounds)
    self.macros = {b.key[1]: b for b in bounds if b.key[0] == 'macro'}
    self.fields: dict[Any, dict[str, dict[str, Bound]]] = {}   # class -> field -> scope -> Bound
    for bound in bounds:
      if bound.key[0] != 'macro':
        cls, field, scope = bound.key
        self.fields.setdefault(cls, {}).setdefault(field, {})[scope] = bound
    self._scopes = {s for b in bounds if b.key[0] != 'macro' for s in scopes_of(b.key[2])}
    self._size = 0

  @property
  def classes(self) -> dict[str, Any]:
    """The classes of which a field is set, by name."""
    return {cls.__name__: cls for cls in self.fields}

  def set_macro(self, macro: str, value: Any, *, default: bool = False) -> None:
    """Sets a macro; as a default, only if it is not set, or required."""
    if not (default and self.is_set(macro)):
      statement = Statement('', macro, '', value, DEFAULT, None, {})
      self.macros[macro] = Bound(('macro', macro), value, statement)

  def set_field(self, cls: type, field: str, value: Any) -> None:
    """Sets a field of a class to an object, unless a statement does."""
    statement = Statement('', cls.__name__, field, value, DEFAULT, None, {})
    self.fields.setdefault(cls, {}).setdefault(
        field, {'': Bound((cls, field, ''), value, statement)})

  def is_set(self, macro: str) -> bool:
    """Whether a macro has a value."""
    return macro in self.macros and self.macros[macro].value != Macro('gin.REQUIRED')

  def value_of(self, cls: Any, field: str) -> Any:
    """The value of a field of a class without a scope, through macros; None if it is not set."""
    value = self.fields.get(cls, {}).get(field, {}).get('', None)
    seen = set()
    while isinstance(value, Bound):
      value = value.value
      if isinstance(value, Macro) and value.name not in seen:
        seen.add(value.name)
        value = self.macros.get(value.name)
    return value

  def bound_fields(self, cls: Any, scope: str) -> dict[str, Bound]:
    """The binding of each field of a class in a scope: that of the innermost one wins."""
    scopes = scopes_of(scope)
    found = {}
    for field, by_scope in self.fields.get(cls, {}).items():
      if inner := [by_scope[s] for s in scopes if s in by_scope]:
        found[field] = inner[-1]
    return found

  def tree(self, cls: Any, scope: str = '', location: str = '', inside: tuple = ()) -> Node:
    """The tree of a class. Raises UserError for what is required, not set, or made of itself."""
    if (cls, scope) in inside:
      raise UserError(f'{location}: {cls.__name__} is made of itself')
    bound = self.bound_fields(cls, scope)
    fields = {field: self._tree_of(b.value, b.statement, scope, (*inside, (cls, scope)),
                                   f'{cls.__name__}.{field}') for field, b in bound.items()}
    origins = {field: self._origin(b) for field, b in bound.items()}
    return Node(cls, scope, location, fields, bound, origins)

  def _origin(self, bound: Bound) -> str:
    """' (file:line)' of a value, or ' (NAME, file:line)' of the macro that holds it."""
    while isinstance(bound.value, Macro):   # in no circle: `tree` has followed them
      bound = self.macros[bound.value.name]
    s = bound.statement
    return f' ({s.macro}, {s.location})' if s.macro else f' ({s.location})'

  def _tree_of(self, value: Any, by: Statement, scope: str, inside: tuple, name: str) -> Any:
    self._size += 1
    if self._size > MAX_VALUES:
      raise UserError(f'{by.location}: more than {MAX_VALUES:,} values')
    again = lambda part: self._tree_of(part, by, scope, inside, name)
    if isinstance(value, Call):
      return self.tree(value.cls, self._scope(value, scope), by.location, inside)
    if isinstance(value, Macro):
      if value.name == 'gin.REQUIRED':
        setting = by.macro or name
        raise UserError(f'{setting} is required ({by.location}): pass --gin.{setting}=VALUE')
      if value.name not in self.macros:
        raise UserError(f'{by.location}: %{value.name} is not set anywhere; '
                        + nearest(value.name, self.macros))
      if value in inside:
        raise UserError(f'{by.location}: %{value.name} is made of itself')
      bound = self.macros[value.name]
      return self._tree_of(bound.value, bound.statement, self._scope(value, scope),
                           (*inside, value), name)
    if isinstance(value, (list, tuple)):
      return type(value)(map(again, value))
    if isinstance(value, dict):
      return {k: again(v) for k, v in value.items()}
    return Leaf(value, by.text, by.macro or None)

  def _scope(self, value: Call | Macro, scope: str) -> str:
    """The scope of what is named in one: its own, else that one; a macro's name, if it is used."""
    if isinstance(value, Macro):
      return value.name if value.name in self._scopes else ''
    return value.scope or scope

  def reached(self, roots: Iterable[Any]) -> set[tuple[Any, ...]]:
    """The keys of all statements that making the roots reads, whether or not they suffice."""
    found, seen = set(), set()
    todo = [(Call('', root), '') for root in roots]
    while todo:
      value, scope = todo.pop()
      if not isinstance(value, (Call, Macro)):
        continue
      scope = self._scope(value, scope)
      if (value, scope) in seen:
        continue
      seen.add((value, scope))
      read = []
      if isinstance(value, Macro):
        found.add(('macro', value.name))
        read += [self.macros[value.name]] if value.name in self.macros else []
      else:
        for field, by_scope in self.fields.get(value.cls, {}).items():
          at = [s for s in scopes_of(scope) if s in by_scope]
          found |= {(value.cls, field, s) for s in at}
          read += [by_scope[s] for s in at]
      todo += [(leaf, scope) for bound in read for leaf in leaves(bound.value)]
    return found

  def check_used(self, roots: Sequence[type], parts: Sequence[type], reader: Reader,
                 exempt: Callable[[Bound], bool]) -> None:
    """Raises UserError for a statement that nothing reads.

    What a file sets is of use if the file, or one that includes it, reads it: what replaces a part
    of an experiment need not take back the settings of the old part.

    Args:
      roots: what is made.
      parts: what files that do not bind the roots make.
      reader: of the statements.
      exempt: which bindings are not checked.
    """
    used = self.reached(roots)
    unused = [b for b in self.bounds if b.key not in used and not exempt(b)]
    contexts = {}
    for bound in unused:
      file = bound.statement.file
      for outer in reader.includes:
        if outer is None or file not in (inside := closure(outer, reader.includes)):
          continue
        if outer not in contexts:
          part = Config([b for b in self.bounds if b.statement.file in inside])
          contexts[outer] = part.reached(roots if {*roots} & {*part.fields} else parts)
        if bound.key in contexts[outer]:
          break
      else:
        raise UserError(self._unused(bound, used))

  def _unused(self, bound: Bound, used: set) -> str:
    where = bound.statement.location
    if bound.key[0] == 'macro':
      names = {key[1] for key in used if key[0] == 'macro' and key[1] != 'gin.REQUIRED'}
      return f'{where}: {bound.key[1]} is set and used nowhere; {nearest(bound.key[1], names)}'
    cls, field, scope = bound.key
    made = [key for key in used if key[0] is cls]
    if scope and (made or any(key[0] != 'macro' and key[2] == scope for key in used)):
      scopes = {key[2] for key in used if key[0] != 'macro' and key[2]}
      cure = f'; {nearest(scope, scopes)}' if scopes else ''
      return (f'{where}: {scope}/{cls.__name__}.{field} is set, and nothing names a '
              f'{cls.__name__} in the scope {scope!r}{cure}')
    return (f'{where}: {cls.__name__}.{field} is set, and this config makes no {cls.__name__}: '
            f'name it where it belongs, as @{bound.statement.selector}(), or leave it out')


def scopes_of(scope: str) -> list[str]:
  """The scopes whose bindings hold in a scope, outermost first: '', 'a' and 'a/b' in 'a/b'."""
  parts = scope.split('/') if scope else []
  return ['/'.join(parts[:i]) for i in range(len(parts) + 1)]


def closure(file: pathlib.Path, includes: Mapping[Any, Sequence[pathlib.Path]]) -> set[Any]:
  """A file and all that it includes."""
  found, todo = set(), [file]
  while todo:
    if (file := todo.pop()) not in found:
      found.add(file)
      todo += includes[file]
  return found


def bind(reader: Reader, names: Names) -> list[Bound]:
  """The statements with the classes that they name.

  Raises UserError for unknown classes and fields, and for a class that is named without brackets.
  """
  def named(value: Any, s: Statement) -> Any:
    if isinstance(value, Reference):
      cls = names.class_of(value.selector, s.imports, s.location)
      if not value.called:
        raise UserError(f'{s.location}: {value} is a class: write {value}() for an object of it')
      return Call(value.scope, cls)
    if isinstance(value, (list, tuple)):
      return type(value)(named(part, s) for part in value)
    if isinstance(value, dict):
      return {k: named(v, s) for k, v in value.items()}
    return value

  bounds = []
  for s in reader.statements:
    if not s.field:
      key = ('macro', s.macro)
    else:
      cls = names.class_of(s.selector, s.imports, s.location)
      fields = [] if isinstance(cls, ForeignClass) else [
          f.name for f in dataclasses.fields(cls) if f.init]
      if s.field not in fields and not isinstance(cls, ForeignClass):
        raise UserError(f'{s.location}: {cls.__name__} has no {s.field!r}; '
                        + nearest(s.field, fields))
      key = (cls, s.field, s.scope)
    bounds.append(Bound(key, named(s.value, s), s))
  return bounds
