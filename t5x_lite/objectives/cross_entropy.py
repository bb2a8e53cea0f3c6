"""Cross-entropy as sums and weights: the mean is taken once, over the global batch."""

import functools

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
    targets with the largest logit, alone) and `weight` (sum of weights).
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
  correct = is_best(logits, targets) * weights
  return {'objective': (objective * weights).sum(), 'loss': (loss * weights).sum(),
          'correct': correct.sum(), 'weight': weights.sum()}


def is_best(logits: jax.Array, targets: jax.Array) -> jax.Array:
  """Whether a target has the largest logit, bool [batch, length]; not if another is as large.

  So a model that gives all the same logit is never right. Not by argmax, which is slow on a CPU.
  """
  target_logit = jnp.take_along_axis(logits, targets[..., None], axis=-1)
  id_BLV = jax.lax.broadcasted_iota(jnp.int32, logits.shape, logits.ndim - 1)
  others = jnp.where(id_BLV == targets[..., None], -jnp.inf, logits)
  return target_logit[..., 0] > others.max(-1)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5))
def chunked_cross_entropy(head: jax.tree_util.Partial, x: jax.Array, targets: jax.Array,
                          weights: jax.Array, chunk: int, options: tuple[tuple[str, float], ...]
                          ) -> dict[str, jax.Array]:
  """`cross_entropy(head(x), targets, weights)` while holding the logits of only `chunk` positions
  of each row at once.

  Chunks in which no token has weight are skipped. The gradient is of `objective`; it is computed
  chunk by chunk in the forward pass, while the logits are there.

  Args:
    head: [batch, any length, embed] -> float32 logits; a pytree of its parameters.
    x: [batch, length, embed].
    targets, weights: [batch, length].
    chunk: positions of a row whose logits are computed at once.
    options: keyword arguments of `cross_entropy` as items.
  """
  return _chunks(head, x, targets, weights, chunk, dict(options), with_gradient=False)[0]


def _chunks(head, x, targets, weights, chunk, options, with_gradient):
  """(sums, gradients of head and x, or None)."""
  length = x.shape[1]
  number = -(-length // chunk)
  size = -(-length // number)
  pad = lambda a: jnp.pad(a, ((0, 0), (0, number * size - length)) + ((0, 0),) * (a.ndim - 2))
  x, targets, weights = pad(x), pad(targets), pad(weights)

  def sums(head, x, targets, weights):
    result = cross_entropy(head(x), targets, weights, **options)
    return result['objective'], result

  def one(i, carry):
    chunk_of = lambda a: jax.lax.dynamic_slice_in_dim(a, i * size, size, axis=1)
    parts = chunk_of(x), chunk_of(targets), chunk_of(weights)
    total, dhead, dx = carry
    if not with_gradient:
      return jax.tree.map(jnp.add, total, sums(head, *parts)[1]), None, None
    (dhead_part, dx_part), new = jax.grad(sums, argnums=(0, 1), has_aux=True)(head, *parts)
    return (jax.tree.map(jnp.add, total, new), jax.tree.map(jnp.add, dhead, dhead_part),
            jax.lax.dynamic_update_slice_in_dim(dx, dx_part, i * size, axis=1))

  zero = {name: jnp.zeros(()) for name in ('objective', 'loss', 'correct', 'weight')}
  gradients = (jax.tree.map(jnp.zeros_like, head), jnp.zeros_like(x)) if with_gradient else (
      None, None)
  # The position after the last token with weight: later chunks are skipped.
  last = jnp.where(weights.any(0), jnp.arange(number * size) + 1, 0).max()
  total, dhead, dx = jax.lax.fori_loop(0, -(-last // size), one, (zero, *gradients))
  return total, (dhead, None if dx is None else dx[:, :length])


def _chunked_forward(head, x, targets, weights, chunk, options):
  return _chunks(head, x, targets, weights, chunk, dict(options), with_gradient=True)


def _chunked_backward(chunk, options, gradients, cotangents):
  scale = lambda g: (g * cotangents['objective']).astype(g.dtype)
  return *jax.tree.map(scale, gradients), None, None


chunked_cross_entropy.defvjp(_chunked_forward, _chunked_backward)


def compact_targets(x: jax.Array, targets: jax.Array, weights: jax.Array):
  """The same with the tokens of each row that have weight moved to its beginning.

  A loss on few tokens, such as BERT's on the masked ones, then needs the logits of few.
  """
  order = jnp.argsort(weights == 0, axis=1, stable=True)
  take = lambda a: jnp.take_along_axis(a, order, axis=1)
  return jnp.take_along_axis(x, order[..., None], axis=1), take(targets), take(weights)
