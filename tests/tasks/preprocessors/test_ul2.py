import collections

import numpy as np
import pytest
import scipy.stats
import seqio
import tensorflow as tf

from t5x_lite.core.errors import UserError
from tasks.preprocessors import span_corruption, ul2

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
  """Of long texts, all pieces but a text's last are as long as their denoiser takes."""
  texts = [[4 + i] + [3] * 4999 for i in range(8)]
  pieces = _run(texts, 517, 512)
  full, raws = [], [raw for raw, _ in _LENGTHS]
  for inputs, targets in pieces:
    text = _restore(inputs, targets)
    kinds = [i for i, (raw, length) in enumerate(_LENGTHS)
             if (len(text), len(targets)) == (raw, length)]
    if kinds:
      (i,) = kinds
      full.append(i)
      denoiser = ul2.DENOISERS[i]
      assert _mode((inputs, targets)) == denoiser.mode and len(inputs) == 517
      if denoiser.span:
        noise = round(len(text) * denoiser.density)
        spans = sum(t >= _FIRST_EXTRA for t in inputs)
        assert spans == max(1, round(noise / denoiser.span)) == len(targets) - noise - 1
    else:
      assert len(text) < max(raws)
  assert set(full) == set(range(7)) and len(pieces) - len(full) <= 8


def test_lengths_leave_room_for_the_mode():
  for denoiser, (raw, targets) in zip(ul2.DENOISERS[:6], _LENGTHS):
    assert span_corruption.span_corruption_lengths(
        512, denoiser.density, denoiser.span) == (raw, targets)


def test_one_pass_gives_every_text_whole_and_in_order():
  rng = np.random.default_rng(0)
  texts = [rng.integers(3, 259, n).tolist() for n in rng.integers(2, 300, 60)]
  pieces = iter(_run(texts, 64, 64))
  for text in texts:
    found = []
    while len(found) < len(text) - 1:   # a last piece of one token is left out
      found += _restore(*next(pieces))
    assert found == text[:len(found)]
  assert next(pieces, None) is None


def test_each_denoiser_is_drawn_alike():
  pieces = _run([[3] * 250_000], 64, 64)
  # Who is told from whom by mode and number of sentinels, at full length.
  lengths = [(span_corruption.span_corruption_lengths(59, d.density, d.span) if d.span else None)
             for d in ul2.DENOISERS]
  counts = collections.Counter()
  for inputs, targets in pieces[:-1]:
    size = len(_restore(inputs, targets)), len(targets)
    counts[_mode((inputs, targets)), lengths.index(size) if size in lengths else 6] += 1
  assert {key[0]: 0 for key in counts} == dict.fromkeys(_MODES, 0)
  by_kind = list(counts.values())
  expected = len(pieces[:-1]) / 7
  assert len(by_kind) == 7
  assert scipy.stats.chisquare(by_kind, [expected] * len(by_kind)).pvalue > 1e-3


def test_texts_of_one_token_do_not_stop_an_endless_stream():
  texts = [[3 + i] * (12 if i == 3 else 1) for i in range(7)]
  pieces = _run(texts, 32, 32, repeat=None, take=50)
  assert len(pieces) == 50 and {_restore(*p)[0] for p in pieces} == {6}
  assert len(set(map(_mode, pieces))) == 3
  assert _run([[3]] * 9, 32, 32) == []


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
