"""Cutting long token sequences into pieces."""

import seqio
import tensorflow as tf

from t5x_lite.core.errors import UserError


def chunk(
    dataset: tf.data.Dataset, *, feature: str, length: int, least: int = 1
) -> tf.data.Dataset:
  """Cuts `feature` of every example into pieces of `length` ids, the last one shorter.

  The other features are left out, and so is a last piece of fewer than `least` ids.
  """

  def pieces(example):
    ids = example[feature]
    count = (tf.size(ids) + length - least) // length
    return tf.data.Dataset.range(tf.cast(count, tf.int64)).map(
        lambda i: {feature: ids[i * length:(i + 1) * length]}
    )

  return dataset.flat_map(pieces)


def chunk_targets(
    dataset: tf.data.Dataset, sequence_length: seqio.preprocessors.SequenceLengthType | None
) -> tf.data.Dataset:
  """Cuts `targets` into pieces of `sequence_length['targets']`; None does not split them."""
  if not sequence_length or sequence_length.get('targets') is None:
    return dataset
  return chunk(dataset, feature='targets', length=sequence_length['targets'])


def required_length(sequence_length, feature: str, least: int, task_kind: str) -> int:
  """Returns the length of `feature`, which must be given and at least `least`.

  Raises:
    UserError: it is missing or too small.
  """
  length = (sequence_length or {}).get(feature)
  if length is None or length < least:
    raise UserError(
        f'{task_kind} needs sequence_length[{feature!r}] >= {least}, got {length}: give the '
        'lengths of inputs and targets'
    )
  return length
