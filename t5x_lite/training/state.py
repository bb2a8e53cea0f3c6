"""The train state: a plain dict of trees of arrays, its shapes and its shardings.

`step` int32; `params`, which are trained: gradients, optimizer, clipping, decay and checkpoints see
these alone; `frozen`, the other parameters of the network, some of them quantised, {} without an
adaptation; `opt_state`. Where an adaptation has frozen parameters of its own that no base has
(Network.is_kept), `kept` holds them, and checkpoints too.
"""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from t5x_lite.core import trees
from t5x_lite.models import Network
from t5x_lite.parallel.partitioner import Partitioner

TrainState = dict[str, Any]


def init_state(network: Network, optimizer: optax.GradientTransformation, seed: int,
               one_device: bool = False) -> TrainState:
  """The state before step 0, drawn from `seed`; on `one_device` compiled sooner."""
  params, kept, frozen = split_params(network, network.init(jax.random.key(seed), one_device))
  return {'step': jnp.zeros((), jnp.int32), 'params': params, **kept,
          'frozen': quantize_frozen(network, frozen),
          'opt_state': optimizer.init(params)}


def split_params(network: Network, params: dict) -> tuple[dict, dict, dict]:
  """All parameters as a state holds them: (trained, {} or {'kept': kept}, frozen)."""
  trained, rest = trees.partition(params, network.is_trained)
  kept, frozen = trees.partition(rest, network.is_kept)
  return trained, {'kept': kept} if kept else {}, frozen


def all_params(state: TrainState) -> dict:
  """All parameters of the network, of a state or its abstract one."""
  return trees.combine(saved_params(state), state['frozen'])


def saved_params(state: TrainState) -> dict:
  """The parameters that a checkpoint holds: trained and kept ones."""
  return trees.combine(state['params'], state.get('kept', {}))


def quantize_frozen(network: Network, frozen: dict) -> dict:
  """Frozen arrays, or their ShapeDtypeStructs, as the state holds them: some are quantised."""
  def hold(path, x):
    layout = network.quantized(trees.path_name(path))
    if layout is None:
      return x
    return layout.struct(x) if isinstance(x, jax.ShapeDtypeStruct) else layout.quantize(x)

  return jax.tree_util.tree_map_with_path(hold, frozen)


def _with_sharding(x, sharding) -> jax.ShapeDtypeStruct:
  return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)


def abstract_params(network: Network, partitioner: Partitioner) -> dict:
  """All parameters, trained and frozen, as ShapeDtypeStructs that carry their shardings."""
  return jax.tree.map(_with_sharding, network.shapes, partitioner.param_shardings(network))


def abstract_state(network: Network, optimizer: optax.GradientTransformation,
                   partitioner: Partitioner) -> TrainState:
  """The state as ShapeDtypeStructs that carry their shardings."""
  params, kept, frozen = split_params(network, abstract_params(network, partitioner))
  replicated = partitioner.replicated
  # Moments are sharded like their parameter; Adafactor's small row and column sums are replicated.
  memory_kind = getattr(optimizer, 'memory_kind', None)   # of paging.PagedTransformation

  def of_param(x, param):
    sharding = param.sharding if x.shape == param.shape else replicated
    return _with_sharding(x, sharding.with_memory_kind(memory_kind) if memory_kind else sharding)

  opt_state = optax.tree.map_params(
      optimizer, of_param, jax.eval_shape(optimizer.init, params), params,
      transform_non_params=lambda x: _with_sharding(x, replicated))
  return {'step': jax.ShapeDtypeStruct((), jnp.int32, sharding=replicated), 'params': params,
          **kept, 'frozen': quantize_frozen(network, frozen), 'opt_state': opt_state}


def on_device(x: jax.Array | jax.ShapeDtypeStruct) -> bool:
  """Whether an array of a state, or of an abstract one, is in the device's memory between steps."""
  return x.sharding.memory_kind in (None, 'device')


def shardings_of(abstract: TrainState) -> TrainState:
  """The tree of shardings of a tree of ShapeDtypeStructs."""
  return jax.tree.map(lambda x: x.sharding, abstract)
