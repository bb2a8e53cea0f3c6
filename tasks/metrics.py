"""Metrics of the tasks, as seqio calls them: (targets, predictions) or (targets, scores).

Shares are percentages, on the 0-100 scale.
"""

from collections.abc import Mapping, Sequence
import math

import numpy as np


def exact_match(targets: Sequence[str], predictions: Sequence[str]) -> Mapping[str, float]:
  """Returns the percentage of predictions equal to their target, outer spaces apart."""
  hits = [t.strip() == p.strip() for t, p in zip(targets, predictions, strict=True)]
  return {'exact_match': _percent(hits)}


def rouge_l(targets: Sequence[str], predictions: Sequence[str]) -> Mapping[str, float]:
  """Returns the mean F1 of the longest common subsequence of words (Lin 2004), unstemmed."""
  from rouge_score import rouge_scorer  # Slow to import: it loads nltk.

  scorer = rouge_scorer.RougeScorer(['rougeL'], use_stemmer=False)
  scores = [
      scorer.score(t, p)['rougeL'].fmeasure for t, p in zip(targets, predictions, strict=True)
  ]
  return {'rouge_l': _percent(scores)}


def bleu(targets: Sequence[str], predictions: Sequence[str]) -> Mapping[str, float]:
  """Returns the corpus BLEU of sacrebleu's defaults: 13a tokens, exponential smoothing."""
  import sacrebleu

  if not targets:
    return {'bleu': math.nan}
  return {'bleu': sacrebleu.corpus_bleu(list(predictions), [list(targets)]).score}


def accuracy(targets: Sequence[int], predictions: Sequence[int]) -> Mapping[str, float]:
  """Returns the percentage of labels that are right."""
  hits = [t == p for t, p in zip(targets, predictions, strict=True)]
  return {'accuracy': _percent(hits)}


def macro_f1(targets: Sequence[int], predictions: Sequence[int]) -> Mapping[str, float]:
  """Returns the unweighted mean F1 over the labels that occur in targets or predictions."""
  from sklearn import metrics

  if not len(targets):
    return {'macro_f1': math.nan}
  return {'macro_f1': 100.0 * metrics.f1_score(
      targets, predictions, average='macro', zero_division=0.0
  )}


def language_modeling(targets, scores) -> Mapping[str, float]:
  """Returns the figures of a language model over a whole corpus, not means of examples.

  Args:
    targets: ignored; the scores hold all that counts.
    scores: `(log_likelihoods, aux)`: the natural log-likelihood of each example [n], and the sums
      of each example [n] under 'tokens' (target ids scored), 'bytes' (of text they stand for),
      'text' (log-likelihood of those that stand for text) and 'correct' (ids for which the
      model's best guess was right).

  Returns:
    'loss', nats a target id; 'perplexity', exp(loss); 'bits_per_byte', which compares
    vocabularies and objectives, since sentinels and the end of text, which stand for no byte, are
    left out of it; 'token_accuracy', a percentage. nan where there is nothing to divide by.
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


def _percent(values: Sequence[float]) -> float:
  return 100.0 * _ratio(float(np.sum(values)), len(values))


def _ratio(numerator: float, denominator: float) -> float:
  return numerator / denominator if denominator else math.nan
