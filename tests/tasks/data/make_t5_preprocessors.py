"""Writes t5_preprocessors.json: what T5's own preprocessors give for fixed tokens and seeds.

Run it with a Python that has the PyPI package t5 (0.9.4 was used), which the tests never need:

    python3.11 -m venv /tmp/t5 && /tmp/t5/bin/pip install seqio babel gin-config
    /tmp/t5/bin/pip install --no-deps t5
    /tmp/t5/bin/python tests/tasks/data/make_t5_preprocessors.py
"""

import importlib.metadata
import json
import pathlib

import numpy as np
import seqio
from t5.data import preprocessors as t5
import tensorflow as tf

OUTPUT = pathlib.Path(__file__).with_name('t5_preprocessors.json')
SEEDS = [[[1, 2], [3, 4]], [[2**31 - 5, 7], [0, 2**40 + 1]]]
# Length, density and mean length of spans: short texts, T5's, and UL2's at inputs of 512.
SPANS = [(2, 0.15, 3.0), (3, 0.15, 3.0), (17, 0.15, 3.0), (40, 0.3, 2.0), (141, 0.15, 3.0),
         (568, 0.15, 3.0), (588, 0.15, 8.0), (766, 0.5, 3.0), (908, 0.5, 8.0), (600, 0.15, 64.0),
         (1006, 0.5, 64.0)]


def bits(mask) -> str:
  return ''.join('01'[int(x)] for x in np.asarray(mask))


def corrupted(tokens, mask, vocabulary) -> dict:
  args = (tf.constant(tokens), tf.constant(mask), vocabulary, None)
  return {
      'tokens': tokens, 'mask': bits(mask),
      'inputs': t5.noise_span_to_unique_sentinel(*args).numpy().tolist(),
      'targets': t5.nonnoise_span_to_unique_sentinel(*args).numpy().tolist(),
  }


def main():
  vocabulary = seqio.ByteVocabulary(extra_ids=125)
  features = {name: seqio.Feature(vocabulary) for name in ('inputs', 'targets')}
  rng = np.random.default_rng(0)
  spans, iid, prefix, sentinels = [], [], [], []
  for seeds in SEEDS:
    as_tensors = [tf.constant(seed, tf.int64) for seed in seeds]
    for length, density, span in SPANS:
      mask = t5.random_spans_noise_mask(
          tf.constant(length), density, as_tensors, mean_noise_span_length=span)
      spans.append({'length': length, 'density': density, 'span': span, 'seeds': seeds,
                    'mask': bits(mask)})
    for length, density in ((1, 0.15), (30, 0.15), (200, 0.15), (200, 0.5)):
      mask = t5.iid_noise_mask(tf.constant(length), density, as_tensors)
      iid.append({'length': length, 'density': density, 'seed': seeds[0], 'mask': bits(mask)})
    for length in (2, 3, 31, 511):
      mask = t5.random_prefix_noise_mask(tf.constant(length), 0.5, as_tensors)
      prefix.append({'length': length, 'seed': seeds[0], 'inputs': int(np.sum(mask))})
  for mask in ([0, 0, 1, 1, 0], [1, 0, 1], [1, 1], [0, 0], *rng.integers(0, 2, (4, 12)).tolist()):
    tokens = rng.integers(3, 259, len(mask)).tolist()
    sentinels.append(corrupted(tokens, np.asarray(mask, bool), vocabulary))
  dataset = tf.data.Dataset.from_tensors({'targets': tf.range(3, 103)})
  pieces = [
      [*ex['inputs'].tolist(), *ex['targets'].tolist()]
      for ex in t5.prefix_lm(dataset, {'inputs': 32, 'targets': 32}, features).as_numpy_iterator()
  ]
  OUTPUT.write_text(json.dumps({
      'versions': {name: importlib.metadata.version(name) for name in ('t5', 'tensorflow')},
      'spans': spans, 'iid': iid, 'prefix': prefix, 'sentinels': sentinels,
      'prefix_lm_pieces': pieces,
  }, indent=None).replace('}, {', '},\n {') + '\n')


if __name__ == '__main__':
  main()
