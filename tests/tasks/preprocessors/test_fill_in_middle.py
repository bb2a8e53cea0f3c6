import math

import hypothesis
from hypothesis import strategies as st
import numpy as np
import pytest
import seqio
import tensorflow as tf

from t5x_lite.core.errors import UserError
from tasks import vocabularies
from tasks.preprocessors import fill_in_middle

_VOCABULARY = vocabularies.BYTE_VOCABULARY
_FEATURES = {'targets': seqio.Feature(_VOCABULARY, add_eos=True)}
_PRE, _SUF, _MID, _EOS = 381, 380, 379, 1


def _run(texts, length, seed=0, **kwargs):
  dataset = tf.data.Dataset.from_generator(
      lambda: ({'targets': t} for t in texts),
      output_signature={'targets': tf.TensorSpec([None], tf.int32)},
  )
  with seqio.utils.map_seed_manager(seed):
    dataset = fill_in_middle.fill_in_middle(dataset, {'targets': length}, _FEATURES, **kwargs)
  return [ex['targets'].tolist() for ex in dataset.as_numpy_iterator()]


def _parts(ids):
  """(prefix, middle, suffix, whether the suffix comes first) of a rearranged piece.

  Where the suffix is first, prefix and middle cannot be told apart: all of it is the prefix.
  """
  assert ids[0] == _PRE and ids[-1] == _EOS
  inner = ids[1:-1]
  at, end = inner.index(_SUF), inner.index(_MID)
  prefix, suffix, rest = inner[:at], inner[at + 1:end], inner[end + 1:]
  if at == 0:
    return rest, [], suffix, True
  return prefix, rest, suffix, False


def test_marks_are_extra_ids_other_than_mask_and_class():
  marks = fill_in_middle.marks(_VOCABULARY)
  assert marks == (_PRE, _SUF, _MID)
  assert not {vocabularies.mask_id(_VOCABULARY), vocabularies.cls_id(_VOCABULARY)} & set(marks)
  assert min(marks) >= vocabularies.first_extra_id(_VOCABULARY)


@pytest.mark.parametrize('start, end, suffix_first, expected', [
    (2, 3, False, [_PRE, 5, 6, _SUF, 8, 9, _MID, 7]),
    (2, 3, True, [_PRE, _SUF, 8, 9, _MID, 5, 6, 7]),
    (0, 0, False, [_PRE, _SUF, 5, 6, 7, 8, 9, _MID]),
    (0, 0, True, [_PRE, _SUF, 5, 6, 7, 8, 9, _MID]),
    (5, 5, False, [_PRE, 5, 6, 7, 8, 9, _SUF, _MID]),
    (0, 5, False, [_PRE, _SUF, _MID, 5, 6, 7, 8, 9]),
    (0, 5, True, [_PRE, _SUF, _MID, 5, 6, 7, 8, 9]),
])
def test_rearranged_text(start, end, suffix_first, expected):
  tokens = tf.constant([5, 6, 7, 8, 9])
  rearranged = fill_in_middle.rearrange(
      tokens, start, end, suffix_first, fill_in_middle.marks(_VOCABULARY))
  assert rearranged.numpy().tolist() == expected


def test_pieces_that_stay_have_eos_at_the_end_of_their_text_only():
  assert _run([[5, 6, 7, 8, 9]], 8, rate=0.0) == [[5, 6, 7, 8], [9, _EOS]]
  # All of the second piece is EOS, of which nothing can be made.
  assert _run([[5, 6, 7, 8]], 8, rate=0.0) == [[5, 6, 7, 8], [_EOS]]
  assert _run([[5, 6, 7, 8]], 8, rate=1.0)[1] == [_EOS]


@hypothesis.settings(max_examples=6, deadline=None)
@hypothesis.given(
    texts=st.lists(st.lists(st.integers(3, 258), max_size=60), min_size=1, max_size=3),
    length=st.integers(6, 40),
    seed=st.integers(0, 1000),
)
def test_texts_can_be_recovered(texts, length, seed):
  pieces = _run(texts, length, seed)
  expected = [
      piece for text in texts for i in range(0, len(text) + 1, length - 4)
      if (piece := [*text, _EOS][i:i + length - 4])
  ]
  assert len(pieces) == len(expected)
  for piece, original in zip(pieces, expected):
    assert len(piece) <= length
    if piece[0] != _PRE:
      assert piece == original
      continue
    prefix, middle, suffix, _ = _parts(piece)
    assert prefix + middle + suffix == [t for t in original if t != _EOS]


def test_full_pieces_fill_their_length():
  assert [len(p) for p in _run([list(range(3, 103))], 24, rate=1.0)] == [24] * 5 + [1]


def test_rates_and_points_are_uniform():
  n, size = 4000, 9
  pieces = _run([list(range(3, 3 + size))] * n, size + 5)
  rearranged = [_parts(p) for p in pieces if p[0] == _PRE]
  bound = lambda trials, p: 5 * math.sqrt(trials * p * (1 - p))
  assert abs(len(rearranged) - n / 2) < bound(n, 0.5)
  m = len(rearranged)
  # With an empty prefix the first order looks like the second: two of 10 x 10 pairs of points
  # have 0 for the smaller, so 19 of 100.
  looks_second = sum(second for *_, second in rearranged)
  share = 0.5 + 0.5 * 0.19
  assert abs(looks_second - share * m) < bound(m, share)
  # Two independent uniform points: the pair a < b is twice as likely as a = b.
  points = np.zeros((size + 1, size + 1))
  for prefix, middle, _, second in rearranged:
    if not second:
      points[len(prefix), len(prefix) + len(middle)] += 1
  first = m * 0.5
  for a in range(1, size + 1):
    for b in range(a, size + 1):
      p = (1 if a == b else 2) / (size + 1) ** 2
      assert abs(points[a, b] - first * p) < 5 * math.sqrt(first * p) + 1


def test_deterministic_in_the_seed():
  run = lambda seed: _run([list(range(3, 103))] * 3, 32, seed)
  assert run(1) == run(1) != run(2)


def test_user_errors():
  dataset = tf.data.Dataset.from_tensors({'targets': tf.range(3, 9)})
  for lengths in (None, {'targets': 5}):
    with pytest.raises(UserError, match=r"sequence_length\['targets'\] >= 6"):
      fill_in_middle.fill_in_middle(dataset, lengths, _FEATURES)
  features = {'targets': seqio.Feature(seqio.ByteVocabulary(extra_ids=4))}
  with pytest.raises(UserError, match='extra_ids=5'):
    fill_in_middle.fill_in_middle(dataset, {'targets': 9}, features)
