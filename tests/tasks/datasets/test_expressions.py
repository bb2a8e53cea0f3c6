import ast
import collections
import textwrap

import seqio

from t5x_lite.data.source import NoData
from t5x_lite.rewards.checkers import PythonExpression
from t5x_lite.rewards.reward import Completion, rate
from tasks.datasets import python_stdlib, stdlib_sources


def _module(source: str) -> stdlib_sources.Module:
  return stdlib_sources.Module('m.py', 'm', source, ast.parse(source))


def test_what_is_cut():
  source = textwrap.dedent('''
      """A docstring (of a module)."""
      def f(x, é):
        y = g(x, [1, 2])
        é = é(x, [1, 2]), 1
        if call_in_a_test(x, y):
          h(x) # too short
          first, second = g(x, [1, 2])
          long = g(x, [1, 2, 3, 4, 5, 6, 7, 8, 9])
          above = g(x,
                    [1, 2])
          alone = [1, 2, 3, 4, 5]
          dotted.name.without.a.bracket
          z: int = ("é" , x['key'] + 1)[1]; w = x['key'] + 1234
          yield g(x, 'yielded')
        return -x * (1 + 2 * y)
  ''')
  found = list(stdlib_sources.cut_expressions(_module(source)))
  assert [(one.beginning + one.rest, one.line, one.module) for one in found] == [
      ('g(x, [1, 2])', 4, 'm'), ("x['key'] + 1234", 14, 'm'), ('-x * (1 + 2 * y)', 16, 'm')]
  assert found == list(stdlib_sources.cut_expressions(_module(source)))


def test_expressions_of_the_library_are_rewarded_whole_and_their_beginnings_are_not():
  rater = PythonExpression().make(NoData({}))
  found = [one for module in stdlib_sources.read_modules(stdlib_sources.library_root() / 'email')
           for one in stdlib_sources.cut_expressions(module)]
  assert len(found) > 200
  rewards = lambda texts: {one.reward for one in rate(rater, [
      Completion(e.beginning, text, e.rest) for e, text in zip(found, texts, strict=True)])}
  assert rewards([e.rest for e in found]) == {1.0}
  for nothing in ('', 'x', ' ', '1'):
    assert rewards([nothing] * len(found)) == {0.0}, nothing
  of_modules = collections.Counter(e.module for e in found)
  assert max(of_modules.values()) <= 50 and all(
      12 <= len(e.beginning + e.rest) <= 32 for e in found)


def test_the_task_asks_for_the_rest(tmp_path, monkeypatch):
  from tasks.datasets import expressions  # noqa: F401

  library = stdlib_sources.library_root() / 'xml'
  monkeypatch.setattr(stdlib_sources, 'library_root', lambda: library)
  monkeypatch.setattr(seqio.utils, '_TFDS_DATA_DIR_OVERRIDE', str(tmp_path))
  want = collections.defaultdict(list)
  for module in stdlib_sources.read_modules(library):
    want[stdlib_sources.split_of(module.name)] += [
        (one.beginning, one.rest) for one in stdlib_sources.cut_expressions(module)]
  assert len(want['train']) > 20
  task = seqio.TaskRegistry.get('python_expressions')
  given = [(one['inputs_pretokenized'].decode(), one['targets_pretokenized'].decode())
           for one in task.get_dataset(None, 'train', shuffle=False).as_numpy_iterator()]
  assert sorted(given) == sorted(want['train'])
  assert python_stdlib.prepared_builder('expressions', str(tmp_path)).info.splits[
      'train'].num_examples == len(given)
