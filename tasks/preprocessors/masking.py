"""BERT's masked language modelling.

Devlin et al., "BERT: Pre-training of Deep Bidirectional Transformers for Language
Understanding" (2019), section 3.1 and appendix A.1.
"""

import dataclasses

import numpy as np
import seqio
import tensorflow as tf

from tasks import vocabularies
from tasks.preprocessors import chunking, words


@dataclasses.dataclass(frozen=True)
class Masking:
  """How tokens are selected and changed: the ids it takes from a vocabulary, and BERT's options.

  `whole_words` selects all tokens of a word or none, as BERT's later models do. `static` derives
  the seeds from the tokens alone, so that a text is masked alike in every epoch and run.
  """
  mask: int
  ordinary: tuple[int, int]             # half-open range of the ids that are drawn
  pad: int
  rate: float
  begins: np.ndarray | None             # words.starts_word, for whole words
  static: bool

  @classmethod
  def of(cls, vocabulary: seqio.Vocabulary, rate: float, whole_words: bool, static: bool):
    """Raises UserError if the vocabulary has too few extra ids, or no known words."""
    return cls(
        mask=vocabularies.mask_id(vocabulary),
        ordinary=vocabularies.ordinary_ids(vocabulary),
        pad=vocabulary.pad_id,
        rate=rate,
        begins=words.starts_word(vocabulary) if whole_words else None,
        static=static,
    )

  def __call__(self, ids: tf.Tensor, seeds, second=0) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns `ids` [length] as changed, and targets: the id where one was selected, else padding.

    Args:
      ids: int32, at least one.
      seeds: three int tensors [2].
      second: the index where a second text begins, whose first token begins a word.
    """
    if self.static:
      seeds = hashed_seeds(ids, 3)
    count = tf.round(tf.cast(tf.size(ids), tf.float64) * self.rate)
    count = tf.maximum(tf.cast(count, tf.int32), 1)
    if self.begins is None:
      selected = seqio.utils.stateless_shuffle(tf.range(tf.size(ids)) < count, seeds[0])
    else:
      index = tf.range(tf.size(ids))
      begins = tf.gather(self.begins, ids) | (index == 0) | (index == second)
      selected = select_words(begins, count, seeds[0])
    action = tf.random.stateless_uniform(tf.shape(ids), seeds[1])
    random_ids = tf.random.stateless_uniform(tf.shape(ids), seeds[2], *self.ordinary, tf.int32)
    replaced = tf.where(action < 0.8, self.mask, tf.where(action < 0.9, random_ids, ids))
    return tf.where(selected, replaced, ids), tf.where(selected, ids, self.pad)


def mask_language_model(
    dataset: tf.data.Dataset,
    sequence_length: seqio.preprocessors.SequenceLengthType | None,
    output_features: seqio.preprocessors.OutputFeaturesType,
    mask_rate: float = 0.15,
    whole_words: bool = False,
    static: bool = False,
) -> tf.data.Dataset:
  """Turns tokenised `targets` into aligned `inputs` and `targets` of one length.

  Texts are split to fill `sequence_length['inputs']`. Of each piece, round(15 %) of the tokens are
  selected, at least one: 80 % of these become the mask id, 10 % an ordinary id drawn uniformly,
  10 % stay. `inputs` is the class id, the piece so changed and EOS; `targets` holds the original
  id where a token was selected and padding elsewhere. For `whole_words` and `static` see Masking.

  Raises:
    UserError: no length of inputs is given, the vocabulary has too few extra ids or, for whole
      words, no known words.
  """
  length = chunking.required_length(sequence_length, 'inputs', 3, 'masked language modelling')
  vocabulary = output_features['inputs'].vocabulary
  dataset = chunking.chunk(dataset, feature='targets', length=length - 2)
  return _mask(
      dataset,
      masking=Masking.of(vocabulary, mask_rate, whole_words, static),
      cls=vocabularies.cls_id(vocabulary),
      eos=vocabulary.eos_id,
  )


def select_words(begins: tf.Tensor, count, seed) -> tf.Tensor:
  """Returns a bool tensor [length], true on the tokens of words taken in random order.

  As in BERT, a word is passed over if it would make the tokens more than `count`. If every word
  is longer than that, one of the shortest is taken.

  Args:
    begins: bool [length], whether a word begins at each token; it does at the first.
    count: int32 scalar.
    seed: an int tensor [2].
  """
  word = tf.cumsum(tf.cast(begins, tf.int32)) - 1
  lengths = tf.math.segment_sum(tf.ones_like(word), word)
  order = tf.argsort(tf.random.stateless_uniform(tf.shape(lengths), seed))
  room = tf.maximum(count, tf.reduce_min(lengths))
  lengths = tf.gather(lengths, order)
  free = lambda taken: room - tf.reduce_sum(tf.where(taken, lengths, 0))

  def take(taken, left):
    """Takes words up to the first that is too long; left are those after it that still fit."""
    taken |= left & (tf.cumsum(tf.where(left, lengths, 0)) <= free(taken))
    return taken, left & ~taken & (lengths <= free(taken))

  # A loop of a few rounds; one over the words would cost milliseconds a text.
  taken, _ = tf.while_loop(
      lambda _, left: tf.reduce_any(left), take, [lengths < 0, lengths > 0]
  )
  return tf.gather(tf.gather(taken, tf.math.invert_permutation(order)), word)


def hashed_seeds(ids: tf.Tensor, count: int) -> list[tf.Tensor]:
  """Returns `count` seeds, int64 tensors [2], that follow from `ids` [length] alone."""
  text = tf.strings.reduce_join(tf.strings.as_string(ids), separator=' ')
  # SipHash, the same on every machine; any two keys give two numbers.
  part = lambda key: tf.strings.to_hash_bucket_strong(text, 2**31 - 1, [key, 0])
  return [tf.stack([part(2 * i), part(2 * i + 1)]) for i in range(count)]


@seqio.map_over_dataset(num_seeds=3)
def _mask(example, seeds, *, masking, cls, eos):
  inputs, targets = masking(example['targets'], seeds)
  return {
      'inputs': tf.concat([[cls], inputs, [eos]], 0),
      'targets': tf.concat([[masking.pad], targets, [masking.pad]], 0),
  }
