"""Fill-in-the-middle: language modelling that also learns to write between two given parts.

Bavarian et al., "Efficient Training of Language Models to Fill in the Middle" (2022),
arXiv:2207.14255, sections 3 and 4.
"""

from typing import NamedTuple

import seqio
import tensorflow as tf

from tasks import vocabularies
from tasks.preprocessors import chunking


class Marks(NamedTuple):
  """The ids that stand before the three parts of a text."""
  prefix: int
  suffix: int
  middle: int


def marks(vocabulary: seqio.Vocabulary) -> Marks:
  """Returns the third, fourth and fifth extra id from the end, after the mask and the class id.

  Raises:
    UserError: the vocabulary has fewer than 5 extra ids.
  """
  vocabularies.require_extra_ids(vocabulary, 5, 'the marks of fill-in-the-middle')
  return Marks(*(vocabulary.vocab_size - i for i in (3, 4, 5)))


def fill_in_middle(
    dataset: tf.data.Dataset,
    sequence_length: seqio.preprocessors.SequenceLengthType | None,
    output_features: seqio.preprocessors.OutputFeaturesType,
    rate: float = 0.5,
    spm_rate: float = 0.5,
) -> tf.data.Dataset:
  """Rearranges a share `rate` of the pieces of tokenised `targets`; the others stay.

  The paper's context-level transformation: texts, with EOS at their end, are first cut into
  pieces that leave room for three marks and EOS, so that no part is cut off its marks. A piece is
  cut into prefix, middle and suffix at two points between tokens, each drawn uniformly; so parts
  may be empty. Of those rearranged a share `spm_rate` has the suffix first. They end with EOS,
  which marks that the middle has met the suffix; the other pieces do at a text's end alone.

  Raises:
    UserError: no length of targets is given, or the vocabulary has too few extra ids.
  """
  length = chunking.required_length(sequence_length, 'targets', 6, 'fill-in-the-middle')
  vocabulary = output_features['targets'].vocabulary
  dataset = seqio.preprocessors.append_eos(dataset, output_features)
  dataset = chunking.chunk(dataset, feature='targets', length=length - 4)
  return _transform(
      dataset, rate=rate, spm_rate=spm_rate, marks=marks(vocabulary), eos=vocabulary.eos_id
  )


def rearrange(tokens: tf.Tensor, start, end, suffix_first, marks: Marks) -> tf.Tensor:
  """Returns `tokens` [length] with the part [start, end) at the end, int32 [length + 3].

  PRE prefix SUF suffix MID middle or, with `suffix_first`, PRE SUF suffix MID prefix middle: the
  second way of the paper's section 3 to write suffix-prefix-middle, which can be trained together
  with the other since both are continued in the same manner.
  """
  prefix, middle, suffix = tokens[:start], tokens[start:end], tokens[end:]
  ids = [tf.constant([mark], tokens.dtype) for mark in marks]
  return tf.cond(
      suffix_first,
      lambda: tf.concat([ids[0], ids[1], suffix, ids[2], prefix, middle], 0),
      lambda: tf.concat([ids[0], prefix, ids[1], suffix, ids[2], middle], 0),
  )


@seqio.map_over_dataset(num_seeds=2)
def _transform(example, seeds, *, rate, spm_rate, marks, eos):
  piece = example['targets']
  text = piece[:tf.size(piece) - tf.cast(piece[-1] == eos, tf.int32)]
  size = tf.size(text)
  transformed, suffix_first = tf.unstack(
      tf.random.stateless_uniform([2], seeds[0]) < [rate, spm_rate]
  )
  start, end = tf.unstack(
      tf.sort(tf.random.stateless_uniform([2], seeds[1], 0, size + 1, tf.int32))
  )
  targets = tf.cond(
      transformed & (size > 0),
      lambda: tf.concat([rearrange(text, start, end, suffix_first, marks), [eos]], 0),
      lambda: piece,
  )
  return {'targets': targets}
