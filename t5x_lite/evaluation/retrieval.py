"""Evaluation of pairs of texts: whether the nearest of all others is a text's own."""

from collections.abc import Callable, Sequence
import dataclasses
from typing import Any

import numpy as np

from t5x_lite.core.dataclass_checks import Count, FieldError, Step, check_types
from t5x_lite.data.source import Source
from t5x_lite.inference.text_encoder import TextEncoder
from t5x_lite.models import Network
from t5x_lite.parallel.partitioner import Partitioner


@dataclasses.dataclass(frozen=True, kw_only=True)
class RetrievalEval:
  """The share of pairs of a split whose second text is nearest to the first by cosine, and back."""
  split: str = 'validation'      # of the data, a task of inputs and targets
  limit: Count | None = None     # pairs, the first ones; None: all
  batch_size: Count = 64         # texts at a time; no figure depends on it
  step: Step | None = None       # the checkpoint `t5x-lite eval` reads; None: the newest

  def __post_init__(self):
    check_types(self)

  def make(self, network: Network, partitioner: Partitioner, data: Source, seed: int, *,
           required: bool = False) -> Callable[[Any, int], dict[str, float]] | None:
    """See Evaluation: metrics as `retrieval_metrics`."""
    if self.split not in data.splits():
      if required:
        raise FieldError(self, 'split', f'{data.name} has {", ".join(data.splits())}')
      return None
    pairs = [(one['inputs'], one['targets'])
             for one in data.examples(self.split, self.limit, seed)]

    def evaluate(params: Any, step: int) -> dict[str, float]:
      encode = TextEncoder(network, params, partitioner, data.tokenizer('inputs'),
                           data.lengths['inputs'], batch_size=self.batch_size)
      first, second = map(list, zip(*pairs))
      return retrieval_metrics(encode(first), encode(second), first, second)

    return evaluate


def retrieval_metrics(x: np.ndarray, y: np.ndarray, first: Sequence[str], second: Sequence[str]
                      ) -> dict[str, float]:
  """`retrieval/forward`, of first texts among the second ones, `/backward`, and `/pairs`.

  A text that is nearest is right if it is, word for word, that of any pair with the text asked.

  Args:
    x, y: vectors [pairs, embed] of length 1.
    first, second: the texts.
  """
  cosines = x @ y.T
  known = {*zip(first, second)}
  forward = [(first[i], second[j]) in known for i, j in enumerate(cosines.argmax(1))]
  backward = [(first[i], second[j]) in known for j, i in enumerate(cosines.argmax(0))]
  return {'retrieval/forward': float(np.mean(forward)),
          'retrieval/backward': float(np.mean(backward)), 'retrieval/pairs': float(len(x))}
