"""Attention masks, kept as descriptions from which any block can be computed.

Shape letters: see layers.py.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

Index = int | jax.Array   # may be traced

TRUNK = 1   # the segment that the others of a row go on from


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Mask:
  """The description of a [batch, length, key length] mask; all masks are made here.

  A query sees a key if both are of one segment and nothing below hides the key. Positions are the
  indices of queries and keys, unless they are given, as of a cache.
  """
  q_segments_BL: jax.Array | None = None   # int, the packed example of each query, 0 for padding;
  k_segments_BS: jax.Array | None = None   # the same of keys; None: one example a row, no padding
  prefix_BL: jax.Array | None = None       # 1 on a prefix, whose tokens see each other both ways
  q_positions_BL: jax.Array | None = None  # int, of the queries of a cache and of its keys, whose
  k_positions_BS: jax.Array | None = None  # slots are in no order; negative: not written yet
  # Index of the first query among the keys.
  q_start: int = dataclasses.field(default=0, metadata={'static': True})
  # The first so many keys are of no segment and no position: every query sees them.
  num_shared: int = dataclasses.field(default=0, metadata={'static': True})
  causal: bool = dataclasses.field(metadata={'static': True})   # keys after the query are hidden
  # Queries of all segments see the keys of segment TRUNK, as texts that go on from one beginning.
  trunk: bool = dataclasses.field(default=False, metadata={'static': True})
  # Keys this many positions away or further are hidden (Mistral's w: a token sees itself and w - 1
  # before it); None: no limit.
  sliding_window: int | None = dataclasses.field(default=None, metadata={'static': True})

  def block(self, q_offset: Index, q_size: int, k_offset: Index, k_size: int
            ) -> jax.Array | np.ndarray:
    """Bool, broadcastable to [batch, 1, queries, keys], for `q_size` queries from `q_offset`."""
    queries = lambda x_BL: jax.lax.dynamic_slice_in_dim(x_BL, q_offset, q_size, axis=1)
    keys = lambda x_BS: jax.lax.dynamic_slice_in_dim(x_BS, k_offset, k_size, axis=1)
    # NumPy where the indices are known: a mask of moderate size is a constant of the program.
    known = all(isinstance(x, int) for x in (q_offset, k_offset, q_size, k_size))
    arange = np.arange if known and q_size * k_size <= 2 ** 20 else jnp.arange
    query_L, key_S = self.q_start + q_offset + arange(q_size), k_offset + arange(k_size)
    if self.cached:
      position_BS = keys(self.k_positions_BS)
      distance_BLS = queries(self.q_positions_BL)[:, :, None] - position_BS[:, None, :]
      seen = jnp.broadcast_to(position_BS[:, None, :] >= 0, distance_BLS.shape)
    else:
      distance_BLS = query_L[None, :, None] - key_S[None, None, :]
      seen = distance_BLS == distance_BLS
    if self.causal:
      seen = seen & (distance_BLS >= 0)
      if self.prefix_BL is not None:
        prefix_BL = self.prefix_BL.astype(bool)
        seen = seen | queries(prefix_BL)[:, :, None] & keys(prefix_BL)[:, None, :]
    if self.sliding_window is not None:
      seen = seen & (abs(distance_BLS) < self.sliding_window)
    if self.q_segments_BL is not None:
      key_BS = keys(self.k_segments_BS)[:, None, :]
      same = queries(self.q_segments_BL)[:, :, None] == key_BS
      seen = seen & (same | (key_BS == TRUNK) if self.trunk else same)
    if self.num_shared:
      seen = seen | (key_S < self.num_shared)[None, None, :]
    return seen[:, None]

  @property
  def cached(self) -> bool:
    """Whether keys are those of a cache, whose positions are not their indices."""
    return self.k_positions_BS is not None

  def positions(self, q_offset: Index, q_size: int, k_offset: Index, k_size: int
                ) -> tuple[jax.Array, jax.Array]:
    """Positions of queries [length] and keys [key length] of a block; of a cache with [batch]."""
    if not self.cached:
      return self.q_start + q_offset + jnp.arange(q_size), k_offset + jnp.arange(k_size)
    part = lambda x, offset, size: jax.lax.dynamic_slice_in_dim(x, offset, size, axis=1)
    return part(self.q_positions_BL, q_offset, q_size), part(self.k_positions_BS, k_offset, k_size)

  def key_range(self, q_offset: Index, q_size: int, num_keys: int) -> tuple[Index, Index]:
    """The range of keys that any of `q_size` queries from `q_offset` on can see."""
    first, last = 0, num_keys
    if self.cached:
      return first, last
    smaller, larger = (min, max) if isinstance(q_offset, int) else (jnp.minimum, jnp.maximum)
    query = self.q_start + q_offset
    if self.sliding_window is not None:
      first = larger(first, query - self.sliding_window + 1)
      last = smaller(last, query + q_size + self.sliding_window - 1)
    if self.causal and self.prefix_BL is None:
      last = smaller(last, query + q_size)
    return 0 if self.num_shared else first, last

  def with_shared(self, number: int) -> 'Mask':
    """This mask with so many keys before the others, which every query sees."""
    assert self.prefix_BL is None and not self.num_shared
    before = lambda x_BS, new_P: None if x_BS is None else jnp.concatenate(
        [jnp.broadcast_to(new_P[None], (len(x_BS), number)).astype(x_BS.dtype), x_BS], axis=1)
    return dataclasses.replace(
        self, num_shared=number, q_start=self.q_start + number,
        k_segments_BS=before(self.k_segments_BS, jnp.zeros(number)),
        k_positions_BS=before(self.k_positions_BS, jnp.arange(-number, 0)))

  def padded(self, q_size: int, k_size: int, num_queries: int, num_keys: int) -> 'Mask':
    """This mask of num_queries x num_keys, padded with queries and keys that see nothing."""
    q, k = self.q_segments_BL, self.k_segments_BS
    if q is None and (q_size, k_size) != (num_queries, num_keys):
      q, k = jnp.ones((1, num_queries), jnp.int32), jnp.ones((1, num_keys), jnp.int32)
    pad = lambda x, size, value: None if x is None else jnp.pad(
        x, ((0, 0), (0, size - x.shape[1])), constant_values=value)
    return dataclasses.replace(self, q_segments_BL=pad(q, q_size, -1),
                               k_segments_BS=pad(k, k_size, -2),
                               q_positions_BL=pad(self.q_positions_BL, q_size, -1),
                               k_positions_BS=pad(self.k_positions_BS, k_size, -1),
                               prefix_BL=pad(self.prefix_BL, max(q_size, k_size), 0))
