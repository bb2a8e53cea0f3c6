"""Initial parameters: normal numbers determined by the name and layer of an array and a seed.

The same config and seed give the same values with layers stacked or not, on any mesh.
"""

import math
from typing import Any
import zlib

from flax import nnx
import jax
from jax.extend.random import threefry2x32_p
import jax.numpy as jnp
import numpy as np

# Up to so many numbers are drawn by one kernel, in twice their memory. Compiling a kernel for each
# shape takes most of a small model's first step.
ONE_KERNEL = 2 ** 26
BLOCK = 1024   # consecutive numbers of one array in that kernel
AT_ONCE = 512  # blocks drawn at once, in several times their memory


def draw_params(params: nnx.State, key: jax.Array, one_device: bool = False) -> dict[str, Any]:
  """Nested dict of float32 arrays for the abstract parameters of a network.

  Args:
    params: of Network.abstract, each with its `std` and `mean`.
    key: a threefry key.
    one_device: the arrays are not sharded; few are drawn by one kernel.
  """
  flat = {path: (variable, name_and_layer(path)) for path, variable in nnx.to_flat_state(params)}
  random = {path: (variable, name) for path, (variable, name) in flat.items() if variable.std}
  shapes = {path: _layers(variable) for path, (variable, _) in random.items()}
  keys = _keys(key, [name for _, name in random.values()], [n for n, _ in shapes.values()])
  total = sum(number * math.prod(shape) for number, shape in shapes.values())
  normal = _in_one_kernel if one_device and total <= ONE_KERNEL else _one_by_one
  drawn = normal(keys, shapes) if random else {}
  values = {}
  for path, (variable, _) in flat.items():
    shape = variable.get_value().shape
    if path in drawn:
      values[path] = variable.mean + variable.std * _distributed(
          variable, drawn[path].reshape(shape))
    else:
      values[path] = jnp.full(shape, variable.mean, jnp.float32)
  return nnx.traversals.unflatten_mapping(values)


def _distributed(variable, normal: jax.Array) -> jax.Array:
  """Numbers of mean 0 and deviation 1, of the distribution of a parameter, from normal ones."""
  if getattr(variable, 'distribution', 'normal') == 'uniform':
    return math.sqrt(3) * jax.lax.erf(normal / math.sqrt(2))
  return normal


def _keys(key, names: list[tuple[str, int | None]], numbers: list[int]) -> jax.Array:
  """A key for each layer of each array, one array after the other: of its name, then its layer."""
  owner = np.repeat(np.arange(len(names)), numbers)
  layer = np.concatenate([
      np.arange(n) if layer is None else [layer] for (_, layer), n in zip(names, numbers)])
  hashes = np.array([zlib.crc32(name.encode()) for name, _ in names], np.uint32)
  fold = jax.vmap(jax.random.fold_in)
  own = jax.vmap(jax.random.fold_in, (None, 0))(key, hashes)
  return fold(own[owner], layer)


def name_and_layer(path: tuple) -> tuple[str, int | None]:
  """(the name of a parameter, the same for all layers; its layer, None if stacked or in none)."""
  layer = next((part for part in path if isinstance(part, int)), None)
  return '/'.join(str(part) for part in path if not isinstance(part, int)), layer


def _layers(variable) -> tuple[int, tuple[int, ...]]:
  """(number of stacked layers, shape of one)."""
  shape = variable.get_value().shape
  if len(shape) == len(variable.axes):
    return 1, shape
  return shape[0], shape[1:]


def _one_by_one(keys, shapes) -> dict[tuple, jax.Array]:
  """Standard normal numbers [layers, *shape], a kernel for each array."""
  result, start = {}, 0
  for path, (number, shape) in shapes.items():
    own = keys[start:start + number]
    result[path] = jax.vmap(lambda key, shape=shape: jax.random.normal(key, shape))(own)
    start += number
  return result


def _in_one_kernel(keys, shapes) -> dict[tuple, jax.Array]:
  """The same numbers as `_one_by_one`, all computed as one long array.

  As jax.random.normal for each key and counter (threefry, then the inverse error function).
  """
  sizes = [math.prod(shape) for number, shape in shapes.values() for _ in range(number)]
  blocks = [-(-size // BLOCK) for size in sizes]
  rows = -(-sum(blocks) // AT_ONCE) * AT_ONCE
  pad = lambda x: np.pad(x, (0, rows - len(x))).reshape(-1, AT_ONCE)
  owner = pad(np.repeat(np.arange(len(sizes)), blocks))
  block = pad(np.concatenate([np.arange(n) for n in blocks]).astype(np.uint32))
  words = jax.random.key_data(keys)

  def some(owner, block):
    counter = block[:, None] * np.uint32(BLOCK) + jnp.arange(BLOCK, dtype=jnp.uint32)[None, :]
    word = lambda i: jnp.broadcast_to(words[owner, i][:, None], counter.shape)
    high, low = threefry2x32_p.bind(word(0), word(1), jnp.zeros_like(counter), counter)
    # 23 bits become the fraction of a number in [1, 2), then one in (-1, 1).
    bits = (high ^ low) >> 9 | jnp.uint32(0x3F800000)
    unit = jax.lax.bitcast_convert_type(bits, jnp.float32) - 1.0
    least = np.nextafter(np.float32(-1), np.float32(0))
    uniform = jnp.maximum(least, unit * (np.float32(1) - least) + least)
    return np.float32(np.sqrt(2)) * jax.lax.erf_inv(uniform)

  normal = jax.lax.map(lambda x: some(*x), (jnp.asarray(owner), jnp.asarray(block))).reshape(-1)
  result, start = {}, 0
  for path, (number, shape) in shapes.items():
    size = math.prod(shape)
    padded = -(-size // BLOCK) * BLOCK
    rows = normal[start:start + number * padded].reshape(number, padded)
    result[path] = rows[:, :size].reshape(number, *shape)
    start += number * padded
  return result
