"""`t5x-lite dialogue simulate`: simulated users talk to a system, and what comes of it."""

import argparse
from collections.abc import Mapping
import dataclasses
from typing import Any

from t5x_lite.commands import dialogue_systems, gin_flags
from t5x_lite.core.errors import UserError
from t5x_lite.core.paths import local_path

EXAMPLE = 't5x-lite dialogue simulate --goals=1000 --output=dialogues.jsonl'


def add_flags(parser: argparse.ArgumentParser) -> None:
  add = parser.add_argument
  add('--system', default='rules', metavar='SYSTEM', help=dialogue_systems.HELP)
  add('--user', metavar='URL#MODEL', help='an endpoint that speaks for users (default: an agenda '
      'that templates put into words)')
  add('--goals', type=int, default=1000, metavar='N', help='drawn from the town of the database')
  add('--trials', type=int, default=1, metavar='N', help='dialogues of each goal, for pass^k')
  add('--domains', type=int, default=2, metavar='N', help='at most, that a goal has')
  add('--patience', type=int, default=3, metavar='N',
      help='turns without progress after which a user leaves')
  add('--max_turns', type=int, default=40, metavar='N', help="of the user's, in a dialogue")
  add('--seed', type=int, default=0)
  add('--never_gives', nargs='+', metavar='SLOT', default=[],
      help='a fault of the rules: what they do not tell, such as phone')
  add('--wrong', type=float, default=0.0, metavar='SHARE',
      help='a fault of the rules: answers that are those of another entity')
  add('--bias', action='store_true',
      help='measure the simulator instead: systems of known faults, and what it says of them')
  add('--output', type=local_path, metavar='FILE', help='writes the dialogues, as JSON Lines')
  add('--json', action='store_true', help='print JSON')
  gin_flags.add_trusted_modules(parser)


def run(args: argparse.Namespace) -> int:
  from t5x_lite.core.files import check_writable, write_text
  from t5x_lite.core.strict_json import format_json
  from t5x_lite.dialogue.schema import json_lines
  from t5x_lite.dialogue.simulation import goals, results, simulate, systems, user
  from t5x_lite.dialogue.simulation.database import made_up_town
  if args.goals < 1:
    raise UserError(f'--goals={args.goals}: 1 or more')
  if args.system != 'rules' and (args.never_gives or args.wrong):
    raise UserError(f'--system={args.system}: --never_gives and --wrong are faults of rules')
  if args.output is not None:
    check_writable(args.output)
  database = made_up_town()
  slots = {slot for domain in database.values() for slot in domain.requestable} | {'reference'}
  if unknown := {*args.never_gives} - slots:
    raise UserError(f'--never_gives={" ".join(sorted(unknown))}: choose from '
                    f'{", ".join(sorted(slots))}')
  config = simulate.SimulationConfig(
      user=user.UserConfig(patience=args.patience), trials=args.trials, max_turns=args.max_turns,
      seed=args.seed)
  wanted = goals.draw_goals(database, args.goals, args.seed,
                            goals.GoalConfig(domains=args.domains))
  if args.bias:
    found = results.measure_bias(wanted, database, config)
    print(format_json([dataclasses.asdict(one) for one in found], indent=1) if args.json
          else _bias_text(found))
    return 0
  if args.never_gives or args.wrong:
    system = systems.RuleSystem(database, systems.Faults(
        never_gives=tuple(args.never_gives), wrong=args.wrong), args.seed)
  else:
    system = dialogue_systems.make_system(args.system, database, args.seed, args.trusted_modules)
  speaker = args.user and dialogue_systems.make_endpoint(args.user, 'user', database)
  outcomes = simulate.simulate(wanted, database, system, config, speaker)
  if args.output is not None:
    write_text(args.output, json_lines(one.dialogue for one in outcomes))
  summary = results.summarize(outcomes)
  print(format_json(summary, indent=1) if args.json else _text(summary))
  return 0


def _text(summary: Mapping[str, Any]) -> str:
  lines = [f'{summary["dialogues"]:,} dialogues, {summary["turns"]:.1f} turns of the user each']
  for name in ('success', 'inform'):
    low, high = summary[f'{name}_interval']
    lines.append(f'{name:<9}{summary[name]:7.1%}   {low:.1%} to {high:.1%}')
  if len(summary['pass']) > 1:
    lines += [f'pass^{k:<4}{share:7.1%}' for k, share in summary['pass'].items()]
  if summary['failures']:
    lines.append('why not:')
    lines += [f'{count:7,}  {reason}' for reason, count in summary['failures'].items()]
  return '\n'.join(lines)


def _bias_text(found) -> str:
  rows = [f'{one.name:<26}{one.known:7.1%}  {one.measured:7.1%} +- {one.stderr:.1%}'
          for one in found]
  return '\n'.join([f'{"rules":<26}{"known":>7}  {"measured":>7}', *rows])
