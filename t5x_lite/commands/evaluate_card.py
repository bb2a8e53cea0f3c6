"""`t5x-lite evaluate card`: the model card of a run with its results."""

import argparse

from t5x_lite.core.errors import UserError
from t5x_lite.core.files import check_writable, write_text
from t5x_lite.core.paths import local_path

EXAMPLE = 't5x-lite evaluate card runs/lm'


def add_flags(parser: argparse.ArgumentParser) -> None:
  add = parser.add_argument
  add('run', metavar='MODEL_DIR', type=local_path, help='the folder of a run with evaluations')
  add('--name', help='of the model; default: the name of the folder')
  add('--output', metavar='FILE', type=local_path, help='default: README.md in the run')


def run(args: argparse.Namespace) -> int:
  from t5x_lite.evaluation import model_card, results
  if not args.run.is_dir():
    raise UserError(f'{args.run}: no such folder')
  output = args.output or args.run / 'README.md'
  found = [results.read_result(path) for path in results.find_results(args.run)]
  card = model_card.render_card(args.name or args.run.resolve().name, found)
  model_card.check_replaceable(output)
  check_writable(output)
  write_text(output, card)
  print(f'{len(found)} results: {output}')
  return 0
