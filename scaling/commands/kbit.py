"""`t5x-lite scaling kbit`: how many bits a parameter give the lowest loss for a model's bits."""

import argparse
import glob
import pathlib
import sys

from t5x_lite.core.errors import UserError
from t5x_lite.core.paths import local_path

EXAMPLE = "t5x-lite scaling kbit --runs='runs/ladder/runs/*/' --out=runs/kbit"


def add_flags(parser: argparse.ArgumentParser) -> None:
  add = parser.add_argument
  add('--runs', action='append', default=[], metavar='FOLDERS',
      help='runs to measure, of one task: a folder, or a pattern of them; may be repeated')
  add('--table', type=local_path, metavar='FILE',
      help='read the measurements of an earlier call, and fit them again')
  add('--out', type=local_path, metavar='FOLDER',
      help='write kbit.csv, kbit.json and kbit.png there; must not exist, or be empty')
  add('--formats', metavar='NAME,…', help='of codes; default: int3,int4,nf4,fp4,int5,int6,int8')
  add('--blocks', metavar='NUMBER,…', help='inputs with one scale, 0 for all of an output; those '
      'that do not divide a kernel are left out (default 8,16,32,64,128,0)')
  add('--text', metavar='FILE', type=local_path,
      help='measure on this text, and not on the validation data of the runs')
  add('--level', type=float, default=0.95, help='level of the intervals (default 0.95)')
  add('--json', action='store_true', help='print JSON')


def run(args: argparse.Namespace) -> int:
  from scaling.planning.amounts import check_level
  from t5x_lite.core.files import atomic_folder
  check_level(args.level)
  if bool(args.runs) == (args.table is not None):
    raise UserError('pass --runs=FOLDERS to measure, or --table=FILE to read measurements')
  if args.table is not None:
    if unused := [name for name in ('formats', 'blocks', 'text') if getattr(args, name)]:
      raise UserError(f'--{unused[0]} is of --runs, and --table is measured already')
    if args.out is None:
      return _report(args, _read(args), None)
    with atomic_folder(args.out) as folder:
      return _report(args, _read(args), folder)
  if args.out is None:
    raise UserError('pass --out=FOLDER, where the measurements are written')
  formats, blocks, runs = _formats(args.formats), _blocks(args.blocks), _runs(args.runs)
  with atomic_folder(args.out) as folder:
    return _report(args, _measure(runs, formats, blocks, args.text), folder)


def _read(args):
  from scaling.kbit.measurements import read_csv
  return read_csv(args.table)


def _measure(runs: list[pathlib.Path], formats: list[str], blocks: list[int],
             text: pathlib.Path | None) -> list:
  from scaling.kbit.measurements import check_alike, measure_run
  from t5x_lite.commands.quantize import make_losses, read_plain
  found = []
  for path in runs:
    plain = read_plain(path)
    measured = make_losses(plain, text)
    if measured is None:
      raise UserError(f'{path} has no validation data: pass --text=FILE')
    found += measure_run(path.name, plain, *measured, formats, blocks)
    check_alike(found)
    print(f'{path}: {found[-1].parameters:,} parameters, '
          f'{sum(one.model == path.name for one in found)} measurements', file=sys.stderr)
  return found


def _report(args, found: list, folder: pathlib.Path | None) -> int:
  """Prints the fit, or why there is none, and writes the files of it."""
  from scaling import figures
  from scaling.commands import output
  from scaling.kbit import report
  from scaling.kbit.fit import fit_widths
  from scaling.kbit.measurements import to_csv
  from t5x_lite.core.files import write_text
  from t5x_lite.core.strict_json import format_json
  try:
    fit, reason = fit_widths(found, args.level), None
  except UserError as error:
    if folder is None or args.table is not None:
      raise
    fit, reason = None, str(error)   # what was measured is kept
  result = {'fit': None, 'reason': reason} if fit is None else report.report(fit)
  if folder is not None:
    write_text(folder / 'kbit.csv', to_csv(found))
    write_text(folder / 'kbit.json', format_json(result, indent=1) + '\n')
    figures.save_figure(report.draw(found, fit), folder / 'kbit.png')
  if args.json:
    output.print_json(result)
  else:
    print(f'No fit: {reason}' if fit is None else report.format_report(fit))
  return 0


def _formats(text: str | None) -> list[str]:
  from scaling.kbit.measurements import FORMATS
  from t5x_lite.core.dataclass_checks import nearest
  names = [name.strip() for name in text.split(',')] if text else [*FORMATS]
  for name in names:
    if name not in FORMATS:
      raise UserError(f'--formats={text}: {nearest(name, FORMATS)}')
  return [*dict.fromkeys(names)]


def _blocks(text: str | None) -> list[int]:
  from scaling.kbit.measurements import BLOCKS
  numbers = [word.strip() for word in text.split(',')] if text else [*map(str, BLOCKS)]
  for number in numbers:
    if not number.isdecimal() or int(number) % 2:
      raise UserError(f'--blocks={text}: {number!r} is not an even number, or 0')
  return [*dict.fromkeys(map(int, numbers))]


def _runs(patterns: list[str]) -> list[pathlib.Path]:
  """The folders, each once; UserError for a pattern that none matches, or two of one name."""
  found = []
  for pattern in patterns:
    paths = [local_path(path) for path in sorted(glob.glob(str(local_path(pattern))))]
    paths = [path for path in paths if path.is_dir()]
    if not paths:
      raise UserError(f'--runs={pattern}: no folder is there')
    found += [path for path in paths if path not in found]
  names = [path.name for path in found]
  if twice := next((name for name in names if names.count(name) > 1), None):
    raise UserError(f'--runs: two folders are named {twice!r}: rename one')
  return found
