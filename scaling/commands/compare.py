"""`t5x-lite scaling compare`: two recipes, at a scale beyond their runs."""

import argparse
import math

from t5x_lite.core.errors import UserError
from t5x_lite.core.paths import local_path

EXAMPLE = 't5x-lite scaling compare runs/ladder_a runs/ladder_b --target=1e21'


def add_flags(parser: argparse.ArgumentParser) -> None:
  from scaling.planning.amounts import parse_amount
  add = parser.add_argument
  add('a', metavar='A', type=local_path,
      help='folder of a ladder, or a CSV file as scaling fit reads it')
  add('b', metavar='B', type=local_path,
      help='the same of another recipe: another optimizer, other data, …; losses on the same text')
  add('--target', type=parse_amount, metavar='FLOPS', help='6 N D; default: that of the ladder A')
  add('--level', type=float, default=0.95, help='level of the intervals (default 0.95)')
  add('--json', action='store_true', help='print JSON')


def run(args: argparse.Namespace) -> int:
  from scaling.commands.output import print_json, print_warnings
  from scaling.ladder import advice, compare
  from scaling.planning.amounts import check_level
  check_level(args.level)
  if args.target is not None and not 0 < args.target < math.inf:
    raise UserError(f'--target={args.target:g}: give FLOPs, e.g. 1e21')
  recipes = [advice.read_recipe(path) for path in (args.a, args.b)]
  print_warnings(line for recipe in recipes for line in recipe.notes)
  target = args.target or recipes[0].target or recipes[1].target
  if target is None:
    raise UserError(f'{args.a} names no target: pass --target=FLOPS')
  found = compare.compare_recipes(recipes, target, args.level)
  if args.json:
    print_json(found)
  else:
    print(compare.format_comparison(found, [str(args.a), str(args.b)]))
  return 0
