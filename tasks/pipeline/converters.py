"""Which seqio FeatureConverter turns a task's features into what a model reads."""

import seqio

from t5x_lite.core.dataclass_checks import FieldError
from t5x_lite.models import ModelConfig
from tasks.pipeline import packing as packings
from tasks.pipeline.feature_converters import (
  ClassificationFeatureConverter,
  MaskedLMFeatureConverter,
  NextSentenceFeatureConverter,
)
from tasks.vocabularies import start_id


def feature_converter(task, model: ModelConfig, packing: str) -> seqio.FeatureConverter:
  """The converter of a task for a model.

  Raises UserError for a head that no task trains, or if just one of the two is of sentence pairs.
  """
  if model.head in ('pooler', 'tagger'):
    raise FieldError(model, 'head', 'no task trains it: set head to mlm, mlm_nsp or classifier')
  pairs = 'next_sentence_label' in task.output_features
  if pairs and model.head != 'mlm_nsp':
    raise FieldError(model, 'head', f'task {task.name!r} has sentence pairs: set head to mlm_nsp')
  if model.head == 'mlm_nsp' and not pairs:
    raise FieldError(model, 'head', f'task {task.name!r} has no sentence pairs: set head to mlm, '
                     'or choose a task of the objective mlm_nsp')
  if model.family == 'encoder_only':
    if model.head == 'mlm_nsp':      # one label a row, as of a classification
      return NextSentenceFeatureConverter(pack=False)
    if model.head == 'classifier':
      return ClassificationFeatureConverter(pack=False)
    kind, options = MaskedLMFeatureConverter, {}
  else:
    options = {'bos_id': start_id(task.output_features['targets'].vocabulary)}
    kind = seqio.LMFeatureConverter
    if model.family == 'encoder_decoder':
      kind = seqio.EncDecFeatureConverter
    elif 'inputs' in task.output_features:
      kind = seqio.PrefixLMFeatureConverter
  if packing == 'best_fit':
    kind = packings.best_fit(kind)
  return kind(pack=packing != 'none', **options)
