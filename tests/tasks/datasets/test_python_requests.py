"""Requests about a function, with answers written by hand, and the tasks made of them."""

import ast

import pytest
import seqio

from tasks import vocabularies
from tasks.datasets import python_requests
from tasks.datasets.python_requests import KINDS, requests

CODE = '''
@cache
def size(tree, *, depth: int = 0, **more):
    """Not here."""
    left = size(tree.left)
    # Then the other.
    return left + size(tree.right)
'''.replace('    """Not here."""\n', '')


def asked(code: str, docstring: str = 'The size.') -> dict[str, tuple[str, str]]:
  """{kind: (question, answer)}."""
  return {kind: tuple(m.content for m in c.messages) for kind, c in requests(code, docstring)}


def test_the_four_kinds():
  found, code = asked(CODE), CODE.strip('\n')
  assert tuple(found) == KINDS
  assert found['docstring'] == (f'Write a docstring for this function.\n\n{code}', 'The size.')
  question, answer = found['rename']
  new = question.split('\n')[0].removeprefix('Rename this function to ').removesuffix('.')
  assert question.endswith(code) and new.isidentifier()
  assert answer == code.replace('size', new)
  assert found['arguments'] == (
      f'Explain the arguments of this function.\n\n{code}',
      'tree: required\ndepth (int): optional, 0 by default, by name only\n'
      'more: any further named arguments')
  question, answer = found['complete']
  assert question == 'Complete this function.\n\n' + '\n'.join(code.split('\n')[:4])
  assert answer == '    return left + size(tree.right)'


@pytest.mark.parametrize('header, lines', [
    ('f()', 'It takes no arguments.'),
    ("f(a, b=1, /, c='x')", "a: required, by position only\n"
                            "b: optional, 1 by default, by position only\n"
                            "c: optional, 'x' by default"),
    ('f(self, *args: int)', 'self: required\nargs (int): any further positional arguments'),
    ('f(*, a, b=None)', 'a: required, by name only\nb: optional, None by default, by name only'),
])
def test_arguments(header, lines):
  (function,) = ast.parse(f'def {header}: pass').body
  assert python_requests.describe_arguments(function) == lines


@pytest.mark.parametrize('code, kinds', [
    ('def f(x):', []),                                     # the docstring was its body
    ('def f(x): return x', ['docstring', 'rename', 'arguments']),
    ('def f(x): a = x; return a', ['docstring', 'rename', 'arguments']),
    ('def __len__(self):\n  return 3', ['docstring', 'arguments']),
    ("def f(f):\n  return f", ['docstring', 'arguments']),   # its name is another thing's, too
    ("def f(x):\n  return x.f", ['docstring', 'arguments']),
    ('async def f(x):\n  y = x\n  return y', list(KINDS)),
    ('def f(x):\n  return "' + 'x' * 600 + '"', []),
])
def test_what_a_function_allows(code, kinds):
  assert list(asked(code)) == kinds


@pytest.mark.parametrize('name', ['stdlib_instruct', 'stdlib_instruct_pairs'])
def test_the_tasks(stdlib, name):
  from tasks.datasets import stdlib_instruct  # noqa: F401, which registers them
  task = seqio.TaskRegistry.get(name)
  lengths = {feature: 400 for feature in task.output_features}
  examples = list(task.get_dataset(lengths, 'test', shuffle=False).take(4).as_numpy_iterator())
  vocabulary = vocabularies.BYTE_VOCABULARY
  for example in examples:
    answer = example['targets']
    if name == 'stdlib_instruct':
      weights = example['targets_loss_weights']
      before, answer = answer[weights == 0], answer[weights == 1]
      assert before[-1] == vocabulary.encode('\n')[0]   # after the end of the answer
    else:
      before = example['inputs']
    question = vocabularies.spell(vocabulary, before)
    assert question.startswith('<|user|>\n') and '<|assistant|>\n' in question
    assert answer[-1] == 1 and 1 not in answer[:-1] and len(answer) + len(before) <= 800
  sources = [task.source.get_dataset(split, shuffle=False) for split in ('train', 'test')]
  places = [{ex['place'].decode() for ex in source.take(300).as_numpy_iterator()}
            for source in sources]
  assert not places[0] & places[1]
  assert {place.rpartition('(')[2].rstrip(')') for place in places[0]} == set(KINDS)
