"""The running interpreter's standard library as text: its modules, functions and expressions.

Python only: no TensorFlow, no TFDS.
"""

import ast
from collections.abc import Iterator
import dataclasses
import hashlib
import io
import keyword
import pathlib
import sysconfig
import tokenize
import warnings

# Of two operands, the more frequent ones; the label of each is its place here.
OPERATORS = ('==', '!=', '<', '<=', '>', '>=', '+', '-', '*', '/', '//', '%', '&', '|', 'and', 'or',
             'in', 'not in', 'is', 'is not')
GAP = '<?>'   # stands for an operator that is taken out
_BEFORE, _AFTER = 80, 40   # characters of code around a gap
_GAPS = 100                # of a module at most
SHORTEST, LONGEST = 12, 32   # bytes of an expression
_EXPRESSIONS = 50            # of a module at most
_SKIPPED_FOLDERS = frozenset({'site-packages', 'dist-packages', '__pycache__'})


@dataclasses.dataclass(frozen=True)
class Module:
  """A source file: its path below the library's root, dotted name, text and syntax tree."""

  path: str
  name: str
  text: str
  tree: ast.Module


@dataclasses.dataclass(frozen=True)
class Function:
  """A documented function or method.

  `code` is its dedented source, decorators included and docstring removed; `docstring` is the
  first line of that docstring; `name` is qualified as in `__qualname__`; `line` is where it
  starts in its module.
  """

  module: str
  name: str
  line: int
  code: str
  docstring: str


@dataclasses.dataclass(frozen=True)
class Gap:
  """Code with GAP in place of one of OPERATORS, `operator`, which is at `offset` of the module."""

  module: str
  offset: int
  code: str
  operator: str


@dataclasses.dataclass(frozen=True)
class Expression:
  """An expression on one line, with a name in it, in two parts; `line` is of its module.

  Its `beginning` is no expression, and a letter more makes none of it: a bracket or a string is to
  be closed.
  """

  module: str
  line: int
  beginning: str
  rest: str


def library_root() -> pathlib.Path:
  """Returns the folder of the running interpreter's standard library."""
  return pathlib.Path(sysconfig.get_path('stdlib'))


def split_of(module: str) -> str:
  """Returns the split of a module, fixed by its name alone: 90 % train, 5 % each of the others."""
  percentile = int(hashlib.md5(module.encode()).hexdigest(), 16) % 100
  return 'train' if percentile < 90 else 'validation' if percentile < 95 else 'test'


def read_modules(root: pathlib.Path) -> Iterator[Module]:
  """Yields the modules under `root` in order of path, leaving out what is not Python 3 text."""
  for path in sorted(root.rglob('*.py')):
    relative = path.relative_to(root)
    if _SKIPPED_FOLDERS.intersection(relative.parts):
      continue
    try:
      with tokenize.open(path) as file:
        text = file.read()
      tree = _parse(text)
    except (SyntaxError, ValueError, LookupError, RecursionError, OSError):
      continue  # Fixtures of the library's own tests: other encodings, Python 2, broken syntax.
    if not text.strip():
      continue
    parts = relative.with_suffix('').parts
    if parts[-1] == '__init__':
      parts = parts[:-1]
    yield Module(relative.as_posix(), '.'.join(parts), text, tree)


def documented_functions(module: Module) -> Iterator[Function]:
  """Yields the functions and methods of `module` that have a docstring, outermost first."""
  # ast counts columns in UTF-8 bytes and ends lines at '\n' alone, unlike str.splitlines.
  lines = [line + b'\n' for line in module.text.encode().split(b'\n')]
  for node, name in _functions(module.tree, ''):
    docstring = (ast.get_docstring(node) or '').strip()
    if docstring:
      start = min([node.lineno] + [decorator.lineno for decorator in node.decorator_list])
      yield Function(
          module=module.name,
          name=name,
          line=start,
          code=_without_docstring(node, lines, start),
          docstring=docstring.splitlines()[0].strip(),
      )


def operator_gaps(module: Module) -> Iterator[Gap]:
  """Yields gaps of `module`, _GAPS of them at most, picked by a hash of path and offset.

  The `in` of a loop is no gap, nor is a sign or a star that has one operand.
  """
  found = {start: (end, operator) for start, end, operator in _operators(module.text)}
  picked = sorted(found, key=lambda start: hashlib.md5(
      f'{module.path}:{start}'.encode()).digest())[:_GAPS]
  for start in sorted(picked):
    end, operator = found[start]
    before, after = module.text[max(0, start - _BEFORE):start], module.text[end:end + _AFTER]
    yield Gap(module.name, start, f'{before}{GAP}{after}', operator)


def cut_expressions(module: Module) -> Iterator[Expression]:
  """Yields expressions that are statements, results or assigned, each once in a module.

  Of SHORTEST to LONGEST bytes of ASCII, _EXPRESSIONS of them at most: they, and where each is cut,
  are picked by hashes of their texts.
  """
  lines = module.text.encode().split(b'\n')
  found = {}
  for node in ast.walk(module.tree):
    value = getattr(node, 'value', None)
    if (isinstance(node, (ast.Expr, ast.Return, ast.Assign, ast.AnnAssign, ast.AugAssign))
        and value and value.lineno == value.end_lineno
        and SHORTEST <= value.end_col_offset - value.col_offset <= LONGEST
        and any(isinstance(part, ast.Name) for part in ast.walk(value))):
      text = lines[value.lineno - 1][value.col_offset:value.end_col_offset]
      if text.isascii() and is_expression(text.decode()):
        found.setdefault(text.decode(), value.lineno)
  digest = lambda text: hashlib.md5(text.encode()).digest()
  for text in sorted(sorted(found, key=digest)[:_EXPRESSIONS], key=found.get):
    places = [n for n in range(len(text) // 4, 3 * len(text) // 4 + 1)
              if not is_expression(text[:n]) and not is_expression(text[:n] + 'x')]
    if places:   # a.b.c has none
      n = places[int.from_bytes(digest(text), 'big') % len(places)]
      yield Expression(module.name, found[text], text[:n], text[n:])


def is_expression(text: str) -> bool:
  """Whether a text is one well-formed expression."""
  try:
    with warnings.catch_warnings():
      warnings.simplefilter('ignore')
      ast.parse(text.strip(), mode='eval')
    return True
  except (SyntaxError, ValueError):
    return False


def _operators(text: str) -> Iterator[tuple[int, int, str]]:
  """(start, end, operator) of each operator of two operands."""
  line_starts = [0]
  for line in text.split('\n'):
    line_starts.append(line_starts[-1] + len(line) + 1)
  offset = lambda row, column: line_starts[row - 1] + column
  tokens = [token for token in tokenize.generate_tokens(io.StringIO(text, newline='\n').readline)
            if token.type not in (tokenize.COMMENT, tokenize.NL)]
  loops, previous = 0, None   # `for`s whose `in` is still to come
  tokens_left = iter(zip(tokens, [*tokens[1:], None]))
  for token, following in tokens_left:
    operator, end = token.string, token.end
    if (operator, following and following.string) in (('not', 'in'), ('is', 'not')):
      operator, end = f'{operator} {following.string}', following.end
      next(tokens_left)
    loops += operator == 'for'
    if operator == 'in' and loops:
      loops -= 1
    elif operator in OPERATORS and token.type != tokenize.STRING and _ends_operand(previous):
      yield offset(*token.start), offset(*end), operator
    previous = token


def _ends_operand(token: tokenize.TokenInfo | None) -> bool:
  if token is None:
    return False
  if token.type == tokenize.NAME:
    return not keyword.iskeyword(token.string) or token.string in ('None', 'True', 'False')
  return tokenize.tok_name[token.type] in ('NUMBER', 'STRING', 'FSTRING_END') or token.string in (
      ')', ']', '}', '...')


def _parse(text: str) -> ast.Module:
  with warnings.catch_warnings():
    warnings.simplefilter('ignore')  # Old modules hold invalid escapes.
    return ast.parse(text)


def _functions(node: ast.AST, scope: str) -> Iterator[tuple[ast.AST, str]]:
  for child in ast.iter_child_nodes(node):
    if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef)):
      yield child, scope + child.name
      yield from _functions(child, f'{scope}{child.name}.<locals>.')
    elif isinstance(child, ast.ClassDef):
      yield from _functions(child, f'{scope}{child.name}.')
    else:
      yield from _functions(child, scope)


def _without_docstring(node, lines: list[bytes], start: int) -> str:
  """Returns the dedented source of `node` from line `start`, less its docstring."""
  docstring = node.body[0]
  before = lines[start - 1:docstring.lineno - 1]
  after = lines[docstring.end_lineno:node.end_lineno]
  head = lines[docstring.lineno - 1][:docstring.col_offset]
  tail = lines[docstring.end_lineno - 1][docstring.end_col_offset:]
  # A statement must replace it where it is the whole body, or shares a line with code.
  if len(node.body) == 1 or head.strip() or tail.strip():
    after = [head + b'pass' + tail] + after
  indent = lines[start - 1][:len(lines[start - 1]) - len(lines[start - 1].lstrip())]
  code = b''.join(line.removeprefix(indent) for line in before + after)
  return code.decode().rstrip()
