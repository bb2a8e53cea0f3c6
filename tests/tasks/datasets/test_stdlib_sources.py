import ast
import collections
import textwrap

import pytest

from tasks.datasets import stdlib_sources

_SOURCE = '''
import os

@decorated
def plain(x):
  """Add one.

  More.
  """
  return x + 1

class Box:
  def get(self):
    "Get é."; return 'é'

  async def only(self):
    """  Nothing else.  """

  def bare(self):
    return 0

  def outer(self):
    """Outer."""
    def inner():
      \'\'\'Inner.\'\'\'
      text = """
left"""
      return text
    return inner

if os:
  def late(): "Late."
'''


def _module(source=_SOURCE):
  return stdlib_sources.Module('a/b.py', 'a.b', source, ast.parse(source))


def test_documented_functions_names_docstrings_and_code():
  found = {f.name: f for f in stdlib_sources.documented_functions(_module())}
  assert {name: f.docstring for name, f in found.items()} == {
      'plain': 'Add one.',
      'Box.get': 'Get é.',
      'Box.only': 'Nothing else.',
      'Box.outer': 'Outer.',
      'Box.outer.<locals>.inner': 'Inner.',
      'late': 'Late.',
  }
  assert found['plain'].code == '@decorated\ndef plain(x):\n  return x + 1'
  assert found['plain'].line == 4 and found['plain'].module == 'a.b'
  assert found['Box.get'].code == "def get(self):\n  pass; return 'é'"
  assert found['Box.only'].code == 'async def only(self):\n  pass'
  assert found['late'].code == 'def late(): pass'
  inner = found['Box.outer.<locals>.inner'].code
  assert inner == 'def inner():\n  text = """\nleft"""\n  return text'


def test_code_of_the_whole_library_parses_and_has_lost_its_docstring():
  root = stdlib_sources.library_root()
  modules = [m for m in stdlib_sources.read_modules(root / 'email')]
  assert len(modules) > 10
  functions = [f for m in modules for f in stdlib_sources.documented_functions(m)]
  assert len(functions) > 100
  for function in functions:
    node = ast.parse(function.code).body[0]
    assert node.name == function.name.split('.')[-1]
    assert ast.get_docstring(node) is None
    assert function.docstring == function.docstring.strip() != ''
    assert '\n' not in function.docstring


def test_read_modules_skips_what_is_not_python_text(tmp_path):
  def write(name, content):
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)

  write('good.py', b'x = 1\n')
  write('pkg/__init__.py', b'y = 2\n')
  write('pkg/latin.py', '# -*- coding: latin-1 -*-\ns = "é"\n'.encode('latin-1'))
  write('pkg/empty.py', b'\n')
  write('pkg/python2.py', b'print 1\n')
  write('pkg/nul.py', b'x = "\0"\n')
  write('pkg/bad_bytes.py', b'x = "\xff"\n')
  write('site-packages/other.py', b'z = 3\n')
  write('pkg/__pycache__/cached.py', b'z = 3\n')
  found = {m.name: m.text for m in stdlib_sources.read_modules(tmp_path)}
  assert set(found) == {'good', 'pkg', 'pkg.latin'}
  assert found['pkg.latin'].endswith('s = "é"\n')


@pytest.mark.parametrize('module, split', [
    # A change here moves text between the splits: no older figure can be compared any more.
    ('argparse', 'train'), ('dis', 'train'), ('doctest', 'validation'), ('html', 'validation'),
    ('_sha512', 'test'), ('ast', 'test'),
])
def test_split_is_stable(module, split):
  assert stdlib_sources.split_of(module) == split


def test_split_shares():
  splits = [stdlib_sources.split_of(f'module{i}') for i in range(10_000)]
  assert abs(splits.count('train') - 9_000) < 150  # Five standard deviations.
  assert abs(splits.count('validation') - 500) < 110
  assert abs(splits.count('test') - 500) < 110


def test_dedent_leaves_shallow_lines_of_strings_alone():
  source = textwrap.dedent('''
      class A:
          def f(self):
              """Doc."""
              return """
      shallow
                  deep"""
  ''')
  (function,) = stdlib_sources.documented_functions(_module(source))
  assert ast.parse(function.code)


def test_operator_gaps():
  source = textwrap.dedent("""
      def f(x, *args, y=-1, **kwargs):
        for i in range(3):   # i == 0
          if x is not None and i not in args or "a + b" != y:
            return [j for j in x if j in args], -x * 2, f(*args)
  """)
  gaps = list(stdlib_sources.operator_gaps(_module(source)))
  assert [gap.operator for gap in gaps] == ['is not', 'and', 'not in', 'or', '!=', 'in', '*']
  assert gaps[0].code.endswith('# i == 0\n    if x <?> None and i not in args or "a + b" != y:')
  for gap in gaps:
    before, after = gap.code.split(stdlib_sources.GAP)
    assert before + gap.operator + after in source and gap.offset >= len(before)


def _operators_by_ast(tree: ast.AST) -> collections.Counter:
  found = collections.Counter()
  names = dict(Eq='==', NotEq='!=', Lt='<', LtE='<=', Gt='>', GtE='>=', Is='is', IsNot='is not',
               In='in', NotIn='not in', Add='+', Sub='-', Mult='*', Div='/', FloorDiv='//', Mod='%',
               BitAnd='&', BitOr='|', And='and', Or='or')
  for node in ast.walk(tree):
    if isinstance(node, ast.BinOp):
      found[names.get(type(node.op).__name__)] += 1
    elif isinstance(node, ast.Compare):
      found.update(names[type(op).__name__] for op in node.ops)
    elif isinstance(node, ast.BoolOp):
      found[names[type(node.op).__name__]] += len(node.values) - 1
  del found[None]
  return found


def test_operators_are_those_of_the_syntax_tree():
  """Of modules without f-strings, which Python 3.11 reads as one token."""
  compared = 0
  for module in stdlib_sources.read_modules(stdlib_sources.library_root() / 'email'):
    if any(isinstance(node, ast.JoinedStr) for node in ast.walk(module.tree)):
      continue
    found = collections.Counter(
        operator for _, _, operator in stdlib_sources._operators(module.text))
    assert found == _operators_by_ast(module.tree), module.path
    compared += found.total()
  assert compared > 300
