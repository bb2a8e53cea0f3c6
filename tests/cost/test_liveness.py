"""Kept and peak bytes of programs small enough to count by hand."""

import jax
import jax.numpy as jnp
import pytest

from t5x_lite.cost import liveness

N = 1024   # bytes of a 16 x 16 float32 matrix


def pair(x, b):
  return x * 2, x + b


def traced(function, number):
  return jax.make_jaxpr(function)(*[jnp.zeros((16, 16))] * number).jaxpr


@pytest.mark.parametrize('function, number, matrices', [
    # A product reads its arguments and makes a matrix.
    (lambda a, b: a @ b, 2, 3),
    # The second product reads the first, and one argument is no longer needed.
    (lambda a, b, c: (a @ b) @ c, 3, 3),
    # What is elementwise is computed where it is read ...
    (lambda a, b: jnp.tanh(a @ b) + 1, 2, 3),
    # ... unless a product reads it (and the second argument), or two results need it.
    (lambda a, b: jnp.tanh(a) @ b, 2, 3),
    (lambda a, b: jnp.tanh(a) + b, 2, 1),
    (lambda a, b: pair(jnp.tanh(a), b), 2, 2),
    # Other names for the same bytes.
    (lambda a, b: (a.reshape(256).reshape(16, 16) @ b), 2, 3),
    # Inside of inner functions, too.
    (lambda a, b, c: jax.jit(lambda x: x @ b)(a) @ c, 3, 3),
    # An update in place is no copy.
    (lambda a, b: (a @ b).at[3].add(1.0), 2, 3),
])
def test_peak_by_hand(function, number, matrices):
  assert liveness.peak_bytes(traced(function, number)) == pytest.approx(matrices * N, abs=200)


def test_accelerators_fuse_into_products():
  fused = traced(lambda a, b: jnp.tanh(a) @ b, 2)
  assert liveness.peak_bytes(fused, accelerator=True) == N < liveness.peak_bytes(fused)


def test_a_loop_holds_its_body():
  def run(a, b):
    return jax.lax.scan(lambda x, _: (jnp.tanh(x @ b) @ b, None), a, None, length=5)[0]
  jaxpr = traced(run, 2)
  body, = liveness.find_loops(jaxpr)
  inner = liveness.peak_bytes(body.params['jaxpr'].jaxpr)
  assert inner == 3 * N   # the matrix and what goes in and out of a product
  assert liveness.peak_bytes(jaxpr) == 3 * N + inner   # arguments and result of the loop
  assert liveness.peak_bytes(jaxpr, accelerator=True) < liveness.peak_bytes(jaxpr)


def test_a_value_is_kept_once_and_arguments_not_at_all():
  def stacks(w, x):
    def layer(x, w):
      y = jnp.tanh(x * w)
      return y, (y, y.reshape(256), w, jnp.exp(w))
    return jax.lax.scan(layer, x, jnp.stack([w, 2 * w]))
  jaxpr = traced(stacks, 2)
  # Of the layer's values: y once. Of the parameters': w, stacked before the loop, and exp(w).
  assert liveness.kept_bytes(jaxpr, range(1, 5), 1) == (2 * N, 4 * N)
  assert liveness.kept_bytes(jaxpr, [1, 2], 1) == (2 * N, 0)
  jaxpr = traced(lambda a, b: (a, a @ b), 2)
  assert liveness.kept_bytes(jaxpr, [0, 1], 1) == (N, 0)
  assert liveness.kept_bytes(jaxpr, [0, 1], 2) == (0, N)
