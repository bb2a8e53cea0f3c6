"""The settings that gin may set, read off their dataclasses: type, range, default and meaning."""

import ast
import dataclasses
import inspect
import textwrap
import tokenize
import typing
from typing import Annotated, Any

from t5x_lite.core.dataclass_checks import Range, nearest, parts_of, type_hints, type_name
from t5x_lite.core.errors import UserError
from t5x_lite.experiment.gin_names import is_frozen_dataclass, load_module
from t5x_lite.experiment.gin_reader import MODULES, shipped_modules


@dataclasses.dataclass(frozen=True)
class Setting:
  """A field of a class, as text."""
  name: str
  type: str
  default: str    # '' if it must be set
  meaning: str


def settings_classes() -> dict[str, type]:
  """The classes that gin files of this project, or the command line, may name."""
  modules = [load_module(name, '') for name in dict.fromkeys((*MODULES, *shipped_modules()))]
  found = {}
  for module in modules:
    for name, value in vars(module).items():
      if is_frozen_dataclass(value) and value.__module__.startswith(module.__name__):
        found.setdefault(name, value)
  return {name: cls for name, cls in sorted(found.items()) if _is_plain(cls)}


def _is_plain(cls: type) -> bool:
  """Whether a class is of settings: none of its fields are of arrays or networks."""
  return all(f.kw_only and not f.metadata for f in dataclasses.fields(cls))


def describe_class(cls: type) -> list[Setting]:
  """The fields of a class, in order."""
  meanings, hints = _meanings(cls), type_hints(cls)
  return [Setting(f.name, describe_type(hints[f.name]), _default(f), meanings.get(f.name, ''))
          for f in dataclasses.fields(cls)]


def describe_type(hint: Any) -> str:
  """A type with its ranges: 'int, at least 1; or None'."""
  texts = []
  for part in parts_of(hint):
    if typing.get_origin(part) is Annotated:
      kind, *extras = typing.get_args(part)
      ranges = [str(extra) for extra in extras if isinstance(extra, Range)]
      texts.append(', '.join([type_name(kind), *ranges]))
    else:
      texts.append(type_name(part))
  return ('; or ' if any(',' in text for text in texts) else ' or ').join(texts)


def _default(field: dataclasses.Field) -> str:
  if field.default_factory is not dataclasses.MISSING:
    return repr(field.default_factory())
  if field.default is dataclasses.MISSING:
    return ''
  values = field.default if isinstance(field.default, tuple) else (field.default,)
  names = [f'{type(v).__name__}()' if dataclasses.is_dataclass(v) else repr(v) for v in values]
  return f'({", ".join(names)})' if isinstance(field.default, tuple) else names[0]


def _meanings(cls: type) -> dict[str, str]:
  """{field: the comment beside it, or above it}; or its lines of the docstring's Attributes."""
  lines = textwrap.dedent(inspect.getsource(cls)).splitlines()
  tree = ast.parse('\n'.join(lines)).body[0]
  comments = {token.start[0]: token.string.lstrip('# ') for token in tokenize.generate_tokens(
      (f'{line}\n' for line in lines).__next__) if token.type == tokenize.COMMENT}
  found = _attributes(inspect.getdoc(cls) or '')
  for node in tree.body:
    if isinstance(node, ast.AnnAssign):
      above, n = [], node.lineno - 1
      while n in comments and lines[n - 1].lstrip().startswith('#'):
        above.insert(0, comments[n])
        n -= 1
      beside = [comments[n] for n in range(node.lineno, node.end_lineno + 1) if n in comments]
      if above or beside:
        found[node.target.id] = ' '.join([*above, *beside])
  return found


def _attributes(doc: str) -> dict[str, str]:
  """{name: meaning} of the section 'Attributes:' of a docstring; 'a, b: …' is of both."""
  found, names = {}, []
  for line in doc.partition('Attributes:\n')[2].splitlines():
    start, colon, rest = line.strip().partition(': ')
    if line.startswith('  ') and not line.startswith('   ') and colon:
      names = start.split(', ')
      found |= dict.fromkeys(names, rest)
    elif line.strip():
      found |= {name: f'{found[name]} {line.strip()}' for name in names}
  return found


def as_text(cls: type) -> str:
  """The settings of a class for a terminal."""
  lines = [f'{cls.__name__}: {summary(cls)}', '']
  for s in describe_class(cls):
    default = f' = {s.default}' if s.default else '   (required)'
    lines += [f'  {s.name}{default}', *textwrap.wrap(
        f'{s.type}. {s.meaning}' if s.meaning else s.type, 96, initial_indent='      ',
        subsequent_indent='      ')]
  return '\n'.join(lines)


def summary(cls: type) -> str:
  """The first paragraph of a class's docstring, as one line."""
  return ' '.join((inspect.getdoc(cls) or '').partition('\n\n')[0].split())


def find_class(name: str) -> type:
  """The class of a name; UserError, with the nearest, if there is none."""
  classes = settings_classes()
  if name not in classes:
    raise UserError(f'there are no settings {name!r}; {nearest(name, classes)}')
  return classes[name]


def as_markdown() -> str:
  """All settings as docs/settings.md."""
  lines = [_HEAD]
  for name, cls in settings_classes().items():
    lines += [f'## {name}', '', summary(cls), '']
    if fields := describe_class(cls):
      lines += ['| field | default | type | meaning |', '| --- | --- | --- | --- |']
      cell = lambda text: text.replace('|', '\\|')
      lines += [f'| `{s.name}` | {f"`{cell(s.default)}`" if s.default else "required"} | '
                f'{cell(s.type)} | {cell(s.meaning)} |' for s in fields] + ['']
  return '\n'.join(lines)


_HEAD = """\
# Settings

What gin files and `--gin.CLASS.FIELD=VALUE` may set. This page is written by `t5x-lite settings
--markdown`, from the classes themselves; `t5x-lite settings CLASS` prints a part of it. Which class
fills which part of a run is in `configs/runs/`; classes of your own: [seams.md](seams.md).
"""
