import math

import numpy as np
import pytest
import seqio
import tensorflow as tf

from t5x_lite.core.errors import UserError
from tasks import vocabularies
from tasks.preprocessors.sentence_pairs import bert_pairs, translation_pairs

_VOCABULARY = vocabularies.BYTE_VOCABULARY
_FEATURES = {name: seqio.Feature(_VOCABULARY) for name in ('inputs', 'targets')}
_CLS, _MASK, _EOS = 382, 383, 1


def _pairs(texts, length, seed=0, repeat=1, take=-1, **options):
  dataset = tf.data.Dataset.from_generator(
      lambda: ({'targets': t} for t in texts),
      output_signature={'targets': tf.TensorSpec([None], tf.int32)},
  )
  with seqio.utils.map_seed_manager(seed):
    dataset = bert_pairs(
        dataset.repeat(repeat), {'inputs': length}, _FEATURES, **options)
  return list(dataset.take(take).as_numpy_iterator())


def _segments(pair):
  """(A, B, label) as they were before masking, from the layout alone."""
  inputs, targets, types = pair['inputs'], pair['targets'], pair['token_types']
  assert len(inputs) == len(targets) == len(types) and pair['next_sentence_label'].shape == (1,)
  assert all(x.dtype == np.int32 for x in pair.values())
  first = int((types == 0).sum())
  assert types.tolist() == [0] * first + [1] * (len(types) - first)
  assert inputs[0] == _CLS and inputs[first - 1] == inputs[-1] == _EOS
  assert targets[0] == targets[first - 1] == targets[-1] == 0
  before = np.where(targets > 0, targets, inputs).tolist()
  return before[1:first - 1], before[first:-1], int(pair['next_sentence_label'][0])


def _is_part(part, text):
  return any(text[i:i + len(part)] == part for i in range(len(text) - len(part) + 1))


def test_a_text_of_two_tokens():
  (pair,) = _pairs([[7, 8]], 16, mask_rate=0.0)
  assert _segments(pair) == ([7], [8], 0)
  assert pair['token_types'].tolist() == [0, 0, 0, 1, 1]
  assert (pair['targets'] > 0).sum() == 1  # One token at least.


def test_segments_are_of_one_text_or_of_the_one_before():
  rng = np.random.default_rng(0)
  texts = [rng.integers(3, 259, n).tolist() for n in rng.integers(2, 90, 40)]
  pairs = _pairs(texts, 33)
  pieces = [(i, t[j:j + 30]) for i, t in enumerate(texts) for j in range(0, len(t), 30)]
  pieces = [(i, piece) for i, piece in pieces if len(piece) > 1]
  assert len(pairs) == len(pieces)
  for pair, (i, piece) in zip(pairs, pieces):
    a, b, label = _segments(pair)
    assert a and b and a == piece[:len(a)]
    if label:
      assert i > 0 and _is_part(b, texts[i - 1])
      assert len(b) == min(len(piece) - len(a), len(texts[i - 1]))
    else:
      assert a + b == piece
    assert (pair['targets'] > 0).sum() == max(1, round((len(a) + len(b)) * 0.15))
  assert {_segments(p)[2] for p in pairs} == {0, 1}


def test_half_of_the_pairs_are_exchanged_and_cut_anywhere():
  n = 1000
  pairs = [_segments(p) for p in _pairs(
      [[3] * 11, [4] * 11], 14, repeat=None, take=n)]
  labels = np.array([label for *_, label in pairs])
  assert abs(labels.mean() - 0.5) < 5 * math.sqrt(0.25 / n)
  for a, b, label in pairs[1:]:
    assert len(set(a)) == len(set(b)) == 1 and (a[0] != b[0]) == bool(label)
  cuts = np.bincount([len(a) for a, *_ in pairs])[1:]
  assert len(cuts) == 10 and abs(cuts - n / 10).max() < 5 * math.sqrt(n * 0.1 * 0.9)


def test_segments_of_the_other_text_are_from_anywhere_in_it():
  pairs = [_segments(p) for p in _pairs(
      [[200, 201], list(range(3, 23))], 5, repeat=None, take=2000)]
  starts = {b[0] for a, b, label in pairs if a == [200] and label}
  assert len(starts) > 17  # Of 20, by about 90 draws: every eleventh piece, and half of those.


@pytest.mark.parametrize('texts', [[[5, 6, 7]], [[5, 6, 7], [9]]])
def test_without_another_text_the_next_is_the_only_choice(texts):
  pairs = [_segments(p) for p in _pairs(texts, 16, repeat=None, take=40)]
  assert all(label == 0 and a + b == [5, 6, 7] for a, b, label in pairs)


def test_options_of_masking():
  words = [b + 3 for b in b'several words of a text of several words in a text']
  texts = [words, words[::-1]] * 6
  for pair in _pairs(texts, 64, whole_words=True):
    a, b, _ = _segments(pair)
    first = len(a)
    selected = pair['targets'] > 0
    selected = np.concatenate([selected[1:first + 1], selected[first + 2:-1]])
    begins = np.array([t == 35 for t in a + b])
    begins[0] = begins[first] = True
    word = np.cumsum(begins)
    for i in range(1, word.max() + 1):
      assert len(set(selected[word == i].tolist())) == 1
  by_text = {}
  for pair in _pairs(texts * 10, 64, static=True):
    key = str(_segments(pair))
    assert by_text.setdefault(key, pair['inputs'].tolist()) == pair['inputs'].tolist()


def test_deterministic_in_the_seed():
  texts = [list(range(3, 60)), list(range(60, 160))] * 3
  run = lambda seed: [
      {k: v.tolist() for k, v in p.items()} for p in _pairs(texts, 32, seed)]
  assert run(1) == run(1) != run(2)


def test_user_errors():
  dataset = tf.data.Dataset.from_tensors({'targets': tf.range(3, 9)})
  for lengths in (None, {'inputs': 4}):
    with pytest.raises(UserError, match=r"sequence_length\['inputs'\] >= 5"):
      bert_pairs(dataset, lengths, _FEATURES)
  features = {'inputs': seqio.Feature(seqio.ByteVocabulary(extra_ids=1))}
  with pytest.raises(UserError, match='extra_ids=2'):
    bert_pairs(dataset, {'inputs': 9}, features)


def test_translations_are_masked_as_one_text_with_an_end_after_each():
  pairs = [([*range(10, 20)], [*range(40, 52)]), ([7], [8, 9]), ([], [5])]
  dataset = tf.data.Dataset.from_generator(
      lambda: ({'inputs': a, 'targets': b} for a, b in pairs),
      output_signature={name: tf.TensorSpec([None], tf.int32) for name in ('inputs', 'targets')})
  with seqio.utils.map_seed_manager(0):
    found = list(translation_pairs(dataset, {'inputs': 24}, _FEATURES).as_numpy_iterator())
  assert len(found) == 2   # without the empty one
  for pair, (a, b) in zip(found, pairs):
    a, b = a[:10], b[:10]   # half of the room
    inputs, targets = pair['inputs'], pair['targets']
    before = np.where(targets > 0, targets, inputs).tolist()
    assert before == [_CLS, *a, _EOS, *b, _EOS]
    assert (targets > 0).sum() == max(round(0.15 * len(a + b)), 1)
    assert targets[0] == targets[len(a) + 1] == targets[-1] == 0
  with pytest.raises(UserError, match=r"sequence_length\['inputs'\] >= 5"):
    translation_pairs(dataset, {'inputs': 4}, _FEATURES)
