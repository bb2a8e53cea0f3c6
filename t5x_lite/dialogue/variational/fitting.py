"""Adam on batches that are drawn from rows, compiled as a whole: small models train in seconds."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

Loss = Callable[[Any, Any, jax.Array, jax.Array], tuple[jax.Array, dict[str, jax.Array]]]


def fit_params(loss: Loss, params: Any, rows: Any, *, steps: int, batch_size: int,
               learning_rate: float, seed: int) -> tuple[Any, dict[str, jax.Array]]:
  """(parameters, {metric: [steps]}) after so many steps.

  Args:
    loss: (params, batch, key, step) -> (a scalar, metrics).
    params: the first ones.
    rows: a tree of arrays, whose first axis is that of examples.
    batch_size: rows of a step, drawn anew each time, with replacement; all rows where there are no
      more.
    learning_rate: at first; it falls to 0 along a cosine.
  """
  number = len(jax.tree.leaves(rows)[0])
  optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(
      optax.cosine_decay_schedule(learning_rate, steps)))

  def step(carry, n):
    params, state = carry
    key_rows, key = jax.random.split(jax.random.fold_in(jax.random.key(seed), n))
    batch = rows
    if batch_size < number:
      chosen = jax.random.randint(key_rows, (batch_size,), 0, number)
      batch = jax.tree.map(lambda x: x[chosen], rows)
    grads, metrics = jax.grad(loss, has_aux=True)(params, batch, key, n)
    updates, state = optimizer.update(grads, state)
    return (optax.apply_updates(params, updates), state), metrics

  run = jax.jit(lambda params: jax.lax.scan(
      step, (params, optimizer.init(params)), jnp.arange(steps)))
  (params, _), metrics = run(params)
  return params, metrics
