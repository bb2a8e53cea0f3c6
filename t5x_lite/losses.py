"""Cross-entropy as sums and weights: the mean is taken once, over the global batch."""

import jax
import jax.numpy as jnp


def cross_entropy(logits: jax.Array, targets: jax.Array, weights: jax.Array, *,
                  label_smoothing: float = 0.0, z_loss: float = 0.0) -> dict[str, jax.Array]:
  """Weighted sums of what is minimised and of what is reported; scalars, float32.

  The loss of a token is -log p(target), with label smoothing (Szegedy et al. 2016) of `q` spread
  evenly over the V - 1 other ids less its entropy, so that a perfect soft prediction costs 0, plus
  z_loss * log(Z)^2 (Mesh TensorFlow; PaLM section 5), which keeps the normaliser near 1.

  Args:
    logits: [batch, length, vocab] float32.
    targets: [batch, length] int.
    weights: [batch, length]; 0 where there is nothing to learn.
    label_smoothing: q, at least 0 and below 1.
    z_loss: factor of log(Z)^2; T5X uses 1e-4.

  Returns:
    `objective` (what is minimised), `loss` (plain cross-entropy, nats), `correct` (weight of the
    targets that are the largest logit) and `weight` (sum of weights).
  """
  weights = weights.astype(jnp.float32)
  log_z = jax.nn.logsumexp(logits, axis=-1)
  target_logit = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
  loss = log_z - target_logit
  objective = loss
  if label_smoothing:
    others = logits.shape[-1] - 1
    p, q = 1.0 - label_smoothing, label_smoothing / others
    entropy = -(p * jnp.log(p) + others * q * jnp.log(q))
    other_logits = logits.sum(-1) - target_logit
    objective = log_z - p * target_logit - q * other_logits - entropy
  if z_loss:
    objective = objective + z_loss * jnp.square(log_z)
  correct = (logits.argmax(-1) == targets) * weights
  return {'objective': (objective * weights).sum(), 'loss': (loss * weights).sum(),
          'correct': correct.sum(), 'weight': weights.sum()}
