"""Dual encoders of sentences (LaBSE, Feng et al. 2022, section 2.1): a pair is to be nearest.

Shape letters: B pairs of the global batch, C the same pairs as candidates, L length, D embed.
"""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from t5x_lite.core.dataclass_checks import NonNegative, Positive, check_types
from t5x_lite.core.errors import UserError
from t5x_lite.data.features import Batch
from t5x_lite.models import Model
from t5x_lite.objectives.objective import LossSums


def unit_vectors(x: jax.Array) -> jax.Array:
  """Vectors [..., embed] in float32, of length 1; a vector of zeros stays one."""
  x = x.astype(jnp.float32)
  return x * jax.lax.rsqrt(jnp.maximum(jnp.square(x).sum(-1, keepdims=True), 1e-24))


def margin_losses(cosines: jax.Array, candidates: jax.Array, margin: float, scale: float
                  ) -> tuple[jax.Array, jax.Array]:
  """(-log p of each first text's own second, and of each second text's own first), [B] each.

  p is a softmax over scale * (cosine - margin of a pair's own), of itself and its candidates.

  Args:
    cosines: [B, C], of first and second texts; those of pairs are on the diagonal.
    candidates: [B, C] bool, symmetric: which others a text is told apart from.
  """
  own = jnp.eye(len(cosines), dtype=bool)
  logits = jnp.where(candidates | own, scale * (cosines - margin * own), -jnp.inf)
  return tuple(-jnp.diagonal(jax.nn.log_softmax(logits, axis)) for axis in (1, 0))


def candidates_of(tokens: jax.Array, valid: jax.Array) -> jax.Array:
  """Which pairs are wrong answers to each other, [B, C] bool.

  Pairs that share a text are none, as the other's is right as well, nor is padding.

  Args:
    tokens: [B, 2, length] ids, padding included.
    valid: [B] bool, whether there is a pair.
  """
  same = (tokens[:, None] == tokens[None]).all(-1).any(-1)
  return ~same & valid[:, None] & valid[None]


@dataclasses.dataclass(frozen=True, kw_only=True)
class DualEncoder:
  """Additive-margin softmax both ways over the pairs of a batch, all devices' of them.

  Of an encoder with ModelConfig.head = 'pooler', which reads both texts of a pair, and a task of
  inputs and targets. The loss of a pair is the sum of both ways. Metrics: `loss`, nats a pair, and
  `accuracy`, the share of texts whose own is nearest by cosine, the mean of both ways.
  """
  whole_batch: ClassVar[bool] = True   # microbatches would have fewer candidates

  margin: NonNegative[float] = 0.3   # taken off the cosine of a pair before the scale
  scale: Positive[float] = 20.0      # of cosines, which alone leave a floor near log(batch)

  def __post_init__(self):
    check_types(self)

  def __call__(self, model: Model, batch: Batch, key: jax.Array | None,
               normalizers: dict[str, jax.Array]) -> LossSums:
    if model.config.head != 'pooler':
      raise UserError('DualEncoder reads a vector of each text, which the model has none of: set '
                      "ModelConfig.head = 'pooler'")
    if batch['encoder_input_tokens'].ndim != 3:
      raise UserError('DualEncoder reads pairs of texts, and the data has rows of one: choose a '
                      'task of inputs and targets')
    tokens_B2L, valid_B = batch['encoder_input_tokens'], batch['encoder_loss_weights'][:, 0] > 0
    vectors = unit_vectors(model.outputs(batch, key).hidden[:, 0])
    vectors_B2D = vectors.reshape(*tokens_B2L.shape[:2], -1)
    cosines_BC = jnp.einsum('bd,cd->bc', vectors_B2D[:, 0], vectors_B2D[:, 1],
                            precision='highest')
    candidates_BC = candidates_of(tokens_B2L, valid_B)
    losses_B = sum(margin_losses(cosines_BC, candidates_BC, self.margin, self.scale))
    others_BC = jnp.where(candidates_BC, cosines_BC, -jnp.inf)
    own_B = jnp.diagonal(cosines_BC)
    right_B = sum((own_B > others_BC.max(axis)).astype(jnp.float32) for axis in (1, 0)) / 2
    pairs = valid_B.astype(jnp.float32).sum()
    total = jnp.where(valid_B, losses_B, 0).sum()
    return LossSums(normalizers['sequence'] * total,
                    batch['encoder_loss_weights'].astype(jnp.float32).sum(), {
        'loss': (total, pairs), 'accuracy': (jnp.where(valid_B, right_B, 0).sum(), pairs)})
