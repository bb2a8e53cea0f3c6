"""Corpora of TFDS for language modelling. Importing this file registers their tasks:

<corpus>_lm, <corpus>_span_corruption, <corpus>_mlm for c4, wikipedia, wikitext103, lm1b, and for
mc4_<language>, such as mc4_de or mc4_ja_latn
mc4_lm, mc4_span_corruption, mc4_mlm: mixtures of all languages, drawn as mT5 draws them

An example is what TFDS calls one: a document, but a sentence in lm1b and a line in wikitext103.
Blank ones are left out.
"""

import functools
import math

import seqio
import tensorflow as tf
import tensorflow_datasets as tfds

from tasks import vocabularies
from tasks.datasets.prepared import PreparedSource
from tasks.pipeline import rates
from tasks.preprocessors import pretraining

VOCABULARY = vocabularies.BYTE_VOCABULARY

CORPORA = {
    'c4': PreparedSource('c4/en:3.1.0', ('train', 'validation')),
    # TFDS has one split; 10,000 of its 6.7 million articles are held out here.
    'wikipedia': PreparedSource(
        'wikipedia/20230601.en:1.0.0', {'train': 'train[10000:]', 'validation': 'train[:10000]'}
    ),
    # TFDS has no builder of its own for it, but wraps that of Hugging Face.
    'wikitext103': PreparedSource(
        'wikitext/wikitext_103_raw_v1:*.*.*', ('train', 'validation', 'test'),
        made_from='huggingface:wikitext/wikitext-103-raw-v1',
    ),
    'lm1b': PreparedSource('lm1b:1.1.0', {'train': 'train', 'validation': 'test'}),
}
MC4 = {
    f'mc4_{language.lower().replace("-", "_")}': PreparedSource(
        'c4/multilingual:3.1.0', {'train': language, 'validation': f'{language}-validation'}
    )
    for language in tfds.text.c4.MC4_LANGUAGES
}
# mT5 (Xue et al. 2021, https://arxiv.org/abs/2010.11934) draws by examples ** 0.3.
_MT5_RATE = rates.proportional(cap=math.inf, temperature=1 / 0.3)


def drop_blank(dataset: tf.data.Dataset) -> tf.data.Dataset:
  """Keeps the examples whose `targets` hold more than white space."""
  return dataset.filter(lambda example: tf.strings.length(tf.strings.strip(example['targets'])) > 0)


for _objective in ('lm', 'span_corruption', 'mlm'):
  for _name, _source in {**CORPORA, **MC4}.items():
    seqio.TaskRegistry.add(
        f'{_name}_{_objective}',
        source=_source,
        shuffle_buffer_size=pretraining.SHUFFLE_BUFFER_SIZE,
        **pretraining.task_parts(_objective, VOCABULARY, before=(
            functools.partial(seqio.preprocessors.rekey, key_map={'targets': 'text'}),
            drop_blank,
        )),
    )
  seqio.MixtureRegistry.add(
      f'mc4_{_objective}', [f'{name}_{_objective}' for name in MC4], default_rate=_MT5_RATE
  )
