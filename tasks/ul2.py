"""UL2's mixture of denoisers.

Tay et al., "UL2: Unifying Language Learning Paradigms" (2023), section 3.1 and table 1.
"""

import functools
from typing import NamedTuple

import seqio
import tensorflow as tf

from t5x_lite.errors import UserError
from tasks import chunking
from tasks.prefix_lm import s_denoising
from tasks.span_corruption import span_corruption, span_corruption_lengths


class Denoiser(NamedTuple):
  """One of UL2's: span corruption or, without a span length, the S denoiser."""
  mode: str                 # text in front of the inputs
  density: float            # share of the tokens that become targets
  span: float | None = None  # mean number of tokens of a span of noise


DENOISERS = (
    Denoiser('[NLU]', 0.15, 3.0),    # R
    Denoiser('[NLU]', 0.15, 8.0),
    Denoiser('[NLG]', 0.5, 3.0),     # X
    Denoiser('[NLG]', 0.5, 8.0),
    Denoiser('[NLG]', 0.15, 64.0),
    Denoiser('[NLG]', 0.5, 64.0),
    Denoiser('[S2S]', 0.25),         # S
)


def ul2(
    dataset: tf.data.Dataset,
    sequence_length: seqio.preprocessors.SequenceLengthType | None,
    output_features: seqio.preprocessors.OutputFeaturesType,
) -> tf.data.Dataset:
  """Turns tokenised `targets` into `inputs` and `targets` of UL2's seven denoisers.

  Text i goes to denoiser i modulo 7. The next example is drawn from each of them with the same
  probability, until none has one left. Inputs begin with the mode of their denoiser, as the
  vocabulary encodes it, for which the rest of the inputs is that much shorter. Texts of a single
  token, of which nothing can be made, are left out.

  Raises:
    UserError: a length is missing or too short, or the vocabulary has too few sentinels.
  """
  vocabulary = output_features['inputs'].vocabulary
  modes = {denoiser.mode: vocabulary.encode(denoiser.mode) for denoiser in DENOISERS}
  least = 4 + max(map(len, modes.values()))
  inputs = chunking.required_length(sequence_length, 'inputs', least, 'ul2')
  targets = chunking.required_length(sequence_length, 'targets', 2, 'ul2')
  longest = max(
      span_corruption_lengths(inputs - len(modes[d.mode]), d.density, d.span)[1]
      for d in DENOISERS if d.span
  )
  if targets < longest:
    raise UserError(
        f"ul2 of inputs of {inputs} gives targets of {longest}, but sequence_length['targets'] "
        f'is {targets}: raise it to {longest}'
    )
  # A part of the source without any example would stop an endless stream: nobody could tell.
  dataset = dataset.filter(lambda example: tf.size(example['targets']) >= 2)
  streams = []
  for i, denoiser in enumerate(DENOISERS):
    mode = modes[denoiser.mode]
    denoise = s_denoising if denoiser.span is None else functools.partial(
        span_corruption, noise_density=denoiser.density, mean_noise_span_length=denoiser.span
    )
    stream = denoise(
        dataset.shard(len(DENOISERS), i),
        {'inputs': inputs - len(mode), 'targets': targets},
        output_features,
    )
    streams.append(_prepend(stream, ids=mode))
  return tf.data.Dataset.choose_from_datasets(
      streams, _draw(tf.data.Dataset.counter()), stop_on_empty_dataset=False
  )


@seqio.map_over_dataset
def _prepend(example, *, ids):
  return example | {'inputs': tf.concat([ids, example['inputs']], 0)}


@seqio.map_over_dataset(num_seeds=1)
def _draw(_, seed):
  # What sample_from_datasets does inside, with a seed from seqio, which hands them to maps alone.
  return tf.random.stateless_uniform([], seed, 0, len(DENOISERS), tf.int64)
