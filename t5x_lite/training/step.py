"""The jitted step that updates the train state."""

from collections.abc import Callable, Sequence
import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax

from t5x_lite.core import trees
from t5x_lite.data.features import Batch, num_tokens
from t5x_lite.models import Network
from t5x_lite.objectives.objective import LossSums, Objective, add_objectives, normalizers
from t5x_lite.parallel.partitioner import Partitioner
from t5x_lite.training.state import TrainState, abstract_state, shardings_of, split_params

DROPOUT, ADAPTER = 1, 2   # what a key folded from (seed, step, purpose) is for


def loss_and_gradients(network: Network, objectives: Sequence[Objective], params: Any,
                       batch: Batch, key: jax.Array | None, *, frozen: Any = None,
                       microbatches: int = 1) -> tuple[LossSums, Any]:
  """(the sums of all objectives, the gradient of their total by `params`) over a batch.

  With `microbatches` the rows are computed in that many parts, one after the other, and the sums
  are added: dividing by the weight of the full batch afterwards gives the same result.
  """
  loss_fn, of_batch = add_objectives(objectives), normalizers(batch)

  def summed(params, batch, key):
    params = trees.combine(params, frozen or {})
    model = network.bind(params, None if key is None else jax.random.fold_in(key, ADAPTER))
    sums = loss_fn(model, batch, key if network.config.is_random else None, of_batch)
    return sums.total, sums

  gradient = jax.grad(summed, has_aux=True)
  if microbatches == 1:
    grads, sums = gradient(params, batch, key)
    return sums, grads

  # Row r goes to part r % microbatches, which leaves every row on the device that holds it.
  split = lambda x: x.reshape(-1, microbatches, *x.shape[1:]).swapaxes(0, 1)

  def part(total, scanned):
    i, batch = scanned
    new = gradient(params, batch, None if key is None else jax.random.fold_in(key, i))
    return jax.tree.map(jnp.add, total, new), None

  parts = (jnp.arange(microbatches), jax.tree.map(split, batch))
  zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(
      gradient, params, jax.tree.map(lambda x: x[0], parts[1]), key))
  (grads, sums), _ = jax.lax.scan(part, zeros, parts)
  return sums, grads


def make_train_step(network: Network, objectives: Sequence[Objective],
                    optimizer: optax.GradientTransformation, partitioner: Partitioner, *,
                    seed: int, microbatches: int = 1
                    ) -> Callable[[TrainState, Batch], tuple[TrainState, LossSums]]:
  """The jitted step: (state, batch) -> (next state, sums); the given state is donated.

  The sums are replicated scalars over the global batch; their metrics have `grad_norm` and
  `update_norm` of what was applied, and `tokens` of the batch, too.
  """
  def apply_whole(grads, opt_state, params, stacked):
    updates, opt_state = optimizer.update(grads, opt_state, params)
    return optax.apply_updates(params, updates), opt_state, optax.global_norm(updates)

  apply = getattr(optimizer, 'apply', apply_whole)   # paging.PagedTransformation has it
  axes = network.axes_by_path
  stacked = jax.tree_util.tree_map_with_path(
      lambda path, _: axes[trees.path_name(path)][:1] == ('layers',),
      split_params(network, network.shapes)[0])

  def step(state, batch):
    key = None
    if network.config.is_random or network.has_dropout:
      key = jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), state['step']), DROPOUT)
    sums, grads = loss_and_gradients(
        network, objectives, state['params'], batch, key,
        frozen=trees.combine(state.get('kept', {}), state['frozen']), microbatches=microbatches)
    weight = jnp.maximum(sums.weight, 1.0)
    grads = jax.tree.map(lambda g: g / weight, grads)
    params, opt_state, update_norm = apply(grads, state['opt_state'], state['params'], stacked)
    new = state | {'step': state['step'] + 1, 'opt_state': opt_state, 'params': params}
    added = {'grad_norm': optax.global_norm(grads), 'update_norm': update_norm,
             'tokens': num_tokens(batch)}
    metrics = sums.metrics | {name: (jnp.float32(x), jnp.float32(1)) for name, x in added.items()}
    return new, dataclasses.replace(sums, metrics=metrics)

  shardings = shardings_of(abstract_state(network, optimizer, partitioner))
  return jax.jit(step, donate_argnums=0, out_shardings=(shardings, partitioner.replicated))
