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
    gap: str | None = None,
) -> tf.data.Dataset:
  """Makes `inputs`, the class id and the tokens of feature `text`, and `targets`, one label.

  A tokenizer that has one ends the text with its separator, as BERT reads texts.
  `inputs_pretokenized` is the text. The first `gap` in it, with a space before it, is read as the
  mask id: a model that learned to fill masks knows something of what is missing there.
  """
  vocabulary = output_features['inputs'].vocabulary
  cls = vocabularies.cls_id(vocabulary)
  end = tf.constant(vocabularies.separator_ids(vocabulary), tf.int32)
  mask = None if gap is None else vocabularies.mask_id(vocabulary)

  def encode(text):
    if gap is None:
      return vocabulary.encode_tf(text)
    parts = tf.strings.split(text, gap, maxsplit=1)
    before, after = tf.unstack(tf.concat([parts, ['']], 0)[:2], num=2)
    masks = tf.fill([tf.size(parts) - 1], mask)   # none without a gap
    before = tf.cond(tf.size(masks) > 0, lambda: tf.strings.regex_replace(before, ' $', ''),
                     lambda: before)
    return tf.concat([vocabulary.encode_tf(before), masks, vocabulary.encode_tf(after)], 0)

  def convert(example):
    return {
        'inputs': tf.concat([[cls], encode(example[text]), end], 0),
        'targets': tf.reshape(tf.cast(example[label], tf.int32), [1]),
        'inputs_pretokenized': example[text],
    }

  return dataset.map(convert, num_parallel_calls=tf.data.AUTOTUNE)
