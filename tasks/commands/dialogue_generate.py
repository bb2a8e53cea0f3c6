"""`t5x-lite dialogue generate`: made-up dialogues about restaurants, of a known automaton."""

import argparse

from t5x_lite.core.errors import UserError
from t5x_lite.core.files import check_writable, write_text
from t5x_lite.core.paths import local_path
from t5x_lite.dialogue.schema import json_lines
from tasks.commands.dialogue_convert import summary
from tasks.dialogue.generated import generate

EXAMPLE = 't5x-lite dialogue generate --number=1000 --noise=0.05 --output=dialogues.jsonl'


def add_flags(parser: argparse.ArgumentParser) -> None:
  add = parser.add_argument
  add('--number', type=int, default=1000, help='of dialogues; default: 1000')
  add('--seed', type=int, default=0, help='of all that is drawn; default: 0')
  add('--noise', type=float, default=0.0,
      help='share of turns that say what another state would; default: 0')
  add('--output', required=True, type=local_path, metavar='FILE', help='JSON Lines')


def run(args: argparse.Namespace) -> int:
  if args.number < 1:
    raise UserError(f'--number={args.number}: must be at least 1')
  check_writable(args.output)
  dialogues = generate(args.number, args.seed, args.noise)
  write_text(args.output, json_lines(dialogues))
  print('\n'.join([*summary(dialogues), str(args.output)]))
  return 0
