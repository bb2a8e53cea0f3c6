"""The log-likelihood of the targets of a batch under a model."""

import jax
import jax.numpy as jnp
import numpy as np

from t5x_lite.models import Network
from t5x_lite.objectives.cross_entropy import is_best
from t5x_lite.objectives.objective import rows_with_examples
from t5x_lite.parallel.partitioner import Partitioner


def make_score(network: Network, partitioner: Partitioner):
  """Jitted (params, batch, bytes of text of each id [vocab]) -> sums of each row, [batch] float32.

  They are log p(target), the same over targets that stand for text, the weights, the bytes of
  text and the correct predictions. The bytes are None if ids are classes.
  """
  side = network.config.target_side

  def score(params, batch, text_bytes_V: np.ndarray | None):
    logits = network.bind(params).outputs(batch).class_logits()
    if network.config.classifies_texts:
      targets = batch['class_labels'][:, None]
      weights = rows_with_examples(batch)[:, None]
    else:
      targets = batch[f'{side}_target_tokens']
      weights = batch[f'{side}_loss_weights'].astype(jnp.float32)
    log_p = jnp.take_along_axis(jax.nn.log_softmax(logits), targets[..., None], -1)[..., 0]
    hits = is_best(logits, targets) * weights
    sums = {'score': log_p * weights, 'tokens': weights, 'correct': hits}
    if text_bytes_V is not None:
      size = jnp.asarray(text_bytes_V)[targets] * (weights > 0)
      sums |= {'bytes': size, 'text': log_p * weights * (size > 0)}
    return {name: x.sum(1) for name, x in sums.items()}

  return jax.jit(score, out_shardings=partitioner.replicated)
