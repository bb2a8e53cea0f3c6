"""Tokenising and labelling text."""

import seqio
import tensorflow as tf

from tasks import vocabularies


def tokenize_text(
    dataset: tf.data.Dataset, output_features: seqio.preprocessors.OutputFeaturesType
) -> tf.data.Dataset:
  """Tokenises without keeping the text, which every piece of a long document would carry."""
  return seqio.preprocessors.tokenize(dataset, output_features, copy_pretokenized=False)


def keep_frequent(dataset: tf.data.Dataset, *, rank: str, num_classes: int) -> tf.data.Dataset:
  """Keeps the examples whose feature `rank` is below `num_classes`."""
  return dataset.filter(lambda example: example[rank] < num_classes)


def classify(
    dataset: tf.data.Dataset,
    output_features: seqio.preprocessors.OutputFeaturesType,
    *,
    text: str,
    label: str,
) -> tf.data.Dataset:
  """Makes `inputs`, the class id and the tokens of feature `text`, and `targets`, one label.

  A tokenizer that has one ends the text with its separator, as BERT reads texts.
  `inputs_pretokenized` is the text.
  """
  vocabulary = output_features['inputs'].vocabulary
  cls = vocabularies.cls_id(vocabulary)
  end = tf.constant(vocabularies.separator_ids(vocabulary), tf.int32)

  def convert(example):
    return {
        'inputs': tf.concat([[cls], vocabulary.encode_tf(example[text]), end], 0),
        'targets': tf.reshape(tf.cast(example[label], tf.int32), [1]),
        'inputs_pretokenized': example[text],
    }

  return dataset.map(convert, num_parallel_calls=tf.data.AUTOTUNE)
