"""Four kinds of request about a Python function, with the answer that its source has.

Python only: no TensorFlow.
"""

import ast
from collections.abc import Iterator
import hashlib
import re

from tasks.instruction.conversation import Conversation, Message

KINDS = ('docstring', 'rename', 'arguments', 'complete')
_CODE = 300   # characters of the code that is asked about, at most: small models copy it
# What functions are renamed to: a verb and a noun.
_VERBS = ('add', 'build', 'check', 'close', 'copy', 'count', 'find', 'format', 'get', 'load',
          'make', 'merge', 'open', 'parse', 'read', 'send', 'set', 'sort', 'split', 'write')
_NOUNS = ('buffer', 'entry', 'field', 'file', 'item', 'key', 'line', 'name', 'node', 'number',
          'path', 'record', 'result', 'row', 'table', 'text', 'token', 'type', 'value', 'word')


def requests(code: str, docstring: str) -> Iterator[tuple[str, Conversation]]:
  """(kind, conversation) of those KINDS that a function allows.

  Args:
    code: a function, decorators included and docstring removed, as stdlib_sources.Function has it.
    docstring: the first line of its docstring.
  """
  code = code.strip('\n')
  try:
    (function,) = ast.parse(code).body
  except (SyntaxError, ValueError, RecursionError):   # the docstring was all there was of it
    return
  if len(code) > _CODE or not isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
    return
  ask = lambda request, answer, shown=code: Conversation((
      Message('user', f'{request}\n\n{shown}'), Message('assistant', answer)))
  yield 'docstring', ask('Write a docstring for this function.', docstring)
  if renamed := _renamed(code, function):
    yield 'rename', ask(f'Rename this function to {renamed[0]}.', renamed[1])
  yield 'arguments', ask('Explain the arguments of this function.', describe_arguments(function))
  if begin := _before_last(function):
    lines = code.split('\n')
    yield 'complete', ask('Complete this function.', '\n'.join(lines[begin:]),
                          '\n'.join(lines[:begin]))


def describe_arguments(function: ast.FunctionDef | ast.AsyncFunctionDef) -> str:
  """A line for each argument: its name, annotation, default and kind; or that there are none."""
  given, lines = function.args, []
  plain = [*given.posonlyargs, *given.args]
  defaults = [None] * (len(plain) - len(given.defaults)) + given.defaults
  for argument, default in zip(plain, defaults):
    what = ['required' if default is None else f'optional, {ast.unparse(default)} by default']
    what += ['by position only'] if argument in given.posonlyargs else []
    lines.append(_line(argument, what))
  if given.vararg:
    lines.append(_line(given.vararg, ['any further positional arguments']))
  for argument, default in zip(given.kwonlyargs, given.kw_defaults):
    what = 'required' if default is None else f'optional, {ast.unparse(default)} by default'
    lines.append(_line(argument, [what, 'by name only']))
  if given.kwarg:
    lines.append(_line(given.kwarg, ['any further named arguments']))
  return '\n'.join(lines) or 'It takes no arguments.'


def _line(argument: ast.arg, what: list[str]) -> str:
  kind = '' if argument.annotation is None else f' ({ast.unparse(argument.annotation)})'
  return f'{argument.arg}{kind}: {", ".join(what)}'


def _before_last(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int | None:
  """How many lines there are before the last statement of the body; None where it is the only one,
  or the line it begins on holds more."""
  *others, last = function.body
  start = min([last.lineno, *(d.lineno for d in getattr(last, 'decorator_list', ()))])
  return start - 1 if others and start > others[-1].end_lineno else None


def _renamed(code: str, function: ast.FunctionDef | ast.AsyncFunctionDef) -> tuple[str, str] | None:
  """(another name, the code with it in the header and in calls of itself).

  None where the name means something, as __init__, or stands in the code for anything else.
  """
  old = function.name
  number = int(hashlib.md5(code.encode()).hexdigest(), 16)
  new = f'{_VERBS[number % len(_VERBS)]}_{_NOUNS[number // len(_VERBS) % len(_NOUNS)]}'
  own = re.compile(rf'\b{old}\b')
  known = 1 + sum(isinstance(node, ast.Name) and node.id == old for node in ast.walk(function))
  if old.startswith('__') or new in code or len(own.findall(code)) != known:
    return None
  return new, own.sub(new, code)
