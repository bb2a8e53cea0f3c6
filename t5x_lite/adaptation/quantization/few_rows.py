"""Products of few rows with codes, as decoding has them, on a CPU: some inputs at a time.

XLA for CPUs writes a dequantised kernel to memory before it multiplies, which takes several times
as long as reading it in float32. Part by part it stays in the cache of a core.

Shape letters: T rows, I inputs, O outputs, N parts, R inputs of a part.
"""

import jax
import jax.numpy as jnp

from t5x_lite.adaptation.quantization.formats import FORMATS, Format

MOST_ROWS = 16   # of more the product itself takes longer than the kernel
_PART = 64       # inputs, at most, unless a block has more than divide it


def part_size(block: int) -> int:
  """Inputs of a part: of one block, and an even number where there is one."""
  return next(size for size in (_PART, 48, 32, 24, 16, 8, 4, 2, 1) if block % size == 0)


def blockwise_matmul(x_TI: jax.Array, codes: jax.Array, scale_BO: jax.Array, form: Format
                     ) -> jax.Array:
  """[rows, inputs] times a kernel of codes and of scales [blocks, outputs], in float32."""
  inputs = x_TI.shape[1]
  block = inputs // len(scale_BO)
  size = part_size(block)
  per_block = block // size
  x_NTR = x_TI.astype(jnp.float32).reshape(len(x_TI), -1, size).swapaxes(0, 1)
  parts = codes.reshape(len(x_NTR), -1, codes.shape[-1])

  def product(x_TR, codes):
    if form.bits == 8:
      return x_TR @ form.decode(codes)
    # Not put in order: the inputs of high nibbles, then those of low ones.
    return x_TR[:, ::2] @ form.decode(codes >> 4) + x_TR[:, 1::2] @ form.decode(codes & 15)

  def add(n, y_TO):
    return y_TO + product(x_NTR[n], parts[n]) * scale_BO[n // per_block][None]

  return jax.lax.fori_loop(0, len(x_NTR), add, jnp.zeros((len(x_TI), codes.shape[-1])))


def integer_matmul(q_TI: jax.Array, codes_IO: jax.Array) -> jax.Array:
  """int32 [rows, outputs]: rows of int8 times the integers that int8 codes stand for.

  It is exact: a part's sum of products of 8 bits is below 2 ** 24.
  """
  size = part_size(q_TI.shape[1])
  q_NTR = q_TI.astype(jnp.float32).reshape(len(q_TI), -1, size).swapaxes(0, 1)
  parts = codes_IO.reshape(len(q_NTR), size, -1)
  zero = FORMATS['int8'].levels + 1

  def add(n, sum_TO):
    return sum_TO + (q_NTR[n] @ (parts[n].astype(jnp.float32) - zero)).astype(jnp.int32)

  return jax.lax.fori_loop(0, len(q_NTR), add,
                           jnp.zeros((len(q_TI), codes_IO.shape[1]), jnp.int32))
