"""Kernels in codes, as `import --quantize` and `quantize` write them: flags, errors, checkpoint."""

import argparse
from collections.abc import Iterator
import contextlib
import math
import pathlib
from typing import Any

from t5x_lite.core.errors import UserError

FORMATS = ('nf4', 'fp4', 'int4', 'int8', 'llm_int8')   # of quantized.Quantized
FIELDS = ('block', 'skip', 'double')   # of it, which flags of the same name set


def add_flags(parser: argparse.ArgumentParser, flag: str, *, required: bool) -> None:
  """Adds the flags of codes; `flag` is the one that names the format, `args.codes`."""
  of = '' if required else f'of {flag}: '
  parser.add_argument(flag, dest='codes', required=required, metavar='FORMAT', choices=FORMATS,
                      help=f'hold kernels in codes: {", ".join(FORMATS)}')
  parser.add_argument('--block', type=int,
                      help=f'{of}inputs with one scale; 0: all of them (default 64)')
  parser.add_argument('--skip', metavar='REGEX',
                      help=f'{of}kernels that stay in float32, as Quantized.skip')
  parser.add_argument('--double', action=argparse.BooleanOptionalAction, default=None,
                      help=f'{of}scales in 8 bits, too (the default)')


def read_flags(args: argparse.Namespace, flag: str) -> dict[str, Any]:
  """The fields of the Quantized that the flags ask for; none without a format.

  Raises UserError for a flag without effect.
  """
  fields = {name: value for name in FIELDS if (value := getattr(args, name)) is not None}
  if args.codes is None:
    if fields:
      raise UserError(f'--block, --skip and --double are of {flag}: give that, too')
    return {}
  if args.codes == 'llm_int8' and fields.keys() & {'block', 'double'}:
    raise UserError(f'{flag}=llm_int8 has one scale an output, of 32 bits: leave --block and '
                    '--double out')
  return {'format': args.codes} | fields


@contextlib.contextmanager
def flag_errors(fields: dict[str, Any], flag: str) -> Iterator[None]:
  """Names the flag where a field of the Quantized of these fields does not fit."""
  from t5x_lite.adaptation.quantization.quantized import Quantized
  from t5x_lite.core.dataclass_checks import FieldError
  try:
    yield
  except FieldError as e:
    if not isinstance(e.owner, Quantized):
      raise
    rule = e.rule.replace('Quantized.skip', '--skip')
    raise UserError(f'{flag}={fields["format"]} --{e.field}={getattr(e.owner, e.field)}: '
                    f'{rule}') from e


def save(folder: pathlib.Path, config, quantized, params: dict[str, Any], meta: dict[str, Any]
         ) -> None:
  """Writes the checkpoint of step 0: a kernel in codes is a dict of its arrays there.

  Its meta records how kernels are held, nothing of plain ones.

  Args:
    folder: of the run.
    config: the ModelConfig.
    quantized: the Quantized, or None.
    params: all parameters, kernels in codes where there is a Quantized.
    meta: of the checkpoint.
  """
  from t5x_lite import models
  from t5x_lite.core import trees
  from t5x_lite.training.checkpoints import Checkpoints
  from t5x_lite.training.initial_params import QUANTIZED
  if quantized is not None:
    network = quantized.adapt(models.build_network(config))
    layouts = filter(None, map(network.quantized, trees.flatten(network.shapes)))
    meta = meta | {QUANTIZED: next(layouts).settings}
  with contextlib.closing(Checkpoints(folder, keep=1)) as checkpoints:
    checkpoints.save_params(trees.unflatten(trees.flatten(params)), 0, meta)


def sizes(params: dict[str, Any]) -> tuple[int, int]:
  """(number of parameters, bytes that their arrays take)."""
  import jax

  from t5x_lite.core import trees
  from t5x_lite.models import weights
  number = sum(math.prod(x.shape) for x in trees.flatten(params, weights.is_structured).values())
  return number, sum(x.nbytes for x in jax.tree.leaves(params))
