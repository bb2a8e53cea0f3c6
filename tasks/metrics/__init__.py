"""The metrics of the tasks, as seqio calls them, and the postprocessors before them."""

from tasks.metrics.scores import (
  accuracy,
  bleu,
  bleu_intl,
  correlations,
  exact_match,
  f1,
  language_modeling,
  macro_f1,
  matthews,
  mean_class_f1,
  percent,
  rouge,
  rouge_l,
)

__all__ = [
    'accuracy', 'bleu', 'bleu_intl', 'correlations', 'exact_match', 'f1', 'language_modeling',
    'macro_f1', 'matthews', 'mean_class_f1', 'percent', 'rouge', 'rouge_l',
]
