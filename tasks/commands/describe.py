"""`t5x-lite data describe`: what a run will read."""

import argparse
import json
import os
import sys

from t5x_lite.commands import gin_flags

EXAMPLE = 't5x-lite data describe --gin_file=experiments/tiny_lm.gin'


def add_flags(parser: argparse.ArgumentParser) -> None:
  gin_flags.add_flags(parser)
  parser.add_argument('--json', action='store_true', help='print JSON')


def run(args: argparse.Namespace) -> int:
  experiment = gin_flags.load_described(args, trains=True)
  from tasks.pipeline.imports import import_seqio
  import_seqio()
  from tasks.pipeline import description
  members = description.describe(experiment)
  colour = sys.stdout.isatty() and 'NO_COLOR' not in os.environ
  print(json.dumps(description.as_json(members), indent=2) if args.json
        else description.as_text(members, colour))
  return 0
