"""A seqio task of sentences that are to be gone on with. Importing this registers:

sst2_openings   the first four words of a sentence of SST-2 -> the rest of it

It is made for rollouts (inference/rollouts), whose reward is what a classifier says of the whole
sentence (alignment/classifier_run.py), and to train the policy that these begin with.
"""

import tensorflow as tf

from tasks import metrics
from tasks.datasets.supervised import Supervised

WORDS = 4       # of an opening
SHORTEST = 8    # words of a sentence: most of SST-2's training split are phrases


def openings(dataset: tf.data.Dataset) -> tf.data.Dataset:
  """`sentence` -> `opening`, `rest`, which begins with a space; without what is too short."""
  words = lambda example: tf.strings.split(example['sentence'])
  join = lambda some: tf.strings.reduce_join(some, separator=' ')
  long = dataset.filter(lambda example: tf.size(words(example)) >= SHORTEST)
  return long.map(lambda example: {'opening': join(words(example)[:WORDS]),
                                   'rest': ' ' + join(words(example)[WORDS:])},
                  num_parallel_calls=tf.data.AUTOTUNE)


Supervised(
    name='sst2_openings',
    source='glue/sst2:2.0.0',
    splits=('train', 'validation'),
    prepare=openings,
    inputs='{opening}',
    targets='{rest}',
    metrics=(metrics.rouge_l,),
).register()
