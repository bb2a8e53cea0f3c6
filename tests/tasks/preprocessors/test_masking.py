import math

import numpy as np
import pytest
import seqio
import tensorflow as tf

from t5x_lite.core.errors import UserError
from tasks import vocabularies
from tasks.preprocessors import masking
from tasks.preprocessors.masking import mask_language_model

_VOCABULARY = vocabularies.BYTE_VOCABULARY
_FEATURES = {name: seqio.Feature(_VOCABULARY) for name in ('inputs', 'targets')}
_CLS, _MASK, _EOS = 382, 383, 1


def _masked(texts, length, seed=0, **options):
  dataset = tf.data.Dataset.from_generator(
      lambda: ({'targets': t} for t in texts),
      output_signature={'targets': tf.TensorSpec([None], tf.int32)},
  )
  with seqio.utils.map_seed_manager(seed):
    dataset = mask_language_model(
        dataset, {'inputs': length}, _FEATURES, **options)
  return list(dataset.as_numpy_iterator())


def test_shapes_and_special_ids():
  text = np.arange(3, 103, dtype=np.int32)
  pieces = _masked([text], 42)
  assert [len(p['inputs']) for p in pieces] == [42, 42, 22]
  restored = []
  for piece in pieces:
    inputs, targets = piece['inputs'], piece['targets']
    assert len(inputs) == len(targets)
    assert inputs[0] == _CLS and inputs[-1] == _EOS
    assert targets[0] == targets[-1] == 0
    restored.extend(np.where(targets > 0, targets, inputs)[1:-1])
    assert (targets > 0).sum() == round((len(inputs) - 2) * 0.15)
  np.testing.assert_array_equal(restored, text)


def test_a_single_token_is_still_selected():
  (piece,) = _masked([[77]], 16)
  assert piece['targets'].tolist() == [0, 77, 0]


def test_frequencies_lie_within_binomial_bounds():
  length, copies = 400, 250
  pieces = _masked([np.full(length, 100)] * copies, length + 2)
  inputs = np.stack([p['inputs'] for p in pieces])[:, 1:-1]
  selected = np.stack([p['targets'] for p in pieces])[:, 1:-1] == 100
  n = selected.sum()
  assert n == copies * 60

  def check(count, probability):
    deviation = math.sqrt(n * probability * (1 - probability))
    assert abs(count - n * probability) < 5 * deviation

  chosen = inputs[selected]
  check((chosen == _MASK).sum(), 0.8)
  # A random id is the original one in 1 of 256.
  check((chosen == 100).sum(), 0.1 + 0.1 / 256)
  random_ids = chosen[(chosen != _MASK) & (chosen != 100)]
  check(len(random_ids), 0.1 * 255 / 256)
  assert random_ids.min() >= 3 and random_ids.max() < 259
  assert len(np.unique(random_ids)) > 240
  assert (inputs[~selected] == 100).all()
  # Every position is selected about equally often.
  per_position = selected.sum(0)
  assert abs(per_position - copies * 0.15).max() < 5 * math.sqrt(copies * 0.15 * 0.85)


def test_deterministic_in_the_seed():
  text = [np.arange(3, 200)]
  run = lambda seed: _masked(text, 64, seed)[0]['inputs'].tolist()
  assert run(3) == run(3) != run(4)


def test_needs_extra_ids_and_a_length():
  dataset = tf.data.Dataset.from_tensors({'targets': tf.range(3, 9)})
  with pytest.raises(UserError, match='sequence_length'):
    mask_language_model(dataset, None, _FEATURES)
  features = {'inputs': seqio.Feature(seqio.ByteVocabulary(extra_ids=1))}
  with pytest.raises(UserError, match='extra_ids=2'):
    mask_language_model(dataset, {'inputs': 9}, features)


def test_static_masks_follow_from_the_tokens_alone():
  texts = [np.arange(3, 200), np.arange(4, 201)]
  static = lambda texts, seed: [
      (p['inputs'].tolist(), p['targets'].tolist()) for p in _masked(texts, 256, seed, static=True)
  ]
  first = static(texts, 0)
  assert first == static(texts, 1) == static(texts, None)  # In every run and epoch alike.
  assert static(texts[::-1], 0) == first[::-1]             # Whatever comes before.
  masks = [np.flatnonzero(targets).tolist() for _, targets in first]
  assert masks[0] != masks[1]
  # The figures do not change from release to release, or a cached epoch would not be the same.
  assert masking.hashed_seeds(tf.constant([3, 4, 5]), 2)[1].numpy().tolist() == [
      723304275, 1483401534]


@pytest.mark.parametrize('options', [
    {}, {'static': True}, {'whole_words': True}, {'whole_words': True, 'static': True}])
def test_frequencies_of_a_million_tokens(options):
  length, pieces = 1000, 1000
  rng = np.random.default_rng(0)
  texts = rng.integers(97, 123, (pieces, length)) + 3
  texts[rng.random((pieces, length)) < 0.2] = 35  # Words of 5 letters with their space, on average.
  found = _masked(texts, length + 2, **options)
  inputs = np.stack([p['inputs'] for p in found])[:, 1:-1]
  targets = np.stack([p['targets'] for p in found])[:, 1:-1]
  selected = targets > 0
  n, total = selected.sum(), selected.size
  assert (targets[selected] == texts[selected]).all()
  assert (inputs[~selected] == texts[~selected]).all()
  # A budget of 150 is used up, or all but a few tokens of it where words must fit.
  each = selected.sum(1)
  assert each.max() == 150 and n >= 0.999 * 0.15 * total
  chosen, original = inputs[selected], texts[selected]
  same = (chosen == original).sum()
  for count, p in (
      ((chosen == _MASK).sum(), 0.8),
      (same, 0.1 + 0.1 / 256),
      (n - same - (chosen == _MASK).sum(), 0.1 * 255 / 256),
  ):
    assert abs(count - n * p) < 5 * math.sqrt(n * p * (1 - p))
  # Every place is selected alike.
  places = selected.sum(0)
  if 'whole_words' not in options:
    assert abs(places - 150).max() < 5 * math.sqrt(pieces * 0.15 * 0.85)


def test_whole_words_are_selected_whole():
  text = [b + 3 for b in b'the quick brown fox jumps over the lazy dog and runs away ' * 6]
  (piece,) = _masked([text], 512, whole_words=True)
  selected = piece['targets'][1:-1] > 0
  word = np.cumsum(np.array(text) == 35)
  for i in range(word.max() + 1):
    assert selected[word == i].all() or not selected[word == i].any()
  assert 0 < selected.sum() <= round(len(text) * 0.15)
