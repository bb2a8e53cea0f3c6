"""`t5x-lite scaling suggest`: which runs to train next, for what they tell and for their FLOPs."""

import argparse
import math
import sys

from t5x_lite.core.errors import UserError
from t5x_lite.core.paths import local_path

EXAMPLE = 't5x-lite scaling suggest runs/ladder --quantity=loss --budget=1e18 --add'
QUANTITIES = ('loss', 'size', 'difference')


def add_flags(parser: argparse.ArgumentParser) -> None:
  from scaling.planning.amounts import parse_amount, parse_count
  add = parser.add_argument
  add('runs', nargs='+', metavar='RUNS', type=local_path,
      help='folder of a ladder, or a CSV file as scaling fit reads it; two for a difference')
  add('--target', type=parse_amount, metavar='FLOPS',
      help='6 N D of the run to predict; default: that of the ladder')
  add('--quantity', choices=QUANTITIES, default='loss',
      help='what to narrow: the loss of the target (default), its optimal size, or the difference '
           'of the losses of two recipes')
  add('--budget', type=parse_amount, metavar='FLOPS',
      help='FLOPs of all suggested runs; default: a quarter of those of the finished ones')
  add('--error', type=float, default=0.0, metavar='FRACTION',
      help='half width of the interval at which no more runs are needed, e.g. 0.01')
  add('--count', type=parse_count, default=10, help='maximum number of runs (default 10)')
  add('--largest', type=parse_amount, metavar='FLOPS',
      help='of the largest suggested run; default: that of the runs, or a hundredth of the target '
           'if it is more')
  add('--level', type=float, default=0.95, help='level of the intervals (default 0.95)')
  add('--add', action='store_true', help='add them to the ladder, for scaling ladder run')
  add('--json', action='store_true', help='print JSON')


def run(args: argparse.Namespace) -> int:
  from scaling.commands.output import print_json, print_warnings
  from scaling.ladder import advice
  _check(args)
  known = [advice.read_recipe(path) for path in args.runs]
  print_warnings(line for recipe in known for line in recipe.notes)
  target = args.target or next((each.target for each in known if each.target), None)
  if target is None:
    raise UserError(f'{args.runs[0]} names no target: pass --target=FLOPS')
  found = advice.advise(known, args.quantity, target, budget=args.budget, error=args.error,
                        count=args.count, largest=args.largest, level=args.level)
  if args.json:
    print_json(found)
  else:
    print(advice.format_advice(found))
  if args.add:
    for index, recipe in enumerate(known):
      for each in advice.add_runs(recipe, found, index):
        print(f'{recipe.path}: added {each.name}', file=sys.stderr)
    print(f'Train them: t5x-lite scaling ladder run --folder={args.runs[0]}', file=sys.stderr)
  return 0


def _check(args: argparse.Namespace) -> None:
  from scaling.planning.amounts import check_level
  wanted = 2 if args.quantity == 'difference' else 1
  if len(args.runs) != wanted:
    raise UserError(f'--quantity={args.quantity} is of {wanted} RUNS, not {len(args.runs)}: give '
                    f'{"both recipes" if wanted == 2 else "one, or --quantity=difference"}')
  for name in ('target', 'budget', 'largest'):
    value = getattr(args, name)
    if value is not None and not 0 < value < math.inf:
      raise UserError(f'--{name}={value:g}: give FLOPs, e.g. 1e18')
  check_level(args.level)
  for name, good, cure in (('error', 0 <= args.error < 1, 'a fraction, e.g. 0.01'),
                           ('count', args.count >= 1, '1 or more')):
    if not good:
      raise UserError(f'--{name}={getattr(args, name)}: give {cure}')
