"""A quantised kernel as a leaf that layers multiply by, and how an array becomes one.

A kernel is [*lead, *in, *out]: `lead` are stacked layers and experts, each a matrix of its own.
Codes and scales keep the axes of the outputs and hold the inputs flattened in row-major order,
[*lead, inputs, *out]: an attention's output kernel [heads, head_dim, embed] has heads * head_dim
inputs, head by head. Blocks are of neighbouring inputs of one output, so that what shards outputs
never cuts a block, and what shards inputs may not (`Layout.struct` refuses it).
"""

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from t5x_lite.adaptation.quantization import blockwise, few_rows
from t5x_lite.adaptation.quantization.blockwise import DoubleScale
from t5x_lite.adaptation.quantization.formats import FORMATS
from t5x_lite.adaptation.quantization.llm_int8 import int8_matmul
from t5x_lite.core.errors import UserError


@functools.partial(jax.tree_util.register_dataclass, data_fields=['codes', 'scale'],
                   meta_fields=['in_shape', 'num_out', 'format', 'threshold'])
@dataclasses.dataclass(frozen=True)
class QuantizedLeaf:
  """A kernel in 4 or 8 bits; dequantised where it is multiplied by, and again for the gradient.

  Attributes:
    codes: uint8 [*lead, inputs, *out], or [*lead, inputs / 2, *out] of two codes each.
    scale: [*lead, blocks, *out], or its double quantisation.
    in_shape: of the inputs' axes.
    num_out: number of the outputs' axes.
    format: a key of FORMATS.
    threshold: of LLM.int8(): inputs of this magnitude are outliers; None: inputs stay as they are.
  """
  codes: jax.Array
  scale: jax.Array | DoubleScale
  in_shape: tuple[int, ...]
  num_out: int
  format: str
  threshold: float | None = None

  @property
  def shape(self) -> tuple[int, ...]:
    """[*lead, *in, *out] of the kernel."""
    codes = self.codes.shape
    split = len(codes) - self.num_out
    return (*codes[:split - 1], *self.in_shape, *codes[split:])

  def matmul(self, x: jax.Array, num_in: int) -> jax.Array:
    """[..., *in] -> [..., *out] in the dtype of `x`; the kernel has no leading axes here."""
    assert num_in == len(self.in_shape), (num_in, self.in_shape)
    lead, out = x.shape[:x.ndim - num_in], self.shape[num_in:]
    flat = x.reshape(-1, math.prod(self.in_shape))
    # Nothing of the size of the kernel is kept for the backward pass.
    y = jax.checkpoint(_product)(flat, self)
    return y.reshape(*lead, *out)

  def product(self, x: jax.Array, multiply) -> jax.Array:
    """`multiply(x, kernel)` of a caller's own product, with the kernel in the dtype of `x`."""
    return jax.checkpoint(lambda x, leaf: multiply(x, leaf.value().astype(x.dtype)))(x, self)

  def value(self) -> jax.Array:
    """The float32 kernel [*lead, *in, *out]."""
    return self._matrix().reshape(self.shape)

  def _matrix(self) -> jax.Array:
    """[*lead, inputs, outputs] in float32."""
    return blockwise.dequantize(self._flat(self.codes), self._scales(), FORMATS[self.format])

  def _scales(self) -> jax.Array:
    """[*lead, blocks, outputs] in float32."""
    scale = self.scale
    if isinstance(scale, DoubleScale):
      return blockwise.dequantize_scale(scale._replace(codes=self._flat(scale.codes)))
    return self._flat(scale)

  def _flat(self, x: jax.Array) -> jax.Array:
    """[*lead, n, *out] -> [*lead, n, outputs]."""
    return x.reshape(*x.shape[:x.ndim - self.num_out], -1)


def _product(x: jax.Array, leaf: QuantizedLeaf) -> jax.Array:
  if leaf.threshold is not None:
    return int8_matmul(x, leaf._flat(leaf.codes), leaf._flat(leaf.scale)[0], leaf.threshold)
  whole = lambda x, leaf: x @ leaf._matrix().astype(x.dtype)
  if len(x) > few_rows.MOST_ROWS:
    return whole(x, leaf)
  parts = lambda x, leaf: few_rows.blockwise_matmul(
      x, leaf._flat(leaf.codes), leaf._scales(), FORMATS[leaf.format]).astype(x.dtype)
  return jax.lax.platform_dependent(x, leaf, cpu=parts, default=whole)


@dataclasses.dataclass(frozen=True)
class Layout:
  """How a kernel is held: what `quantize` needs besides the array.

  Attributes:
    name: the path of the kernel, for errors.
    axes: the logical names of its axes, without those of stacked layers.
    format: a key of FORMATS.
    block: inputs that share a scale; None: all of an output's.
    double: whether scales are quantised too.
    threshold: as in QuantizedLeaf.
  """
  name: str
  axes: tuple[str | None, ...]
  format: str
  block: int | None
  double: bool
  threshold: float | None = None

  @property
  def settings(self) -> dict[str, Any]:
    """What the codes and scales of an array follow from, as a checkpoint records it."""
    return {name: getattr(self, name) for name in ('format', 'block', 'double', 'threshold')}

  def quantize(self, x: jax.Array) -> QuantizedLeaf:
    """The leaf of an array [*lead, *in, *out]. Raises UserError if blocks do not divide it."""
    lead, in_shape, out = self._split(x.shape)
    inputs = math.prod(in_shape)
    block = self._block(inputs)
    codes, scale = blockwise.quantize(
        x.reshape(*lead, inputs, -1), FORMATS[self.format], block)
    whole = lambda x: x.reshape(*x.shape[:-1], *out)
    if self.double:
      double = blockwise.quantize_scale(scale)
      scale = double._replace(codes=whole(double.codes))
    else:
      scale = whole(scale)
    return QuantizedLeaf(whole(codes), scale, in_shape, len(out), self.format, self.threshold)

  def struct(self, x: jax.ShapeDtypeStruct) -> QuantizedLeaf:
    """The leaf with ShapeDtypeStructs for arrays, sharded as `x` is if that has a sharding.

    Raises UserError if blocks do not divide the kernel, or straddle its shards.
    """
    leaf = jax.eval_shape(self.quantize, x)
    if getattr(x, 'sharding', None) is None:
      return leaf
    spec, mesh = x.sharding.spec, x.sharding.mesh
    spec = (*spec, *[None] * (len(x.shape) - len(spec)))
    lead, in_spec, out = self._split(spec)
    in_shape = self._split(x.shape)[1]
    self._check_shards(in_shape, in_spec, mesh)
    cut = NamedSharding(mesh, PartitionSpec(*lead, in_spec[0], *out))
    small = NamedSharding(mesh, PartitionSpec())   # offsets, and the scales of scales
    with_sharding = lambda s: lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s)
    scale = leaf.scale
    if self.double:
      scale = DoubleScale(with_sharding(cut)(scale.codes), with_sharding(small)(scale.offset),
                          with_sharding(small)(scale.group))
    else:
      scale = with_sharding(cut)(scale)
    return dataclasses.replace(leaf, codes=with_sharding(cut)(leaf.codes), scale=scale)

  def full(self, leaf: QuantizedLeaf) -> jax.ShapeDtypeStruct:
    """The ShapeDtypeStruct that `struct` made this leaf of."""
    sharding = getattr(leaf.codes, 'sharding', None)
    if sharding is not None:
      spec = (*sharding.spec, *[None] * (len(leaf.codes.shape) - len(sharding.spec)))
      at = len(spec) - leaf.num_out
      spec = (*spec[:at], *[None] * (len(leaf.in_shape) - 1), *spec[at:])
      sharding = NamedSharding(sharding.mesh, PartitionSpec(*spec))
    return jax.ShapeDtypeStruct(leaf.shape, jnp.float32, sharding=sharding)

  def _split(self, shape: tuple) -> tuple[tuple, tuple, tuple]:
    """(leading, inputs', outputs') of what there is one of for each axis."""
    first = len(shape) - len(self.axes) + (self.axes[0] == 'experts')
    axes = self.axes[1:] if self.axes[0] == 'experts' else self.axes
    number = 2 if axes[1] == 'head_dim' else 1   # all heads' outputs are one input
    return tuple(shape[:first]), tuple(shape[first:first + number]), tuple(shape[first + number:])

  def _block(self, inputs: int) -> int:
    block = self.block or inputs
    if inputs % block:
      fitting = [n for n in (32, 64, 128, 256, 16, 8) if inputs % n == 0]
      cure = f'choose a block of {" or ".join(map(str, fitting[:3]))}, or ' if fitting else ''
      raise UserError(f'{self.name} has {inputs} inputs, which blocks of {block} do not divide: '
                      f'{cure}leave it out with Quantized.skip')
    if FORMATS[self.format].bits == 4 and block % 2:
      raise UserError(f'{self.name}: blocks of {block} do not fill bytes of two codes: choose an '
                      'even block, or leave it out with Quantized.skip')
    return block

  def _check_shards(self, in_shape: tuple, in_spec: tuple, mesh) -> None:
    parts = [math.prod(mesh.shape[a] for a in ((axis,) if isinstance(axis, str) else axis or ()))
             for axis in in_spec]
    inputs = math.prod(in_shape)
    block = self.block or inputs
    if any(n > 1 for n in parts[1:]):
      raise UserError(f'{self.name}: blocks would straddle shards of {self.axes}: shard heads, and '
                      'not head_dim, with MeshConfig.rules')
    if parts[0] > 1 and inputs // parts[0] % block:
      raise UserError(
          f'{self.name} has {inputs} inputs, {inputs // parts[0]} on each of {parts[0]} shards, '
          f'which blocks of {block} straddle: choose a block that divides {inputs // parts[0]}, '
          'fewer shards, or leave it out with Quantized.skip')

