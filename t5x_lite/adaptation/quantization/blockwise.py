"""Blocks of numbers with one scale each, and the scales quantised in their turn.

A matrix is [..., inputs, outputs]; a block is `block` neighbouring inputs of one output, which is
bitsandbytes' layout of the transpose wherever `block` divides the inputs. Leading axes are matrices
of their own.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from t5x_lite.adaptation.quantization.formats import DYNAMIC, Format, pack, unpack

GROUP = 256   # scales that share a scale under double quantisation


class DoubleScale(NamedTuple):
  """Scales in 8 bits (Dettmers et al. 2023, QLoRA): offset + group * value of the code.

  The scales are taken output by output, in groups of GROUP; the last may be smaller.
  """
  codes: jax.Array    # uint8 [..., blocks, outputs], of the dynamic map
  offset: jax.Array   # [...]: the mean of the scales
  group: jax.Array    # [..., groups]: the largest magnitude of (scale - offset) in each


def quantize(x: jax.Array, form: Format, block: int) -> tuple[jax.Array, jax.Array]:
  """[..., inputs, outputs] -> (codes, scales).

  Returns:
    uint8 codes [..., inputs, outputs], of two inputs a byte [..., inputs / 2, outputs] in 4 bits,
    and float32 scales [..., inputs / block, outputs]: the largest magnitude of each block.
  """
  *lead, inputs, outputs = x.shape
  blocks = x.astype(jnp.float32).reshape(*lead, inputs // block, block, outputs)
  scale = jnp.abs(blocks).max(-2)
  # A block of zeros has scale 0, and the code of 0.
  inverse = 1 / jnp.where(scale == 0, 1, scale)
  codes = form.encode(blocks, inverse[..., None, :]).reshape(x.shape)
  return (pack(codes, -2) if form.bits == 4 else codes), scale


def dequantize(codes: jax.Array, scale: jax.Array, form: Format) -> jax.Array:
  """The float32 matrix [..., inputs, outputs] of codes and scales."""
  if form.bits == 4:
    codes = unpack(codes, -2)
  *lead, inputs, outputs = codes.shape
  blocks = form.decode(codes).reshape(*lead, scale.shape[-2], -1, outputs)
  return (blocks * scale[..., None, :]).reshape(codes.shape)


def quantize_scale(scale: jax.Array) -> DoubleScale:
  """Scales [..., blocks, outputs] -> their double quantisation."""
  *lead, blocks, outputs = scale.shape
  offset = scale.mean((-2, -1))
  flat = (scale - offset[..., None, None]).swapaxes(-2, -1).reshape(*lead, -1)
  number = blocks * outputs
  groups = -(-number // GROUP)
  padded = jnp.pad(flat, [(0, 0)] * len(lead) + [(0, groups * GROUP - number)])
  grouped = padded.reshape(*lead, groups, GROUP)
  group = jnp.abs(grouped).max(-1)
  inverse = 1 / jnp.where(group == 0, 1, group)
  codes = DYNAMIC.encode(grouped, inverse[..., None]).reshape(*lead, -1)[..., :number]
  return DoubleScale(codes.reshape(*lead, outputs, blocks).swapaxes(-2, -1), offset, group)


def dequantize_scale(double: DoubleScale) -> jax.Array:
  """The float32 scales [..., blocks, outputs] of their double quantisation."""
  *lead, blocks, outputs = double.codes.shape
  group = jnp.repeat(double.group, GROUP, -1)[..., :blocks * outputs]
  group = group.reshape(*lead, outputs, blocks).swapaxes(-2, -1)
  return DYNAMIC.decode(double.codes) * group + double.offset[..., None, None]
