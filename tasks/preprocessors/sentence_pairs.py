"""Masked pairs of texts: BERT's two objectives at once, and translation language modelling.

Devlin et al., "BERT: Pre-training of Deep Bidirectional Transformers for Language
Understanding" (2019), section 3.1 and appendix A.2; Conneau and Lample, "Cross-lingual Language
Model Pretraining" (2019), section 3.3.
"""

import seqio
import tensorflow as tf

from tasks import vocabularies
from tasks.preprocessors import chunking
from tasks.preprocessors.masking import Masking

FOLLOWS, RANDOM = 0, 1  # The labels, as in BERT.


def bert_pairs(
    dataset: tf.data.Dataset,
    sequence_length: seqio.preprocessors.SequenceLengthType | None,
    output_features: seqio.preprocessors.OutputFeaturesType,
    mask_rate: float = 0.15,
    whole_words: bool = False,
    static: bool = False,
) -> tf.data.Dataset:
  """Makes masked pairs of segments, CLS A EOS B EOS, from tokenised `targets`.

  Texts are split into pieces that fill `sequence_length['inputs']`, and each piece into A and B at
  a random point. For half of them, B is then exchanged for a segment, from a random position and of
  the same length where possible, of the text that came before in the stream; a text that
  has none before it, or the same one, keeps its own. The features of an example:

    inputs               int32 [length], masked as `masking.mask_language_model` does
    targets              int32 [length], the id where a token was selected, else padding
    token_types          int32 [length], 0 up to the first EOS, 1 after it
    next_sentence_label  int32 [1], 0 if B follows A and 1 if it is from another text

  Unlike BERT's create_pretraining_data, segments are split anywhere, as no sentences are known, and
  no examples are made short on purpose.

  Raises:
    UserError: no length of inputs is given, the vocabulary has too few extra ids or, for whole
      words, no known words.
  """
  length = chunking.required_length(sequence_length, 'inputs', 5, 'next-sentence prediction')
  vocabulary = output_features['inputs'].vocabulary
  masking = Masking.of(vocabulary, mask_rate, whole_words, static)

  def pieces(example):
    text = tf.data.Dataset.from_tensors(example)
    text = chunking.chunk(text, feature='targets', length=length - 3, least=2)
    return text.map(lambda piece: piece | {'other': example['other']})

  dataset = dataset.filter(lambda example: tf.size(example['targets']) >= 2)
  dataset = dataset.scan(tf.zeros([0], tf.int32), _with_other)
  return _pair(
      dataset.flat_map(pieces),
      masking=masking,
      cls=vocabularies.cls_id(vocabulary),
      eos=vocabulary.eos_id,
  )


def translation_pairs(
    dataset: tf.data.Dataset,
    sequence_length: seqio.preprocessors.SequenceLengthType | None,
    output_features: seqio.preprocessors.OutputFeaturesType,
    mask_rate: float = 0.15,
) -> tf.data.Dataset:
  """Makes masked pairs of a text and its translation, CLS A EOS B EOS, of tokenised features.

  A is `inputs` and B `targets`, each cut to half of the room. `inputs` is then what is read, and
  `targets` the id where a token was selected, of either text, so that a model guesses a word of one
  by the other. Unlike XLM, positions go on in B, and no embedding says which language it is.

  Raises:
    UserError: no length of inputs is given, or the vocabulary has too few extra ids.
  """
  length = chunking.required_length(sequence_length, 'inputs', 5, 'translation language modelling')
  vocabulary = output_features['inputs'].vocabulary
  dataset = dataset.filter(
      lambda example: (tf.size(example['inputs']) > 0) & (tf.size(example['targets']) > 0))
  return _translation(
      dataset,
      masking=Masking.of(vocabulary, mask_rate, whole_words=False, static=False),
      cls=vocabularies.cls_id(vocabulary),
      eos=vocabulary.eos_id,
      room=(length - 3) // 2,
  )


@seqio.map_over_dataset(num_seeds=3)
def _translation(example, seeds, *, masking, cls, eos, room):
  first, second = example['inputs'][:room], example['targets'][:room]
  split = tf.size(first)
  inputs, targets = masking(tf.concat([first, second], 0), seeds, split)
  return {'inputs': _join(inputs, split, cls, eos),
          'targets': _join(targets, split, masking.pad, masking.pad)}


def _join(x: tf.Tensor, split: tf.Tensor, begin: int, end: int) -> tf.Tensor:
  """Two texts, of which the second begins at `split`, with what begins the first and ends each."""
  return tf.concat([[begin], x[:split], [end], x[split:], [end]], 0)


def _with_other(before, example):
  """Adds `other`, the text that came before, empty if it is the same."""
  text = example['targets']
  shorter = tf.minimum(tf.size(text), tf.size(before))
  same = (tf.size(text) == tf.size(before)) & tf.reduce_all(text[:shorter] == before[:shorter])
  other = before[:tf.where(same, 0, tf.size(before))]
  return text, {'targets': text, 'other': other}


@seqio.map_over_dataset(num_seeds=6)
def _pair(example, seeds, *, masking, cls, eos):
  text, other = example['targets'], example['other']
  split = tf.random.stateless_uniform([], seeds[0], 1, tf.size(text), tf.int32)
  length = tf.minimum(tf.size(text) - split, tf.size(other))
  start = tf.random.stateless_uniform([], seeds[1], 0, tf.size(other) - length + 1, tf.int32)
  exchanged = (tf.random.stateless_uniform([], seeds[2]) < 0.5) & (length > 0)
  second = tf.cond(exchanged, lambda: other[start:start + length], lambda: text[split:])
  inputs, targets = masking(tf.concat([text[:split], second], 0), seeds[3:], split)
  return {
      'inputs': _join(inputs, split, cls, eos),
      'targets': _join(targets, split, masking.pad, masking.pad),
      'token_types': tf.repeat([0, 1], [split + 2, tf.size(second) + 1]),
      'next_sentence_label': tf.reshape(tf.where(exchanged, RANDOM, FOLLOWS), [1]),
  }
