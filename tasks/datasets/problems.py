"""seqio tasks of problems whose answers can be checked. Importing this registers:

two_digit_addition   '12+34=' -> '46', all 8,100 sums of two numbers of two digits

They are made for rollouts (inference/rollouts), whose rewards check what a policy writes, and to
train the policies that these begin with.
"""

import hashlib

import seqio
import tensorflow as tf

from tasks import metrics, vocabularies
from tasks.preprocessors import pretraining

VOCABULARY = vocabularies.BYTE_VOCABULARY
_PARTS = 10   # of all problems, one of which is for validation


def sums() -> list[tuple[str, str]]:
  """(problem, answer) of all sums of two numbers from 10 to 99."""
  return [(f'{a}+{b}=', str(a + b)) for a in range(10, 100) for b in range(10, 100)]


def split_of(problem: str) -> str:
  """'validation' for one in ten problems, by a hash of its text; else 'train'."""
  digest = hashlib.blake2b(problem.encode(), digest_size=8).digest()
  return 'train' if int.from_bytes(digest, 'big') % _PARTS else 'validation'


def _dataset(split: str, shuffle_files: bool, seed: int | None = None) -> tf.data.Dataset:
  found = [pair for pair in sums() if split_of(pair[0]) == split]
  ds = tf.data.Dataset.from_tensor_slices(
      {'inputs': [a for a, _ in found], 'targets': [b for _, b in found]})
  return ds.shuffle(len(found), seed=seed) if shuffle_files else ds


_SIZES = {split: sum(split_of(problem) == split for problem, _ in sums())
          for split in ('train', 'validation')}

seqio.TaskRegistry.add(
    'two_digit_addition',
    source=seqio.FunctionDataSource(_dataset, splits=('train', 'validation'),
                                    num_input_examples=_SIZES),
    preprocessors=pretraining.PREPROCESSORS['text_to_text'],
    output_features=pretraining.output_features('text_to_text', VOCABULARY),
    metric_fns=(metrics.exact_match,),
)
