"""`t5x-lite evaluate page`: the single items of a result, or of two, as one HTML file."""

import argparse

from t5x_lite.core.files import check_writable, write_text
from t5x_lite.core.paths import local_path

EXAMPLE = ('t5x-lite evaluate page runs/lm/evaluations/arc_challenge-25shot-1000.json '
           '--output=items.html')


def add_flags(parser: argparse.ArgumentParser) -> None:
  add = parser.add_argument
  add('result', metavar='RESULT.json', type=local_path, help='a result, with its items beside it')
  add('other', metavar='OTHER.json', nargs='?', type=local_path,
      help='that of another model on the same items')
  add('--output', metavar='FILE', type=local_path,
      help='the page; default: RESULT.html beside the result')


def run(args: argparse.Namespace) -> int:
  from t5x_lite.evaluation import item_page, results
  paths = [path for path in (args.result, args.other) if path is not None]
  output = args.output or args.result.with_suffix('.html')
  parts = [(results.read_result(path), results.read_items(path)) for path in paths]
  check_writable(output)
  write_text(output, item_page.render_page(parts))
  print(f'{len(parts[0][1])} items: {output}')
  return 0
