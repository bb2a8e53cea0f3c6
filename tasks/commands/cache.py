"""`t5x-lite data cache`: tokenises what a run will read, once."""

import argparse
import json
import os

from t5x_lite.commands import gin_flags
from t5x_lite.core.errors import UserError

EXAMPLE = ('t5x-lite data cache --gin_file=experiments/tiny_lm.gin '
           '--gin.DataConfig.cache_dir=runs/tokens')


def add_flags(parser: argparse.ArgumentParser) -> None:
  gin_flags.add_flags(parser)
  parser.add_argument('--processes', type=int, default=os.cpu_count(),
                      help='that tokenise side by side (default: one a core)')
  parser.add_argument('--json', action='store_true', help='print JSON')


def run(args: argparse.Namespace) -> int:
  if args.processes < 1:
    raise UserError(f'--processes={args.processes}: give 1 or more')
  experiment = gin_flags.load_described(args, trains=True)
  from tasks.pipeline.imports import import_seqio
  import_seqio()
  from tasks.pipeline import caching
  for name, counts in caching.write_cache(experiment.data, args.processes):
    print(json.dumps({name: counts}) if args.json else
          f'{name}: {counts["examples"]:,} examples, {caching.total_tokens(counts):,} tokens',
          flush=True)
  return 0
