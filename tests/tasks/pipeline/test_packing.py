"""Best-fit packing: nothing lost, cut or mixed; as few rows as theory says; the same each time."""

import math

from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np
import pytest
import seqio
import tensorflow as tf

from tasks.pipeline import packing


def _dataset(examples):
  spec = {name: tf.TensorSpec([None], tf.int32) for name in examples[0]}
  return tf.data.Dataset.from_generator(lambda: iter(examples), output_signature=spec)


def _unpack(rows, names):
  """Every example of packed rows, as tuples of lists of ids, read off segments and positions."""
  found = []
  for row in rows:
    segments = [row[f'{name}_segment_ids'] for name in names]
    for segment in range(1, max(s.max() for s in segments) + 1):
      example = []
      for name, s in zip(names, segments):
        inside = np.flatnonzero(s == segment)
        assert row[f'{name}_positions'][inside].tolist() == list(range(len(inside)))
        assert not len(inside) or inside.tolist() == list(range(inside[0], inside[-1] + 1))
        example.append(tuple(row[name][inside].tolist()))
      found.append(tuple(example))
    for name, s in zip(names, segments):
      assert not row[name][s == 0].any() and not row[f'{name}_positions'][s == 0].any()
  return found


def test_a_literal_window():
  ids = lambda first, n: np.arange(first, first + n, dtype=np.int32)
  examples = [{'targets': ids(10, 3)}, {'targets': ids(20, 6)}, {'targets': ids(30, 2)},
              {'targets': ids(40, 5)}]
  rows = list(packing.pack(_dataset(examples), {'targets': 8}).as_numpy_iterator())
  # Longest first: 6 | 5 | 3 fits the 5 exactly, 2 the 6 exactly. Greedy takes three rows.
  got = {tuple(row['targets'].tolist()): row for row in rows}
  first, second = (20, 21, 22, 23, 24, 25, 30, 31), (40, 41, 42, 43, 44, 10, 11, 12)
  assert set(got) == {first, second}
  assert got[first]['targets_segment_ids'].tolist() == [1] * 6 + [2] * 2
  assert got[second]['targets_positions'].tolist() == [0, 1, 2, 3, 4, 0, 1, 2]
  assert all(x.dtype == np.int32 for row in rows for x in row.values())


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 12), st.integers(1, 5)), min_size=1, max_size=60))
def test_every_example_is_there_once_and_whole(sizes):
  limits = np.array([10, 4])
  cut = np.minimum(np.array(sizes), limits)
  row, segment, offset, rows = packing.assign_rows(cut, limits)
  assert rows == row.max() + 1
  for r in range(rows):
    inside = np.flatnonzero(row == r)
    inside = inside[np.argsort(segment[inside])]
    assert segment[inside].tolist() == list(range(1, len(inside) + 1))
    for f in range(2):   # each begins where the one before ends, and the last fits
      ends = np.cumsum(cut[inside, f])
      assert offset[inside, f].tolist() == [0, *ends[:-1]] and ends[-1] <= limits[f]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 100), min_size=1, max_size=200))
def test_rows_are_within_the_bound_of_best_fit_decreasing(sizes):
  *_, rows = packing.assign_rows(np.array(sizes)[:, None], np.array([100]))
  # Optimum >= total / limit; best-fit decreasing takes at most 11/9 of it + 1 (Johnson 1973), and
  # at most one row can be half empty.
  assert math.ceil(sum(sizes) / 100) <= rows
  assert rows <= max(2 * sum(sizes) / 100 + 1, 1)


def test_nothing_is_lost_over_windows(monkeypatch):
  monkeypatch.setattr(packing, 'WINDOW', 16)
  rng = np.random.default_rng(0)
  examples = [{'inputs': rng.integers(0, 9, rng.integers(0, 14)).astype(np.int32),
               'targets': rng.integers(0, 9, rng.integers(1, 7)).astype(np.int32)}
              for _ in range(100)]
  lengths = {'inputs': 12, 'targets': 8}
  packed = packing.pack(_dataset(examples), lengths)
  rows = list(packed.as_numpy_iterator())
  want = [(tuple(ex['inputs'][:12].tolist()), tuple(ex['targets'].tolist())) for ex in examples]
  assert sorted(_unpack(rows, ['inputs', 'targets'])) == sorted(want)
  for a, b in zip(rows, packed.as_numpy_iterator(), strict=True):
    for name in a:
      np.testing.assert_array_equal(a[name], b[name])


@pytest.mark.parametrize('converter, task', [
    (seqio.EncDecFeatureConverter, {'inputs', 'targets'}),
    (seqio.LMFeatureConverter, {'targets'}),
    (seqio.PrefixLMFeatureConverter, {'inputs', 'targets'}),
])
def test_a_row_of_one_example_is_what_seqio_makes_of_it(converter, task):
  example = {'inputs': [7, 8, 5, 1], 'targets': [3, 9, 1]}
  example = {name: np.array(example[name], np.int32) for name in task}
  lengths = {name: 6 for name in task}
  run = lambda kind: list(kind(pack=True)(_dataset([example]), lengths).as_numpy_iterator())
  (want,), (got,) = run(converter), run(packing.best_fit(converter))
  assert set(got) == set(want)
  for name in want:
    np.testing.assert_array_equal(got[name], want[name], err_msg=name)


def test_it_wastes_less_than_seqio_and_two_percent_at_most():
  rng = np.random.default_rng(1)
  examples = [{'targets': np.ones(n, np.int32)} for n in np.minimum(
      rng.lognormal(4.5, 1.0, 2000).astype(int) + 1, 512)]
  run = lambda kind: list(kind(pack=True)(_dataset(examples), {'targets': 512}).as_numpy_iterator())
  filled = lambda rows: np.mean([row['decoder_loss_weights'].mean() for row in rows])
  greedy, best = (filled(run(kind)) for kind in (
      seqio.LMFeatureConverter, packing.best_fit(seqio.LMFeatureConverter)))
  assert greedy < 0.93 and best > 0.98
