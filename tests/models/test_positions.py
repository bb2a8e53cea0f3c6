"""Rotations, tables and biases against loops and published figures."""

import jax.numpy as jnp
import numpy as np
import pytest

from t5x_lite.core.dataclass_checks import FieldError
from t5x_lite.models import positions

# Bucket at the first distance that reaches it, as T5 computes them, 32 buckets up to 128.
BIDIRECTIONAL = [0, 1, 2, 3, 4, 5, 6, 7, 8, 12, 16, 23, 32, 46, 64, 91]
CAUSAL = [*range(17), 19, 21, 24, 27, 31, 35, 40, 46, 52, 59, 67, 77, 87, 99, 113]


def staircase(first, num):
  """Bucket of each distance below `num`, from the first distance of each bucket."""
  return np.searchsorted(first, np.arange(num), side='right') - 1


def buckets(distance, bidirectional, num_buckets=32, max_distance=128):
  return positions.relative_bucket(jnp.array(distance), bidirectional=bidirectional,
                                   num_buckets=num_buckets, max_distance=max_distance)


def test_bidirectional_buckets_are_t5s():
  distance = np.arange(300)
  want = staircase(BIDIRECTIONAL, 300)
  np.testing.assert_array_equal(buckets(-distance, True), want)
  np.testing.assert_array_equal(buckets(distance[1:], True), want[1:] + 16)


def test_causal_buckets_are_t5s_and_later_keys_fall_into_the_first():
  distance = np.arange(300)
  np.testing.assert_array_equal(buckets(-distance, False), staircase(CAUSAL, 300))
  np.testing.assert_array_equal(buckets(distance, False), np.zeros(300))


def test_few_buckets_of_a_short_distance_are_t5s():
  np.testing.assert_array_equal(
      buckets(-np.arange(12), True, 12, 10), staircase([0, 1, 2, 3, 5, 7], 12))
  np.testing.assert_array_equal(buckets(np.array([1, 2, 3, 5, 7, 11]), True, 12, 10),
                                [7, 8, 9, 10, 11, 11])
  # 0 to 6 exact as far as the range reaches; bucket 8 is never used.
  np.testing.assert_array_equal(buckets(-np.array([0, 1, 2, 3, 4, 5, 7, 8, 9, 10, 99]), False, 12,
                                        10), [0, 1, 2, 3, 4, 5, 7, 9, 10, 11, 11])


def complex_rope(x, places, theta):
  """Each pair (x[i], x[i + half]) as a complex number turned by position * theta^(-2i / H)."""
  x = x.astype(np.float64)
  half = x.shape[-1] // 2
  pairs = x[..., :half] + 1j * x[..., half:]
  angle = places[..., None, None] * theta ** (-2 * np.arange(half) / x.shape[-1])
  turned = pairs * np.exp(1j * angle)
  return np.concatenate([turned.real, turned.imag], -1)


@pytest.mark.parametrize('theta', [10_000.0, 500.0])
def test_rope_turns_pairs_of_halves_as_complex_numbers(theta):
  rng = np.random.default_rng(0)
  x, places = rng.normal(size=(2, 9, 3, 8)).astype(np.float32), rng.integers(0, 500, (2, 9))
  got = positions.rope(jnp.array(x), jnp.array(places), positions.rope_frequencies(8, theta, None))
  np.testing.assert_allclose(got, complex_rope(x, places, theta), atol=2e-4)


def test_rope_leaves_position_zero_and_keeps_the_dtype():
  x = jnp.linspace(-1, 1, 16, dtype=jnp.bfloat16).reshape(1, 1, 2, 8)
  got = positions.rope(x, jnp.zeros((1, 1), int), positions.rope_frequencies(8, 10_000.0, None))
  assert got.dtype == jnp.bfloat16
  np.testing.assert_array_equal(got, x)


def test_rope_scores_depend_on_the_distance_alone():
  rng = np.random.default_rng(1)
  q, k = rng.normal(size=(2, 1, 1, 1, 16)).astype(np.float32)
  def score(m, n):
    frequency = positions.rope_frequencies(16, 10_000.0, None)
    turn = lambda x, p: positions.rope(jnp.array(x), jnp.full((1, 1), p), frequency)
    return float(jnp.vdot(turn(q, m), turn(k, n)))
  assert score(7, 3) == pytest.approx(score(104, 100), rel=1e-4)
  assert score(7, 3) != pytest.approx(score(3, 7), rel=1e-2)


def llama3_frequencies(frequencies, factor, low, high, original):
  """The loop of Llama 3's reference code, `apply_scaling`."""
  scaled = []
  for frequency in frequencies:
    wavelength = 2 * np.pi / frequency
    if wavelength < original / high:
      scaled.append(frequency)
    elif wavelength > original / low:
      scaled.append(frequency / factor)
    else:
      smooth = (original / wavelength - low) / (high - low)
      scaled.append((1 - smooth) * frequency / factor + smooth * frequency)
  return np.array(scaled)


@pytest.mark.parametrize('factor, low, high, original', [
    (8.0, 1.0, 4.0, 8192), (32.0, 1.0, 2.0, 64)])
def test_scaled_frequencies_are_llama_3s(factor, low, high, original):
  scaling = positions.RopeScaling(factor=factor, low_frequency_factor=low,
                                  high_frequency_factor=high, original_length=original)
  plain = positions.rope_frequencies(128, 500_000.0, None)
  got = positions.rope_frequencies(128, 500_000.0, scaling)
  np.testing.assert_allclose(got, llama3_frequencies(plain, factor, low, high, original), rtol=1e-5)
  assert got[0] == plain[0] and got[-1] == pytest.approx(plain[-1] / factor)


def test_scaling_refuses_a_band_of_no_width():
  with pytest.raises(FieldError, match='high_frequency_factor = 1.0: must be above low'):
    positions.RopeScaling(low_frequency_factor=1.0, high_frequency_factor=1.0)


def test_sinusoids_are_those_of_the_paper():
  got = positions.sinusoidal(jnp.array([[0, 1, 7]]), 8)
  for row, place in enumerate((0, 1, 7)):
    for i in range(4):
      angle = place / 10_000 ** (2 * i / 8)
      np.testing.assert_allclose(got[0, row, [i, 4 + i]], [np.sin(angle), np.cos(angle)], atol=1e-6)


@pytest.mark.parametrize('heads, want', [
    (8, [1 / 2, 1 / 4, 1 / 8, 1 / 16, 1 / 32, 1 / 64, 1 / 128, 1 / 256]),
    (1, [1 / 256]),
    (6, [1 / 4, 1 / 16, 1 / 64, 1 / 256, 1 / 2, 1 / 8])])
def test_alibi_slopes_are_those_of_the_paper(heads, want):
  assert positions.alibi_slopes(heads) == tuple(want)


def test_alibi_bias_is_minus_the_distance_times_the_slope():
  got = positions.AlibiBias(num_heads=2).block(jnp.array([5, 6]), jnp.array([3, 5, 8]))
  want = -np.array([[2, 0, 3], [3, 1, 2]])
  np.testing.assert_allclose(got, [want / 16, want / 256])


def test_relative_bias_reads_the_table_at_the_bucket_of_the_distance():
  table = np.random.default_rng(0).normal(size=(8, 3)).astype(np.float32)
  bias = positions.RelativeBias(table_RN=table, bidirectional=False, max_distance=16)
  got = bias.block(jnp.array([4, 2]), jnp.array([4, 1, 3]))
  want = table[np.array([[0, 3, 1], [0, 1, 0]])]
  np.testing.assert_array_equal(got, want.transpose(2, 0, 1))
