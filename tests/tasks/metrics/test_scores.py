import math

import numpy as np
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
      metrics.exact_match, metrics.rouge_l, metrics.rouge, metrics.bleu, metrics.bleu_intl,
      metrics.accuracy, metrics.f1, metrics.macro_f1, metrics.mean_class_f1(3), metrics.matthews,
      metrics.correlations,
  ):
    assert all(math.isnan(v) for v in metric([], []).values())


@pytest.mark.parametrize('metric', [
    metrics.exact_match, metrics.accuracy, metrics.f1, metrics.macro_f1, metrics.mean_class_f1(2),
    metrics.matthews, metrics.correlations, metrics.rouge,
])
def test_lengths_must_agree(metric):
  with pytest.raises(ValueError):
    metric(['a'] if metric in (metrics.exact_match, metrics.rouge) else [1], [])


def test_f1_by_hand():
  # One hit, one miss, and -1 counts as the wrong label of each: P 1/2, R 1/3.
  assert metrics.f1([1, 1, 1, 0, 0], [1, 0, -1, 0, -1])['f1'] == pytest.approx(40)
  assert metrics.f1([0, 1], [0, 1]) == {'f1': 100.0}
  assert metrics.f1([0, 0], [0, 0]) == {'f1': 0.0}


def test_f1_leaves_its_arguments_alone():
  predictions = [1, -1]
  metrics.f1([1, 1], predictions)
  assert predictions == [1, -1]


def test_mean_class_f1_counts_classes_that_do_not_occur_and_no_others():
  metric = metrics.mean_class_f1(3)
  # F1 of 0: 2/3, of 1: 1, of 2, which does not occur: 0; the -1 is no class.
  assert metric([0, 0, 1], [0, -1, 1])['mean_3class_f1'] == pytest.approx(100 * (2 / 3 + 1) / 3)


def test_matthews_by_hand():
  # TP 2, TN 1, FP 1, FN 0: (2 * 1 - 0) / sqrt(3 * 2 * 2 * 1).
  score = metrics.matthews([1, 1, 0, 0], [1, 1, 1, 0])['matthews_corrcoef']
  assert score == pytest.approx(100 * 2 / math.sqrt(12))
  assert metrics.matthews([1, 0], [1, 1]) == {'matthews_corrcoef': 0.0}
  assert metrics.matthews([1, 0], [0, 1]) == {'matthews_corrcoef': -100.0}


def test_correlations_by_hand():
  scores = metrics.correlations([1.0, 2.0, 3.0], [1.0, 4.0, 9.0])
  # Covariance 8, variances 2 and 98/3; the ranks are equal.
  assert scores['pearson_corrcoef'] == pytest.approx(100 * 8 / math.sqrt(2 * 98 / 3))
  assert scores['spearman_corrcoef'] == pytest.approx(100)
  for constant in ([2.0, 2.0], [-1.0, -1.0]):
    assert all(math.isnan(v) for v in metrics.correlations([0.0, 1.0], constant).values())


def test_rouge_by_hand():
  # 'a b' of 'a b c': unigrams P 1 R 2/3, bigrams P 1 R 1/2, the subsequence as the unigrams.
  scores = metrics.rouge(['a b c', 'x'], ['a b', 'x'])
  assert scores == pytest.approx({'rouge1': 90, 'rouge2': 100 * (2 / 3 + 0) / 2, 'rougeLsum': 90})
  # Sentences are compared one by one, whatever their order.
  assert metrics.rouge(['b c . d e'], ['d e . b c'])['rougeLsum'] == pytest.approx(100)


def test_bleu_intl_parts_symbols():
  # 13a leaves the dash inside words, international tokens do not.
  targets, predictions = ['a–b c d e'], ['a – b c d e']
  assert metrics.bleu_intl(targets, predictions)['bleu'] == pytest.approx(100)
  assert metrics.bleu(targets, predictions)['bleu'] < 90


SCRIPTS = [
    'The quick brown fox.', 'Быстрая коричневая лиса', 'สุนัขจิ้งจอกสีน้ำตาล', '敏捷的棕色狐狸',
    'すばしっこい狐', '빠른 갈색 여우', 'तेज़ भूरी लोमड़ी', 'الثعلب البني السريع',
    'η γρήγορη αλεπού', '🙂', 'cafe\u0301 au lait', '!', 'the']


@pytest.mark.parametrize('text', SCRIPTS)
def test_a_perfect_prediction_has_100_in_every_script(text):
  from tasks.metrics import question_answering
  for metric in (metrics.rouge_l, metrics.bleu, metrics.bleu_intl, metrics.exact_match):
    assert [*metric([text], [text]).values()] == [pytest.approx(100)], metric.__name__
  assert metrics.rouge([text], [text])['rouge1'] == pytest.approx(100)
  if text not in ('!', 'the'):   # where nothing is left, SQuAD's own F1 is 0
    assert question_answering.squad([[text]], [text]) == {'em': 100, 'f1': 100}
  wrong = {**metrics.rouge_l([text], ['zzz']), **metrics.bleu([text], ['zzz zzz zzz zzz zzz'])}
  assert max(wrong.values()) < 10


def test_half_right_in_a_script_without_spaces_is_half_right():
  assert metrics.rouge_l(['北京大学'], ['北京'])['rouge_l'] == pytest.approx(200 / 3)
  assert metrics.rouge(['ไป'], ['ไม'])['rouge1'] == pytest.approx(50)


def test_english_scores_are_those_of_rouge_score_and_sacrebleu():
  from rouge_score import rouge_scorer
  import sacrebleu
  rng = np.random.default_rng(0)
  vocabulary = "the cat's Sat, on_a mat-42! It (was) 3.5% warm; don't U.S. x".split()
  draw = lambda: ' '.join(rng.choice(vocabulary, rng.integers(4, 12)))
  targets, predictions = [draw() for _ in range(40)], [draw() for _ in range(40)]
  scorer = rouge_scorer.RougeScorer(['rougeL'])
  want = [scorer.score(t, p)['rougeL'].fmeasure for t, p in zip(targets, predictions)]
  assert metrics.rouge_l(targets, predictions)['rouge_l'] == pytest.approx(100 * np.mean(want))
  for name, tokenize in (('bleu', '13a'), ('bleu_intl', 'intl')):
    want = sacrebleu.corpus_bleu(predictions, [targets], tokenize=tokenize).score
    assert getattr(metrics, name)(targets, predictions)['bleu'] == pytest.approx(want)
