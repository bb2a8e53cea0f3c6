"""A made language: English with other letters and another order of words."""

import random
import string

import tensorflow as tf


def _table(seed: int) -> list[bytes]:
  """What each byte is in the language: a small letter is another in capitals, and back."""
  letters = [*string.ascii_lowercase]
  random.Random(seed).shuffle(letters)
  there = dict(zip(string.ascii_lowercase, map(str.upper, letters)))
  there |= {a.upper(): b.lower() for a, b in there.items()}
  return [there.get(chr(byte), '').encode() or bytes([byte]) for byte in range(256)]


def cipher_pairs(dataset: tf.data.Dataset, *, text: str, seed: int = 0) -> tf.data.Dataset:
  """Makes pairs of `inputs`, a text, and `targets`, the same in the language of the seed.

  Its words are in reverse order, and each has the letters that stand for its own, so that words are
  told by what they are made of, also those that no pair had before.

  Args:
    text: the feature that is read.
    seed: of the letters.
  """
  table = tf.constant(_table(seed))

  def convert(example):
    words = tf.reverse(tf.strings.split(example[text]), [0])
    joined = tf.strings.reduce_join(words, separator=' ')
    letters = tf.gather(table, tf.cast(tf.io.decode_raw(joined, tf.uint8), tf.int32))
    return {'inputs': example[text], 'targets': tf.strings.reduce_join(letters)}

  return dataset.map(convert, num_parallel_calls=tf.data.AUTOTUNE)
