import hypothesis
from hypothesis import strategies as st
import numpy as np
import pytest
import seqio
import tensorflow as tf

from t5x_lite.core.errors import UserError
from tasks import vocabularies
from tasks.preprocessors.span_corruption import (
  random_spans_noise_mask,
  span_corruption,
  span_corruption_lengths,
  spans_to_sentinels,
)

_VOCABULARY = vocabularies.BYTE_VOCABULARY
_FEATURES = {name: seqio.Feature(_VOCABULARY, add_eos=True) for name in ('inputs', 'targets')}


@pytest.mark.parametrize('inputs, density, span, expected', [
    # Made by T5's random_spans_helper.
    (64, 0.20, 2.0, (70, 22)), (64, 0.20, 1.0, (63, 27)),
    (128, 0.15, 3.0, (141, 29)), (256, 0.15, 3.0, (284, 58)), (512, 0.15, 3.0, (568, 114)),
    (1024, 0.15, 3.0, (1137, 229)), (2048, 0.15, 3.0, (2274, 456)),
    (512, 0.15, 8.0, (588, 100)), (512, 0.5, 3.0, (766, 512)), (512, 0.5, 8.0, (908, 512)),
    (512, 0.15, 64.0, (600, 92)), (512, 0.5, 64.0, (1006, 512)),
])
def test_lengths_are_those_of_t5(inputs, density, span, expected):
  assert span_corruption_lengths(inputs, density, span) == expected


def test_sentinels_count_down():
  tokens = tf.range(10, 16)
  mask = tf.constant([True, True, False, False, True, False])
  np.testing.assert_array_equal(
      spans_to_sentinels(tokens, mask, 1000), [999, 12, 13, 998, 15]
  )
  np.testing.assert_array_equal(
      spans_to_sentinels(tokens, ~mask, 1000), [10, 11, 999, 14, 998]
  )


def _corrupt(texts, inputs_length, seed=0, **kwargs):
  dataset = tf.data.Dataset.from_generator(
      lambda: ({'targets': t} for t in texts),
      output_signature={'targets': tf.TensorSpec([None], tf.int32)},
  )
  with seqio.utils.map_seed_manager(seed):
    dataset = span_corruption(
        dataset, {'inputs': inputs_length}, _FEATURES, **kwargs
    )
  return list(dataset.as_numpy_iterator())


def _restore(inputs, targets):
  """An independent inverse: reads both sequences side by side, as a person would."""
  assert inputs[-1] == targets[-1] == _VOCABULARY.eos_id
  spans, expected = {}, _VOCABULARY.vocab_size - 1
  for token in targets[:-1]:
    if token == expected:
      spans[token] = current = []
      expected -= 1
    else:
      current.append(token)
  restored = []
  for token in inputs[:-1]:
    restored.extend(spans.pop(token) if token in spans else [token])
  assert not spans
  return restored


@hypothesis.settings(max_examples=12, deadline=None)
@hypothesis.given(
    texts=st.lists(
        st.lists(st.integers(3, 258), min_size=2, max_size=90), min_size=1, max_size=3
    ),
    inputs_length=st.integers(8, 64),
    seed=st.integers(0, 1000),
)
def test_raw_tokens_can_be_recovered(texts, inputs_length, seed):
  raw, targets_length = span_corruption_lengths(inputs_length)
  expected = [t[i:i + raw] for t in texts for i in range(0, len(t), raw)]
  expected = [piece for piece in expected if len(piece) > 1]
  pieces = _corrupt(texts, inputs_length, seed)
  assert [_restore(p['inputs'], p['targets']) for p in pieces] == expected
  for piece in pieces:
    assert len(piece['inputs']) <= inputs_length
    assert len(piece['targets']) <= targets_length


@pytest.mark.parametrize('inputs_length', [16, 41, 64, 114, 256])
def test_full_pieces_fill_both_lengths(inputs_length):
  raw, targets_length = span_corruption_lengths(inputs_length)
  for piece in _corrupt([np.arange(raw) % 200 + 3] * 5, inputs_length):
    assert (len(piece['inputs']), len(piece['targets'])) == (inputs_length, targets_length)


def test_noise_density_and_span_count():
  text = np.arange(568) % 250 + 3
  pieces = _corrupt([text] * 50, 512)
  for piece in pieces:
    sentinels = (piece['inputs'] >= 259).sum()
    assert sentinels == 28  # round(85 / 3); 85 = round(568 x 0.15).
    assert len(piece['targets']) - sentinels - 1 == 85
  # Every position is noise equally often, but for the first, which never is.
  noise = np.zeros(568)
  for i in range(100):
    mask = random_spans_noise_mask(568, 0.15, 3.0, [[i, 1], [i, 2]])
    noise += mask.numpy()
  assert noise[0] == 0 and noise.sum() == 100 * 85
  assert abs(noise[100:400].mean() / 100 - 0.15) < 0.02


def test_deterministic_in_the_seed_and_fresh_each_time():
  text = list(range(3, 103))
  as_lists = lambda pieces: [p['inputs'].tolist() for p in pieces]
  first = as_lists(_corrupt([text] * 4, 128, seed=1))
  assert first == as_lists(_corrupt([text] * 4, 128, seed=1))
  assert first != as_lists(_corrupt([text] * 4, 128, seed=2))
  assert len(set(map(tuple, first))) == 4


@pytest.mark.parametrize('lengths, message', [
    (None, r"sequence_length\['inputs'\]"),
    ({'inputs': 2}, r"sequence_length\['inputs'\]"),
    ({'inputs': 512, 'targets': 113}, 'raise it to 114'),
    ({'inputs': 4096, 'targets': 4096}, 'needs 227 sentinels'),
])
def test_user_errors(lengths, message):
  dataset = tf.data.Dataset.from_tensors({'targets': tf.range(3, 9)})
  with pytest.raises(UserError, match=message):
    span_corruption(dataset, lengths, _FEATURES)
