"""Position embeddings: rotations, tables, and biases of the scores.

Shape letters: see layers.py.
"""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np

from t5x_lite.core.dataclass_checks import FieldError, Length, Positive, check_types


@dataclasses.dataclass(frozen=True, kw_only=True)
class RopeScaling:
  """Llama 3's scaling of the slow rotations for texts longer than those of pre-training.

  Wavelengths above original_length / low_frequency_factor are divided by `factor`, those below
  original_length / high_frequency_factor kept, those between blended (Llama 3 reference code,
  `apply_scaling`).
  """
  factor: Positive[float] = 8.0                  # by which the longest waves are stretched
  low_frequency_factor: Positive[float] = 1.0    # turns in the original length of a long wave
  high_frequency_factor: Positive[float] = 4.0   # and of a short one
  original_length: Length = 8192                 # of the texts of pre-training

  def __post_init__(self):
    check_types(self)
    if self.high_frequency_factor <= self.low_frequency_factor:
      raise FieldError(self, 'high_frequency_factor', 'must be above low_frequency_factor')


def rope_frequencies(head_dim: int, theta: float, scaling: RopeScaling | None) -> np.ndarray:
  """Radians a token of each pair of a head's elements, [head_dim / 2] float32."""
  frequency_H = theta ** (-np.arange(0, head_dim, 2, dtype=np.float32) / np.float32(head_dim))
  if scaling is None:
    return frequency_H
  low, high = scaling.low_frequency_factor, scaling.high_frequency_factor
  turns_H = scaling.original_length * frequency_H / (2 * np.pi)  # within the original length
  kept_H = np.clip((turns_H - low) / (high - low), 0, 1)
  return (frequency_H * (kept_H + (1 - kept_H) / scaling.factor)).astype(np.float32)


def rope(x_BLNH: jax.Array, positions_BL: jax.Array, frequency_H: np.ndarray) -> jax.Array:
  """Rotary position embedding (Su et al. 2021), halves layout: (x1, x2) turned as LLaMA's on HF."""
  angle_BL1H = positions_BL[:, :, None, None].astype(jnp.float32) * frequency_H[None, None, None, :]
  cos, sin = jnp.cos(angle_BL1H), jnp.sin(angle_BL1H)
  x1, x2 = jnp.split(x_BLNH.astype(jnp.float32), 2, axis=-1)
  return jnp.concatenate([x1 * cos - x2 * sin, x2 * cos + x1 * sin], -1).astype(x_BLNH.dtype)


def sinusoidal(positions_BL: jax.Array, embed_dim: int) -> jax.Array:
  """The sinusoids of Vaswani et al. 2017, section 3.5, [batch, length, embed] float32.

  The sines fill the first half of `embed` and the cosines the second, which only reorders them.
  """
  half = embed_dim // 2
  frequency_D = 10_000.0 ** (-np.arange(half, dtype=np.float32) / half)
  angle_BLD = positions_BL[:, :, None].astype(jnp.float32) * frequency_D[None, None, :]
  return jnp.concatenate([jnp.sin(angle_BLD), jnp.cos(angle_BLD)], -1)


def relative_bucket(distance: jax.Array, *, bidirectional: bool, num_buckets: int,
                    max_distance: int) -> jax.Array:
  """T5's bucket of a relative position key - query (Raffel et al. 2020, section 2.1).

  Half of the buckets are for exact distances, the other half grow logarithmically up to
  max_distance; bidirectional gives half of all buckets to keys after the query.
  """
  bucket = jnp.zeros_like(distance)
  if bidirectional:
    num_buckets //= 2
    bucket = jnp.where(distance > 0, num_buckets, 0)
    distance = jnp.abs(distance)
  else:
    distance = jnp.maximum(-distance, 0)
  exact = num_buckets // 2
  # The epsilon keeps exact powers (16, 32, 64) from falling one bucket short in float32.
  ratio = jnp.maximum(distance, 1).astype(jnp.float32) / exact + np.finfo(np.float32).eps
  far = exact + (jnp.log(ratio) / np.log(max_distance / exact) * (num_buckets - exact)).astype(
      jnp.int32)
  return bucket + jnp.where(distance < exact, distance, jnp.minimum(far, num_buckets - 1))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class RelativeBias:
  """T5's learned bias of the scores: a number for each head and bucket of the distance."""
  table_RN: jax.Array   # [buckets, heads]
  bidirectional: bool = dataclasses.field(metadata={'static': True})
  max_distance: int = dataclasses.field(metadata={'static': True})

  def block(self, query_L: jax.Array, key_S: jax.Array) -> jax.Array:
    """Positions of queries [..., length] and keys -> float32 [..., heads, length, key length]."""
    bucket_LS = relative_bucket(
        key_S[..., None, :] - query_L[..., :, None], bidirectional=self.bidirectional,
        num_buckets=self.table_RN.shape[0], max_distance=self.max_distance)
    return jnp.moveaxis(self.table_RN[bucket_LS], -1, -3)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class AlibiBias:
  """Press et al. 2022: minus the distance, times a slope fixed for each head."""
  num_heads: int = dataclasses.field(metadata={'static': True})

  def block(self, query_L: jax.Array, key_S: jax.Array) -> jax.Array:
    """As RelativeBias.block; the distance counts both ways."""
    slope_N = jnp.asarray(alibi_slopes(self.num_heads))
    distance_LS = jnp.abs(key_S[..., None, :] - query_L[..., :, None]).astype(jnp.float32)
    slope_N11 = jax.lax.broadcast_to_rank(slope_N[:, None, None], distance_LS.ndim + 1)
    return -slope_N11 * distance_LS[..., None, :, :]


Bias = RelativeBias | AlibiBias


@functools.cache
def alibi_slopes(num_heads: int) -> tuple[float, ...]:
  """The slope of each head: 2^(-8/n), 2^(-16/n), …; for n not a power of two those of the power
  below and then every second one of the power above, as in the paper's code."""
  power = 2 ** math.floor(math.log2(num_heads))
  geometric = lambda n: [2.0 ** (-8 * (i + 1) / n) for i in range(n)]
  return tuple(geometric(power) + geometric(2 * power)[::2][:num_heads - power])
