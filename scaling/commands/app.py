"""`t5x-lite scaling app`: the planner and the fits as a web page."""

import argparse
import importlib.util

from t5x_lite.core.errors import UserError

EXAMPLE = 't5x-lite scaling app --port=7860'


def add_flags(parser: argparse.ArgumentParser) -> None:
  add = parser.add_argument
  add('--port', type=int, default=7860, help='port (default 7860)')
  add('--host', default='127.0.0.1', help='address to serve on (default 127.0.0.1: this machine)')
  add('--prices', metavar='FILE',
      help='TOML like t5x_lite/cost/hardware.toml, whose keys override it')


def run(args: argparse.Namespace) -> int:
  if importlib.util.find_spec('nicegui') is None:
    raise UserError("the web page needs NiceGUI: pip install 't5x_lite[app]'")
  if not 0 < args.port < 65536:
    raise UserError(f'--port={args.port}: give a port from 1 to 65535, e.g. 7860')
  from scaling.app import server
  server.serve(args.host, args.port, args.prices)
  return 0
