import numpy as np
import pytest
import tensorflow as tf

from t5x_lite.core.errors import UserError
from tasks.pipeline import feature_converters


def _dataset(examples):
  signature = {k: tf.TensorSpec([None], tf.int32) for k in ('inputs', 'targets')}
  return tf.data.Dataset.from_generator(lambda: iter(examples), output_signature=signature)


_EXAMPLES = [
    {'inputs': [8, 9, 3, 1], 'targets': [0, 7, 0, 0]},
    {'inputs': [8, 4, 1], 'targets': [0, 4, 0]},
    {'inputs': [8, 5, 6, 9, 1], 'targets': [0, 0, 0, 2, 0]},
]


def _check(actual, expected):
  assert len(actual) == len(expected)
  for a, e in zip(actual, expected):
    assert set(a) == set(e)
    for name in e:
      assert a[name].dtype == np.int32
      np.testing.assert_array_equal(a[name], e[name], err_msg=name)


def test_masked_lm_packed():
  converter = feature_converters.MaskedLMFeatureConverter(pack=True)
  packed = converter(_dataset(_EXAMPLES), {'inputs': 8, 'targets': 8})
  _check(list(packed.as_numpy_iterator()), [
      {
          'encoder_input_tokens': [8, 9, 3, 1, 8, 4, 1, 0],
          'encoder_target_tokens': [0, 7, 0, 0, 0, 4, 0, 0],
          'encoder_loss_weights': [0, 1, 0, 0, 0, 1, 0, 0],
          'encoder_segment_ids': [1, 1, 1, 1, 2, 2, 2, 0],
          'encoder_positions': [0, 1, 2, 3, 0, 1, 2, 0],
      },
      {
          'encoder_input_tokens': [8, 5, 6, 9, 1, 0, 0, 0],
          'encoder_target_tokens': [0, 0, 0, 2, 0, 0, 0, 0],
          'encoder_loss_weights': [0, 0, 0, 1, 0, 0, 0, 0],
          'encoder_segment_ids': [1, 1, 1, 1, 1, 0, 0, 0],
          'encoder_positions': [0, 1, 2, 3, 4, 0, 0, 0],
      },
  ])


def test_masked_lm_unpacked():
  converter = feature_converters.MaskedLMFeatureConverter(pack=False)
  padded = converter(_dataset(_EXAMPLES[:1]), {'inputs': 6, 'targets': 6})
  _check(list(padded.as_numpy_iterator()), [{
      'encoder_input_tokens': [8, 9, 3, 1, 0, 0],
      'encoder_target_tokens': [0, 7, 0, 0, 0, 0],
      'encoder_loss_weights': [0, 1, 0, 0, 0, 0],
  }])


def test_masked_lm_lengths_must_agree():
  converter = feature_converters.MaskedLMFeatureConverter(pack=False)
  with pytest.raises(UserError, match='set both to 6'):
    converter(_dataset(_EXAMPLES), {'inputs': 6, 'targets': 5})


def test_classification():
  converter = feature_converters.ClassificationFeatureConverter()
  examples = [{'inputs': [8, 5, 6], 'targets': [0]}, {'inputs': [8], 'targets': [19]}]
  converted = converter(_dataset(examples), {'inputs': 4, 'targets': 1})
  _check(list(converted.as_numpy_iterator()), [
      {
          'encoder_input_tokens': [8, 5, 6, 0],
          'encoder_target_tokens': [0],
          'encoder_loss_weights': [1],
      },
      {
          'encoder_input_tokens': [8, 0, 0, 0],
          'encoder_target_tokens': [19],
          'encoder_loss_weights': [1],
      },
  ])


def test_classification_refuses_packing_and_several_labels():
  with pytest.raises(UserError, match='pack = False'):
    feature_converters.ClassificationFeatureConverter(pack=True)
  with pytest.raises(UserError, match='set it to 1'):
    feature_converters.ClassificationFeatureConverter()(
        _dataset(_EXAMPLES), {'inputs': 6, 'targets': 6}
    )


def _pairs(examples):
  names = ('inputs', 'targets', 'token_types', 'next_sentence_label')
  signature = {k: tf.TensorSpec([None], tf.int32) for k in names}
  return tf.data.Dataset.from_generator(lambda: iter(examples), output_signature=signature)


_PAIR = {'inputs': [8, 9, 1, 7, 1], 'targets': [0, 6, 0, 0, 0], 'token_types': [0, 0, 0, 1, 1],
         'next_sentence_label': [1]}


@pytest.mark.parametrize('types_length', [5, 6])  # seqio's Evaluator gives the longest it found.
def test_next_sentence_pairs(types_length):
  lengths = {'inputs': 6, 'targets': 6, 'token_types': types_length, 'next_sentence_label': 1}
  converted = feature_converters.NextSentenceFeatureConverter()(_pairs([_PAIR, _PAIR]), lengths)
  expected = {
      'encoder_input_tokens': [8, 9, 1, 7, 1, 0],
      'encoder_target_tokens': [0, 6, 0, 0, 0, 0],
      'encoder_loss_weights': [0, 1, 0, 0, 0, 0],
      'encoder_token_types': [0, 0, 0, 1, 1, 0],
      'next_sentence_labels': 1,
  }
  _check(list(converted.as_numpy_iterator()), [expected, expected])
  assert next(converted.batch(2).as_numpy_iterator())['next_sentence_labels'].shape == (2,)


def test_next_sentence_refuses_packing_and_two_lengths():
  with pytest.raises(UserError, match='pack = False'):
    feature_converters.NextSentenceFeatureConverter(pack=True)
  lengths = {'inputs': 6, 'targets': 5, 'token_types': 6, 'next_sentence_label': 1}
  with pytest.raises(UserError, match='set both to 6'):
    feature_converters.NextSentenceFeatureConverter()(_pairs([_PAIR]), lengths)


def test_pairs_of_texts_have_the_class_id_and_keep_their_end():
  converter = feature_converters.PairFeatureConverter(3)
  pairs = converter(_dataset([{'inputs': [8, 1], 'targets': [9, 7, 5, 1]},
                              {'inputs': [8, 6, 1], 'targets': [1]}]), {'inputs': 4, 'targets': 4})
  _check(list(pairs.as_numpy_iterator()), [
      {'encoder_input_tokens': [[3, 8, 1, 0], [3, 9, 7, 1]], 'encoder_loss_weights': [1]},
      {'encoder_input_tokens': [[3, 8, 6, 1], [3, 1, 0, 0]], 'encoder_loss_weights': [1]},
  ])
  with pytest.raises(UserError, match='a pair of texts needs inputs and targets of one length'):
    converter(_dataset(_EXAMPLES), {'inputs': 4, 'targets': 5})
