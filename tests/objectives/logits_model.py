"""A model whose logits are given, so that objectives meet the inputs of other libraries."""

import types

import jax
import numpy as np

from t5x_lite.models.outputs import Outputs


class LogitsModel:
  """A decoder that gives these logits [rows, length, vocabulary] and values [rows, length]."""

  shard = types.SimpleNamespace(platform='cpu', batch_parts=1)

  def __init__(self, logits, values=None):
    self.logits, self.values = logits, values

  def outputs(self, batch, key=None):
    head = jax.tree_util.Partial(lambda x: x)
    return Outputs(self.logits, head, values_BL=self.values)


def logits_of(logprobs, vocabulary=3):
  """Logits whose softmax gives target 1 these log-probabilities, [..., length, vocabulary].

  What is left is shared by the others, so that the normaliser is 0.
  """
  p = np.exp(np.asarray(logprobs, np.float64))[..., None]
  rest = np.repeat(np.log1p(-p) - np.log(vocabulary - 1), vocabulary, axis=-1)
  rest[..., 1] = np.asarray(logprobs, np.float64)
  return rest
