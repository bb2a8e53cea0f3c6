"""`t5x-lite scaling ladder`: small runs that predict a large one, and the verdict on it."""

import argparse
import json
import pathlib

from t5x_lite.core.errors import UserError

SUMMARY = 'design, run and fit a sweep of small runs, predict a large one, run it and judge'
EXAMPLE = ('t5x-lite scaling ladder all --gin_file=experiments/stdlib_ladder.gin '
           '--target=2.4e13 --largest=4e12 --multiple=16 --tokens_per_parameter=6 --spread=5.5 '
           '--folder=runs/ladder')
_ACTIONS = """
actions:
  design   write the manifest, a gin file a run and a script for SLURM
  run      train the runs that are not finished, --jobs at a time, here
  fit      collect the losses, fit the law, choose the target's size and predict its loss
  check    train the target and say whether its loss lies in the interval predicted
  all      all of these, one after another; what is done already is not done again
"""


def add_flags(parser: argparse.ArgumentParser) -> None:
  parser.epilog = f'{_ACTIONS}\nexample: {EXAMPLE}'
  add = parser.add_argument
  add('action', choices=('design', 'run', 'fit', 'check', 'all'))
  add('--folder', type=pathlib.Path, required=True, help='everything of the ladder goes there')
  add('--gin_file', action='append', default=[], metavar='FILE',
      help='base experiment, of which sizes, steps and rates are set; may be given again')
  add('--bind', action='append', default=[], metavar='NAME=VALUE',
      help='a gin binding on top of it; may be given again')
  add('--target', type=float, metavar='FLOPS', help='6 N D of the run that is to be predicted')
  add('--largest', type=float, metavar='FLOPS', help='6 N D of the longest runs; default: target/5')
  add('--durations', type=int, default=3, help='of each size; each is twice the last (default 3)')
  add('--sizes', type=int, default=4, help='of the models (default 4)')
  add('--spread', type=float, default=8.0, help='largest to smallest size (default 8)')
  add('--tokens_per_parameter', type=float, default=20.0,
      help='a guess of the best, around which sizes are laid (default 20)')
  add('--multiple', type=int, default=128, help='of which widths are multiples (default 128)')
  add('--jobs', type=int, default=1, help='runs at a time (default 1)')
  add('--level', type=float, default=0.95, help='of the interval predicted (default 0.95)')


def run(args: argparse.Namespace) -> int:
  actions = ('design', 'run', 'fit', 'check') if args.action == 'all' else (args.action,)
  if args.jobs < 1:
    raise UserError(f'--jobs={args.jobs}: give 1 or more')
  if not 0 < args.level < 1:
    raise UserError(f'--level={args.level}: give a share between 0 and 1, 0.95, say')
  for action in actions:
    {'design': _design, 'run': _run, 'fit': _fit, 'check': _check}[action](args)
  return 0


def _design(args) -> None:
  from scaling.ladder import design as ladders
  from scaling.ladder import launch
  if not args.gin_file or args.target is None:
    raise UserError('A ladder is designed from a base experiment and a target: pass '
                    '--gin_file=FILE and --target=FLOPS')
  ladder = ladders.make(
      args.gin_file, args.bind, target_flops=args.target, largest=args.largest,
      durations=args.durations, sizes=args.sizes, spread=args.spread,
      tokens_per_parameter=args.tokens_per_parameter, multiple=args.multiple)
  ladders.write(ladder, args.folder)
  script = launch.write_slurm(ladder, args.folder, args.jobs)
  print(ladders.text_of(ladder))
  print(f'{args.folder / ladders.MANIFEST}: here, t5x-lite scaling ladder run '
        f'--folder={args.folder} --jobs=1; on a cluster, {script}')


def _run(args) -> None:
  from scaling.ladder import design as ladders
  from scaling.ladder import launch
  launch.train(args.folder, ladders.read(args.folder).runs, args.jobs)


def _fit(args) -> None:
  from scaling.ladder import design as ladders
  from scaling.ladder import verdict
  prediction = verdict.predict(ladders.read(args.folder), args.folder, args.level)
  print(verdict.text_of(prediction))


def _check(args) -> None:
  from scaling.ladder import design as ladders
  from scaling.ladder import verdict
  verdict = verdict.check(ladders.read(args.folder), args.folder)
  print(json.dumps(verdict, indent=1))
  print(verdict['sentence'])
