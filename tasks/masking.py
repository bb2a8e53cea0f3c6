"""BERT's masked language modelling.

Devlin et al., "BERT: Pre-training of Deep Bidirectional Transformers for Language
Understanding" (2019), section 3.1 and appendix A.1.
"""

import seqio
import tensorflow as tf

from tasks import chunking, vocabularies


def mask_language_model(
    dataset: tf.data.Dataset,
    sequence_length: seqio.preprocessors.SequenceLengthType | None,
    output_features: seqio.preprocessors.OutputFeaturesType,
    mask_rate: float = 0.15,
) -> tf.data.Dataset:
  """Turns tokenised `targets` into aligned `inputs` and `targets` of one length.

  Texts are cut to fill `sequence_length['inputs']`. Of each piece, round(15 %) of the tokens are
  selected, at least one: 80 % of these become the mask id, 10 % an ordinary id drawn uniformly,
  10 % stay. `inputs` is the class id, the piece so changed and EOS; `targets` holds the original
  id where a token was selected and padding elsewhere.

  Raises:
    UserError: no length of inputs is given, or the vocabulary has too few extra ids.
  """
  length = chunking.required_length(sequence_length, 'inputs', 3, 'masked language modelling')
  vocabulary = output_features['inputs'].vocabulary
  dataset = chunking.chunk(dataset, feature='targets', length=length - 2)
  return _mask(
      dataset,
      mask_rate=mask_rate,
      mask=vocabularies.mask_id(vocabulary),
      cls=vocabularies.cls_id(vocabulary),
      eos=vocabulary.eos_id,
      pad=vocabulary.pad_id,
      ordinary=vocabularies.ordinary_ids(vocabulary),
  )


@seqio.map_over_dataset(num_seeds=3)
def _mask(example, seeds, *, mask_rate, mask, cls, eos, pad, ordinary):
  ids = example['targets']
  shape = tf.shape(ids)
  low, high = ordinary
  count = tf.round(tf.cast(tf.size(ids), tf.float64) * mask_rate)
  count = tf.maximum(tf.cast(count, tf.int32), 1)
  selected = seqio.utils.stateless_shuffle(tf.range(tf.size(ids)) < count, seeds[0])
  action = tf.random.stateless_uniform(shape, seeds[1])
  random_ids = tf.random.stateless_uniform(shape, seeds[2], low, high, tf.int32)
  replaced = tf.where(action < 0.8, mask, tf.where(action < 0.9, random_ids, ids))
  return {
      'inputs': tf.concat([[cls], tf.where(selected, replaced, ids), [eos]], 0),
      'targets': tf.concat([[pad], tf.where(selected, ids, pad), [pad]], 0),
  }
