"""Who attends to whom. A mask is kept as its description, so that any block of it can be made.

Shape letters: see layers.py.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

Place = int | jax.Array   # an index that may be known only while running


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Mask:
  """The description of a [batch, length, key length] mask; the one place masks are made.

  A query sees a key if both are of one segment and nothing below hides the key.
  """
  q_segments_BL: jax.Array | None = None   # int, the packed example of each query, 0 for padding;
  k_segments_BS: jax.Array | None = None   # the same of keys; None: one example a row, no padding
  prefix_BL: jax.Array | None = None       # 1 on a prefix, whose tokens see each other both ways
  q_start: Place = 0                       # place of the first query among the keys
  causal: bool = dataclasses.field(metadata={'static': True})   # keys after the query are hidden
  # Keys this many places away or further are hidden (Mistral's w: a token sees itself and w - 1
  # before it); None: no limit.
  window: int | None = dataclasses.field(default=None, metadata={'static': True})

  def block(self, q_from: Place, q_size: int, k_from: Place, k_size: int) -> jax.Array | np.ndarray:
    """Bool, broadcastable to [batch, 1, queries, keys], for `q_size` queries from `q_from`."""
    queries = lambda x_BL: jax.lax.dynamic_slice_in_dim(x_BL, q_from, q_size, axis=1)
    keys = lambda x_BS: jax.lax.dynamic_slice_in_dim(x_BS, k_from, k_size, axis=1)
    # NumPy where the places are known: a mask of moderate size is a constant of the program.
    known = all(isinstance(x, int) for x in (self.q_start, q_from, k_from))
    arange = np.arange if known and q_size * k_size <= 2 ** 20 else jnp.arange
    query_L, key_S = self.q_start + q_from + arange(q_size), k_from + arange(k_size)
    distance_1LS = query_L[None, :, None] - key_S[None, None, :]
    seen = distance_1LS == distance_1LS
    if self.causal:
      seen = seen & (distance_1LS >= 0)
      if self.prefix_BL is not None:
        prefix_BL = self.prefix_BL.astype(bool)
        seen = seen | queries(prefix_BL)[:, :, None] & keys(prefix_BL)[:, None, :]
    if self.window is not None:
      seen = seen & (abs(distance_1LS) < self.window)
    if self.q_segments_BL is not None:
      seen = seen & (
          queries(self.q_segments_BL)[:, :, None] == keys(self.k_segments_BS)[:, None, :])
    return seen[:, None]

  def key_range(self, q_from: Place, q_size: int, num_keys: int) -> tuple[Place, Place]:
    """First key, and the one after the last, that any of `q_size` queries from `q_from` can see."""
    first, last = 0, num_keys
    known = isinstance(self.q_start, int) and isinstance(q_from, int)
    least, most = (min, max) if known else (jnp.minimum, jnp.maximum)
    query = self.q_start + q_from
    if self.window is not None:
      first = most(first, query - self.window + 1)
      last = least(last, query + q_size + self.window - 1)
    if self.causal and self.prefix_BL is None:
      last = least(last, query + q_size)
    return first, last

  def padded(self, q_size: int, k_size: int, num_queries: int, num_keys: int) -> 'Mask':
    """This mask of num_queries x num_keys, followed by queries and keys that see nothing."""
    q, k = self.q_segments_BL, self.k_segments_BS
    if q is None and (q_size, k_size) != (num_queries, num_keys):
      q, k = jnp.ones((1, num_queries), jnp.int32), jnp.ones((1, num_keys), jnp.int32)
    pad = lambda x, size, value: None if x is None else jnp.pad(
        x, ((0, 0), (0, size - x.shape[1])), constant_values=value)
    return dataclasses.replace(self, q_segments_BL=pad(q, q_size, -1),
                               k_segments_BS=pad(k, k_size, -2),
                               prefix_BL=pad(self.prefix_BL, max(q_size, k_size), 0))
