"""What every block of a stack reads besides the residual stream, and how it follows from a batch.

Shape letters: see layers.py.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from t5x_lite.models.attention.masks import Mask
from t5x_lite.models.positions import Bias


class Context(NamedTuple):
  """What every block of a stack reads besides the residual stream."""
  mask: Mask
  positions_BL: jax.Array
  valid_BL: jax.Array | None = None           # tokens that are not padding; None: all
  bias: Bias | None = None
  encoded_BSD: jax.Array | None = None        # what cross-attention reads
  cross_mask: Mask | None = None
  held_B: jax.Array | None = None             # tokens that a row's cache holds; None: not extended
  next_B: jax.Array | None = None             # those and the valid ones of this call


def segments_and_positions(batch: dict[str, jax.Array], side: str):
  """Segment ids (None without them) and positions of `side` ('encoder' or 'decoder'), each
  [batch, length] int32.

  A batch without them has one example a row, without padding.
  """
  tokens_BL = batch[f'{side}_input_tokens']
  positions_BL = batch.get(f'{side}_positions')
  if positions_BL is None:
    positions_BL = jnp.broadcast_to(jnp.arange(tokens_BL.shape[1]), tokens_BL.shape)
  return batch.get(f'{side}_segment_ids'), positions_BL


def valid_tokens(segments_BL: jax.Array | None) -> jax.Array | None:
  """Bool, the tokens that are not padding; None if there is no padding."""
  return None if segments_BL is None else segments_BL > 0
