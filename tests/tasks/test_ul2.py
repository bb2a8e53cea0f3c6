import collections
import math

import numpy as np
import pytest
import seqio
import tensorflow as tf

from t5x_lite.errors import UserError
from tasks import span_corruption, ul2

_VOCABULARY = seqio.ByteVocabulary(extra_ids=130)  # Enough sentinels for inputs of 512.
_FEATURES = {name: seqio.Feature(_VOCABULARY, add_eos=True) for name in ('inputs', 'targets')}
_EOS, _FIRST_EXTRA = 1, 259
_MODES = {mode: [b + 3 for b in mode.encode()] for mode in ('[NLU]', '[NLG]', '[S2S]')}


def _dataset(texts):
  return tf.data.Dataset.from_generator(
      lambda: ({'targets': t} for t in texts),
      output_signature={'targets': tf.TensorSpec([None], tf.int32)},
  )


def _run(texts, inputs, targets, seed=0, repeat=1, take=-1):
  with seqio.utils.map_seed_manager(seed):
    dataset = ul2.ul2(
        _dataset(texts).repeat(repeat), {'inputs': inputs, 'targets': targets}, _FEATURES)
  return [
      (ex['inputs'].tolist(), ex['targets'].tolist())
      for ex in dataset.take(take).as_numpy_iterator()
  ]


def _mode(piece):
  (mode,) = (name for name, ids in _MODES.items() if piece[0][:5] == ids)
  return mode


def _restore(inputs, targets):
  """An independent inverse: spells out sentinels, or continues inputs that have none."""
  assert inputs[-1] == targets[-1] == _EOS
  text, spans, current = [], {}, []
  for token in targets[:-1]:
    if token >= _FIRST_EXTRA:
      current = spans[token] = []
    else:
      current.append(token)
  if not spans:
    return inputs[5:-1] + targets[:-1]
  for token in inputs[5:-1]:
    text += spans.pop(token) if token in spans else [token]
  assert not spans
  return text


def test_the_seven_denoisers():
  assert [tuple(d) for d in ul2.DENOISERS] == [
      ('[NLU]', 0.15, 3), ('[NLU]', 0.15, 8),
      ('[NLG]', 0.5, 3), ('[NLG]', 0.5, 8), ('[NLG]', 0.15, 64), ('[NLG]', 0.5, 64),
      ('[S2S]', 0.25, None),
  ]


# Raw and target lengths at 512 for the text, so with the mode's 5 ids on top; T5's
# random_spans_helper gives the first six.
_LENGTHS = [(568, 114), (588, 100), (766, 512), (908, 512), (600, 92), (1006, 512), (681, 171)]


def test_full_pieces_fill_inputs_and_targets():
  texts = [[4 + i] + [3] * (raw - 1) for i, (raw, _) in enumerate(_LENGTHS)]
  pieces = _run(texts, 517, 512)
  assert len(pieces) == 7
  for inputs, targets in pieces:
    text = _restore(inputs, targets)
    i = text[0] - 4
    denoiser = ul2.DENOISERS[i]
    assert text == texts[i] and _mode((inputs, targets)) == denoiser.mode
    assert (len(inputs), len(targets)) == (517, _LENGTHS[i][1])
    if denoiser.span:
      noise = round(len(text) * denoiser.density)
      spans = sum(t >= _FIRST_EXTRA for t in inputs)
      assert spans == max(1, round(noise / denoiser.span)) == len(targets) - noise - 1


def test_lengths_leave_room_for_the_mode():
  for denoiser, (raw, targets) in zip(ul2.DENOISERS[:6], _LENGTHS):
    assert span_corruption.span_corruption_lengths(
        512, denoiser.density, denoiser.span) == (raw, targets)


def test_one_pass_gives_every_text_to_its_denoiser_and_ends():
  rng = np.random.default_rng(0)
  texts = [rng.integers(3, 259, n).tolist() for n in rng.integers(2, 20, 100)]
  texts[5] = [9] * 2000  # Denoiser 5 has examples left long after the others.
  pieces = _run(texts, 64, 64)
  by_mode = collections.defaultdict(list)
  for piece in pieces:
    by_mode[_mode(piece)].append(_restore(*piece))
  modes = [ul2.DENOISERS[i % 7].mode for i in range(100)]
  for mode, found in by_mode.items():
    expected = [t for t, m in zip(texts, modes) if m == mode and len(t) < 2000]
    assert sorted(t for t in found if set(t) != {9} or t in expected) == sorted(expected)
  assert sum(len(t) for t in by_mode['[NLG]'] if set(t) == {9}) == 2000
  assert len(set(map(_mode, pieces[:40]))) == 3  # Interleaved, not one after the other.


@pytest.mark.slow
def test_endless_passes_draw_each_denoiser_alike():
  texts = [[3 + i] * 12 for i in range(7)]  # Text i goes to denoiser i in every pass.
  pieces = _run(texts, 32, 32, repeat=None, take=1400)
  counts = collections.Counter(_restore(*piece)[0] - 3 for piece in pieces)
  assert set(counts) == set(range(7))
  deviation = math.sqrt(1400 * 1 / 7 * 6 / 7)
  assert all(abs(n - 200) < 5 * deviation for n in counts.values())


@pytest.mark.slow
def test_texts_of_one_token_do_not_stop_an_endless_stream():
  texts = [[3 + i] * (12 if i == 3 else 1) for i in range(7)]
  pieces = _run(texts, 32, 32, repeat=None, take=50)
  assert len(pieces) == 50 and {_restore(*p)[0] for p in pieces} == {6}
  assert len(set(map(_mode, pieces))) == 3
  assert _run([[3]] * 9, 32, 32) == []


@pytest.mark.slow
def test_deterministic_in_the_seed():
  rng = np.random.default_rng(1)
  texts = [rng.integers(3, 259, 30).tolist() for _ in range(30)]
  first = _run(texts, 64, 64, seed=1)
  assert first == _run(texts, 64, 64, seed=1)
  other = _run(texts, 64, 64, seed=2)
  assert first != other and list(map(_mode, first)) != list(map(_mode, other))


@pytest.mark.parametrize('lengths, extra_ids, message', [
    (None, 130, r"sequence_length\['inputs'\]"),
    ({'inputs': 8, 'targets': 32}, 130, r"\['inputs'\] >= 9"),
    ({'inputs': 32}, 130, r"sequence_length\['targets'\]"),
    ({'inputs': 517, 'targets': 511}, 130, 'raise it to 512'),
    ({'inputs': 517, 'targets': 512}, 125, 'extra_ids=128'),
])
def test_user_errors(lengths, extra_ids, message):
  vocabulary = seqio.ByteVocabulary(extra_ids=extra_ids)
  features = {name: seqio.Feature(vocabulary) for name in ('inputs', 'targets')}
  with pytest.raises(UserError, match=message):
    ul2.ul2(_dataset([[3, 4]]), lengths, features)
