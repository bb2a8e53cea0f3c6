"""Items of two results side by side, and what keeps them apart."""

import numpy as np
import pytest

from t5x_lite.core.errors import UserError
from t5x_lite.evaluation.paired_items import matching_results, newest_results, pair_items
from t5x_lite.evaluation.results import Metric, TaskResult, write_result


def write(run, right, task='arc', shots=0, step=1, ids=None, groups=None, value=None, **more):
  """A result whose items have `acc` as in `right`; the path of its JSON file."""
  items = [{'id': i, 'metrics': {'acc': x}, 'question': f'question {i}'}
           | ({'group': groups[k]} if groups else {})
           for k, (i, x) in enumerate(zip(ids or range(len(right)), right))]
  value = float(np.mean(right)) if value is None else value
  return write_result(run / 'evaluations', TaskResult(
      task=task, shots=shots, number=len(right), headline='acc', step=step,
      metrics={'acc': Metric(value, 0.1)}, **more), items)


def test_items_are_paired_by_id(tmp_path):
  a = write(tmp_path / 'a', [1, 0, 1, 0], ids=[3, 1, 2, 7])
  b = write(tmp_path / 'b', [0, 1, 1], ids=[1, 2, 3])
  got = pair_items(a, b)
  assert got.metric == 'acc' and got.groups is None
  assert (got.a.tolist(), got.b.tolist()) == ([0, 1, 1], [0, 1, 1])
  assert got.notes == ('1 items that one of the two alone has are left out',)


def test_groups_are_clusters_where_every_item_has_one(tmp_path):
  a = write(tmp_path / 'a', [1, 0, 1], groups=['law', 'law', 'art'])
  b = write(tmp_path / 'b', [0, 1, 1], groups=['law', 'law', 'art'])
  assert pair_items(a, b).groups == ('law', 'law', 'art')
  alone = write(tmp_path / 'c', [0, 1, 1], groups=['law'] * 3)
  assert pair_items(alone, b).groups is None


def test_what_differs_is_noted(tmp_path):
  a = write(tmp_path / 'a', [1, 0], conventions={'prompt': 'x', 'bos': True})
  b = write(tmp_path / 'b', [1, 1], shots=5, conventions={'prompt': 'y', 'bos': True}, value=0.7)
  shots, prompt, mean = pair_items(a, b).notes
  assert shots == 'the shots differ: 0 and 5'
  assert prompt == "prompt differs: 'x' and 'y'"
  assert 'reports acc 0.7000, the mean of its items is 1.0000' in mean


def test_folders_give_the_tasks_that_both_have_at_their_newest_step(tmp_path):
  a, b = tmp_path / 'a', tmp_path / 'b'
  write(a, [1, 0], step=9)
  newest = write(a, [1, 0], step=10)
  write(a, [1, 0], task='piqa')
  other = write(b, [1, 0], step=3)
  write(b, [1, 0], task='arc', shots=25)
  assert matching_results(a, b) == [(newest, other)]
  assert matching_results(newest, other) == [(newest, other)]
  assert set(newest_results(a)) == {('arc', 0), ('piqa', 0)}


def test_what_cannot_be_paired(tmp_path):
  a = write(tmp_path / 'a', [1, 0])
  with pytest.raises(UserError, match='is of arc, .* of piqa: compare results of one task'):
    pair_items(a, write(tmp_path / 'b', [1, 0], task='piqa'))
  with pytest.raises(UserError, match='have no items in common'):
    pair_items(a, write(tmp_path / 'c', [1, 0], ids=[5, 6]))
  with pytest.raises(UserError, match="item 0 has no 'f1'; choose from acc"):
    pair_items(a, write(tmp_path / 'd', [1, 0]), 'f1')
  with pytest.raises(UserError, match="acc of item 1 is 'x', which is no number"):
    pair_items(a, write(tmp_path / 'e', [1, 'x'], value=0.5))
  changed = write(tmp_path / 'f', [1, 0])
  lines = changed.with_suffix('.jsonl')
  lines.write_text(lines.read_text().replace('question 1', 'another'))
  with pytest.raises(UserError, match='item 1 of .* has two questions'):
    pair_items(a, changed)
  with pytest.raises(UserError, match='has two items 4'):
    pair_items(a, write(tmp_path / 'g', [1, 0], ids=[4, 4]))
  with pytest.raises(UserError, match='no such file or folder'):
    matching_results(a, tmp_path / 'nothing')
  with pytest.raises(UserError, match='name two result files, or two folders'):
    matching_results(a, tmp_path / 'a')
  with pytest.raises(UserError, match='share no task: arc 0-shot and piqa 0-shot'):
    matching_results(tmp_path / 'a', tmp_path / 'b')
