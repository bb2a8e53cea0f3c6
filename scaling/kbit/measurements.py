"""Losses of runs in k bits, and the CSV file that holds them.

The total bits of a model count the code of each quantised parameter, 16 bits for the scale of each
block, and 16 bits for every parameter that is not quantised (Dettmers and Zettlemoyer 2023,
arXiv:2212.09720). What is counted as 16 bits is rounded to float16 when it is measured.
"""

from collections.abc import Callable, Sequence
import csv
import dataclasses
import io
import pathlib
from typing import Any

from scaling.fitting.table import Table, read_table
from t5x_lite.core.errors import UserError

FORMATS = ('int3', 'int4', 'nf4', 'fp4', 'int5', 'int6', 'int8')
BLOCKS = (8, 16, 32, 64, 128, 0)
PLAIN = 'float16'   # the format of a model that is not quantised
REST_BITS = SCALE_BITS = 16


@dataclasses.dataclass(frozen=True)
class Measurement:
  """The loss of a model in one format.

  Attributes:
    model: its name.
    parameters: their number, those that are not quantised included.
    format: a key of FORMATS, or PLAIN.
    bits: of a code; 16 of PLAIN.
    block: inputs of a kernel that share a scale; 0: all of an output's, and of PLAIN.
    total_bits: of the model.
    loss: nats a token.
    tokens: that the loss is the mean of.
    data: what these are of.
    vocabulary: the fingerprint of its ids.
  """
  model: str
  parameters: int
  format: str
  bits: int
  block: int
  total_bits: int
  loss: float
  tokens: int
  data: str
  vocabulary: str

  @property
  def code(self) -> str:
    """The format in words."""
    if self.format == PLAIN:
      return PLAIN
    return f'{self.format}, ' + (f'blocks of {self.block}' if self.block else 'a scale an output')


COLUMNS = tuple(field.name for field in dataclasses.fields(Measurement))


def measure_run(name: str, plain: Any, losses: Callable[[Any], Any], data: str,
                formats: Sequence[str], blocks: Sequence[int]) -> list[Measurement]:
  """The loss of a run as it is, in 16 bits, and in each format and block that divides its kernels.

  Args:
    name: of the run.
    plain: the commands.quantize.PlainRun.
    losses: all parameters -> perplexity.Losses.
    data: what the losses are of.
    formats, blocks: the grid.
  """
  from t5x_lite.adaptation.quantization.formats import FORMATS as TABLES
  from t5x_lite.core import trees
  flat = trees.flatten(plain.params)
  number = sum(x.size for x in flat.values())
  vocabulary = plain.experiment.data.fingerprint() or ''
  found = []
  for form, block in [(PLAIN, 0), *((form, block) for form in formats for block in blocks)]:
    try:
      params, total = (flat, REST_BITS * number) if form == PLAIN else round_kernels(
          plain.network, flat, form, block)
    except UserError:   # blocks do not divide a kernel
      continue
    rounded = {path: _half(x) if x is flat[path] else x for path, x in params.items()}
    got = losses(trees.unflatten(rounded))
    bits = REST_BITS if form == PLAIN else TABLES[form].bits
    found.append(Measurement(name, number, form, bits, block, total, round(got.mean, 6),
                             round(got.weight), data, vocabulary))
  return found


def round_kernels(network: Any, flat: dict[str, Any], form: str, block: int
                  ) -> tuple[dict[str, Any], int]:
  """({path: parameter}, total bits): kernels have the float32 values that their codes stand for.

  Raises UserError if the block does not divide a kernel.

  Args:
    network: without an adaptation.
    flat: {path: array} of all parameters.
    form: a key of formats.FORMATS.
    block: as in a Measurement.
  """
  from t5x_lite.adaptation.quantization.formats import FORMATS as TABLES
  from t5x_lite.adaptation.quantization.quantized import Quantized
  held, total = {}, 0
  layout_of = Quantized(format='int8', block=0).adapt(network).quantized   # whichever blocks fit
  for path, x in flat.items():
    layout = layout_of(path)
    if layout is None:
      held[path], total = x, total + REST_BITS * x.size
      continue
    layout = dataclasses.replace(layout, format=form, block=block or None, double=False)
    leaf = layout.quantize(x)
    held[path] = dataclasses.replace(leaf, scale=_half(leaf.scale)).value()
    total += TABLES[form].bits * x.size + SCALE_BITS * leaf.scale.size
  return held, total


def _half(x: Any) -> Any:
  """float32 values as float16 holds them."""
  import jax.numpy as jnp
  return x.astype(jnp.float16).astype(jnp.float32)


def check_alike(found: Sequence[Measurement]) -> None:
  """Raises UserError for losses that are of unlike tokens, or two of one name."""
  first = found[0]
  for one in found:
    for name in ('data', 'vocabulary', 'tokens'):
      if getattr(one, name) != getattr(first, name):
        raise UserError(f'{one.model} is measured on {getattr(one, name)!r} ({name}), and '
                        f'{first.model} on {getattr(first, name)!r}: losses of unlike tokens do '
                        'not compare; give runs of one task, or --text=FILE')
  keys = [(one.model, one.format, one.block) for one in found]
  if twice := next((key for key in keys if keys.count(key) > 1), None):
    raise UserError(f'{twice[0]!r} in {twice[1]}, block {twice[2]}, is there twice: name runs '
                    'apart')


def to_csv(found: Sequence[Measurement]) -> str:
  """The table, a measurement a line."""
  text = io.StringIO()
  csv.writer(text, lineterminator='\n').writerows(
      [COLUMNS, *(dataclasses.astuple(one) for one in found)])
  return text.getvalue()


def read_csv(path: pathlib.Path) -> list[Measurement]:
  """The measurements of a file; UserError for one of another kind, or unlike tokens."""
  table = read_table(path)
  found = [Measurement(*values) for values in zip(*(
      _column(table, field.name, field.type) for field in dataclasses.fields(Measurement)))]
  for one, where in zip(found, table.names):
    if not (one.loss > 0 and one.total_bits > 0 and one.bits > 0):
      raise UserError(f'{where}: loss, bits and total_bits must be above 0')
  check_alike(found)
  return found


def _column(table: Table, name: str, kind: type) -> list[Any]:
  table.check(name, '--table')
  if kind is str:
    return table.texts(name)
  return [kind(x) for x in table.numbers(name)]
