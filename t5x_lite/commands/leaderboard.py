"""`t5x-lite leaderboard`: the evaluations of runs in one table."""

import argparse
import pathlib

from t5x_lite.core.errors import UserError
from t5x_lite.core.paths import local_path

EXAMPLE = 't5x-lite leaderboard runs/lm runs/tuned --format=html --output=leaderboard.html'
FORMATS = ('markdown', 'csv', 'html')


def add_flags(parser: argparse.ArgumentParser) -> None:
  add = parser.add_argument
  add('runs', nargs='+', metavar='RUN', type=local_path,
      help='folders of runs that were evaluated, or one .csv file with a column model')
  add('--suite', choices=['open_llm_v1'],
      help='only its tasks, shots and metrics; default: the headline metric of all tasks')
  add('--format', choices=FORMATS, help='default: by the ending of --output, else markdown')
  add('--output', metavar='FILE', type=local_path, help='default: print it')


def run(args: argparse.Namespace) -> int:
  from t5x_lite.core.files import write_text
  from t5x_lite.evaluation import leaderboard
  form = args.format or _form_of(args.output)
  text = {'markdown': leaderboard.to_markdown, 'csv': leaderboard.to_csv,
          'html': leaderboard.to_html}[form](_read(args))
  if args.output is None:
    print(text, end='')
  else:
    write_text(args.output, text)
    print(f'Leaderboard: {args.output}')
  return 0


def _form_of(output: pathlib.Path | None) -> str:
  endings = {'.csv': 'csv', '.html': 'html', '.md': 'markdown'}
  if output is None:
    return 'markdown'
  if output.suffix not in endings:
    raise UserError(f'{output}: pass --format, one of {", ".join(FORMATS)}, or an ending of '
                    f'{", ".join(endings)}')
  return endings[output.suffix]


def _read(args: argparse.Namespace):
  from t5x_lite.evaluation.leaderboard import read_csv, read_runs
  from t5x_lite.training.plots import display_names
  files = [path for path in args.runs if path.suffix == '.csv' and not path.is_dir()]
  if not files:
    for path in args.runs:
      if not path.is_dir():
        raise UserError(f'{path}: no such folder; name folders of runs, or one .csv file')
    if len({path.resolve() for path in args.runs}) < len(args.runs):
      raise UserError('A run is named twice: name each once')
    return read_runs(args.runs, display_names(args.runs), suite=args.suite is not None)
  if len(args.runs) > 1 or args.suite:
    raise UserError(f'{files[0]} is a table of its own: name it alone, without --suite')
  return read_csv(files[0])
