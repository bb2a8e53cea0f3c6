"""UL2's mixture of denoisers.

Tay et al., "UL2: Unifying Language Learning Paradigms" (2023), section 3.1 and table 1.
"""

from typing import NamedTuple

import seqio
import tensorflow as tf

from t5x_lite.core.errors import UserError
from tasks import vocabularies
from tasks.preprocessors import chunking, prefix_lm, span_corruption


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

  Texts are split into pieces. Each piece draws its denoiser, all with the same probability, and is
  as long as that one can take. Inputs begin with the mode of their denoiser, as the vocabulary
  encodes it, for which the rest of the inputs is that much shorter. A piece of a single token, of
  which nothing can be made, is left out.

  Raises:
    UserError: a length is missing or too short, or the vocabulary has too few sentinels.
  """
  vocabulary = output_features['inputs'].vocabulary
  modes = [vocabularies.template_ids(vocabulary, denoiser.mode) for denoiser in DENOISERS]
  inputs = chunking.required_length(sequence_length, 'inputs', 4 + max(map(len, modes)), 'ul2')
  targets = chunking.required_length(sequence_length, 'targets', 2, 'ul2')
  rooms = [inputs - len(mode) for mode in modes]
  longest = max(span_corruption.span_corruption_lengths(room, d.density, d.span)[1]
                for room, d in zip(rooms, DENOISERS) if d.span)
  if targets < longest:
    raise UserError(
        f"ul2 of inputs of {inputs} gives targets of {longest}, but sequence_length['targets'] "
        f'is {targets}: raise it to {longest}'
    )
  raw = [
      span_corruption.checked_raw_length(room, targets, vocabulary, d.density, d.span)
      if d.span else prefix_lm.s_denoising_length(room - 1, targets - 1, d.density)
      for room, d in zip(rooms, DENOISERS)
  ]
  dataset = _draw(dataset, raw=raw).flat_map(_pieces)
  dataset = _denoise(dataset, modes=modes, vocab_size=vocabulary.vocab_size)
  return seqio.preprocessors.append_eos(dataset, output_features)


@seqio.map_over_dataset(num_seeds=1)
def _draw(example, seed, *, raw):
  """The bounds of the pieces of a text, and the denoiser of each."""
  size = tf.size(example['targets'])
  most = size // min(raw) + 1
  denoiser = tf.random.stateless_uniform([most], seed, 0, len(DENOISERS), tf.int32)
  end = tf.minimum(tf.cumsum(tf.gather(raw, denoiser)), size)
  start = tf.concat([[0], end[:-1]], 0)
  pieces = {'start': start, 'end': end, 'denoiser': denoiser}
  kept = end - start >= 2
  return {'targets': example['targets'],
          'pieces': {name: tf.boolean_mask(x, kept) for name, x in pieces.items()}}


def _pieces(text) -> tf.data.Dataset:
  slice_of = lambda piece: {'targets': text['targets'][piece['start']:piece['end']],
                       'denoiser': piece['denoiser']}
  return tf.data.Dataset.from_tensor_slices(text['pieces']).map(slice_of)


@seqio.map_over_dataset(num_seeds=2)
def _denoise(piece, seeds, *, modes, vocab_size):
  tokens, denoiser = piece['targets'], piece['denoiser']
  of = lambda values: tf.gather(tf.constant(values, tf.float64), denoiser)
  density, span = of([d.density for d in DENOISERS]), of([d.span or 0.0 for d in DENOISERS])
  features = tf.cond(
      span > 0,
      lambda: span_corruption.corrupt(tokens, density, span, vocab_size, seeds),
      lambda: prefix_lm.split_off(tokens, density),
  )
  mode = tf.gather(tf.ragged.constant(modes, tf.int32), denoiser)
  return features | {'inputs': tf.concat([mode, features['inputs']], 0)}
