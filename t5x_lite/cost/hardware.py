"""The catalogue of accelerators: peaks, memory, bandwidths, power and dated prices.

The data are in `t5x_lite/cost/hardware.toml`, with the meaning and source of each figure. A user's
file of the same form overrides the keys that it has.
"""

import dataclasses
import datetime
import difflib
import functools
import importlib.resources
import math
import re
import tomllib

from t5x_lite.core.errors import UserError
from t5x_lite.core.paths import local_path

STALE_DAYS = 90   # age of a price from which there is a warning
_UNITS = {'GB': 1e9, 'GiB': 2 ** 30}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Chip:
  """One chip, in seconds, bytes, watts and dollars; unknown values are None."""
  name: str
  title: str
  peak: dict[str, float]             # dtype -> dense FLOP/s
  memory: float
  source: str
  kinds: tuple[str, ...] = ()        # prefixes of jax.Device.device_kind
  devices: int = 1                   # JAX devices of a chip
  bandwidth: float | None = None     # of the memory
  interconnect: float | None = None  # to the other chips of its pod, sum of both directions
  pod: int | None = None             # chips on that interconnect
  node: int = 8                      # chips of a host
  part_node: tuple[int, ...] = (1, 2, 4)   # numbers of chips below a node that one can have
  power: float | None = None
  price: float | None = None         # an hour
  price_date: datetime.date | None = None
  price_source: str = ''

  @property
  def dtype(self) -> str:
    """Of activations in training: 'bfloat16', or 'float32' on chips without it.

    Models do not train in float16, whose range needs a scaled loss.
    """
    return 'bfloat16' if 'bfloat16' in self.peak else 'float32'

  @property
  def flops(self) -> float:
    """Peak FLOP/s of dense matrix products in `dtype`."""
    return self.peak[self.dtype]

  @property
  def platform(self) -> str:
    """'tpu' or 'gpu'."""
    return 'tpu' if self.name.startswith('tpu') else 'gpu'

  @property
  def device_memory(self) -> float:
    """Bytes of one JAX device."""
    return self.memory / self.devices

  def with_price(self, price: float | None) -> 'Chip':
    """The chip at this price, of today, given by the user; None: itself."""
    if price is None:
      return self
    return dataclasses.replace(self, price=price, price_date=datetime.date.today(),
                               price_source='--price')

  def stale(self, today: datetime.date | None = None) -> str | None:
    """One line if the price is older than `STALE_DAYS`, with its date and the cure."""
    if self.price is None:
      return None
    age = ((today or datetime.date.today()) - self.price_date).days
    if age <= STALE_DAYS:
      return None
    return (f'the price of {self.title}, ${self.price:g} an hour, is of {self.price_date} '
            f'({age} days old): pass --price=DOLLARS or --prices=FILE, or edit {SHIPPED}')


Catalogue = dict[str, Chip]
SHIPPED = importlib.resources.files('t5x_lite.cost') / 'hardware.toml'


@functools.cache
def shipped_catalogue() -> Catalogue:
  """The chips of `t5x_lite/cost/hardware.toml`, by name."""
  return {name: _chip(name, table, str(SHIPPED))
          for name, table in tomllib.loads(SHIPPED.read_text(encoding='utf-8')).items()}


def load_catalogue(path: str | None = None) -> Catalogue:
  """The shipped chips, updated and extended by the TOML file at `path`.

  Raises UserError if the file cannot be read, or has an invalid key or value.
  """
  if path is None:
    return shipped_catalogue()
  try:
    tables = tomllib.loads(local_path(path).read_text(encoding='utf-8'))
  except OSError as e:
    raise UserError(f'--prices={path}: {e.strerror}') from e
  except (tomllib.TOMLDecodeError, UnicodeDecodeError) as e:
    raise UserError(f'{path}: not valid TOML: {e}') from e
  chips = dict(shipped_catalogue())
  for name, table in tables.items():
    if not isinstance(table, dict):
      raise UserError(f'{path}: {name}: expected a table for each chip, e.g. [h100]')
    if 'price' in table and 'price_date' not in table:
      raise UserError(f'{path}: [{name}] has a price without a date: add price_date = 2026-01-31')
    chips[name] = _chip(name, table, path, chips.get(name))
  return chips


def find_chip(name: str, catalogue: Catalogue | None = None) -> Chip:
  """The chip of this name; UserError, with the nearest, if there is none."""
  catalogue = shipped_catalogue() if catalogue is None else catalogue
  key = name.lower().replace('-', '_')
  if key not in catalogue:
    near = difflib.get_close_matches(key, catalogue, 1, 0.4)
    hint = f'did you mean {near[0]}? Choose from ' if near else 'choose from '
    raise UserError(f'--hardware={name}: not known; {hint}{", ".join(catalogue)}')
  return catalogue[key]


def peak_flops(device_kind: str) -> float:
  """Peak FLOP/s of one JAX device by its `device_kind`; nan if it is not known (e.g. a CPU)."""
  kinds = {kind: chip for chip in shipped_catalogue().values() for kind in chip.kinds}
  for kind in sorted(kinds, key=len, reverse=True):   # the longest prefix that matches
    if device_kind == kind or device_kind.startswith((f'{kind} ', f'{kind}-')):
      return kinds[kind].flops / kinds[kind].devices
  return math.nan


def _chip(name: str, table: dict, path: str, known: Chip | None = None) -> Chip:
  """The chip of a table of the file; `known` has the values of missing keys."""
  where = f'{path}: [{name}]'
  fields = {field.name: field for field in dataclasses.fields(Chip)}
  for key, value in table.items():
    if key not in fields or key == 'name':
      near = difflib.get_close_matches(key, fields, 1)
      raise UserError(f'{where} {key}: no such key; '
                      + (f'did you mean {near[0]}?' if near
                         else f'choose from {", ".join(fields)}'))
    if key in ('bandwidth', 'interconnect', 'power', 'price', 'devices', 'pod', 'node'):
      _check_positive(f'{where} {key}', value)
    if key in ('devices', 'pod', 'node') and not isinstance(value, int):
      raise UserError(f'{where} {key} = {value!r}: expected a whole number')
  table = dict(table)
  if 'peak' in table:
    if not isinstance(table['peak'], dict) or not table['peak']:
      raise UserError(f'{where} peak: expected e.g. {{ bfloat16 = 989e12 }}')
    for dtype, value in table['peak'].items():
      _check_positive(f'{where} peak.{dtype}', value)
    if not {'bfloat16', 'float32'} & set(table['peak']):
      raise UserError(f'{where} peak has neither bfloat16 nor float32, in which models are '
                      'trained: add one of them, e.g. { float32 = 15.7e12 }')
  if 'memory' in table:
    table['memory'] = _bytes(f'{where} memory', table['memory'])
  if 'kinds' in table:
    table['kinds'] = tuple(table['kinds'])
  if 'part_node' in table:
    table['part_node'] = _counts(f'{where} part_node', table['part_node'])
  elif 'node' in table:   # powers of two below it
    table['part_node'] = tuple(2 ** i for i in range((table['node'] - 1).bit_length()))
  if not isinstance(table.get('price_date', datetime.date.min), datetime.date):
    raise UserError(f'{where} price_date: expected a date without quotes, e.g. 2026-01-31')
  if known is not None:
    return dataclasses.replace(known, **table)
  missing = {'title', 'peak', 'memory', 'source'} - set(table)
  if missing:
    raise UserError(f'{where} is a new chip and needs {", ".join(sorted(missing))} too')
  return Chip(name=name, **table)


def _counts(where: str, values) -> tuple[int, ...]:
  if not isinstance(values, list) or not all(
      isinstance(x, int) and not isinstance(x, bool) and x > 0 for x in values):
    raise UserError(f'{where} = {values!r}: expected a list of whole numbers, e.g. [1, 2, 4]')
  return tuple(sorted(values))


def _check_positive(where: str, value) -> None:
  if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < math.inf:
    raise UserError(f'{where} = {value!r}: expected a number above 0')


def _bytes(where: str, text) -> float:
  """Bytes of '80 GB' or '32 GiB'."""
  match = re.fullmatch(r'([\d.]+) ?(GB|GiB)', str(text))
  if not match:
    raise UserError(f"{where} = {text!r}: expected e.g. '80 GB' or '32 GiB'")
  return float(match[1]) * _UNITS[match[2]]
