"""The only reader of a kernel: products with a leaf, whatever the leaf is.

A leaf of a parameter tree is an array, or a pytree that stands for one: a quantised array, a base
with an adapter. A layer uses products and rows alone.
"""

import math
from typing import Protocol, runtime_checkable

import jax


@runtime_checkable
class StructuredLeaf(Protocol):
  """A pytree that stands for an array of `shape`, [*in, *out]."""

  shape: tuple[int, ...]

  def matmul(self, x: jax.Array, num_in: int) -> jax.Array:
    """[..., *in] times the array -> [..., *out], in the dtype of `x`."""

  def value(self) -> jax.Array:
    """The full array."""


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
