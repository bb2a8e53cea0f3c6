"""The most likely id of each position under an encoder-only model."""

import jax

from t5x_lite.models import Network
from t5x_lite.parallel.partitioner import Partitioner


def make_predict(network: Network, partitioner: Partitioner):
  """Jitted (params, batch) -> (best id of each position, its log-likelihood); encoder-only."""

  def predict(params, batch):
    log_p = jax.nn.log_softmax(network.bind(params)(batch))
    return log_p.argmax(-1), log_p.max(-1)

  return jax.jit(predict, out_shardings=partitioner.replicated)
