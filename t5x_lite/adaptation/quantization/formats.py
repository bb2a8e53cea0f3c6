"""What the codes of a quantised array stand for: NF4, FP4, integers and the dynamic map.

A format is a table of values between -1 and 1. A number that was divided by the largest magnitude
of its block becomes the code of the nearest value; of two as near, the smaller value.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

# NormalFloat (Dettmers et al. 2023, QLoRA): quantiles of a normal distribution, with an exact 0.
NF4 = (-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635,
       -0.18477343022823334, -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725,
       0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941,
       0.7229568362236023, 1.0)
# A sign, two bits of exponent and one of mantissa, divided by the largest; code 8 is -0.
_FP4 = (0.0, 0.0625, 8.0, 12.0, 4.0, 6.0, 2.0, 3.0)
FP4 = tuple(sign * x / 12.0 for sign in (1.0, -1.0) for x in _FP4)


def _integers(levels: int) -> tuple[float, ...]:
  """-levels to levels, divided by it; code 0, one less, is not used."""
  return (-1.0, *(i / levels for i in range(-levels, levels + 1)))


INT4, INT8 = _integers(7), _integers(127)


@dataclasses.dataclass(frozen=True)
class Format:
  """A table of 2 ** bits values. Codes of 4 bits are packed two a byte, others fill one each."""
  name: str
  table: tuple[float, ...]

  @property
  def bits(self) -> int:
    """Of a code."""
    return len(self.table).bit_length() - 1

  @property
  def levels(self) -> int | None:
    """Of the integers from -levels to levels, divided by it; None for other values."""
    return len(self.table) // 2 - 1 if self.name.startswith('int') else None

  @functools.cached_property
  def _sorted(self) -> tuple[np.ndarray, np.ndarray]:
    """(midpoints between neighbouring values, the code of each value), values in order.

    Of FP4's two codes of 0, as in bitsandbytes, 8 stands for positive numbers next to 0.
    """
    table = np.float32(self.table)
    codes = np.argsort(table, stable=True)
    return (table[codes][1:] + table[codes][:-1]) / 2, codes.astype(np.uint8)

  def encode(self, x: jax.Array, inverse: jax.Array) -> jax.Array:
    """uint8 codes, of the shape of `x`, of the values next to x * inverse.

    `inverse` is that of the largest magnitudes, and broadcasts to `x`.
    """
    if self.levels:   # in this order, as bitsandbytes rounds
      rounded = jnp.round(x * (inverse * self.levels))
      return (rounded + self.levels + 1).astype(jnp.uint8)
    midpoints, codes = self._sorted
    unit = x * inverse
    if self.bits == 4:   # comparisons fuse into one loop over `x`
      rank = sum((unit > midpoint).astype(jnp.uint8) for midpoint in midpoints)
    else:
      rank = jnp.searchsorted(midpoints, unit)
    return jnp.asarray(codes)[rank]

  def decode(self, codes: jax.Array) -> jax.Array:
    """uint8 codes -> their float32 values."""
    if self.levels:
      return (codes.astype(jnp.float32) - (self.levels + 1)) / self.levels
    return jnp.asarray(self.table, jnp.float32)[codes]


def _dynamic_map() -> tuple[float, ...]:
  """The signed dynamic map of 8 bits (Dettmers 2016): seven decades, each cut evenly."""
  values = [0.0, 1.0]
  for i in range(7):
    cuts = 2 ** i
    step = float(np.float32(0.9) / np.float32(cuts))
    n = np.arange(cuts + 1)   # from the nearer end, as torch.linspace
    edges = np.float32(np.where(n < len(n) // 2, float(np.float32(0.1)) + step * n,
                                1 - step * (cuts - n)))
    middles = (edges[:-1] + edges[1:]) / 2 * np.float32(10.0 ** (i - 6))
    values += [*middles.tolist(), *(-middles).tolist()]
  return tuple(sorted(values))


# Those of 3, 5 and 6 bits are for studies of what a bit is worth: they save no memory here.
FORMATS = {name: Format(name, table) for name, table in (
    ('nf4', NF4), ('fp4', FP4), ('int4', INT4), ('int8', INT8), ('int3', _integers(3)),
    ('int5', _integers(15)), ('int6', _integers(31)))}
DYNAMIC = Format('dynamic', _dynamic_map())


def pack(codes: jax.Array, axis: int) -> jax.Array:
  """Codes below 16 -> bytes of two, neighbours along `axis`, the first in the high nibble."""
  high, low = (jax.lax.slice_in_dim(codes, i, None, 2, axis) for i in (0, 1))
  return high << 4 | low


def unpack(packed: jax.Array, axis: int) -> jax.Array:
  """The codes of `pack`, twice as many along `axis`."""
  axis %= packed.ndim
  both = jnp.stack([packed >> 4, packed & 15], axis + 1)
  shape = packed.shape
  return both.reshape(*shape[:axis], 2 * shape[axis], *shape[axis + 1:])
