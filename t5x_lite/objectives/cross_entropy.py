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

  Chunks after the last token with weight are skipped; `compact_targets` makes more of them. The
  gradient is of `objective`; it is computed chunk by chunk in the forward pass, while the logits
  are there, and for what is differentiated alone: a frozen head has none.

  Args:
    head: [batch, any length, embed] -> float32 logits; a pytree of its parameters.
    x: [batch, length, embed].
    targets, weights: [batch, length].
    chunk: positions of a row whose logits are computed at once.
    options: keyword arguments of `cross_entropy` as items.
  """
  return _chunks((head, x), targets, weights, chunk, dict(options), ())[0]


def _chunks(head_and_x, targets, weights, chunk, options, trained):
  """(sums, gradients of those leaves of (head, x) whose indices are in `trained`)."""
  leaves, treedef = jax.tree.flatten(head_and_x)
  of_x = len(leaves) - 1
  length = leaves[of_x].shape[1]
  number = -(-length // chunk)
  size = -(-length // number)
  pad = lambda a: jnp.pad(a, ((0, 0), (0, number * size - length)) + ((0, 0),) * (a.ndim - 2))
  leaves[of_x], targets, weights = pad(leaves[of_x]), pad(targets), pad(weights)

  def sums(some, all_leaves, targets, weights):
    all_leaves = list(all_leaves)
    for i, leaf in zip(trained, some):
      all_leaves[i] = leaf
    head, x = jax.tree.unflatten(treedef, all_leaves)
    result = cross_entropy(head(x), targets, weights, **options)
    return result['objective'], result

  def one(i, carry):
    chunk_of = lambda a: jax.lax.dynamic_slice_in_dim(a, i * size, size, axis=1)
    part = [*leaves[:of_x], chunk_of(leaves[of_x])]
    total, gradients = carry
    arguments = [part[j] for j in trained], part, chunk_of(targets), chunk_of(weights)
    if not trained:
      return jax.tree.map(jnp.add, total, sums(*arguments)[1]), gradients
    new_gradients, new = jax.grad(sums, has_aux=True)(*arguments)
    put = lambda j, old, new: (
        jax.lax.dynamic_update_slice_in_dim(old, new, i * size, axis=1) if j == of_x
        else old + new)
    return jax.tree.map(jnp.add, total, new), [
        put(*each) for each in zip(trained, gradients, new_gradients)]

  zero = {name: jnp.zeros(()) for name in ('objective', 'loss', 'correct', 'weight')}
  # The position after the last token with weight: later chunks are skipped.
  last = jnp.where(weights.any(0), jnp.arange(number * size) + 1, 0).max()
  total, gradients = jax.lax.fori_loop(
      0, -(-last // size), one, (zero, [jnp.zeros_like(leaves[j]) for j in trained]))
  return total, [g[:, :length] if j == of_x else g for j, g in zip(trained, gradients)]


def _chunked_forward(head, x, targets, weights, chunk, options):
  """Arguments are jax.custom_derivatives.CustomVJPPrimal: a value, and whether it is perturbed."""
  leaves, treedef = jax.tree.flatten((head, x))
  trained = tuple(i for i, leaf in enumerate(leaves) if leaf.perturbed)
  values = jax.tree.unflatten(treedef, [leaf.value for leaf in leaves])
  total, gradients = _chunks(values, targets.value, weights.value, chunk, dict(options), trained)
  of_leaf = dict(zip(trained, gradients))
  return total, jax.tree.unflatten(treedef, [of_leaf.get(i) for i in range(len(leaves))])


def _chunked_backward(chunk, options, gradients, cotangents):
  given = cotangents['objective']
  if isinstance(given, jax.custom_derivatives.SymbolicZero):
    return None, None, None, None
  return *jax.tree.map(lambda g: (g * given).astype(g.dtype), gradients), None, None


chunked_cross_entropy.defvjp(_chunked_forward, _chunked_backward, symbolic_zeros=True)


def compact_targets(x: jax.Array, targets: jax.Array, weights: jax.Array):
  """The same with the tokens of each row that have weight moved to its beginning.

  A loss on few tokens, such as BERT's on the masked ones or on the answers of conversations, then
  needs the logits of few. Rows whose tokens with weight come first already are left as they are.
  """
  order = jnp.argsort(weights == 0, axis=1, stable=True)
  take = lambda a: jnp.take_along_axis(a, order, axis=1)
  holes = ((weights[:, 1:] != 0) & (weights[:, :-1] == 0)).any()
  move = lambda x: jnp.take_along_axis(x, order[..., None], axis=1)
  x = jax.lax.cond(holes, move, lambda x: x, x)
  return x, take(targets), take(weights)
