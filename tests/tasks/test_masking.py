import math

import numpy as np
import pytest
import seqio
import tensorflow as tf

from t5x_lite.errors import UserError
from tasks import preprocessors, vocabularies

_VOCABULARY = vocabularies.BYTE_VOCABULARY
_FEATURES = {name: seqio.Feature(_VOCABULARY) for name in ('inputs', 'targets')}
_CLS, _MASK, _EOS = 382, 383, 1


def _masked(texts, length, seed=0):
  dataset = tf.data.Dataset.from_generator(
      lambda: ({'targets': t} for t in texts),
      output_signature={'targets': tf.TensorSpec([None], tf.int32)},
  )
  with seqio.utils.map_seed_manager(seed):
    dataset = preprocessors.mask_language_model(dataset, {'inputs': length}, _FEATURES)
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
    preprocessors.mask_language_model(dataset, None, _FEATURES)
  features = {'inputs': seqio.Feature(seqio.ByteVocabulary(extra_ids=1))}
  with pytest.raises(UserError, match='extra_ids=2'):
    preprocessors.mask_language_model(dataset, {'inputs': 9}, features)
