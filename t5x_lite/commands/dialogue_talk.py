"""`t5x-lite dialogue talk`: a local page on which people talk to systems and rate them."""

import argparse
import importlib.util

from t5x_lite.commands import dialogue_systems, gin_flags
from t5x_lite.core.errors import UserError
from t5x_lite.core.paths import local_path

EXAMPLE = 't5x-lite dialogue talk --systems rules random --output=study'
HOSTS = ['127.0.0.1', 'localhost']


def add_flags(parser: argparse.ArgumentParser) -> None:
  add = parser.add_argument
  add('--systems', nargs='+', default=['rules'], metavar='SYSTEM',
      help=f'that are talked to, in an order that is drawn and without their names: '
           f'{dialogue_systems.HELP}')
  add('--goals', type=int, default=20, metavar='N', help='each talked about with every system')
  add('--seed', type=int, default=0)
  add('--port', type=int, default=8100, help='on this machine (default 8100; 0: one that is free)')
  add('--output', type=local_path, required=True, metavar='FOLDER',
      help='of answers.jsonl, which `t5x-lite questionnaire` reads, and dialogues.jsonl; a study '
           'goes on there')
  gin_flags.add_trusted_modules(parser)


def run(args: argparse.Namespace) -> int:
  if any(importlib.util.find_spec(name) is None for name in ('starlette', 'uvicorn')):
    raise UserError("the page needs Starlette and uvicorn: pip install -e '.[serve]'")
  for name, low, high in (('port', 0, 65535), ('goals', 1, 10 ** 6)):
    if not low <= getattr(args, name) <= high:
      raise UserError(f'--{name}={getattr(args, name)}: give from {low} to {high}')
  import uvicorn

  from t5x_lite.commands.serve import bind, outlive_uvicorn
  from t5x_lite.dialogue.talk.app import make_app
  study = make_study(args)
  outlive_uvicorn()
  with bind(HOSTS[0], args.port) as listener:
    listener.listen()
    print(f'Talk at http://{HOSTS[0]}:{listener.getsockname()[1]}, on this machine alone: Ctrl-C '
          f'ends it. {study.done} dialogues are in {args.output}', flush=True)
    uvicorn.Server(uvicorn.Config(make_app(study, HOSTS), log_level='warning', access_log=False,
                                  lifespan='off')).run(sockets=[listener])
  if left := study.close():
    print(f'{left} were begun and not rated: {args.output}/unrated.jsonl')
  print(f'{study.done} dialogues; their table: t5x-lite questionnaire {args.output}/answers.jsonl')
  return 0


def make_study(args: argparse.Namespace):
  """The Study of the flags."""
  from t5x_lite.dialogue.simulation.database import made_up_town
  from t5x_lite.dialogue.simulation.goals import GoalConfig, draw_goals
  from t5x_lite.dialogue.talk.study import Study
  town = made_up_town()
  make = lambda name: dialogue_systems.make_system(name, town, args.seed, args.trusted_modules)
  return Study(draw_goals(town, args.goals, args.seed, GoalConfig()),
               {name: make(name) for name in args.systems}, town, args.output, args.seed)
