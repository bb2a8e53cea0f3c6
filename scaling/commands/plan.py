"""`t5x-lite scaling plan`: from a budget to a gin file."""

import argparse
import dataclasses
import json
import math

SUMMARY = 'plan a run from a budget: size, tokens, loss, architecture, mesh, time, cost and its gin'
EXAMPLE = 't5x-lite scaling plan --chips=8 --hardware=h100 --hours=24 --output=plan.gin'
_BUDGETS = """
budgets: --flops, --dollars, --kwh, --chips with --hours, or --loss. --chips, --hours or --deadline
beside one of the others divide it into chips and hours.

"""


def add_flags(parser: argparse.ArgumentParser) -> None:
  from scaling.laws import hyperparameters
  from scaling.planning import budget, request
  parser.epilog = f'{_BUDGETS}example: {EXAMPLE}'
  add_budget_flags(parser)
  add = parser.add_argument
  add('--loss', type=float, help='target, in nats a token')
  add('--deadline', type=budget.duration, metavar='TIME', help='36, 90m or 2d must suffice')
  add('--law', help='to follow, as the table names it, or fit (default: fit with --fit, else '
      f'{request.LAW})')
  add('--fit', metavar='FOLDER', help='a law of your own, of scaling fit --output=FOLDER')
  add('--family', default='llama', help=f'{", ".join(request.FAMILIES)} (default llama)')
  add('--vocab_size', type=int, help="default: the family's")
  add('--length', type=int, help="tokens of a row; default: the family's")
  add('--task', help='of the gin file; default: one on the Python standard library')
  add('--multiple', type=int, default=128, help='of which widths are multiples (default 128)')
  add('--recipe', default='step_law', help='of learning rate and batch: '
      f'{", ".join(hyperparameters.RECIPES)} (default step_law)')
  add('--unique_tokens', type=float, help='different tokens there are; more are repeats')
  add('--max_parameters', type=float, help='of the largest model that can be served')
  add('--served_tokens', type=float,
      help='to be read and written after training, which the budget pays too')
  add('--output', metavar='FILE.gin', help='written, not printed; must not exist')
  add('--json', action='store_true', help='print JSON')


def add_budget_flags(parser: argparse.ArgumentParser) -> None:
  """Those that `budget` has as well."""
  from scaling.planning import budget, request
  add = parser.add_argument
  add('--flops', type=float, help='of training')
  add('--dollars', type=float, help='for chip-hours at the price of the hardware')
  add('--kwh', type=float, help='of the chips, times --pue')
  add('--chips', type=int, help='of the hardware; of TPUs chips, not cores')
  add('--hours', type=budget.duration, metavar='TIME', help='36, 90m or 2d')
  add('--hardware', default=request.HARDWARE, metavar='CHIP',
      help=f'of t5x_lite/cost/hardware.toml (default {request.HARDWARE})')
  add('--prices', metavar='FILE', help='TOML like t5x_lite/cost/hardware.toml, that replaces it')
  add('--mfu', type=float, default=budget.MFU,
      help=f'model FLOPs utilisation (default {budget.MFU})')
  add('--pue', type=float, default=budget.PUE,
      help=f'power of the data centre over that of the chips (default {budget.PUE})')


def run(args: argparse.Namespace) -> int:
  from scaling.planning import plan_gin, planner
  from scaling.planning.request import Request
  plan = planner.make(Request(**{field.name: getattr(args, field.name)
                                 for field in dataclasses.fields(Request)}))
  path = plan_gin.write(plan, args.output) if args.output else None
  if args.json:
    print(json.dumps(as_json(plan), indent=2))
    return 0
  from scaling.planning import plan_text
  print(plan_text.text(plan))
  if path is None:
    print(f'\n{plan_gin.text(plan)}', end='')
  else:
    print(f'\nLaunch it: t5x-lite train --gin_file={path} --gin.MODEL_DIR=FOLDER')
  return 0


def as_json(plan) -> dict:
  """All of a plan, without its law's constants; infinity is null."""
  from scaling.planning import plan_gin
  table = {field.name: getattr(plan, field.name) for field in dataclasses.fields(plan)
           if field.name not in ('law', 'answers', 'answer')}
  table['answers'] = {answer.law: answer for answer in plan.answers}
  return plain({**table, 'law': plan.answer.law, 'gin': plan_gin.text(plan)})


def plain(value):
  """What json.dumps takes: dataclasses as dicts, what is not finite as None."""
  if dataclasses.is_dataclass(value):
    return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
  if isinstance(value, dict):
    return {str(key): plain(item) for key, item in value.items()}
  if isinstance(value, (list, tuple)):
    return [plain(item) for item in value]
  if isinstance(value, float):
    return value if math.isfinite(value) else None
  return value if isinstance(value, (int, str)) or value is None else str(value)
