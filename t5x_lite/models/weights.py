"""The only reader of a kernel: products with a leaf, whatever the leaf is.

A leaf of a parameter tree is an array, or a pytree that stands for one: a quantised array, a base
with an adapter. A layer uses products and rows alone.
"""

from collections.abc import Callable
import math
from typing import Any, Protocol, runtime_checkable

import jax


@runtime_checkable
class StructuredLeaf(Protocol):
  """A pytree that stands for an array of `shape`, [*in, *out]."""

  shape: tuple[int, ...]

  def matmul(self, x: jax.Array, num_in: int) -> jax.Array:
    """[..., *in] times the array -> [..., *out], in the dtype of `x`."""

  def value(self) -> jax.Array:
    """The full array."""


@runtime_checkable
class FactoredLeaf(StructuredLeaf, Protocol):
  """A leaf that is never computed as a full array: a sum of products of smaller ones."""

  def product(self, x: jax.Array, multiply: Callable[[jax.Array, jax.Array], jax.Array]
              ) -> jax.Array:
    """`multiply(x, array)`, which is linear in both and [..., in] times [..., in, out]."""

  def rows(self, ids: jax.Array, gather: Callable[[jax.Array], jax.Array]) -> jax.Array:
    """`gather(array)[ids]` of a table [rows, embed]."""

  def transpose(self) -> StructuredLeaf:
    """The leaf of a table transposed."""


@runtime_checkable
class AttendingLeaf(StructuredLeaf, Protocol):
  """The kernel of attention's keys, with keys and values that are not of the sequence."""

  def attend(self, q: jax.Array, k: jax.Array, v: jax.Array, spec: Any,
             run: Callable[..., jax.Array]) -> jax.Array:
    """`run(q, k, v, spec)`, an attention kernel's signature, with the further keys and values."""


class Layout(Protocol):
  """How a frozen parameter is held where it is quantised."""

  settings: dict[str, Any]   # in JSON: what the leaf's values follow from, besides the array

  def quantize(self, x: jax.Array) -> StructuredLeaf:
    """The leaf of an array."""

  def struct(self, x: jax.ShapeDtypeStruct) -> StructuredLeaf:
    """The leaf's ShapeDtypeStructs, with their shardings, of that of the array."""

  def full(self, leaf: StructuredLeaf) -> jax.ShapeDtypeStruct:
    """What `struct` made the leaf of."""


def is_structured(x: Any) -> bool:
  """Whether a node of a tree stands for an array, for functions that take `is_leaf`."""
  return isinstance(x, StructuredLeaf)


def attends(leaf: Any) -> bool:
  """Whether a kernel of keys is an AttendingLeaf."""
  return isinstance(leaf, AttendingLeaf)


def matmul(x: jax.Array, leaf: jax.Array | StructuredLeaf, num_in: int = 1) -> jax.Array:
  """[..., *in] times a leaf [*in, *out] -> [..., *out], in the dtype of `x`.

  Args:
    x: the last `num_in` axes are those of the leaf's inputs.
    leaf: a kernel.
    num_in: how many of the leaf's axes are summed over.
  """
  if isinstance(leaf, StructuredLeaf):
    return leaf.matmul(x, num_in)
  lead, out_shape = x.shape[:x.ndim - num_in], leaf.shape[num_in:]
  kernel = leaf.astype(x.dtype)
  fan_in = math.prod(kernel.shape[:num_in])
  y = x.reshape(-1, fan_in) @ kernel.reshape(fan_in, -1)   # a plain product of matrices
  return y.reshape(*lead, *out_shape)


def value(leaf: jax.Array | StructuredLeaf) -> jax.Array:
  """The array that a leaf stands for."""
  return leaf.value() if isinstance(leaf, StructuredLeaf) else leaf


def cast(leaf: jax.Array | StructuredLeaf, dtype: Any) -> jax.Array | StructuredLeaf:
  """A plain array in this dtype; another leaf as it is, whose products are in that of `x`."""
  return leaf if isinstance(leaf, StructuredLeaf) else leaf.astype(dtype)


def product(x: jax.Array, leaf: jax.Array | StructuredLeaf,
            multiply: Callable[[jax.Array, jax.Array], jax.Array]) -> jax.Array:
  """`multiply(x, array)` of the array that a leaf stands for, in the dtype of `x`."""
  if hasattr(leaf, 'product'):   # of a FactoredLeaf, or a quantised kernel
    return leaf.product(x, multiply)
  return multiply(x, value(leaf).astype(x.dtype))


def rows(leaf: jax.Array | StructuredLeaf, ids: jax.Array,
         gather: Callable[[jax.Array], jax.Array]) -> jax.Array:
  """`gather(table)[ids]` of a leaf [rows, embed]: [*ids, embed]; `gather` shards the table."""
  if isinstance(leaf, FactoredLeaf):
    return leaf.rows(ids, gather)
  return gather(value(leaf))[ids]


def transpose(leaf: jax.Array | StructuredLeaf) -> jax.Array | StructuredLeaf:
  """A leaf [rows, embed] as one [embed, rows]."""
  return leaf.transpose() if isinstance(leaf, FactoredLeaf) else value(leaf).T
