"""The cross-entropy of a model's logits on the targets of a batch: language models and classes."""

import dataclasses

import jax

from t5x_lite.core.dataclass_checks import Count, Fraction, NonNegative, check_types
from t5x_lite.data.features import Batch
from t5x_lite.models import Model
from t5x_lite.objectives.cross_entropy import chunked_cross_entropy, compact_targets
from t5x_lite.objectives.objective import LossSums

# Tokens whose logits a device holds at once. On a CPU few are fast, as they fit its cache; on
# accelerators each chunk costs an all-reduce of the output layer's gradient.
LOSS_TOKENS = {'cpu': 512, 'gpu': 8192, 'tpu': 8192}


@dataclasses.dataclass(frozen=True, kw_only=True)
class CrossEntropy:
  """Cross-entropy over the target tokens, as sums; see cross_entropy.cross_entropy.

  Metrics: `loss`, plain cross-entropy in nats, and `accuracy`, a share. None of a decoder that
  classifies texts, whose objective (classification.py) has a loss of tokens of its own, and of a
  pooler, which has no logits.
  """
  label_smoothing: Fraction = 0.0      # of the target's probability, spread over all words
  z_loss: NonNegative[float] = 0.0     # factor of log(Z)^2; T5X uses 1e-4
  loss_tokens: Count | None = None     # whose logits a device holds at once; None: LOSS_TOKENS

  def __post_init__(self):
    check_types(self)

  def __call__(self, model: Model, batch: Batch, key: jax.Array | None,
               normalizers: dict[str, jax.Array]) -> LossSums | None:
    """See `sums`."""
    config = model.config
    none = config.classifies_texts or config.head == 'pooler'
    return None if none else self.sums(model, batch, key)

  def sums(self, model: Model, batch: Batch, key: jax.Array | None) -> LossSums:
    """The sums over a batch with `{side}_target_tokens` and `{side}_loss_weights`."""
    shard = model.shard
    outputs, side = model.outputs(batch, key), model.config.target_side
    targets, weights = batch[f'{side}_target_tokens'], batch[f'{side}_loss_weights']
    x, targets, weights = compact_targets(outputs.hidden, targets, weights)
    loss_tokens = self.loss_tokens or LOSS_TOKENS[shard.platform]
    chunk = max(1, loss_tokens * shard.batch_parts // x.shape[0])
    options = {'label_smoothing': self.label_smoothing, 'z_loss': self.z_loss}
    sums = chunked_cross_entropy(outputs.head, x, targets, weights, chunk, tuple(options.items()))
    weight = sums['weight']
    return LossSums(sums['objective'], weight, {
        'loss': (sums['loss'], weight), 'accuracy': (sums['correct'], weight)})
