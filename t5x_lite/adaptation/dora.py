"""DoRA (Liu et al. 2024): the norm of each output's weights is trained apart from their direction.

The adapted kernel is m V / |V| with V = W + scale A B and the norm of each output's column taken as
a constant by the gradient. What is trained is m - |W|, which begins as 0: the gradient is that of
m, the adapted model is at first the base, and decay pulls towards it.
"""

import math

import jax
import jax.numpy as jnp

from t5x_lite.models import weights


def ratio(base: jax.Array | weights.StructuredLeaf, a: jax.Array, b: jax.Array,
          norm_change: jax.Array, scale: float) -> jax.Array:
  """m / |V| [*out] in float32 of a kernel W [*in, *out], A [*in, r], B [r, *out].

  |V|^2 = |W|^2 + 2 scale W.(A B) + scale^2 |A B|^2, summed over inputs through the rank alone, so
  that A B is never computed; it is |W|^2 exactly where B is 0.
  """
  w, a, b, norm = _matrices(base, a, b)
  times = lambda x, y: jnp.matmul(x, y, precision='highest')
  crossed = (times(a.T, w) * b).sum(0)
  squared = (times(times(a.T, a), b) * b).sum(0)
  square = jnp.square(norm) + 2 * scale * crossed + scale ** 2 * squared
  # sqrt(x^2) need not be x: outputs that the adapter does not change keep their norm.
  changed = jnp.any(b != 0, 0)
  norm_v = jnp.where(changed, jnp.sqrt(jnp.maximum(square, 0)), norm)
  return ((norm.reshape(norm_change.shape) + norm_change)
          / jax.lax.stop_gradient(norm_v).reshape(norm_change.shape))


def norms(base: jax.Array | weights.StructuredLeaf, num_in: int) -> jax.Array:
  """|W| [*out] of a kernel [*in, *out], over its inputs."""
  w = jax.lax.stop_gradient(weights.value(base)).astype(jnp.float32)
  return jnp.sqrt(jnp.square(w).sum(tuple(range(num_in))))


def _matrices(base, a, b):
  """(W [in, out], A [in, r], B [r, out], |W| [out]), none of which has a gradient."""
  w, a, b = (jax.lax.stop_gradient(x) for x in (weights.value(base), a, b))
  rows = math.prod(a.shape[:-1])
  w = w.reshape(rows, -1).astype(jnp.float32)
  return (w, a.reshape(rows, -1), b.reshape(b.shape[0], -1),
          norms(w, 1))
