"""Preprocessors of the tasks: plain functions from data set to data set.

seqio gives them `sequence_length` and `output_features` by name, so a task whose features get
another vocabulary needs no other change. seqio's own preprocessors are used where they do.
"""

import seqio
import tensorflow as tf

from tasks import vocabularies

# One place to look for a preprocessor, whichever file holds it.
from tasks.chunking import chunk, chunk_targets
from tasks.fill_in_middle import fill_in_middle
from tasks.iid_denoising import iid_denoising
from tasks.masking import mask_language_model
from tasks.prefix_lm import prefix_lm
from tasks.sentence_pairs import bert_pairs
from tasks.span_corruption import (
  random_spans_noise_mask,
  span_corruption,
  span_corruption_lengths,
  spans_to_sentinels,
)
from tasks.ul2 import ul2

__all__ = [
    'bert_pairs', 'chunk', 'chunk_targets', 'classify', 'fill_in_middle', 'iid_denoising',
    'keep_frequent', 'mask_language_model', 'prefix_lm', 'random_spans_noise_mask',
    'span_corruption', 'span_corruption_lengths', 'spans_to_sentinels',
    'tokenize_text', 'ul2',
]


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
  """Makes `inputs`, the class id and the tokens of feature `text`, and `targets`, one label."""
  vocabulary = output_features['inputs'].vocabulary
  cls = vocabularies.cls_id(vocabulary)

  def convert(example):
    return {
        'inputs': tf.concat([[cls], vocabulary.encode_tf(example[text])], 0),
        'targets': tf.reshape(tf.cast(example[label], tf.int32), [1]),
    }

  return dataset.map(convert, num_parallel_calls=tf.data.AUTOTUNE)
