"""`t5x-lite scaling plan`: from a budget to a gin file."""

import argparse
import dataclasses
import math

EXAMPLE = 't5x-lite scaling plan --chips=8 --hardware=h100 --hours=24 --output=plan.gin'
_BUDGETS = """
budgets: --flops, --dollars, --kwh, --chips with --hours, or --loss. --chips, --hours or --deadline
with one of the others divide it into chips and hours.

"""


def add_flags(parser: argparse.ArgumentParser) -> None:
  from scaling.laws import hyperparameters
  from scaling.planning import request
  from scaling.planning.amounts import parse_amount, parse_count
  parser.epilog = f'{_BUDGETS}example: {EXAMPLE}'
  add_budget_flags(parser)
  add = parser.add_argument
  add('--loss', type=float, help='target loss, in nats a token')
  add('--law', help='law of the plan, a name in the table or fit (default: fit with --fit, else '
      f'{request.LAW})')
  add('--fit', metavar='FOLDER', help='your own law, from scaling fit --output=FOLDER')
  add('--family', default='llama',
      help=f'model family: {", ".join(request.PRESETS)} (default llama)')
  add('--vocab_size', type=parse_count, help="vocabulary size; default: the family's")
  add('--length', type=parse_count, help="tokens of a row; default: the family's")
  add('--task', help='task of the gin file; default: to be filled in')
  add('--multiple', type=parse_count, default=128, help='divisor of all widths (default 128)')
  add('--recipe', default='step_law', help='rule for learning rate and batch size: '
      f'{", ".join(hyperparameters.RECIPES)} (default step_law)')
  add('--unique_tokens', type=parse_amount, help='unique tokens available; more are repeats')
  add('--max_parameters', type=parse_amount, help='maximum number of parameters')
  add('--served_tokens', type=parse_amount,
      help='tokens of inference, whose FLOPs the budget includes')
  add_serving_flags(parser)
  add('--experts', type=parse_count, help='MLPs of a layer, of which a token uses --top_k')
  add('--top_k', type=parse_count, help='experts active for a token (default 2)')
  add('--granularity', type=parse_count,
      help="the family's MLP width over that of an expert (default 1)")
  add('--output', metavar='FILE.gin', help='write the gin file to this new file, do not print it')
  add('--json', action='store_true', help='print JSON')


def add_serving_flags(parser: argparse.ArgumentParser) -> None:
  """Adds the flags of a served request, which `scaling budget` shares."""
  from scaling.planning.amounts import parse_count
  add = parser.add_argument
  add('--prompt', type=parse_count, help='tokens of the prompt of a request (default: half a row)')
  add('--generated', type=parse_count, help='tokens generated for it (default: half a row)')


def add_budget_flags(parser: argparse.ArgumentParser) -> None:
  """Adds the flags that `scaling budget` shares."""
  from scaling.planning import budget, request
  from scaling.planning.amounts import parse_amount, parse_count, parse_duration, parse_share
  add = parser.add_argument
  add('--flops', type=parse_amount, help='training FLOPs')
  add('--dollars', type=parse_amount, help='cost of chip-hours at the price of the hardware')
  add('--kwh', type=parse_amount, help='energy of the chips times --pue')
  add('--chips', type=parse_count, help='number of chips (for TPUs chips, not cores); default: '
      'the fewest that finish in 30 days')
  add('--hours', type=parse_duration, metavar='TIME', help='training time: 36, 90m or 2d')
  add('--deadline', type=parse_duration, metavar='TIME', help='maximum time: 36, 90m or 2d')
  add('--hardware', default=request.HARDWARE, metavar='CHIP',
      help=f'a chip of t5x_lite/cost/hardware.toml (default {request.HARDWARE})')
  add('--prices', metavar='FILE',
      help='TOML like t5x_lite/cost/hardware.toml, whose keys override it')
  add('--price', type=parse_amount, help="dollars an hour of a chip (default: the catalogue's)")
  add('--mfu', type=parse_share, help='model FLOPs utilisation that you measured (default '
      f'{budget.MFU}, or {budget.MFU * budget.RECOMPUTED:g} where blocks are recomputed)')
  add('--runs', action='append', default=[], metavar='RUN',
      help='a MODEL_DIR of your own, or a TOML file like scaling/data/published_runs.toml, whose '
           'utilisation at the nearest size is taken; may be repeated')
  add('--tune', action='store_true', help='what it takes to tune the model whole, by LoRA and by '
      'QLoRA, and the largest of its family that the chip can')
  add('--pue', type=float, default=budget.PUE,
      help=f'power of the data centre over that of the chips (default {budget.PUE})')
  add('--carbon', type=float, default=budget.CARBON,
      help=f'kg of CO2 equivalents a kWh (default {budget.CARBON})')


def run(args: argparse.Namespace) -> int:
  from scaling.planning import plan_gin, planner
  from scaling.planning.request import Request
  plan = planner.make_plan(Request(**{field.name: getattr(args, field.name)
                                      for field in dataclasses.fields(Request)}))
  path = plan_gin.write_gin(plan, args.output) if args.output else None
  tuned = None
  if args.tune:
    from scaling.planning import tuning
    tuned = tuning.compare(plan.config, plan.lengths, plan.budget.chip, None)
  if args.json:
    from scaling.commands.output import print_json
    print_json(as_json(plan) | ({} if tuned is None else {'tuning': tuned}))
    return 0
  from scaling.planning import plan_text
  print(plan_text.format_plan(plan))
  if tuned is not None:
    print('', *tuning.format_tuning(tuned, plan.budget.chip), sep='\n')
  if path is None:
    print(f'\n{plan_gin.format_gin(plan)}', end='')
  else:
    flags = ''.join(f' --gin.{name}={value}' for name, value in plan_gin.to_fill_in(plan).items())
    print(f'\nLaunch it: t5x-lite train --gin_file={path}{flags} --gin.MODEL_DIR=FOLDER')
  return 0


def as_json(plan) -> dict:
  """A plan without the constants of its law.

  An overhead that is no number is the reason; so is what a law does not predict, under `reason`.
  """
  from scaling.planning import plan_gin
  table = {field.name: getattr(plan, field.name) for field in dataclasses.fields(plan)
           if field.name not in ('law', 'predictions', 'prediction')}
  if plan.compute_overhead is not None:
    table['compute_overhead'] = {factor: _overhead(cost)
                                 for factor, cost in plan.compute_overhead.items()}
  table['predictions'] = {prediction.law: {**vars(prediction), 'reason': prediction.reason}
                          for prediction in plan.predictions}
  table['layout'] = {**vars(plan.layout), 'memory': memory_json(plan.layout.memory)}
  return {**table, 'law': plan.prediction.law, 'gin': plan_gin.format_gin(plan)}


def memory_json(memory) -> dict[str, int]:
  """A `t5x_lite.cost.memory.Memory` with its total, which is not the sum of its fields."""
  return {**vars(memory), 'total': memory.total}


def _overhead(cost: float | None) -> float | str:
  if cost is None:
    return 'above max_parameters'
  return cost if math.isfinite(cost) else 'never reached'
