"""Digests of arrays: equal bits give equal digests on any mesh, a changed bit another one.

Each element's bits are mixed with its index, and the results are added: a sum does not depend on
how the array is sharded, so each device reads its own part once and nothing is gathered. A change
of one element always changes the sum; any other change is missed with a probability of 2**-64.
There are two sums of 32 bits, as devices have no integers of 64.
"""

from typing import Any

import jax
import jax.numpy as jnp

from t5x_lite.core import trees
from t5x_lite.training.state import on_device


def digest_arrays(tree: Any) -> tuple[dict[str, str], list[str]]:
  """({'a/b': 'float32[2,3] 0123456789abcdef'}, paths with a value that is not finite) of a tree.

  All processes must take part.
  """
  leaves = trees.flatten(tree)
  # One after another: programs that add up over devices wait for each other, on CPUs for ever
  # where there are fewer threads than programs times devices.
  sums = {name: jax.device_get(_digest(_to_device(x))) for name, x in leaves.items()}
  digests = {name: f'{format_type(x)} {sums[name][0]:08x}{sums[name][1]:08x}'
             for name, x in leaves.items()}
  return digests, [name for name, (*_, not_finite) in sums.items() if not_finite]


def format_types(tree: Any) -> dict[str, str]:
  """{'a/b': 'float32[2,3]'} of a tree of arrays, or of their shapes."""
  return {name: format_type(x) for name, x in trees.flatten(tree).items()}


def format_type(x: Any) -> str:
  """'float32[2,3]' of an array of this shape."""
  return f'{jnp.dtype(x.dtype).name}[{",".join(map(str, x.shape))}]'


def parse_type(text: str) -> jax.ShapeDtypeStruct:
  """The shape and dtype of 'float32[2,3]'."""
  dtype, _, shape = text.rstrip(']').partition('[')
  return jax.ShapeDtypeStruct(tuple(map(int, filter(None, shape.split(',')))), jnp.dtype(dtype))


def _to_device(x: Any) -> Any:
  """The array; moved to the device if it is in the memory of its host (paging)."""
  if isinstance(x, jax.Array) and not on_device(x):
    return jax.device_put(x, x.sharding.with_memory_kind('device'))
  return x


@jax.jit
def _digest(x: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Three uint32 sums over the elements of `x`: two functions of their mixed bits, not finite."""
  not_finite = (~jnp.isfinite(x)).astype(jnp.uint32)
  if x.dtype == jnp.bool_:
    x = x.astype(jnp.uint8)
  x = jax.lax.bitcast_convert_type(x, f'uint{8 * x.dtype.itemsize}').astype(jnp.uint32)
  index = jnp.zeros(x.shape, jnp.uint32)
  for axis, size in enumerate(x.shape):   # the row-major index, modulo 2**32
    index = index * jnp.uint32(size) + jax.lax.broadcasted_iota(jnp.uint32, x.shape, axis)
  mixed = _mix(x ^ (index * jnp.uint32(0x9E3779B9)))
  again = (mixed ^ (mixed >> 15)) * jnp.uint32(0x9E3779B1)
  # One reduction of all: XLA for CPUs runs it eight times as fast as one of a scalar.
  return jax.lax.reduce((mixed, again, not_finite), (jnp.uint32(0),) * 3,
                        lambda a, b: tuple(x + y for x, y in zip(a, b)), tuple(range(x.ndim)))


def _mix(x: jax.Array) -> jax.Array:
  """A bijection of 32 bits whose output depends on all of its input (of MurmurHash3)."""
  x = (x ^ (x >> 16)) * jnp.uint32(0x85EBCA6B)
  x = (x ^ (x >> 13)) * jnp.uint32(0xC2B2AE35)
  return x ^ (x >> 16)
