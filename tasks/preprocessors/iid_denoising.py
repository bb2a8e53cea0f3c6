"""T5's baseline denoising: each token is noise or not by a draw of its own.

Raffel et al., "Exploring the Limits of Transfer Learning with a Unified Text-to-Text
Transformer" (2020), section 3.1.4; `iid_denoising` in T5's code.
"""

import math

import seqio
import tensorflow as tf

from t5x_lite.core.errors import UserError
from tasks.preprocessors import chunking
from tasks.preprocessors.span_corruption import spans_to_sentinels

_KIND = 'i.i.d. denoising'


def iid_denoising(
    dataset: tf.data.Dataset,
    sequence_length: seqio.preprocessors.SequenceLengthType | None,
    output_features: seqio.preprocessors.OutputFeaturesType,
    noise_density: float = 0.15,
) -> tf.data.Dataset:
  """Turns tokenised `targets` into `inputs` and `targets` of T5's i.i.d. denoising.

  Texts are split to `sequence_length['inputs']` less one for EOS. Each token is noise with
  probability `noise_density`. In the inputs every run of noise becomes one sentinel, in the
  targets every run of the others. How long the targets are is left to chance: where the next
  noise would not fit into `sequence_length['targets']`, or would need a sentinel that the
  vocabulary does not have, the rest of the piece is left without noise.

  Raises:
    UserError: a length is missing, or the targets or the sentinels would often be too few (the
      mean and four standard deviations do not fit).
  """
  room = chunking.required_length(sequence_length, 'inputs', 2, _KIND) - 1
  targets_length = chunking.required_length(sequence_length, 'targets', 3, _KIND)
  vocabulary = output_features['inputs'].vocabulary
  sentinels, longest = _needs(room, noise_density)
  if longest > targets_length:
    raise UserError(
        f'{_KIND} of inputs of {room + 1} gives targets of up to {longest}, but '
        f"sequence_length['targets'] is {targets_length}: raise it to {longest}"
    )
  if sentinels > vocabulary.extra_ids:
    raise UserError(
        f'{_KIND} of inputs of {room + 1} needs {sentinels} sentinels, but the vocabulary has '
        f'{vocabulary.extra_ids} extra ids: shorten inputs or use a vocabulary with '
        f'extra_ids={sentinels}'
    )
  dataset = chunking.chunk(dataset, feature='targets', length=room)
  dataset = _corrupt(
      dataset,
      noise_density=noise_density,
      vocab_size=vocabulary.vocab_size,
      sentinels=vocabulary.extra_ids,
      targets_length=targets_length,
  )
  return seqio.preprocessors.append_eos(dataset, output_features)


def iid_noise_mask(length, noise_density: float, seed) -> tf.Tensor:
  """Returns a bool tensor [length], each true with probability `noise_density`.

  Args:
    length: int32 scalar.
    noise_density: from 0 to 1.
    seed: an int tensor [2].
  """
  return tf.random.stateless_uniform([length], seed) < noise_density


def fitting_noise(mask: tf.Tensor, sentinels: int, targets_length: int) -> tf.Tensor:
  """Returns `mask` [length] without the noise from where sentinels or targets would be too few.

  Left are the noise tokens up to which at most `sentinels` runs of noise, and as many of other
  tokens, began, and with which the targets, EOS included, are at most `targets_length` long.
  """
  noise = tf.cumsum(tf.cast(mask, tf.int32))
  noise_runs, other_runs = _runs_begun(mask), _runs_begun(~mask) + 1  # One more may follow.
  fits = (tf.maximum(noise_runs, other_runs) <= sentinels) & (
      noise + other_runs + 1 <= targets_length
  )
  return mask & fits


def _runs_begun(mask: tf.Tensor) -> tf.Tensor:
  """Returns an int32 tensor [length]: how many runs of true began up to each position."""
  return tf.cumsum(tf.cast(mask & ~tf.pad(mask[:-1], [[1, 0]]), tf.int32))


def _needs(length: int, noise_density: float) -> tuple[int, int]:
  """Returns the sentinels and the length of targets that all but a few pieces can do with."""
  bound = lambda mean: math.ceil(mean + 4 * math.sqrt(mean))
  noise = length * noise_density
  runs = noise * (1 - noise_density)
  # A text has at most a run for every second token, and fills at most its length and 2.
  return min(bound(runs) + 1, length // 2 + 1), min(bound(noise + runs) + 2, length + 2)


@seqio.map_over_dataset(num_seeds=1)
def _corrupt(example, seed, *, noise_density, vocab_size, sentinels, targets_length):
  tokens = example['targets']
  mask = iid_noise_mask(tf.size(tokens), noise_density, seed)
  mask = fitting_noise(mask, sentinels, targets_length)
  return {
      'inputs': spans_to_sentinels(tokens, mask, vocab_size),
      'targets': spans_to_sentinels(tokens, ~mask, vocab_size),
  }
