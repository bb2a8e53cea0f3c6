"""Feature converters that seqio lacks, named as seqio names model features.

They are those of encoders, of decoders that classify, and of a decoder with a loss on some tokens
alone.
"""

from collections.abc import Mapping

import seqio
import tensorflow as tf

from t5x_lite.core.errors import UserError

_INT32 = seqio.FeatureConverter.FeatureSpec(dtype=tf.int32)


class _EncoderConverter(seqio.FeatureConverter):
  """What the converters share: the names and types of features."""

  TASK_FEATURES = {'inputs': _INT32, 'targets': _INT32}
  MODEL_FEATURES = {
      'encoder_input_tokens': _INT32,
      'encoder_target_tokens': _INT32,
      'encoder_loss_weights': _INT32,
  }
  PACKING_FEATURE_DTYPES = {'encoder_segment_ids': tf.int32, 'encoder_positions': tf.int32}


class _UnpackedConverter(_EncoderConverter):
  """One whose rows have one label each, so that they hold one example each."""

  def __init__(self, pack: bool = False, **kwargs):
    """Raises UserError if pack is true."""
    if pack:
      raise UserError(f'{type(self).__name__}: a row has one label and cannot hold several '
                      'examples; set pack = False')
    super().__init__(pack=False, **kwargs)


class MaskedLMFeatureConverter(_EncoderConverter):
  """Aligned `inputs` and `targets`, with a loss wherever there is a target.

  `targets` are 0 where no loss is taken. seqio.EncoderFeatureConverter takes a loss only where
  the input is the mask id, so never on the tokens that BERT replaces or keeps. Two examples,
  packed to length 6:

      inputs [8, 9, 3, 1], targets [0, 7, 0, 0]  and  inputs [8, 1], targets [0, 0]

      encoder_input_tokens  [8, 9, 3, 1, 8, 1]
      encoder_target_tokens [0, 7, 0, 0, 0, 0]
      encoder_loss_weights  [0, 1, 0, 0, 0, 0]
      encoder_segment_ids   [1, 1, 1, 1, 2, 2]
      encoder_positions     [0, 1, 2, 3, 0, 1]
  """

  def _convert_features(
      self, ds: tf.data.Dataset, task_feature_lengths: Mapping[str, int]
  ) -> tf.data.Dataset:
    # seqio finds the end of an example by counting its non-zero ids; targets are mostly zero,
    # so they are raised by one while they are packed.
    ds = ds.map(lambda x: {'inputs': x['inputs'], 'targets': x['targets'] + 1})
    ds = self._pack_or_pad(ds, task_feature_lengths)

    def convert(features):
      targets = tf.maximum(features['targets'] - 1, 0)
      converted = {
          'encoder_input_tokens': features['inputs'],
          'encoder_target_tokens': targets,
          'encoder_loss_weights': tf.cast(targets > 0, tf.int32),
      }
      if self.pack:
        converted['encoder_segment_ids'] = features['inputs_segment_ids']
        converted['encoder_positions'] = features['inputs_positions']
      return converted

    return ds.map(convert, num_parallel_calls=tf.data.AUTOTUNE)

  def get_model_feature_lengths(self, task_feature_lengths: Mapping[str, int]):
    """Returns the length of inputs for every model feature.

    Raises:
      UserError: inputs and targets are given different lengths.
    """
    length = _common_length(task_feature_lengths)
    names = list(self.MODEL_FEATURES) + (list(self.PACKING_FEATURE_DTYPES) if self.pack else [])
    return {name: length for name in names}


class WeightedLMFeatureConverter(seqio.LMFeatureConverter):
  """A language model with a loss where `targets_loss_weights` is 1 alone, as on answers.

  Two examples, packed to length 6:

      targets [3, 9, 1], targets_loss_weights [0, 1, 1]  and  targets [4, 1], weights [0, 1]

      decoder_target_tokens [3, 9, 1, 4, 1, 0]
      decoder_input_tokens  [0, 3, 9, 0, 4, 0]
      decoder_loss_weights  [0, 1, 1, 0, 1, 0]
      decoder_segment_ids   [1, 1, 1, 2, 2, 0]
      decoder_positions     [0, 1, 2, 0, 1, 0]
  """

  TASK_FEATURES = {'targets': _INT32, 'targets_loss_weights': _INT32}

  def _convert_features(
      self, ds: tf.data.Dataset, task_feature_lengths: Mapping[str, int]
  ) -> tf.data.Dataset:
    # seqio finds the end of an example by counting what is not 0, so that weights are raised by one
    # while they are packed.
    ds = ds.map(lambda x: {'targets': x['targets'],
                           'targets_loss_weights': x['targets_loss_weights'] + 1})
    names = ('targets', 'targets_loss_weights')
    ds = self._pack_or_pad(ds, dict.fromkeys(names, task_feature_lengths['targets']))

    def convert(features):
      weights = tf.maximum(features['targets_loss_weights'] - 1, 0)
      return self._convert_example(features) | {'decoder_loss_weights': weights}

    return ds.map(convert, num_parallel_calls=tf.data.AUTOTUNE)


class NextSentenceFeatureConverter(_UnpackedConverter):
  """Masked pairs of segments, as `sentence_pairs.bert_pairs` makes them, one a row.

  Beside the features of MaskedLMFeatureConverter, `encoder_token_types` [length] and
  `next_sentence_labels`, a scalar, so [batch] in a batch. An example, at length 6:

      inputs [8, 9, 1, 7, 1], targets [0, 6, 0, 0, 0], token_types [0, 0, 0, 1, 1],
      next_sentence_label [1]

      encoder_input_tokens  [8, 9, 1, 7, 1, 0]
      encoder_target_tokens [0, 6, 0, 0, 0, 0]
      encoder_loss_weights  [0, 1, 0, 0, 0, 0]
      encoder_token_types   [0, 0, 0, 1, 1, 0]
      next_sentence_labels  1
  """

  TASK_FEATURES = {
      **_EncoderConverter.TASK_FEATURES, 'token_types': _INT32, 'next_sentence_label': _INT32
  }
  MODEL_FEATURES = {
      **_EncoderConverter.MODEL_FEATURES,
      'encoder_token_types': _INT32,
      'next_sentence_labels': seqio.FeatureConverter.FeatureSpec(dtype=tf.int32, rank=0),
  }

  def _convert_features(
      self, ds: tf.data.Dataset, task_feature_lengths: Mapping[str, int]
  ) -> tf.data.Dataset:
    length = task_feature_lengths['inputs']
    # Not the lengths given: seqio's Evaluator gives the longest token types that it has found.
    ds = self._pack_or_pad(ds, dict.fromkeys(('inputs', 'targets', 'token_types'), length))
    return ds.map(
        lambda features: {
            'encoder_input_tokens': features['inputs'],
            'encoder_target_tokens': features['targets'],
            'encoder_loss_weights': tf.cast(features['targets'] > 0, tf.int32),
            'encoder_token_types': features['token_types'],
            'next_sentence_labels': tf.reshape(features['next_sentence_label'], []),
        },
        num_parallel_calls=tf.data.AUTOTUNE,
    )

  def get_model_feature_lengths(self, task_feature_lengths: Mapping[str, int]):
    """Returns the length of inputs for every model feature; the label's, a scalar, is not read.

    Raises:
      UserError: inputs and targets are given different lengths.
    """
    return dict.fromkeys(self.MODEL_FEATURES, _common_length(task_feature_lengths))


class PairFeatureConverter(_UnpackedConverter):
  """Two texts, which one encoder reads, each with the class id before it; one pair a row.

  A text that leaves no room for that id loses the last token before its end. An example, at length
  4, whose class id is 3:

      inputs [8, 1], targets [9, 7, 5, 1]

      encoder_input_tokens  [[3, 8, 1, 0], [3, 9, 7, 1]]
      encoder_loss_weights  [1]
  """

  MODEL_FEATURES = {
      'encoder_input_tokens': seqio.FeatureConverter.FeatureSpec(
          dtype=tf.int32, rank=2, sequence_dim=1),
      'encoder_loss_weights': _INT32,
  }
  PACKING_FEATURE_DTYPES = {}

  def __init__(self, cls_id: int):
    super().__init__()
    self._cls_id = cls_id

  def _convert_features(
      self, ds: tf.data.Dataset, task_feature_lengths: Mapping[str, int]
  ) -> tf.data.Dataset:
    def framed(ids):
      last = tf.where(ids[-1] == 0, ids[-2], ids[-1])
      return tf.concat([[self._cls_id], ids[:-2], [last]], 0)

    self.get_model_feature_lengths(task_feature_lengths)   # seqio asks for them afterwards
    ds = self._pack_or_pad(ds, task_feature_lengths)
    return ds.map(
        lambda features: {
            'encoder_input_tokens': tf.stack(
                [framed(features['inputs']), framed(features['targets'])]),
            'encoder_loss_weights': tf.ones([1], tf.int32),
        },
        num_parallel_calls=tf.data.AUTOTUNE,
    )

  def get_model_feature_lengths(self, task_feature_lengths: Mapping[str, int]):
    """Returns the length of inputs for the tokens, and 1 for the weight.

    Raises:
      UserError: inputs and targets are given different lengths.
    """
    return {'encoder_input_tokens': _common_length(task_feature_lengths, 'a pair of texts'),
            'encoder_loss_weights': 1}


class ClassificationFeatureConverter(_UnpackedConverter):
  """One label for a whole text: `targets` is [label], and the weight of a label is always 1."""

  def _convert_features(
      self, ds: tf.data.Dataset, task_feature_lengths: Mapping[str, int]
  ) -> tf.data.Dataset:
    ds = self._pack_or_pad(ds, task_feature_lengths)
    return ds.map(
        lambda features: {
            'encoder_input_tokens': features['inputs'],
            'encoder_target_tokens': features['targets'],
            'encoder_loss_weights': tf.ones_like(features['targets']),
        },
        num_parallel_calls=tf.data.AUTOTUNE,
    )

  def get_model_feature_lengths(self, task_feature_lengths: Mapping[str, int]):
    """Returns the length of inputs for the input tokens, and 1 for target and weight.

    Raises:
      UserError: targets are given another length than 1.
    """
    _check_one_label(task_feature_lengths)
    return {
        'encoder_input_tokens': task_feature_lengths['inputs'],
        'encoder_target_tokens': 1,
        'encoder_loss_weights': 1,
    }


class TextClassificationFeatureConverter(_UnpackedConverter):
  """One label for the texts of a row, which a decoder reads.

  converters.model_batch makes the other features of a decoder from the ids.
  """

  MODEL_FEATURES = {
      'decoder_input_tokens': _INT32,
      'class_labels': seqio.FeatureConverter.FeatureSpec(dtype=tf.int32, rank=0),
  }
  PACKING_FEATURE_DTYPES = {}

  def _convert_features(
      self, ds: tf.data.Dataset, task_feature_lengths: Mapping[str, int]
  ) -> tf.data.Dataset:
    _check_one_label(task_feature_lengths)   # seqio asks for the lengths of features afterwards
    ds = self._pack_or_pad(ds, task_feature_lengths)
    return ds.map(
        lambda features: {
            'decoder_input_tokens': features['inputs'],
            'class_labels': tf.reshape(features['targets'], []),
        },
        num_parallel_calls=tf.data.AUTOTUNE,
    )

  def get_model_feature_lengths(self, task_feature_lengths: Mapping[str, int]):
    """Returns the length of inputs for both; the label's, a scalar, is not read."""
    return dict.fromkeys(self.MODEL_FEATURES, task_feature_lengths['inputs'])


def _check_one_label(task_feature_lengths: Mapping[str, int]) -> None:
  if task_feature_lengths['targets'] != 1:
    raise UserError(
        'classification has one label a text, got sequence_length of targets '
        f'{task_feature_lengths["targets"]}: set it to 1'
    )


def _common_length(task_feature_lengths: Mapping[str, int],
                   what: str = 'masked language modelling') -> int:
  length = task_feature_lengths['inputs']
  if task_feature_lengths['targets'] != length:
    raise UserError(
        f'{what} needs inputs and targets of one length, got {length} and '
        f'{task_feature_lengths["targets"]}: set both to {length}'
    )
  return length
