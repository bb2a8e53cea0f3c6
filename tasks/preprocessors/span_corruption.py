"""T5's span corruption: runs of tokens are replaced by sentinels, which the targets spell out.

Raffel et al., "Exploring the Limits of Transfer Learning with a Unified Text-to-Text
Transformer" (2020), section 3.1.4 and appendix B.
"""

import seqio
import tensorflow as tf

from t5x_lite.core.errors import UserError
from tasks.preprocessors import chunking


def span_corruption_lengths(
    inputs_length: int, noise_density: float = 0.15, mean_noise_span_length: float = 3.0
) -> tuple[int, int]:
  """Returns (raw, targets): the longest raw text whose inputs fit, and its targets' length.

  The inputs are the raw tokens with each noise span replaced by one sentinel, and EOS; the
  targets are a sentinel and the tokens of each span, and EOS. `inputs_length` 512 gives
  (568, 114).
  """

  def corrupted_lengths(raw: int) -> tuple[int, int]:
    noise, spans = _num_noise(raw, noise_density, mean_noise_span_length)
    return raw - noise + spans + 1, noise + spans + 1

  raw = inputs_length - 1
  while corrupted_lengths(raw + 1)[0] <= inputs_length:
    raw += 1
  inputs, targets = corrupted_lengths(raw)
  if noise_density == 0.5 and targets > inputs:  # As T5: inputs and targets of one length.
    raw, targets = raw - 1, targets - 1
  return raw, targets


def span_corruption(
    dataset: tf.data.Dataset,
    sequence_length: seqio.preprocessors.SequenceLengthType | None,
    output_features: seqio.preprocessors.OutputFeaturesType,
    noise_density: float = 0.15,
    mean_noise_span_length: float = 3.0,
) -> tf.data.Dataset:
  """Turns tokenised `targets` into `inputs` and `targets` of T5's denoising objective.

  Texts are split so that their inputs fill `sequence_length['inputs']`. A piece of a single token
  cannot be corrupted and is left out. Both features end with EOS where they set `add_eos`.

  Raises:
    UserError: no length of inputs is given, the targets do not fit their length, or the
      vocabulary has too few sentinels.
  """
  inputs_length = chunking.required_length(sequence_length, 'inputs', 4, 'span corruption')
  raw = checked_raw_length(
      inputs_length, sequence_length.get('targets'), output_features['inputs'].vocabulary,
      noise_density, mean_noise_span_length,
  )
  dataset = chunking.chunk(dataset, feature='targets', length=raw, least=2)
  dataset = _corrupt(
      dataset,
      vocab_size=output_features['inputs'].vocabulary.vocab_size,
      noise_density=noise_density,
      mean_noise_span_length=mean_noise_span_length,
  )
  return seqio.preprocessors.append_eos(dataset, output_features)


def checked_raw_length(
    inputs_length: int,
    given: int | None,
    vocabulary: seqio.Vocabulary,
    noise_density: float,
    mean_noise_span_length: float,
) -> int:
  """Returns the longest raw text whose inputs fit into `inputs_length`.

  Raises:
    UserError: its targets are longer than `given`, or the vocabulary has too few sentinels.
  """
  raw, targets_length = span_corruption_lengths(
      inputs_length, noise_density, mean_noise_span_length
  )
  if given is not None and given < targets_length:
    raise UserError(
        f"span corruption of inputs of {inputs_length} gives targets of {targets_length}, but "
        f"sequence_length['targets'] is {given}: raise it to {targets_length}"
    )
  _, spans = _num_noise(raw, noise_density, mean_noise_span_length)
  if spans > vocabulary.extra_ids:
    raise UserError(
        f'span corruption of inputs of {inputs_length} needs {spans} sentinels, but the '
        f'vocabulary has {vocabulary.extra_ids} extra ids: shorten inputs or use a vocabulary '
        f'with extra_ids={spans}'
    )
  return raw


def random_spans_noise_mask(
    length, noise_density: float, mean_noise_span_length: float, seeds
) -> tf.Tensor:
  """Returns a bool tensor [length], true on random spans of noise; it begins with no noise.

  Args:
    length: int32 scalar, at least 2.
    noise_density: the share of noise; at least one token is noise and one is not.
    mean_noise_span_length: the number of noise tokens over that of spans, before rounding.
    seeds: two int32 tensors [2].
  """
  # float64 and half-to-even, so that the counts are those of `_num_noise` in Python.
  as_float = lambda x: tf.cast(x, tf.float64)
  as_int = lambda x: tf.cast(tf.round(x), tf.int32)
  noise = as_int(as_float(length) * noise_density)
  noise = tf.clip_by_value(noise, 1, length - 1)
  spans = as_int(as_float(noise) / mean_noise_span_length)
  spans = tf.clip_by_value(spans, 1, tf.minimum(noise, length - noise))
  noise_lengths = _random_partition(noise, spans, seeds[0])
  kept_lengths = _random_partition(length - noise, spans, seeds[1])
  lengths = tf.reshape(tf.stack([kept_lengths, noise_lengths], axis=1), [spans * 2])
  is_noise = tf.tile([False, True], [spans])
  return tf.repeat(is_noise, lengths)


def spans_to_sentinels(tokens: tf.Tensor, mask: tf.Tensor, vocab_size: int) -> tf.Tensor:
  """Returns `tokens` with every run where `mask` is true replaced by one sentinel.

  Sentinels count down from `vocab_size - 1`. With `tokens` 10 … 15, `mask` TTFFTF and 1,000
  words it gives 999, 12, 13, 998, 15.
  """
  follows = tf.pad(mask[:-1], [[1, 0]])
  starts = mask & ~follows
  sentinels = vocab_size - tf.cumsum(tf.cast(starts, tokens.dtype))
  return tf.boolean_mask(tf.where(starts, sentinels, tokens), ~(mask & follows))


def _num_noise(length: int, noise_density: float, mean_span_length: float) -> tuple[int, int]:
  """Returns the number of noise tokens and of noise spans in a text of `length` tokens."""
  noise = min(max(round(length * noise_density), 1), length - 1)
  spans = min(max(round(noise / mean_span_length), 1), noise, length - noise)
  return noise, spans


def _random_partition(total, parts, seed) -> tf.Tensor:
  """Returns an int32 tensor [parts] of positive lengths with sum `total`, all equally likely."""
  ends_part = tf.cast(tf.range(total - 1) < parts - 1, tf.int32)
  part = tf.cumsum(tf.pad(seqio.utils.stateless_shuffle(ends_part, seed), [[1, 0]]))
  return tf.math.segment_sum(tf.ones([total], tf.int32), part)


def corrupt(
    tokens: tf.Tensor, noise_density, mean_noise_span_length, vocab_size: int, seeds
) -> dict[str, tf.Tensor]:
  """`inputs` and `targets` of a piece of text, without EOS; arguments as above."""
  mask = random_spans_noise_mask(
      tf.size(tokens), noise_density, mean_noise_span_length, seeds
  )
  return {
      'inputs': spans_to_sentinels(tokens, mask, vocab_size),
      'targets': spans_to_sentinels(tokens, ~mask, vocab_size),
  }


@seqio.map_over_dataset(num_seeds=2)
def _corrupt(example, seeds, **settings):
  return corrupt(example['targets'], seeds=seeds, **settings)
