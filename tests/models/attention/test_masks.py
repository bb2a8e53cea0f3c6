"""Masks, whole and in blocks, against loops."""

import hypothesis
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
import jax.numpy as jnp
import numpy as np
import pytest

from t5x_lite.models.attention.masks import Mask

B, L = 2, 7
SEGMENTS = hnp.arrays(np.int32, (B, L), elements=st.integers(0, 3))
BITS = hnp.arrays(np.int32, (B, L), elements=st.integers(0, 1))
few = hypothesis.settings(max_examples=50, deadline=None, derandomize=True)


def whole(mask, queries=L, keys=L):
  return np.broadcast_to(mask.block(0, queries, 0, keys), (B, 1, queries, keys))


def loop_mask(q_segments, k_segments, causal, prefix=None, window=None, trunk=False):
  """Who sees whom, one pair at a time."""
  mask = np.zeros((B, 1, q_segments.shape[1], L), bool)
  for b, q, k in np.ndindex(B, q_segments.shape[1], L):
    seen = q_segments[b, q] == k_segments[b, k] or trunk and k_segments[b, k] == 1
    if causal and k > q:
      seen = seen and prefix is not None and prefix[b, q] and prefix[b, k]
    if window is not None:
      seen = seen and abs(q - k) < window
    mask[b, 0, q, k] = seen
  return mask


@few
@hypothesis.given(q=SEGMENTS, k=SEGMENTS, causal=st.booleans(), prefix=st.none() | BITS,
                  window=st.none() | st.integers(1, L + 1), trunk=st.booleans())
def test_a_mask_is_what_a_loop_over_pairs_gives(q, k, causal, prefix, window, trunk):
  mask = Mask(q_segments_BL=jnp.array(q), k_segments_BS=jnp.array(k), causal=causal,
              sliding_window=window, trunk=trunk,
              prefix_BL=None if prefix is None else jnp.array(prefix))
  np.testing.assert_array_equal(whole(mask), loop_mask(q, k, causal, prefix, window, trunk))


@few
@hypothesis.given(segments=SEGMENTS, causal=st.booleans(), prefix=st.none() | BITS,
                  window=st.none() | st.integers(1, L), q_offset=st.integers(0, L - 1),
                  k_offset=st.integers(0, L - 1), traced=st.booleans(), data=st.data())
def test_a_block_is_that_part_of_the_whole_and_key_range_leaves_nothing_out(
    segments, causal, prefix, window, q_offset, k_offset, traced, data):
  q_size, k_size = (data.draw(st.integers(1, L - start)) for start in (q_offset, k_offset))
  mask = Mask(q_segments_BL=jnp.array(segments), k_segments_BS=jnp.array(segments), causal=causal,
              sliding_window=window, prefix_BL=None if prefix is None else jnp.array(prefix))
  place = jnp.int32 if traced else int
  got = mask.block(place(q_offset), q_size, place(k_offset), k_size)
  want = whole(mask)
  np.testing.assert_array_equal(
      got, want[:, :, q_offset:q_offset + q_size, k_offset:k_offset + k_size])
  first, last = mask.key_range(place(q_offset), q_size, L)
  outside = np.delete(want[:, :, q_offset:q_offset + q_size], np.s_[int(first):int(last)], axis=3)
  assert not outside.any()


def test_key_range_of_a_causal_window_is_tight():
  mask = Mask(causal=True, sliding_window=3)
  assert mask.key_range(4, 2, 100) == (2, 6)      # query 4 sees 2 3 4, query 5 sees 3 4 5
  assert Mask(causal=True).key_range(4, 2, 100) == (0, 6)
  assert Mask(causal=False, sliding_window=3).key_range(4, 2, 100) == (2, 8)


def test_prefix_mask_of_two_packed_examples_and_padding():
  """Prefixes 1 1 0 and 1 1 0 in segments of 3, then one token of padding."""
  segments, prefix = jnp.array([[1, 1, 1, 2, 2, 2, 0]]), jnp.array([[1, 1, 0, 1, 1, 0, 0]])
  mask = Mask(q_segments_BL=segments, k_segments_BS=segments, causal=True, prefix_BL=prefix)
  np.testing.assert_array_equal(mask.block(0, 7, 0, 7)[0, 0].astype(int), [
      [1, 1, 0, 0, 0, 0, 0],
      [1, 1, 0, 0, 0, 0, 0],
      [1, 1, 1, 0, 0, 0, 0],
      [0, 0, 0, 1, 1, 0, 0],
      [0, 0, 0, 1, 1, 0, 0],
      [0, 0, 0, 1, 1, 1, 0],
      [0, 0, 0, 0, 0, 0, 1]])


def test_a_mask_without_segments_is_a_constant():
  """Nothing of it is computed in the compiled program."""
  block = Mask(causal=True, sliding_window=2).block(0, 4, 0, 4)
  assert isinstance(block, np.ndarray)
  np.testing.assert_array_equal(block[0, 0].astype(int), [
      [1, 0, 0, 0], [1, 1, 0, 0], [0, 1, 1, 0], [0, 0, 1, 1]])


@few
@hypothesis.given(slots=hnp.arrays(int, (B, L), elements=st.integers(-2, 9)),
                  queries=hnp.arrays(int, (B, 3), elements=st.integers(0, 9)),
                  window=st.sampled_from([None, 1, 3]))
def test_queries_see_the_slots_of_a_cache_that_hold_positions_before_them(slots, queries, window):
  mask = Mask(q_positions_BL=jnp.array(queries), k_positions_BS=jnp.array(slots), causal=True,
              sliding_window=window)
  q, k = queries[:, :, None], slots[:, None, :]
  want = (k >= 0) & (k <= q) & (q - k < (window or 100))
  np.testing.assert_array_equal(whole(mask, 3), want[:, None])


@pytest.mark.parametrize('segmented', [True, False])
def test_padding_of_a_mask_sees_nothing_and_is_not_seen(segmented):
  ones = jnp.ones((1, 3), jnp.int32) if segmented else None
  mask = Mask(q_segments_BL=ones, k_segments_BS=ones, causal=False).padded(4, 5, 3, 3)
  want = np.zeros((4, 5), int)
  want[:3, :3] = 1
  np.testing.assert_array_equal(mask.block(0, 4, 0, 5)[0, 0], want)
