"""`t5x-lite plot`: a picture and a table of one run or several."""

import argparse
import pathlib

from t5x_lite.core.errors import UserError
from t5x_lite.core.paths import local_path

EXAMPLE = 't5x-lite plot runs/lm runs/pieces --metric=loss --output=runs.png'


def add_flags(parser: argparse.ArgumentParser) -> None:
  from t5x_lite.training.plots import UNITS
  add = parser.add_argument
  add('runs', nargs='+', metavar='MODEL_DIR', type=local_path, help='folders of runs')
  add('--metric', default='loss', help='a metric of training or of an evaluation; default: loss')
  add('--unit', default='step', choices=UNITS, help='of the horizontal axis; default: step')
  add('--output', metavar='FILE', type=local_path,
      help='the picture; default: METRIC.png in the run, or in this folder for several runs')


def _check_run(path: pathlib.Path) -> None:
  from t5x_lite.training.run_folder import RunFolder
  if path.is_file():
    raise UserError(f'{path} is a file: name its folder, {path.parent}')
  if not path.is_dir():
    raise UserError(f'{path}: no such folder')
  inside = [run for run in sorted(path.iterdir()) if RunFolder(run).metrics.is_file()]
  if inside and not RunFolder(path).metrics.is_file():
    raise UserError(f'{path} holds runs, and is none: name them, such as {path}/*')


def run(args: argparse.Namespace) -> int:
  from t5x_lite.training import plots
  runs = args.runs
  for path in runs:
    _check_run(path)
  if len(set(path.resolve() for path in runs)) < len(runs):
    raise UserError('A run is named twice: name each once')
  output = args.output or (runs[0] if len(runs) == 1 else pathlib.Path()) / (
      f'{args.metric.replace("/", "-")}.png')
  picture = plots.metric_curves(runs, output, args.metric, args.unit)
  print(plots.runs_table(runs))
  print(f'Picture: {picture}')
  return 0
