"""BERT's next-sentence prediction (Devlin et al. 2019, section 3.1)."""

import dataclasses

import jax
import jax.numpy as jnp

from t5x_lite.data.features import Batch
from t5x_lite.models import Model
from t5x_lite.objectives.cross_entropy import cross_entropy
from t5x_lite.objectives.objective import LossSums, rows_with_examples


@dataclasses.dataclass(frozen=True, kw_only=True)
class NextSentenceLoss:
  """Cross-entropy of `next_sentence_labels` [batch], a mean over rows.

  Metrics: `next_sentence_loss` in nats and `next_sentence_accuracy`. None without that head.
  """

  def __call__(self, model: Model, batch: Batch, key: jax.Array | None,
               normalizers: dict[str, jax.Array]) -> LossSums | None:
    logits_BC = model.outputs(batch, key).next_sentence_logits_BC
    if logits_BC is None:
      return None
    rows_B = rows_with_examples(batch)
    sums = cross_entropy(logits_BC[:, None].astype(jnp.float32),
                         batch['next_sentence_labels'][:, None], rows_B[:, None])
    return LossSums(normalizers['row'] * sums['loss'], jnp.float32(0), {
        'next_sentence_loss': (sums['loss'], sums['weight']),
        'next_sentence_accuracy': (sums['correct'], sums['weight'])})
