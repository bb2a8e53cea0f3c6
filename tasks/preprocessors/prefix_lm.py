"""Prefix language modelling: the beginning of a text is given, the rest is to be continued.

Raffel et al., "Exploring the Limits of Transfer Learning with a Unified Text-to-Text
Transformer" (2020), section 3.2.3; `prefix_lm` in T5's code. The S denoiser is from Tay et al.,
"UL2: Unifying Language Learning Paradigms" (2023), section 3.1.2.
"""

import seqio
import tensorflow as tf

from tasks.preprocessors import chunking

_KIND = 'prefix language modelling'


def prefix_lm(
    dataset: tf.data.Dataset,
    sequence_length: seqio.preprocessors.SequenceLengthType | None,
    output_features: seqio.preprocessors.OutputFeaturesType,
) -> tf.data.Dataset:
  """Splits tokenised `targets` into `inputs` and `targets` at a random point.

  Pieces are as long as the longer of the two features, so that there is a choice; every split
  that leaves both a token and fits both is equally likely. With features of one length this is
  T5's. A piece of a single token cannot be split and is left out. Both end with EOS where they
  set `add_eos`.

  Raises:
    UserError: a length is missing or below 2.
  """
  inputs, targets = _rooms(sequence_length)
  dataset = chunking.chunk(dataset, feature='targets', length=max(inputs, targets, 2), least=2)
  dataset = _split_at_random(dataset, inputs=inputs, targets=targets)
  return seqio.preprocessors.append_eos(dataset, output_features)


def s_denoising_length(inputs: int, targets: int, targets_share: float = 0.25) -> int:
  """Returns the longest text whose parts have at most `inputs` and `targets` tokens, EOS apart.

  511 and 511 give 681: 511 and 170.
  """

  def fits(length: int) -> bool:
    last = min(max(round(length * targets_share), 1), length - 1)
    return length - last <= inputs and last <= targets

  length = 2
  while fits(length + 1):
    length += 1
  return length


def split_off(tokens: tf.Tensor, targets_share) -> dict[str, tf.Tensor]:
  """Splits off the end of `tokens` as targets: UL2's S denoiser.

  round(L x `targets_share`) of L tokens, at least one and not all, are targets.
  """
  size = tf.size(tokens)
  # float64 and half-to-even, as in Python.
  last = tf.cast(tf.round(tf.cast(size, tf.float64) * targets_share), tf.int32)
  return _split(tokens, size - tf.clip_by_value(last, 1, size - 1))


def _rooms(sequence_length) -> tuple[int, int]:
  """Returns how many tokens inputs and targets hold beside their EOS."""
  room = lambda feature: chunking.required_length(sequence_length, feature, 2, _KIND) - 1
  return room('inputs'), room('targets')


def _split(tokens: tf.Tensor, point) -> dict[str, tf.Tensor]:
  return {'inputs': tokens[:point], 'targets': tokens[point:]}


@seqio.map_over_dataset(num_seeds=1)
def _split_at_random(example, seed, *, inputs, targets):
  tokens = example['targets']
  size = tf.size(tokens)
  first = tf.maximum(size - targets, 1)
  last = tf.minimum(size - 1, inputs)
  return _split(tokens, tf.random.stateless_uniform([], seed, first, last + 1, tf.int32))
