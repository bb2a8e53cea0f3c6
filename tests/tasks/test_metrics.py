import math

import pytest

from tasks import metrics


def test_exact_match():
  assert metrics.exact_match(['a', 'b ', 'C', 'd'], ['a', 'b', 'c', 'e']) == {'exact_match': 50.0}


def test_rouge_l_by_hand():
  # LCS 'the cat sat' of 3 words: precision 3/4, recall 3/3, F1 6/7. The second pair is equal.
  score = metrics.rouge_l(['the cat sat', 'yes'], ['the cat has sat', 'yes'])['rouge_l']
  assert score == pytest.approx(100 * (6 / 7 + 1) / 2)


def test_bleu_by_hand():
  assert metrics.bleu(['a b c d e'], ['a b c d e'])['bleu'] == pytest.approx(100)
  # Precisions 4/4, 3/3, 2/2, 1/1 and brevity exp(1 - 5/4).
  assert metrics.bleu(['a b c d e'], ['a b c d'])['bleu'] == pytest.approx(
      100 * math.exp(-0.25)
  )


def test_accuracy_and_macro_f1_by_hand():
  targets, predictions = [0, 0, 1, 2], [0, 1, 1, 1]
  assert metrics.accuracy(targets, predictions) == {'accuracy': 50.0}
  # F1 of 0: 2/3; of 1: precision 1/3, recall 1, 1/2; of 2: 0.
  assert metrics.macro_f1(targets, predictions)['macro_f1'] == pytest.approx(
      100 * (2 / 3 + 1 / 2 + 0) / 3
  )


def test_language_modeling_is_a_corpus_figure():
  scores = ([-2.0, -6.0], {'tokens': [1, 3], 'bytes': [4, 12], 'text': [-2.0, -5.0],
                           'correct': [1, 0]})
  result = metrics.language_modeling(targets=None, scores=scores)
  assert result == pytest.approx({
      'loss': 2.0,
      'perplexity': math.exp(2),
      'bits_per_byte': 7 / (16 * math.log(2)),
      'token_accuracy': 25.0,
  })


def test_uniform_bytes_have_eight_bits():
  n = 10
  nats = n * math.log(256)
  scores = ([-nats], {'tokens': [n], 'bytes': [n], 'text': [-nats], 'correct': [0]})
  assert metrics.language_modeling([], scores)['bits_per_byte'] == pytest.approx(8.0)


def test_nothing_to_divide_by_is_nan():
  scores = ([], {'tokens': [], 'bytes': [], 'text': [], 'correct': []})
  assert all(math.isnan(v) for v in metrics.language_modeling([], scores).values())
  for metric in (
      metrics.exact_match, metrics.rouge_l, metrics.bleu, metrics.accuracy, metrics.macro_f1
  ):
    assert all(math.isnan(v) for v in metric([], []).values())


def test_lengths_must_agree():
  with pytest.raises(ValueError):
    metrics.exact_match(['a'], [])
