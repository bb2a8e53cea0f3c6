"""A kernel with a low-rank adapter: base + scale A B, as a leaf that layers multiply by.

in, out: axes of the kernel's inputs and outputs; r the rank.
"""

from collections.abc import Callable
import dataclasses
import math

import jax
import jax.numpy as jnp

from t5x_lite.adaptation import dora
from t5x_lite.models import layers, weights


@dataclasses.dataclass(frozen=True)
class LoraLeaf:
  """W + scale A B, which is never computed as a full array but by `value`.

  Attributes:
    base: W [*in, *out], an array or a leaf; experts' kernels have a first axis more.
    a: A [*in, r].
    b: B [r, *out].
    norm_change: [*out], of a DoRA; None without.
    key: draws the dropout of the adapter's inputs; None for none.
    scale: of A B.
    dropout: a share of the adapter's inputs.
  """
  base: jax.Array | weights.StructuredLeaf
  a: jax.Array
  b: jax.Array
  norm_change: jax.Array | None
  key: jax.Array | None
  scale: float
  dropout: float

  @property
  def shape(self) -> tuple[int, ...]:
    """That of the base."""
    return self.base.shape

  @property
  def innermost(self) -> jax.Array | weights.StructuredLeaf:
    """What stands under this adapter, and all that are under it."""
    return self.base.innermost if isinstance(self.base, LoraLeaf) else self.base

  def matmul(self, x: jax.Array, num_in: int) -> jax.Array:
    """[..., *in] -> [..., *out]: x W + scale (x A) B, with the norms of a DoRA."""
    inner = weights.matmul(layers.dropout(x, self.dropout, self.key), self.a, num_in) * self.scale
    y = weights.matmul(x, self.base, num_in) + weights.matmul(inner, self.b)
    if self.norm_change is None:
      return y
    ratio = dora.ratio(self.base, self.a, self.b, self.norm_change, self.scale)
    return y * jax.lax.broadcast_to_rank(ratio.astype(x.dtype), y.ndim)

  def value(self) -> jax.Array:
    """The merged kernel [*in, *out], in float32."""
    base = weights.value(self.base)
    experts = self.a.shape[:self.a.ndim + self.b.ndim - 2 - base.ndim]   # () or (number,)
    a = self.a.reshape(*experts, -1, self.a.shape[-1])
    b = self.b.reshape(*experts, self.a.shape[-1], -1)
    delta = jnp.matmul(a, b, precision='highest').reshape(base.shape)
    merged = base + self.scale * delta
    if self.norm_change is None:
      return merged
    ratio = dora.ratio(self.base, self.a, self.b, self.norm_change, self.scale)
    return merged * jax.lax.broadcast_to_rank(ratio, merged.ndim)

  def product(self, x: jax.Array, multiply: Callable[[jax.Array, jax.Array], jax.Array]
              ) -> jax.Array:
    """The same as `matmul` with a product of the caller's, such as one by experts."""
    inner = multiply(x, self.a.astype(x.dtype)) * self.scale
    return weights.product(x, self.base, multiply) + multiply(inner, self.b.astype(x.dtype))

  def rows(self, ids: jax.Array, gather: Callable[[jax.Array], jax.Array]) -> jax.Array:
    """Rows of the table [vocab, embed] with the adapter, [*ids, embed]."""
    return weights.rows(self.base, ids, gather) + weights.matmul(
        gather(self.a)[ids] * self.scale, self.b)

  def transpose(self) -> 'LoraLeaf':
    """The leaf of the table [embed, vocab]: (A B)^T = B^T A^T."""
    return dataclasses.replace(self, base=weights.transpose(self.base), a=self.b.T, b=self.a.T)


jax.tree_util.register_dataclass(
    LoraLeaf, data_fields=['base', 'a', 'b', 'norm_change', 'key'],
    meta_fields=['scale', 'dropout'])


def fan(shape: tuple[int, ...], num_in: int) -> tuple[int, int]:
  """(inputs, outputs) of a kernel."""
  return math.prod(shape[:num_in]), math.prod(shape[num_in:])
