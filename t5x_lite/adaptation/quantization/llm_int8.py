"""LLM.int8() (Dettmers et al. 2022): products of 8-bit integers, but for columns with outliers.

T tokens, I inputs, O outputs.
"""

import functools

import jax
import jax.numpy as jnp

from t5x_lite.adaptation.quantization import few_rows
from t5x_lite.adaptation.quantization.formats import FORMATS

INT8 = FORMATS['int8']
ZERO = 128   # the code of 0


def quantize_rows(x_TI: jax.Array, threshold: float
                  ) -> tuple[jax.Array, jax.Array, jax.Array]:
  """(int8 [T, I], the scale of each row [T], whether each column has an outlier [I]).

  An outlier is a number of at least `threshold` in magnitude; there is none if that is 0. A row's
  scale is the largest magnitude of its others, and columns with an outlier are 0.
  """
  size = jnp.abs(x_TI.astype(jnp.float32))
  outlier = (size >= threshold) & (threshold > 0)
  scale_T = jnp.where(outlier, 0, size).max(-1)
  column_I = outlier.any(0)
  unit = x_TI.astype(jnp.float32) * (1 / jnp.where(scale_T == 0, 1, scale_T) * 127)[:, None]
  return (jnp.where(column_I[None], 0, jnp.round(unit)).astype(jnp.int8), scale_T, column_I)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def int8_matmul(x_TI: jax.Array, codes_IO: jax.Array, scale_O: jax.Array, threshold: float
                ) -> jax.Array:
  """[tokens, inputs] times a kernel of int8 codes with one scale for each output, in x's dtype.

  Columns with outliers are multiplied by the dequantised kernel, the others as integers, summed in
  int32. Their set has no fixed size, so both products are of the full size. The gradient is that
  through the dequantised kernel.
  """
  q_TI, scale_T, column_I = quantize_rows(x_TI, threshold)
  outliers_TI = jnp.where(column_I[None], x_TI, 0)

  def whole(q_TI, outliers_TI, codes_IO, scale_O):
    w_IO = (codes_IO.astype(jnp.int16) - ZERO).astype(jnp.int8)
    sums_TO = jnp.matmul(q_TI, w_IO, preferred_element_type=jnp.int32)
    return sums_TO, outliers_TI @ _kernel(codes_IO, scale_O, x_TI.dtype)

  def parts(q_TI, outliers_TI, codes_IO, scale_O):
    of_outliers = lambda x_TI: few_rows.blockwise_matmul(x_TI, codes_IO, scale_O[None], INT8)
    none = lambda x_TI: jnp.zeros((len(x_TI), len(scale_O)))
    y_TO = jax.lax.cond(column_I.any(), of_outliers, none, outliers_TI)
    return few_rows.integer_matmul(q_TI, codes_IO), y_TO.astype(x_TI.dtype)

  args = q_TI, outliers_TI, codes_IO, scale_O
  sums_TO, y_TO = whole(*args) if len(x_TI) > few_rows.MOST_ROWS else (
      jax.lax.platform_dependent(*args, cpu=parts, default=whole))
  scaled_TO = sums_TO.astype(jnp.float32) * (scale_T[:, None] * scale_O[None] / 127 ** 2)
  return scaled_TO.astype(x_TI.dtype) + y_TO


def _kernel(codes_IO, scale_O, dtype):
  return (INT8.decode(codes_IO) * scale_O[None]).astype(dtype)


def _forward(x_TI, codes_IO, scale_O, threshold):
  return int8_matmul(x_TI, codes_IO, scale_O, threshold), (codes_IO, scale_O)


def _backward(threshold, residuals, grad_TO):
  codes_IO, scale_O = residuals
  # The kernel is frozen: its codes and scales have no gradient.
  return grad_TO @ _kernel(codes_IO, scale_O, grad_TO.dtype).T, None, jnp.zeros_like(scale_O)


int8_matmul.defvjp(_forward, _backward)
