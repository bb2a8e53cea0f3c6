"""Tokenising and labelling text."""

from collections.abc import Mapping, Sequence

import seqio
import tensorflow as tf

from t5x_lite.core.errors import UserError
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


def join_texts(
    dataset: tf.data.Dataset,
    output_features: seqio.preprocessors.OutputFeaturesType,
    *,
    texts: Sequence[str],
    label: str,
) -> tf.data.Dataset:
  """Makes `inputs`, the tokens of the features `texts`, each with the end of text, and `targets`.

  `targets` is the label. `inputs_pretokenized` has a text on each line.
  """
  vocabulary = output_features['inputs'].vocabulary

  def convert(example):
    tokens = [part for text in texts
              for part in (vocabulary.encode_tf(example[text]), [vocabulary.eos_id])]
    return {
        'inputs': tf.concat(tokens, 0),
        'targets': tf.reshape(tf.cast(example[label], tf.int32), [1]),
        'inputs_pretokenized': tf.strings.join([example[text] for text in texts], separator='\n'),
    }

  return dataset.map(convert, num_parallel_calls=tf.data.AUTOTUNE)


def trim_texts(
    dataset: tf.data.Dataset,
    output_features: seqio.preprocessors.OutputFeaturesType,
    sequence_length: Mapping[str, int] | None,
    *,
    num_texts: int,
) -> tf.data.Dataset:
  """Begins the texts of `join_texts` as decoding does, and cuts each to its part of the length.

  The end of text stays, for the head of a classification reads it. `inputs_cut` is how many tokens
  are left out.

  Raises:
    UserError: a text would have no room.
  """
  vocabulary = output_features['inputs'].vocabulary
  start, eos = vocabularies.start_id(vocabulary), vocabulary.eos_id
  length = (sequence_length or {}).get('inputs')
  room = None if length is None else length // num_texts - 2
  if room is not None and room < 1:
    texts = 'a text' if num_texts == 1 else f'each of {num_texts} texts'
    raise UserError(f'inputs_length = {length} has no room for {texts} with what begins and ends '
                    f'it: set it to {3 * num_texts} or more')

  def convert(example):
    is_end = tf.cast(tf.equal(example['inputs'], eos), tf.int32)
    text = tf.cumsum(is_end, exclusive=True)
    tokens = tf.RaggedTensor.from_value_rowids(example['inputs'], text, nrows=num_texts)[:, :-1]
    kept = tokens[:, :room]
    column = lambda i: tf.fill([num_texts, 1], tf.constant(i, tf.int32))
    return example | {
        'inputs': tf.concat([column(start), kept, column(eos)], 1).flat_values,
        'inputs_cut': tf.size(tokens.flat_values) - tf.size(kept.flat_values),
    }

  return dataset.map(convert, num_parallel_calls=tf.data.AUTOTUNE)
