"""The most likely id of each position under an encoder-only model, or class under any."""

import jax

from t5x_lite.models import Network
from t5x_lite.parallel.partitioner import Partitioner


def make_predict(network: Network, partitioner: Partitioner, num_ids: int):
  """Jitted (params, batch) -> (best id of each position, its log-likelihood, whether others are as
  likely); of an encoder-only model, or a decoder that classifies texts, which has one position.

  `num_ids` is the size of the vocabulary, or the number of classes: rows of the output layer beyond
  it are never the best.
  """

  def predict(params, batch):
    logits = network.bind(params).outputs(batch).class_logits()
    log_p = jax.nn.log_softmax(logits)[..., :num_ids]
    tied = (log_p == log_p.max(-1, keepdims=True)).sum(-1) > 1
    return log_p.argmax(-1), log_p.max(-1), tied

  return jax.jit(predict, out_shardings=partitioner.replicated)
