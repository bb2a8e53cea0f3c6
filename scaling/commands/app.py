"""`t5x-lite scaling app`: the planner and the fits as a web page."""

import argparse
import importlib.util

from t5x_lite.core import files
from t5x_lite.core.errors import UserError
from t5x_lite.core.paths import local_path

EXAMPLE = 't5x-lite scaling app --port=7860'


def add_flags(parser: argparse.ArgumentParser) -> None:
  add = parser.add_argument
  add('--port', type=int, default=7860, help='port (default 7860)')
  add('--host', default='127.0.0.1', help='address to serve on (default 127.0.0.1: this machine)')
  add('--prices', metavar='FILE',
      help='TOML like t5x_lite/cost/hardware.toml, whose keys override it')
  add('--export', metavar='FILE',
      help='write a calculator as one HTML file, which needs no Python, and end')


def run(args: argparse.Namespace) -> int:
  if args.export:
    return _export(args)
  if importlib.util.find_spec('nicegui') is None:
    raise UserError("the web page needs NiceGUI: pip install -e '.[app]'")
  if not 0 < args.port < 65536:
    raise UserError(f'--port={args.port}: give a port from 1 to 65535, e.g. 7860')
  from scaling.app import server
  server.serve(args.host, args.port, args.prices)
  return 0


def _export(args: argparse.Namespace) -> int:
  from scaling.app.export import calculator_page
  path = local_path(args.export)
  if path.suffix != '.html':
    raise UserError(f'--export={args.export}: give a name that ends in .html')
  try:
    files.write_text(path, calculator_page(args.prices))
  except OSError as e:
    raise UserError(f'--export={args.export}: {e.strerror}') from e
  print(f'Wrote {path}: open it in a browser, or put it on any host')
  return 0
