"""Metrics of the tasks, as seqio calls them: (targets, predictions) or (targets, scores).

Shares and correlations are on the 0-100 scale; nan where there is nothing to compute them from.
Labels are class numbers, and a prediction that is no label is -1, which is wrong. Names are T5's.
"""

from collections.abc import Callable, Mapping, Sequence
import math

import numpy as np

from tasks.metrics import words


def exact_match(targets: Sequence[str], predictions: Sequence[str]) -> Mapping[str, float]:
  """Returns the percentage of predictions equal to their target, outer spaces apart."""
  hits = [t.strip() == p.strip() for t, p in zip(targets, predictions, strict=True)]
  return {'exact_match': percent(hits)}


def rouge_l(targets: Sequence[str], predictions: Sequence[str]) -> Mapping[str, float]:
  """Returns the mean F1 of the longest common subsequence of words (Lin 2004), unstemmed.

  Words of any script; of English text the score is rouge-score's.
  """
  return {'rouge_l': _rouge(targets, predictions, ['rougeL'])['rougeL']}


def rouge(targets: Sequence[str], predictions: Sequence[str]) -> Mapping[str, float]:
  """Returns the mean F1 of ROUGE-1, ROUGE-2 and ROUGE-L of summaries (Lin 2004), unstemmed.

  For 'rougeLsum' a summary is split into sentences at new lines and at ' . '. T5 gives the median
  of bootstrap samples of these means, which differs from them by chance alone.
  """
  split = lambda texts: [text.replace(' . ', ' .\n') for text in texts]
  return _rouge(split(targets), split(predictions), ['rouge1', 'rouge2', 'rougeLsum'])


def bleu(targets: Sequence[str], predictions: Sequence[str]) -> Mapping[str, float]:
  """Returns the corpus BLEU of sacrebleu's defaults: 13a tokens, exponential smoothing."""
  return _bleu(targets, predictions, '13a')


def bleu_intl(targets: Sequence[str], predictions: Sequence[str]) -> Mapping[str, float]:
  """Returns corpus BLEU over sacrebleu's international tokens, as T5 reports it."""
  return _bleu(targets, predictions, 'intl')


def accuracy(targets: Sequence[int], predictions: Sequence[int]) -> Mapping[str, float]:
  """Returns the percentage of labels that are right."""
  hits = [t == p for t, p in zip(targets, predictions, strict=True)]
  return {'accuracy': percent(hits)}


def f1(targets: Sequence[int], predictions: Sequence[int]) -> Mapping[str, float]:
  """Returns the F1 of class 1 of two; a prediction that is neither counts as the wrong one."""
  from sklearn import metrics

  if not len(targets):
    return {'f1': math.nan}
  predictions = [
      p if p in (0, 1) else 1 - t for t, p in zip(targets, predictions, strict=True)
  ]
  return {'f1': 100.0 * metrics.f1_score(targets, predictions, zero_division=0.0)}


def macro_f1(targets: Sequence[int], predictions: Sequence[int]) -> Mapping[str, float]:
  """Returns the unweighted mean F1 over the labels that occur in targets or predictions."""
  from sklearn import metrics

  if not len(targets):
    return {'macro_f1': math.nan}
  return {'macro_f1': 100.0 * metrics.f1_score(
      targets, predictions, average='macro', zero_division=0.0
  )}


def mean_class_f1(num_classes: int) -> Callable[..., Mapping[str, float]]:
  """Returns a metric: the unweighted mean F1 over all classes, whether they occur or not."""

  def metric(targets, predictions):
    from sklearn import metrics

    name = f'mean_{num_classes}class_f1'
    if not len(targets):
      return {name: math.nan}
    return {name: 100.0 * metrics.f1_score(
        targets, predictions, labels=range(num_classes), average='macro', zero_division=0.0
    )}

  return metric


def matthews(targets: Sequence[int], predictions: Sequence[int]) -> Mapping[str, float]:
  """Returns 100 times Matthews' correlation of labels (1975): 0 for constant predictions."""
  from sklearn import metrics

  if not len(targets):
    return {'matthews_corrcoef': math.nan}
  return {'matthews_corrcoef': 100.0 * metrics.matthews_corrcoef(targets, predictions)}


def correlations(targets: Sequence[float], predictions: Sequence[float]) -> Mapping[str, float]:
  """Returns 100 times Pearson's and Spearman's correlation of numbers.

  Both are nan where one side is constant.
  """
  from scipy import stats

  if len(targets) != len(predictions):
    raise ValueError(f'{len(targets)} targets, {len(predictions)} predictions')
  defined = len(set(targets)) > 1 and len(set(predictions)) > 1
  of = lambda function: 100.0 * float(function(targets, predictions)[0]) if defined else math.nan
  return {'pearson_corrcoef': of(stats.pearsonr), 'spearman_corrcoef': of(stats.spearmanr)}


def language_modeling(targets, scores) -> Mapping[str, float]:
  """Returns the figures of a language model over a whole corpus, not means of examples.

  Args:
    targets: ignored; the scores hold all that counts.
    scores: `(log_likelihoods, aux)`: the natural log-likelihood of each example [n], and the sums
      of each example [n] under 'tokens' (target ids scored), 'bytes' (of the text they stand for),
      'text' (log-likelihood of those that stand for text) and 'correct' (ids for which the
      model's best guess was right).

  Returns:
    'loss', nats a target id; 'perplexity', exp(loss); 'bits_per_byte', which compares
    vocabularies and objectives: bytes are those of the text itself, unknown pieces and what
    normalising took from it included, and sentinels and the end of text, which stand for none, are
    left out; 'token_accuracy', a percentage. nan where there is nothing to divide by.
  """
  del targets
  log_likelihoods, aux = scores
  nats = -float(np.sum(np.asarray(log_likelihoods, np.float64)))
  total = {name: float(np.sum(np.asarray(values, np.float64))) for name, values in aux.items()}
  loss = _ratio(nats, total['tokens'])
  return {
      'loss': loss,
      'perplexity': float(np.exp(loss)),
      'bits_per_byte': _ratio(-total['text'], total['bytes'] * math.log(2)),
      'token_accuracy': 100.0 * _ratio(total['correct'], total['tokens']),
  }


def percent(values: Sequence[float]) -> float:
  """Returns 100 times the mean, nan of nothing."""
  return 100.0 * _ratio(float(np.sum(values)), len(values))


def _ratio(numerator: float, denominator: float) -> float:
  return numerator / denominator if denominator else math.nan


def _rouge(targets, predictions, kinds: list[str]) -> dict[str, float]:
  from rouge_score import rouge_scorer  # Slow to import: it loads nltk.

  scorer = rouge_scorer.RougeScorer(kinds, tokenizer=words.WordTokenizer())
  scores = [scorer.score(t, p) for t, p in zip(targets, predictions, strict=True)]
  return {kind: percent([score[kind].fmeasure for score in scores]) for kind in kinds}


def _bleu(targets, predictions, tokenize: str) -> dict[str, float]:
  import sacrebleu

  if not targets:
    return {'bleu': math.nan}
  # Orders of which a corpus has no n-gram are left out, or a perfect one of short texts had 0.
  score = sacrebleu.corpus_bleu(
      list(predictions), [list(targets)], tokenize=tokenize, use_effective_order=True)
  return {'bleu': score.score}
