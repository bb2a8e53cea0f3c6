"""Kernels of attention's keys that bring keys and values of their own, which every query sees.

Shape letters: see models/layers.py; P keys of a prefix.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp

from t5x_lite.models import weights
from t5x_lite.models.attention.kernels import AttentionSpec, reference
from t5x_lite.models.attention.masks import Mask


@dataclasses.dataclass(frozen=True)
class _KeyKernel:
  """The kernel W [embed, kv, head_dim] of keys, an array or a leaf, with something beside it."""
  base: jax.Array | weights.StructuredLeaf

  @property
  def shape(self) -> tuple[int, ...]:
    """That of the kernel."""
    return self.base.shape

  def matmul(self, x: jax.Array, num_in: int) -> jax.Array:
    """[..., *in] -> [..., *out]: the product with the kernel."""
    return weights.matmul(x, self.base, num_in)

  def value(self) -> jax.Array:
    """The kernel."""
    return weights.value(self.base)


@functools.partial(jax.tree_util.register_dataclass, data_fields=['base', 'keys', 'values'],
                   meta_fields=[])
@dataclasses.dataclass(frozen=True)
class PrefixLeaf(_KeyKernel):
  """Keys and values [kv, prefix, head_dim] before those of the sequence, in one softmax."""
  keys: jax.Array
  values: jax.Array

  def attend(self, q, k, v, spec: AttentionSpec, run) -> jax.Array:
    """As AttendingLeaf.attend."""
    before = lambda prefix_KPH, x: jnp.concatenate([jnp.broadcast_to(
        prefix_KPH.astype(x.dtype)[None], (x.shape[0], *prefix_KPH.shape)), x], axis=2)
    mask = spec.mask.with_shared(self.keys.shape[-2])
    return run(q, before(self.keys, k), before(self.values, v),
               dataclasses.replace(spec, mask=mask))


@functools.partial(
    jax.tree_util.register_dataclass, meta_fields=[],
    data_fields=['base', 'value_kernel', 'key_bias', 'value_bias', 'rows', 'gate'])
@dataclasses.dataclass(frozen=True)
class GatedPrefixLeaf(_KeyKernel):
  """Keys and values of trained rows, in a softmax of their own whose result is gated.

  Attributes:
    value_kernel: of the layer's values, as `base` is of its keys.
    key_bias, value_bias: [kv, head_dim] of both, or None.
    rows: [prefix, embed].
    gate: [heads]; its tanh is the factor of what the rows add.
  """
  value_kernel: jax.Array | weights.StructuredLeaf
  key_bias: jax.Array | None
  value_bias: jax.Array | None
  rows: jax.Array
  gate: jax.Array

  def attend(self, q, k, v, spec: AttentionSpec, run) -> jax.Array:
    """As AttendingLeaf.attend."""
    def project(kernel, bias):
      x_PKH = weights.matmul(self.rows.astype(q.dtype), kernel)
      x_PKH = x_PKH if bias is None else x_PKH + bias.astype(q.dtype)[None]
      x_KPH = jnp.swapaxes(x_PKH, 0, 1)
      return jnp.broadcast_to(x_KPH[None], (q.shape[0], *x_KPH.shape))

    alone = AttentionSpec(mask=Mask(causal=False), scale=spec.scale, softcap=spec.softcap)
    added = reference(q, project(self.base, self.key_bias),
                      project(self.value_kernel, self.value_bias), alone)
    gate_1N11 = jnp.tanh(self.gate).astype(q.dtype)[None, :, None, None]
    return run(q, k, v, spec) + gate_1N11 * added
