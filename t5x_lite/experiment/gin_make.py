"""A tree of classes and values -> objects, and the text of config.gin that makes them again."""

import dataclasses
from typing import Any

from t5x_lite.core import paths
from t5x_lite.core.dataclass_checks import (
  ORIGINS,
  FieldError,
  as_written,
  broken_rule,
  check_types,
  mark_of,
  short_repr,
  type_hints,
)
from t5x_lite.core.errors import UserError
from t5x_lite.experiment.gin_names import Names
from t5x_lite.experiment.gin_reader import Macro, leaves
from t5x_lite.experiment.gin_tree import Call, Config, Leaf, Node


class Maker:
  """Makes objects of trees; remembers what it made."""

  def __init__(self, config: Config, names: Names):
    self._config, self._names = config, names
    self.nodes: dict[tuple[Any, str], Node] = {}   # (class, scope) -> what was made
    self._values: dict[tuple[Any, str], dict[str, Any]] = {}
    self._texts: dict[str, str] = {}     # macro -> the text that its number is taken as

  def make(self, node: Node) -> Any:
    """The object, and those in it, checked.

    Raises UserError in one line, with file and line; what the code of a class raises passes
    through.
    """
    cls = node.cls
    for field in dataclasses.fields(cls):
      required = field.default is field.default_factory is dataclasses.MISSING
      if required and field.init and field.name not in node.fields:
        origin = f' (@{cls.__name__}() in {node.location})' if node.location else ''
        raise UserError(f'{cls.__name__}.{field.name} is required: set it, or pass '
                        f'--gin.{cls.__name__}.{field.name}=VALUE{origin}')
    hints = type_hints(cls)
    values = {name: self._value(node, name, tree, hints[name])
              for name, tree in node.fields.items()}
    for name, value in values.items():   # before the class's own checks, which may trust in types
      if rule := broken_rule(value, hints[name]):
        raise UserError(f'{cls.__name__}.{name} = {short_repr(value)}: {rule}{node.origins[name]}')
    try:
      made = cls(**values)
      check_types(made)
    except FieldError as e:
      if e.origin or cls not in (type(e.owner), e.owner):
        raise
      raise UserError(f'{e}{self._origin(node, e)}') from None
    object.__setattr__(made, ORIGINS, node.origins)
    self.nodes[cls, node.scope], self._values[cls, node.scope] = node, values
    return made

  def make_field(self, node: Node, name: str) -> Any:
    """The value of one field of a class that is not made, its default if it is not set."""
    if name in node.fields:
      return self._value(node, name, node.fields[name], type_hints(node.cls)[name])
    field = next(f for f in dataclasses.fields(node.cls) if f.name == name)
    return field.default if field.default_factory is dataclasses.MISSING else (
        field.default_factory())

  def _origin(self, node: Node, error: FieldError) -> str:
    """Where the field was set that an error is of; else where one was that it names; else ''."""
    named = [name for name in node.bound if name in error.rule.replace(',', ' ').split()]
    return next((node.origins[n] for n in (error.field, *named) if n in node.origins), '')

  def _value(self, node: Node, field: str, tree: Any, hint: Any) -> Any:
    if not isinstance(tree, Leaf):
      return as_written(self._made(tree), hint)
    value = as_written(tree.value, hint, tree.text)
    if value is tree.text and tree.macro and value is not tree.value:
      self._texts[tree.macro] = value
    if isinstance(value, str):
      try:
        if mark_of(hint) == 'path' and (value or field != 'model_dir'):
          return paths.expand(value)
        if mark_of(hint) == 'module':
          self._names.check_module(value, f'{node.cls.__name__}.{field}')
      except UserError as e:
        raise UserError(f'{e}{node.origins[field]}') from e
    return value

  def _made(self, tree: Any) -> Any:
    if isinstance(tree, Node):
      return self.make(tree)
    if isinstance(tree, Leaf):
      return tree.value
    if isinstance(tree, dict):
      return {k: self._made(v) for k, v in tree.items()}
    return type(tree)(map(self._made, tree))

  def as_gin(self) -> str:
    """The text of a gin file that makes the same, with all macros and all fields."""
    modules = {cls: self._names.modules.get(cls, cls.__module__) for cls, _ in self.nodes}
    called = {module: module.rpartition('.')[2] for module in modules.values()}
    for module in sorted(called):   # two modules of one last name
      if [*called.values()].count(called[module]) > 1:
        called[module] = module.replace('.', '_')
    names = {cls: f'{called[module]}.{cls.__name__}' for cls, module in modules.items()}
    keys = self._config.reached(cls for cls, scope in self.nodes if not scope)
    macros = sorted(key[1] for key in keys if key[0] == 'macro' and key[1] in self._config.macros)
    lines = ['from __gin__ import dynamic_registration', *sorted(map(_import, called.items()))]
    lines += ['', '# Macros', *(
        f'{name} = ' + _text(self._texts.get(name, self._config.macros[name].value), names)
        for name in macros)]
    for (cls, scope), node in sorted(self.nodes.items(), key=lambda item: (
        names[item[0][0]], item[0][1])):
      fields = dataclasses.fields(cls)
      scoped = f'{scope}/{names[cls]}' if scope else names[cls]
      set_ = [f'{scoped}.{f.name} = {text}' for f in fields
              if f.init and (text := self._field(node, f, names)) is not None]
      lines += ['', f'# {scoped}', *set_]
    return '\n'.join(lines) + '\n'

  def _field(self, node: Node, field: dataclasses.Field, names: dict[Any, str]) -> str | None:
    """A field as gin; None for a default, or an object that no statement made: gin has no text."""
    if field.name in node.bound:
      raw = node.bound[field.name].value
      if dataclasses.is_dataclass(raw) and not isinstance(raw, (Macro, Call)):
        return None
      named = any(isinstance(leaf, (Macro, Call)) for leaf in leaves(raw))
      return _text(raw if named else self._values[node.cls, node.scope][field.name], names)
    value = field.default if field.default_factory is dataclasses.MISSING else (
        field.default_factory())
    plain = all(leaf is None or type(leaf) in (bool, int, float, str) for leaf in leaves(value))
    return _text(value, names) if plain else None


def _import(item: tuple[str, str]) -> str:
  module, name = item
  package, _, last = module.rpartition('.')
  as_ = '' if name == last else f' as {name}'
  return (f'from {package} import {last}' if package else f'import {last}') + as_


def _text(value: Any, names: dict[Any, str], room: int = 60) -> str:
  """A value as gin reads it, an element a line if it is long."""
  again = lambda part: _text(part, names, room)
  if isinstance(value, Call):
    return f'@{value.scope}/'.replace('@/', '@') + f'{names[value.cls]}()'
  if isinstance(value, dict):
    parts, ends = [f'{again(k)}: {again(v)}' for k, v in value.items()], '{}'
  elif isinstance(value, (list, tuple)):
    parts, ends = [*map(again, value)], '[]' if isinstance(value, list) else '()'
  else:
    return repr(value)
  short = ', '.join(parts) + ',' * (len(parts) == 1 and ends == '()')
  if len(short) <= room:
    return f'{ends[0]}{short}{ends[1]}'
  return f'{ends[0]}\n' + ''.join(f'    {part},\n' for part in parts) + ends[1]


