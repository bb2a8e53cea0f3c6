"""Products of few rows with codes, part by part, beside those with the whole kernel."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t5x_lite.adaptation.quantization import few_rows
from t5x_lite.adaptation.quantization.formats import FORMATS
from t5x_lite.adaptation.quantization.leaf import Layout
from t5x_lite.models import weights


@pytest.mark.parametrize('block, size', [
    (64, 64), (128, 64), (32, 32), (96, 48), (1408, 64), (16, 16), (40, 8), (12, 4),
    (6, 2), (7, 1)])
def test_parts_fill_a_block(block, size):
  assert few_rows.part_size(block) == size


@pytest.mark.parametrize('name', ['int8', 'nf4', 'fp4', 'int4'])
@pytest.mark.parametrize('inputs, block, double, rows', [
    (192, 64, True, 3), (192, 96, False, 1), (192, None, False, 3), (40, 8, False, 1),
    (12, 6, False, 3)])
def test_the_product_is_that_with_the_dequantised_kernel(name, inputs, block, double, rows):
  """As NumPy has it in float64."""
  rng = np.random.default_rng(0)
  layout = Layout('mlp/up/kernel', ('embed', 'mlp'), name, block, double)
  leaf = layout.quantize(jnp.asarray(rng.normal(size=(inputs, 5)), jnp.float32))
  x = rng.normal(size=(rows, inputs)).astype(np.float32)
  got = few_rows.blockwise_matmul(jnp.asarray(x), leaf.codes, leaf._scales(), FORMATS[name])
  want = x.astype(np.float64) @ np.asarray(leaf.value(), np.float64)
  np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize('inputs', [64, 192, 7])
def test_products_of_integers_are_exact(inputs):
  """At the largest integers, too, whose sum float32 would round."""
  rng = np.random.default_rng(0)
  q, codes = rng.integers(-127, 128, (2, inputs)), rng.integers(1, 256, (inputs, 3))
  q[0], codes[:, 0] = 127, 255
  got = few_rows.integer_matmul(jnp.asarray(q, jnp.int8), jnp.asarray(codes, jnp.uint8))
  np.testing.assert_array_equal(got, q @ (codes - 128))


@pytest.mark.parametrize('rows, loops', [
    (few_rows.MOST_ROWS, True), (few_rows.MOST_ROWS + 1, False)])
def test_few_rows_on_a_cpu_never_hold_a_whole_kernel(rows, loops):
  leaf = Layout('mlp/up/kernel', ('embed', 'mlp'), 'int8', 64, False).quantize(
      jnp.ones((1024, 512)))
  run = jax.jit(lambda x, leaf: weights.matmul(x, leaf, 1))
  compiled = run.lower(jnp.ones((rows, 1024)), leaf).compile()
  assert ('while' in compiled.as_text()) == loops
  assert (compiled.memory_analysis().temp_size_in_bytes < leaf.codes.size) == loops
