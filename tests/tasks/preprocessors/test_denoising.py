"""I.i.d. denoising, prefix-LM and UL2's S denoiser, beside what T5's own code gives."""

import itertools
import json
import math
import pathlib

import hypothesis
from hypothesis import strategies as st
import numpy as np
import pytest
import seqio
import tensorflow as tf

from t5x_lite.core.errors import UserError
from tasks import vocabularies
from tasks.preprocessors import iid_denoising, prefix_lm
from tasks.preprocessors.span_corruption import random_spans_noise_mask, spans_to_sentinels

_VOCABULARY = vocabularies.BYTE_VOCABULARY
_FEATURES = {name: seqio.Feature(_VOCABULARY, add_eos=True) for name in ('inputs', 'targets')}
_T5 = json.loads((pathlib.Path(__file__).parents[1] / 'data/t5_preprocessors.json').read_text())
_EOS = 1


def _mask(bits):
  return np.array([bit == '1' for bit in bits])


def _run(preprocessor, texts, inputs, targets, seed=0, **kwargs):
  dataset = tf.data.Dataset.from_generator(
      lambda: ({'targets': t} for t in texts),
      output_signature={'targets': tf.TensorSpec([None], tf.int32)},
  )
  with seqio.utils.map_seed_manager(seed):
    dataset = preprocessor(dataset, {'inputs': inputs, 'targets': targets}, _FEATURES, **kwargs)
  return [
      (ex['inputs'].tolist(), ex['targets'].tolist()) for ex in dataset.as_numpy_iterator()
  ]


# T5's masks from the same seeds.


@pytest.mark.parametrize('case', _T5['spans'], ids=lambda c: f'{c["length"]}-{c["span"]}')
def test_masks_of_spans_are_t5s(case):
  mask = random_spans_noise_mask(
      case['length'], case['density'], case['span'], case['seeds'])
  np.testing.assert_array_equal(mask, _mask(case['mask']))


@pytest.mark.parametrize('case', _T5['iid'], ids=lambda c: f'{c["length"]}-{c["density"]}')
def test_iid_masks_are_t5s(case):
  mask = iid_denoising.iid_noise_mask(case['length'], case['density'], case['seed'])
  np.testing.assert_array_equal(mask, _mask(case['mask']))


@pytest.mark.parametrize('case', _T5['sentinels'], ids=lambda c: c['mask'])
def test_sentinels_are_t5s(case):
  tokens, mask = tf.constant(case['tokens']), tf.constant(_mask(case['mask']))
  replace = lambda mask: spans_to_sentinels(tokens, mask, 384).numpy().tolist()
  assert (replace(mask), replace(~mask)) == (case['inputs'], case['targets'])


@pytest.mark.parametrize('case', _T5['prefix'], ids=lambda c: str(c['length']))
def test_prefixes_are_t5s(case, monkeypatch):
  # The seeds that seqio would draw for the map are those of the case.
  monkeypatch.setattr(
      tf.data.Dataset, 'random', lambda seed: tf.data.Dataset.from_tensors(
          tf.constant(case['seed'][seed % 2], tf.int64)))
  length = case['length']
  ((inputs, targets),) = _run(
      prefix_lm.prefix_lm, [range(3, 3 + length)], length + 1, length + 1)
  assert (len(inputs) - 1, len(targets) - 1) == (case['inputs'], length - case['inputs'])


def test_pieces_of_prefix_lm_are_t5s():
  pieces = _run(prefix_lm.prefix_lm, [range(3, 103)], 32, 32)
  assert [i[:-1] + t[:-1] for i, t in pieces] == _T5['prefix_lm_pieces']


# I.i.d. denoising.


def test_noise_everywhere_and_nowhere():
  run = lambda density: _run(iid_denoising.iid_denoising, [[9, 8, 7]], 8, 9,
                             noise_density=density)
  assert run(1.0) == [([383, _EOS], [9, 8, 7, _EOS])]
  assert run(0.0) == [([9, 8, 7, _EOS], [383, _EOS])]


@pytest.mark.parametrize('mask, sentinels, targets, expected', [
    ('0101011', 9, 20, '0101011'),
    ('0101011', 3, 20, '0101000'),  # After the third run of noise there might be a fourth other.
    ('0101011', 2, 20, '0100000'),
    ('0101011', 1, 20, '0000000'),
    ('1011011', 1, 20, '1000000'),
    ('1011011', 2, 20, '1011000'),
    ('1011011', 3, 20, '1011011'),
    ('0101011', 9, 9, '0101011'),   # Seven ids, a run that might follow, EOS.
    ('0101011', 9, 8, '0101010'),
    ('0101011', 9, 4, '0100000'),
    ('0101011', 9, 3, '0000000'),
    ('1111111', 9, 9, '1111111'),
    ('1111111', 9, 8, '1111110'),
])
def test_noise_is_left_out_where_it_does_not_fit(mask, sentinels, targets, expected):
  fitting = iid_denoising.fitting_noise(tf.constant(_mask(mask)), sentinels, targets)
  np.testing.assert_array_equal(fitting, _mask(expected))


def _restore(inputs, targets):
  """An independent inverse: runs of noise and of other tokens take turns."""
  assert inputs[-1] == targets[-1] == _EOS
  for ids in (inputs, targets):
    sentinels = [t for t in ids if t >= 259]
    assert sentinels == list(range(383, 383 - len(sentinels), -1))
  runs = lambda ids: [
      list(run) for is_sentinel, run in itertools.groupby(ids[:-1], lambda t: t >= 259)
      if not is_sentinel
  ]
  order = (targets, inputs) if inputs[0] >= 259 else (inputs, targets)
  pairs = itertools.zip_longest(*map(runs, order), fillvalue=[])
  return [token for pair in pairs for run in pair for token in run]


@hypothesis.settings(max_examples=6, deadline=None)
@hypothesis.given(
    texts=st.lists(
        st.lists(st.integers(3, 258), min_size=1, max_size=90), min_size=1, max_size=3
    ),
    inputs=st.integers(4, 64),
    density=st.sampled_from([0.15, 0.5, 0.9]),
    seed=st.integers(0, 1000),
)
def test_raw_tokens_can_be_recovered_from_iid_noise(texts, inputs, density, seed):
  pieces = _run(iid_denoising.iid_denoising, texts, inputs, inputs + 1, seed,
                noise_density=density)
  expected = [t[i:i + inputs - 1] for t in texts for i in range(0, len(t), inputs - 1)]
  assert [_restore(*piece) for piece in pieces] == expected
  assert all(len(i) <= inputs and len(t) <= inputs + 1 for i, t in pieces)


def test_density_and_runs_of_iid_noise():
  length, copies = 255, 400
  pieces = _run(iid_denoising.iid_denoising, [range(3, 258)] * copies, 256, 128)
  noise = sum(sum(t < 259 for t in targets) - 1 for _, targets in pieces)
  runs = sum(sum(t >= 259 for t in inputs) for inputs, _ in pieces)
  n = length * copies
  assert abs(noise - 0.15 * n) < 5 * math.sqrt(n * 0.15 * 0.85)
  # A run begins with noise at the first place or after none. Neighbours never both begin one, so
  # the deviation is below the binomial one.
  mean = copies * (0.15 + 254 * 0.15 * 0.85)
  assert abs(runs - mean) < 5 * math.sqrt(mean)
  assert len(set(map(str, pieces))) == copies


@pytest.mark.parametrize('lengths, message', [
    (None, r"sequence_length\['inputs'\]"),
    ({'inputs': 64}, r"sequence_length\['targets'\]"),
    ({'inputs': 512, 'targets': 114}, 'raise it to 192'),
    ({'inputs': 1024, 'targets': 1024}, 'extra_ids=178'),
])
def test_user_errors_of_iid_denoising(lengths, message):
  dataset = tf.data.Dataset.from_tensors({'targets': tf.range(3, 9)})
  with pytest.raises(UserError, match=message):
    iid_denoising.iid_denoising(dataset, lengths, _FEATURES)


# Prefix-LM and the S denoiser.


@pytest.mark.parametrize('inputs, targets', [(32, 32), (64, 12), (12, 64), (2, 2), (2, 9), (9, 2)])
def test_every_split_that_fits_is_found_and_no_other(inputs, targets):
  length = max(inputs - 1, targets - 1, 2)
  text = list(range(3, 3 + length))
  pieces = _run(prefix_lm.prefix_lm, [text] * 20 * length, inputs, targets)
  assert all(i[:-1] + t[:-1] == text and i[-1] == t[-1] == _EOS for i, t in pieces)
  points = [len(i) - 1 for i, _ in pieces]
  possible = range(max(1, length - targets + 1), min(length - 1, inputs - 1) + 1)
  assert set(points) == set(possible)
  counts = np.bincount(points)[possible.start:]
  mean = len(points) / len(possible)
  assert abs(counts - mean).max() < 5 * math.sqrt(mean) + 1


def test_s_denoiser_splits_off_a_quarter():
  texts = [tf.range(3, 15), tf.range(3, 6), tf.range(3, 5)]
  split = lambda text: [x.numpy().tolist() for x in prefix_lm.split_off(text, 0.25).values()]
  assert [split(text) for text in texts] == [
      [[3, 4, 5, 6, 7, 8, 9, 10, 11], [12, 13, 14]], [[3, 4], [5]], [[3], [4]]]


@pytest.mark.parametrize('inputs, targets, length', [
    (511, 511, 681), (511, 113, 453), (1, 1, 2), (1, 9, 2), (9, 1, 5), (96, 32, 128)])
def test_length_of_s_denoising(inputs, targets, length):
  assert prefix_lm.s_denoising_length(inputs, targets) == length
  # By trying all lengths.
  last = lambda n: min(max(round(n * 0.25), 1), n - 1)
  assert length == max(
      n for n in range(2, 2000) if n - last(n) <= inputs and last(n) <= targets)


@pytest.mark.parametrize('lengths', [None, {'inputs': 8}, {'inputs': 8, 'targets': 1}])
def test_prefix_lm_needs_both_lengths(lengths):
  dataset = tf.data.Dataset.from_tensors({'targets': tf.range(3, 9)})
  with pytest.raises(UserError, match='give the lengths of inputs and targets'):
    prefix_lm.prefix_lm(dataset, lengths, _FEATURES)


@pytest.mark.parametrize('preprocessor', [prefix_lm.prefix_lm, iid_denoising.iid_denoising])
def test_deterministic_in_the_seed(preprocessor):
  run = lambda seed: _run(preprocessor, [range(3, 103)] * 4, 128, 128, seed)
  assert run(1) == run(1) != run(2)
  assert len(set(map(str, run(1)))) == 4
