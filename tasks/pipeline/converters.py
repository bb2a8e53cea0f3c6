"""How a task's features become what a model reads: the FeatureConverter, and ids of the model."""

import numpy as np
import seqio

from t5x_lite.core.dataclass_checks import FieldError
from t5x_lite.core.errors import UserError
from t5x_lite.data.features import Batch, text_features, text_spans
from t5x_lite.models import ModelConfig
from tasks import metrics
from tasks.pipeline import packing as packings
from tasks.pipeline.feature_converters import (
  ClassificationFeatureConverter,
  MaskedLMFeatureConverter,
  NextSentenceFeatureConverter,
  PairFeatureConverter,
  TextClassificationFeatureConverter,
  WeightedLMFeatureConverter,
)
from tasks.preprocessors.classification import LabelVocabulary
from tasks.vocabularies import cls_id, model_ids, start_id


def feature_converter(task, model: ModelConfig, packing: str) -> seqio.FeatureConverter:
  """The converter of a task for a model.

  A pooler reads the inputs and the targets of a task as a pair of texts. Raises UserError for a
  head that no task trains, if just one of the two is of sentence pairs, or of texts that a decoder
  classifies, or for a task of comparisons.
  """
  if 'response_lengths' in task.output_features:
    raise UserError(f'task {task.name!r} compares responses: read it by a '
                    'tasks.preferences.PreferenceData in place of the DataConfig')
  if model.head == 'tagger':
    raise FieldError(model, 'head', 'no task trains it: set head to mlm, mlm_nsp, classifier or '
                     'pooler')
  pairs = 'next_sentence_label' in task.output_features
  if pairs and model.head != 'mlm_nsp':
    raise FieldError(model, 'head', f'task {task.name!r} has sentence pairs: set head to mlm_nsp')
  if model.head == 'mlm_nsp' and not pairs:
    raise FieldError(model, 'head', f'task {task.name!r} has no sentence pairs: set head to mlm, '
                     'or choose a task of the objective mlm_nsp')
  _check_classes(task, model)
  if model.classifies_texts:
    return TextClassificationFeatureConverter(pack=False)
  weighted = 'targets_loss_weights' in task.output_features
  if weighted and model.family != 'decoder_only':
    raise FieldError(model, 'family', f'task {task.name!r} is of whole conversations, which a '
                     "decoder alone reads: set ConversationTask.objective to 'text_to_text'")
  if model.family == 'encoder_only':
    if model.head == 'mlm_nsp':      # one label a row, as of a classification
      return NextSentenceFeatureConverter(pack=False)
    if model.head == 'classifier':
      return ClassificationFeatureConverter(pack=False)
    if model.head == 'pooler':
      _check_pairs(task, model)
      return PairFeatureConverter(cls_id(task.output_features['inputs'].vocabulary))
    kind, options = MaskedLMFeatureConverter, {}
  else:
    options = {'bos_id': start_id(task.output_features['targets'].vocabulary)}
    kind = seqio.LMFeatureConverter
    if model.family == 'encoder_decoder':
      kind = seqio.EncDecFeatureConverter
    elif weighted:
      kind = WeightedLMFeatureConverter
    elif 'inputs' in task.output_features:
      kind = seqio.PrefixLMFeatureConverter
  if packing == 'best_fit':
    kind = packings.best_fit(kind)
  return kind(pack=packing != 'none', **options)


def _check_pairs(task, model: ModelConfig) -> None:
  """Raises UserError if inputs and targets are no two texts of one vocabulary."""
  features = task.output_features
  parts_of_one = any(metrics.language_modeling in part.metric_fns
                     for part in getattr(task, 'tasks', [task]))
  if 'inputs' not in features or parts_of_one or (
      features['inputs'].vocabulary != features['targets'].vocabulary):
    raise FieldError(model, 'head', f'task {task.name!r} has no pairs of texts: set head to mlm, '
                     'or choose a task of the objective text_to_text')


def _check_classes(task, model: ModelConfig) -> None:
  """Raises UserError if the labels of a classification are for other models."""
  labels = task.output_features['targets'].vocabulary
  is_labels = isinstance(labels, LabelVocabulary)
  if is_labels and (labels.family, labels.head) != (model.family, model.head):
    one = ('one text' if labels.num_texts == 1 else f'{labels.num_texts} texts') + ' an example'
    raise FieldError(model, 'head', f'the family is {model.family}, and task {task.name!r} is a '
                     f'classification of {one} for the family {labels.family} with the head '
                     f'{labels.head}: set both so, or choose another task')
  if model.classifies_texts and not is_labels:
    raise FieldError(model, 'head', f'task {task.name!r} has no classes: leave it out, or choose a '
                     'task for decoders that classify, such as glue_sst2_decoder_classification')


def model_batch(batch: Batch, task) -> Batch:
  """Rows of a feature converter as models read them: with segment ids, and the tokenizer's own ids.

  Segment ids of unpacked rows are 1 for tokens and 0 for padding, which alone is 0 in seqio's ids;
  those of texts that a decoder classifies count the texts.
  """
  batch = dict(batch)
  if 'class_labels' in batch:
    rows, vocabulary = batch['decoder_input_tokens'], task.output_features['inputs'].vocabulary
    spans = [text_spans(row, vocabulary.eos_id) for row in rows]
    batch |= text_features(rows, spans, rows.shape[1])
    own = {name: model_ids(vocabulary, x) for name, x in batch.items() if name.endswith('_tokens')}
    return batch | own
  for side, tokens in (('encoder', 'encoder_input_tokens'), ('decoder', 'decoder_target_tokens')):
    if tokens in batch and f'{side}_segment_ids' not in batch:
      batch[f'{side}_segment_ids'] = (batch[tokens] != 0).astype(np.int32)
  for name in batch:
    feature = 'targets' if name.endswith('_target_tokens') or 'inputs' not in (
        task.output_features) else 'inputs'
    if name.endswith('_tokens'):   # those of labels are labels
      batch[name] = model_ids(task.output_features[feature].vocabulary, batch[name])
  return batch
