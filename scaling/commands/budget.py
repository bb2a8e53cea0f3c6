"""`t5x-lite scaling budget`: the cost of a given model."""

import argparse

from scaling.commands import plan as plan_command

EXAMPLE = 't5x-lite scaling budget llama_7b --tokens=1e12 --hardware=a100_80 --chips=2048'


def add_flags(parser: argparse.ArgumentParser) -> None:
  from scaling.planning.amounts import parse_amount, parse_count
  parser.add_argument('model', nargs='?', help='a name in configs/models, e.g. llama_7b')
  parser.add_argument('--gin_file', action='append', default=[], metavar='FILE',
                      help='gin file of a model or an experiment; may be repeated')
  parser.add_argument('--tokens', type=parse_amount, help="training tokens; default: the "
                      "experiment's, or those that spend the budget")
  parser.add_argument('--rows', type=parse_count, help="batch size in rows; default: the "
                      "experiment's, or one for each device")
  parser.add_argument('--length', type=parse_count, help="tokens of a row, or of its inputs if it "
                      "has inputs; default: the experiment's, or the model's")
  parser.add_argument('--microbatches', type=parse_count,
                      help="microbatches of a step; default: the experiment's, or 1")
  plan_command.add_budget_flags(parser)
  parser.add_argument('--served_tokens', type=parse_amount, help='tokens to be served')
  plan_command.add_serving_flags(parser)
  parser.add_argument('--fit', metavar='FOLDER',
                      help='your own law, from scaling fit --output=FOLDER')
  parser.add_argument('--json', action='store_true', help='print JSON')


def run(args: argparse.Namespace) -> int:
  from scaling.commands.output import print_json
  from scaling.planning.estimate import estimate, format_estimate
  found = estimate(args)
  if args.json:
    print_json({**vars(found.training), 'counted_at': found.counted_at,
                'memory': {mesh: plan_command.memory_json(needs)
                           for mesh, needs in found.memory.items()},
                'serving': found.serving, 'tuning': found.tuning})
  else:
    print('\n'.join(format_estimate(args, found)))
  return 0
