"""Masks, positions and the attention kernel against loops and published figures."""

import hypothesis
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t5x_lite.models import attention

B, L = 2, 7
SEGMENTS = hnp.arrays(np.int32, (B, L), elements=st.integers(0, 3))
BITS = hnp.arrays(np.int32, (B, L), elements=st.integers(0, 1))
few = hypothesis.settings(max_examples=50, deadline=None, derandomize=True)


def loop_mask(q_segments, k_segments, causal, prefix):
  """Who sees whom, one pair at a time."""
  mask = np.zeros((B, 1, L, L), bool)
  for b in range(B):
    for q in range(L):
      for k in range(L):
        seen = q_segments[b, q] == k_segments[b, k]
        if causal and k > q:
          seen = seen and prefix is not None and prefix[b, q] and prefix[b, k]
        mask[b, 0, q, k] = seen
  return mask


@few
@hypothesis.given(q=SEGMENTS, k=SEGMENTS)
def test_tokens_see_tokens_of_their_own_segment(q, k):
  got = attention.attention_mask(jnp.array(q), jnp.array(k), causal=False)
  np.testing.assert_array_equal(got, loop_mask(q, k, False, None))


@few
@hypothesis.given(segments=SEGMENTS)
def test_causal_tokens_see_no_later_token(segments):
  got = attention.attention_mask(jnp.array(segments), jnp.array(segments), causal=True)
  np.testing.assert_array_equal(got, loop_mask(segments, segments, True, None))


@few
@hypothesis.given(segments=SEGMENTS, prefix=BITS)
def test_prefix_tokens_of_a_segment_see_each_other_both_ways(segments, prefix):
  got = attention.attention_mask(
      jnp.array(segments), jnp.array(segments), causal=True, prefix_BL=jnp.array(prefix))
  np.testing.assert_array_equal(got, loop_mask(segments, segments, True, prefix))


def test_prefix_mask_of_two_packed_examples_and_padding():
  """Prefixes 1 1 0 and 1 1 0 in segments of 3, then one token of padding."""
  segments, prefix = jnp.array([[1, 1, 1, 2, 2, 2, 0]]), jnp.array([[1, 1, 0, 1, 1, 0, 0]])
  got = attention.attention_mask(segments, segments, causal=True, prefix_BL=prefix)
  np.testing.assert_array_equal(got[0, 0].astype(int), [
      [1, 1, 0, 0, 0, 0, 0],
      [1, 1, 0, 0, 0, 0, 0],
      [1, 1, 1, 0, 0, 0, 0],
      [0, 0, 0, 1, 1, 0, 0],
      [0, 0, 0, 1, 1, 0, 0],
      [0, 0, 0, 1, 1, 1, 0],
      [0, 0, 0, 0, 0, 0, 1]])


@few
@hypothesis.given(valid=hnp.arrays(bool, (B, L)), index=st.integers(0, L - 3), causal=st.booleans())
def test_queries_written_at_an_index_of_the_cache_see_valid_slots(valid, index, causal):
  got = attention.cache_mask(jnp.array(valid), jnp.int32(index), 3, causal=causal)
  want = [[[[valid[b, k] and (not causal or k <= index + q) for k in range(L)] for q in range(3)]]
          for b in range(B)]
  np.testing.assert_array_equal(got, want)


# Bucket at the first distance that reaches it, as T5 computes them, 32 buckets up to 128.
BIDIRECTIONAL = [0, 1, 2, 3, 4, 5, 6, 7, 8, 12, 16, 23, 32, 46, 64, 91]
CAUSAL = [*range(17), 19, 21, 24, 27, 31, 35, 40, 46, 52, 59, 67, 77, 87, 99, 113]


def staircase(first, num):
  """Bucket of each distance below `num`, from the first distance of each bucket."""
  return np.searchsorted(first, np.arange(num), side='right') - 1


def buckets(distance, bidirectional, num_buckets=32, max_distance=128):
  return attention.relative_bucket(jnp.array(distance), bidirectional=bidirectional,
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


def complex_rope(x, positions, theta):
  """Each pair (x[i], x[i + half]) as a complex number turned by position * theta^(-2i / H)."""
  x = x.astype(np.float64)
  half = x.shape[-1] // 2
  pairs = x[..., :half] + 1j * x[..., half:]
  angle = positions[..., None, None] * theta ** (-2 * np.arange(half) / x.shape[-1])
  turned = pairs * np.exp(1j * angle)
  return np.concatenate([turned.real, turned.imag], -1)


@pytest.mark.parametrize('theta', [10_000.0, 500.0])
def test_rope_turns_pairs_of_halves_as_complex_numbers(theta):
  rng = np.random.default_rng(0)
  x, positions = rng.normal(size=(2, 9, 3, 8)).astype(np.float32), rng.integers(0, 500, (2, 9))
  got = attention.rope(jnp.array(x), jnp.array(positions), theta)
  np.testing.assert_allclose(got, complex_rope(x, positions, theta), atol=2e-4)


def test_rope_leaves_position_zero_and_keeps_the_dtype():
  x = jnp.linspace(-1, 1, 16, dtype=jnp.bfloat16).reshape(1, 1, 2, 8)
  got = attention.rope(x, jnp.zeros((1, 1), int), 10_000.0)
  assert got.dtype == jnp.bfloat16
  np.testing.assert_array_equal(got, x)


def test_rope_scores_depend_on_the_distance_alone():
  rng = np.random.default_rng(1)
  q, k = rng.normal(size=(2, 1, 1, 1, 16)).astype(np.float32)
  def score(m, n):
    turn = lambda x, p: attention.rope(jnp.array(x), jnp.full((1, 1), p), 10_000.0)
    return float(jnp.vdot(turn(q, m), turn(k, n)))
  assert score(7, 3) == pytest.approx(score(104, 100), rel=1e-4)
  assert score(7, 3) != pytest.approx(score(3, 7), rel=1e-2)


def loop_attention(q, k, v, mask, bias, scale):
  """Float64, one query of one head at a time."""
  q, k, v, bias = (x.astype(np.float64) for x in (q, k, v, bias))
  out = np.zeros(q.shape)
  group = q.shape[2] // k.shape[2]
  for b, i, n in np.ndindex(q.shape[:3]):
    seen = mask[b, 0, i]
    scores = scale * k[b, :, n // group] @ q[b, i, n] + bias[0, n, i]
    p = np.where(seen, np.exp(scores - scores[seen].max()), 0)
    out[b, i, n] = p / p.sum() @ v[b, :, n // group]
  return out


def attention_inputs(kv_heads, seed=0):
  rng = np.random.default_rng(seed)
  draw = lambda *shape: rng.normal(size=shape).astype(np.float32)
  mask = rng.random((2, 1, 5, 6)) < 0.6
  mask[..., 0] = True
  return draw(2, 5, 4, 8), draw(2, 6, kv_heads, 8), draw(2, 6, kv_heads, 8), mask, draw(1, 4, 5, 6)


@pytest.mark.parametrize('kv_heads', [4, 2, 1])
def test_kernel_is_softmax_attention_with_grouped_queries_and_bias(kv_heads):
  q, k, v, mask, bias = attention_inputs(kv_heads)
  got = attention.dot_product_attention(q, k, v, mask_B1LS=mask, bias_1NLS=bias, scale=0.3)
  np.testing.assert_allclose(got, loop_attention(q, k, v, mask, bias, 0.3), atol=1e-6)


def test_kernel_agrees_with_jax_forwards_and_backwards():
  q, k, v, mask, _ = attention_inputs(2)
  ours = lambda q, k, v: jnp.sin(attention.dot_product_attention(
      q, k, v, mask_B1LS=mask, bias_1NLS=None, scale=0.3)).sum()
  theirs = lambda q, k, v: jnp.sin(jax.nn.dot_product_attention(
      q, k, v, mask=mask, scale=0.3)).sum()
  got, want = (jax.jit(jax.value_and_grad(f, (0, 1, 2)))(q, k, v) for f in (ours, theirs))
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), got, want)


def test_a_query_that_sees_nothing_gives_the_mean_and_no_nan():
  q, k, v, mask, _ = attention_inputs(4)
  mask[0, 0, 2] = False
  got = attention.dot_product_attention(q, k, v, mask_B1LS=mask, bias_1NLS=None, scale=1.0)
  np.testing.assert_allclose(got[0, 2], v[0].mean(0), atol=1e-6)


def test_softmax_is_float32_for_bfloat16_inputs():
  """256 equal scores: their sum in bfloat16 would stop growing before the end."""
  ones = jnp.ones((1, 256, 1, 8), jnp.bfloat16)
  v = jnp.arange(256, dtype=jnp.bfloat16)[None, :, None, None] * ones
  got = attention.dot_product_attention(ones[:, :1], ones, v, bias_1NLS=None, scale=1.0,
                                        mask_B1LS=jnp.ones((1, 1, 1, 256), bool))
  assert got.dtype == jnp.bfloat16
  np.testing.assert_allclose(got.astype(np.float32), 127.5, rtol=0.005)


def test_attention_dropout_zeroes_whole_probabilities_and_scales_the_rest():
  q, k, _, _, _ = attention_inputs(4)
  v = np.broadcast_to(np.eye(6, 8, dtype=np.float32)[None, :, None], (2, 6, 4, 8))
  mask = np.ones((2, 1, 5, 6), bool)
  run = lambda rate, key: np.asarray(attention.dot_product_attention(
      q, k, v, mask_B1LS=mask, bias_1NLS=None, scale=1.0, dropout_rate=rate, key=key))[..., :6]
  whole = run(0.0, None)
  dropped = run(0.25, jax.random.key(0))
  kept = dropped != 0
  np.testing.assert_allclose(dropped, np.where(kept, whole / 0.75, 0), rtol=1e-5)
  assert 0.15 < 1 - kept.mean() < 0.35
