"""GPT-1's fine-tuning (Radford et al. 2018, section 3.2): classes, and the language besides."""

import dataclasses

import jax
import jax.numpy as jnp

from t5x_lite.core.dataclass_checks import NonNegative, check_types
from t5x_lite.data.features import Batch
from t5x_lite.models import Model
from t5x_lite.objectives.cross_entropy import cross_entropy
from t5x_lite.objectives.language_model import CrossEntropy
from t5x_lite.objectives.objective import LossSums, rows_with_examples


@dataclasses.dataclass(frozen=True, kw_only=True)
class Classification:
  """L3 = L2 + language_model * L1, of a decoder with a head of texts.

  L2 is the cross-entropy of `class_labels` [batch], a mean over rows, and L1 that of the tokens of
  the texts, a mean over tokens. Metrics: `loss` of L2, nats a row, `accuracy` of the classes, a
  share, and `language_model_loss`, nats a token. None without that head.
  """
  language_model: NonNegative[float] = 0.5   # lambda of L3; 0: the vocabulary is not computed

  def __post_init__(self):
    check_types(self)

  def __call__(self, model: Model, batch: Batch, key: jax.Array | None,
               normalizers: dict[str, jax.Array]) -> LossSums | None:
    logits_BC = model.outputs(batch, key).class_logits_BC
    if logits_BC is None:
      return None
    sums = cross_entropy(logits_BC[:, None], batch['class_labels'][:, None],
                         rows_with_examples(batch)[:, None])
    rows = sums['weight']
    metrics = {'loss': (sums['loss'], rows), 'accuracy': (sums['correct'], rows)}
    total = normalizers['row'] * sums['loss']
    if not self.language_model:
      weight = batch['decoder_loss_weights'].astype(jnp.float32).sum()
      return LossSums(total, weight, metrics)
    tokens = CrossEntropy().sums(model, batch, key)
    return LossSums(total + self.language_model * tokens.total, tokens.weight,
                    metrics | {'language_model_loss': tokens.metrics['loss']})
