"""`t5x-lite export`: a checkpoint of a run as other libraries read it."""

import argparse
from collections.abc import Sequence
import pathlib

from t5x_lite.commands import gin_flags
from t5x_lite.core.dataclass_checks import nearest
from t5x_lite.core.errors import UserError
from t5x_lite.core.paths import local_path

EXAMPLE = 't5x-lite export --from=runs/gpt2 --to=exports/gpt2'
# Each format, and how its tensors may be held, the default first.
FORMATS = {
    'huggingface': ('float32', 'bfloat16'),
    'gguf': ('float32', 'float16', 'q8_0', 'q4_0'),
    'compressed-tensors': ('int4', 'int8'),
    'stablehlo': ('float32',),
}


def add_flags(parser: argparse.ArgumentParser) -> None:
  add = parser.add_argument
  add('--from', required=True, dest='source', metavar='MODEL_DIR', type=local_path)
  add('--to', required=True, dest='target', metavar='PATH', type=local_path,
      help='a folder to write, which must not exist or be empty; of gguf a file')
  add('--format', choices=FORMATS, help='default: gguf if --to ends in .gguf, else huggingface')
  add('--dtype', help='of the tensors; '
      + '; '.join(f'{name}: {", ".join(dtypes)}' for name, dtypes in FORMATS.items()))
  add('--step', type=int, help='of the checkpoint; default: the newest')
  gin_flags.add_trusted_modules(parser)


def run(args: argparse.Namespace) -> int:
  print(export_run(args.source, args.target, args.step, args.dtype, args.trusted_modules,
                   args.format))
  return 0


def export_run(model_dir: pathlib.Path, target: pathlib.Path, step: int | None = None,
               dtype: str | None = None, trusted_modules: Sequence[str] = (),
               form: str | None = None) -> str:
  """Writes a run's checkpoint in a format of other libraries; returns a summary line.

  Of a run of an adapter that alone is written, as peft reads it.

  Args:
    model_dir: the folder of the run.
    target: a folder that must not exist, or be empty; of gguf a file that must not exist.
    step: of the checkpoint, newest if None.
    dtype: one of the format's in FORMATS, the first if None.
    trusted_modules: modules outside this project that config.gin may import.
    form: the format; None: gguf if the target is named so, else huggingface.

  Raises:
    UserError: the format has no such dtype or cannot express the model, or the run holds codes.
  """
  from t5x_lite.adaptation.adaptation import Adapter, innermost
  from t5x_lite.commands import export_gguf, export_huggingface, export_stablehlo
  from t5x_lite.commands.export_source import open_source
  form = form or ('gguf' if target.suffix == '.gguf' else 'huggingface')
  dtype = dtype or FORMATS[form][0]
  if dtype not in FORMATS[form]:
    raise UserError(f'--dtype={dtype}: of {form}, {nearest(dtype, FORMATS[form])}')
  source = open_source(model_dir, trusted_modules)
  adaptation = source.experiment.adaptation
  if isinstance(innermost(adaptation), Adapter):
    if form != 'huggingface':
      raise UserError(f'{model_dir} is an adapter, which {form} has not: merge it (t5x-lite '
                      'merge), and export that')
    return export_huggingface.export_adapter(source, target, step, dtype)
  if adaptation is not None and innermost(adaptation) is None:
    raise UserError(f'{model_dir} holds its kernels in codes, which are not exported: export the '
                    'run that quantize read, or import the model without --quantize')
  if innermost(adaptation) is not adaptation:
    raise UserError(f'{model_dir} has a quantised base: merge it (t5x-lite merge), and export that')
  export = {'huggingface': export_huggingface.export_model, 'gguf': export_gguf.export_gguf,
            'compressed-tensors': export_huggingface.export_compressed,
            'stablehlo': export_stablehlo.export_stablehlo}[form]
  return export(source, target, step, dtype)
