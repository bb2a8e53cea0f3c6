"""The train state, a plain pytree, and the one jitted step that moves it on."""

from collections.abc import Callable
from typing import Any

from flax import nnx
import jax
import jax.numpy as jnp
import optax

from t5x_lite import models, objective
from t5x_lite.models import ModelConfig
from t5x_lite.partitioning import Partitioner

TrainState = dict[str, Any]   # 'step' int32, 'params' and 'opt_state' trees of arrays
DROPOUT = 1                   # what a key folded from (seed, step, purpose) is for


def init_state(config: ModelConfig, optimizer: optax.GradientTransformation, seed: int,
               one_device: bool = False) -> TrainState:
  """The state before step 0, drawn from `seed`; on `one_device` compiled sooner."""
  params = models.init_params(config, jax.random.key(seed), one_device)
  return {'step': jnp.zeros((), jnp.int32), 'params': params, 'opt_state': optimizer.init(params)}


def _placed(x, sharding) -> jax.ShapeDtypeStruct:
  return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)


def abstract_params(config: ModelConfig, partitioner: Partitioner) -> dict:
  """The parameters as ShapeDtypeStructs that carry their shardings."""
  shapes = jax.eval_shape(lambda: models.init_params(config, jax.random.key(0)))
  return jax.tree.map(_placed, shapes, partitioner.param_shardings(config))


def abstract_state(config: ModelConfig, optimizer: optax.GradientTransformation,
                   partitioner: Partitioner) -> TrainState:
  """The state as ShapeDtypeStructs that carry their shardings."""
  params = abstract_params(config, partitioner)
  state = jax.eval_shape(lambda: init_state(config, optimizer, 0))
  whole = partitioner.replicated
  # Moments lie like their parameter; Adafactor's row and column sums are small and kept whole.
  opt_state = optax.tree.map_params(
      optimizer, lambda x, p: _placed(x, p.sharding if x.shape == p.shape else whole),
      state['opt_state'], params, transform_non_params=lambda x: _placed(x, whole))
  return {'step': _placed(state['step'], whole), 'opt_state': opt_state, 'params': params}


def shardings_of(abstract: TrainState) -> TrainState:
  """The tree of shardings of a tree of ShapeDtypeStructs."""
  return jax.tree.map(lambda x: x.sharding, abstract)


def loss_and_gradients(graphdef: nnx.GraphDef, config: ModelConfig, params: Any,
                       batch: dict[str, jax.Array], key: jax.Array | None, *,
                       microbatches: int = 1, loss_tokens: int = objective.LOSS_TOKENS['cpu'],
                       **options):
  """(sums of objective.batch_sums, gradient of the summed objective) over a batch.

  With `microbatches` the rows are computed in so many parts, one after the other, and the sums
  added: dividing by the whole batch's weight afterwards gives the same as one part. `options` are
  those of losses.cross_entropy.
  """
  share = objective.shares(config, batch)

  def summed(params, batch, key):
    sums = objective.batch_sums(nnx.merge(graphdef, params), batch, key, share,
                                loss_tokens=loss_tokens, **options)
    return sums['objective'], sums

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


def make_train_step(config: ModelConfig, optimizer: optax.GradientTransformation,
                    partitioner: Partitioner, *, seed: int, microbatches: int = 1,
                    label_smoothing: float = 0.0, z_loss: float = 0.0
                    ) -> Callable[[TrainState, dict], tuple[TrainState, dict]]:
  """The jitted step: (state, batch) -> (next state, metrics); the given state is donated.

  Metrics are replicated scalars: the sums of objective.batch_sums over the global batch, and
  `grad_norm` and `update_norm` of what was applied.
  """
  graphdef, _ = models.graph(config, partitioner)

  def step(state, batch):
    key = None
    if config.dropout_rate:
      key = jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), state['step']), DROPOUT)
    sums, grads = loss_and_gradients(
        graphdef, config, state['params'], batch, key, microbatches=microbatches,
        loss_tokens=objective.LOSS_TOKENS[partitioner.platform] * partitioner.batch_parts,
        label_smoothing=label_smoothing, z_loss=z_loss)
    weight = jnp.maximum(sums['weight'], 1.0)
    grads = jax.tree.map(lambda g: g / weight, grads)
    updates, opt_state = optimizer.update(grads, state['opt_state'], state['params'])
    new = {'step': state['step'] + 1, 'params': optax.apply_updates(state['params'], updates),
           'opt_state': opt_state}
    return new, sums | {'grad_norm': optax.global_norm(grads),
                        'update_norm': optax.global_norm(updates)}

  shardings = shardings_of(abstract_state(config, optimizer, partitioner))
  return jax.jit(step, donate_argnums=0, out_shardings=(shardings, partitioner.replicated))
