"""seqio tasks of problems whose answers can be checked. Importing this registers:

two_digit_addition   '12+34=' -> '46', all 8,100 sums of two numbers of two digits
careless_addition    the same problems, each as 16 people answer it who are right one time in four:
                     the demonstrations of which a policy is made that rewards then improve

They are made for rollouts (inference/rollouts), whose rewards check what a policy writes, and to
train the policies that these begin with.
"""

from collections.abc import Callable
import hashlib
import random

import seqio
import tensorflow as tf

from tasks import metrics, vocabularies
from tasks.preprocessors import pretraining

VOCABULARY = vocabularies.BYTE_VOCABULARY
_PARTS = 10   # of all problems, one of which is for validation
_PEOPLE = 16  # who answer a problem


def sums() -> list[tuple[str, str]]:
  """(problem, answer) of all sums of two numbers from 10 to 99."""
  return [(f'{a}+{b}=', str(a + b)) for a in range(10, 100) for b in range(10, 100)]


def split_of(problem: str) -> str:
  """'validation' for one in ten problems, by a hash of its text; else 'train'."""
  digest = hashlib.blake2b(problem.encode(), digest_size=8).digest()
  return 'train' if int.from_bytes(digest, 'big') % _PARTS else 'validation'


def careless_answers(problem: str, answer: str) -> list[str]:
  """What 16 people say, half of whom are off by 1 or -1, and half by 10 or -10."""
  draw = random.Random(problem)
  errors = [draw.choice((-1, 0, 0, 1)) + draw.choice((-10, 0, 0, 10)) for _ in range(_PEOPLE)]
  return [str(int(answer) + error) for error in errors]


def _register(name: str, answers: Callable[[str, str], list[str]], number: int) -> None:
  """The task of all sums, with so many answers that are given to a problem and its sum."""
  def dataset(split: str, shuffle_files: bool, seed: int | None = None) -> tf.data.Dataset:
    pairs = [(problem, given) for problem, answer in sums() if split_of(problem) == split
             for given in answers(problem, answer)]
    inputs, targets = map(list, zip(*pairs))
    ds = tf.data.Dataset.from_tensor_slices({'inputs': inputs, 'targets': targets})
    return ds.shuffle(len(inputs), seed=seed) if shuffle_files else ds

  sizes = {split: number * sum(split_of(problem) == split for problem, _ in sums())
           for split in ('train', 'validation')}
  seqio.TaskRegistry.add(
      name,
      source=seqio.FunctionDataSource(dataset, splits=tuple(sizes), num_input_examples=sizes),
      preprocessors=pretraining.PREPROCESSORS['text_to_text'],
      output_features=pretraining.output_features('text_to_text', VOCABULARY),
      metric_fns=(metrics.exact_match,),
  )


_register('two_digit_addition', lambda problem, answer: [answer], 1)
_register('careless_addition', careless_answers, _PEOPLE)
