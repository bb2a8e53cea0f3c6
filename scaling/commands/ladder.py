"""`t5x-lite scaling ladder`: small runs that predict a large one, and the verdict on it."""

import argparse
import json

from t5x_lite.core.errors import UserError
from t5x_lite.core.paths import local_path

EXAMPLE = ('t5x-lite scaling ladder all --gin_file=experiments/stdlib_ladder.gin '
           '--target=2.4e13 --largest=4e12 --multiple=16 --tokens_per_parameter=6 --spread=5.5 '
           '--folder=runs/ladder')
_ACTIONS = """
actions:
  design   write the manifest, a gin file for each run and a script for SLURM
  run      train the unfinished runs, --jobs at a time, on this machine
  fit      collect the losses, fit the law, choose the target's size and predict its loss
  check    train the target and compare its loss with the predicted interval
  all      all of these in order; finished steps are skipped
"""


def add_flags(parser: argparse.ArgumentParser) -> None:
  parser.epilog = f'{_ACTIONS}\nexample: {EXAMPLE}'
  add = parser.add_argument
  add('action', choices=('design', 'run', 'fit', 'check', 'all'))
  add('--folder', type=local_path, required=True, help='folder of the ladder')
  add('--gin_file', action='append', default=[], metavar='FILE',
      help='base experiment, whose sizes, steps and rates are replaced; may be repeated')
  add('--bind', action='append', default=[], metavar='NAME=VALUE',
      help='a gin binding on top of it; may be repeated')
  add('--target', type=float, metavar='FLOPS', help='6 N D of the run to predict')
  add('--largest', type=float, metavar='FLOPS', help='6 N D of the longest runs; default: target/5')
  add('--durations', type=int, default=3,
      help='durations of each size, each twice the last (default 3)')
  add('--sizes', type=int, default=4, help='number of model sizes (default 4)')
  add('--spread', type=float, default=8.0, help='largest to smallest size (default 8)')
  add('--tokens_per_parameter', type=float, default=20.0,
      help='estimate of the optimum, the centre of the sizes (default 20)')
  add('--multiple', type=int, default=128, help='divisor of all widths (default 128)')
  add('--jobs', type=int, default=1, help='runs at a time on this machine (default 1)')
  add('--level', type=float, default=0.95, help='level of the predicted interval (default 0.95)')


def run(args: argparse.Namespace) -> int:
  actions = ('design', 'run', 'fit', 'check') if args.action == 'all' else (args.action,)
  if args.jobs < 1:
    raise UserError(f'--jobs={args.jobs}: give 1 or more')
  if not 0 < args.level < 1:
    raise UserError(f'--level={args.level}: give a number between 0 and 1, e.g. 0.95')
  for action in actions:
    {'design': _design, 'run': _run, 'fit': _fit, 'check': _check}[action](args)
  return 0


def _design(args) -> None:
  from scaling.ladder import design as ladders
  from scaling.ladder import launch
  if not args.gin_file or args.target is None:
    raise UserError('a ladder needs a base experiment and a target: pass --gin_file=FILE and '
                    '--target=FLOPS')
  ladder = ladders.make_ladder(
      args.gin_file, args.bind, target_flops=args.target, largest=args.largest,
      durations=args.durations, sizes=args.sizes, spread=args.spread,
      tokens_per_parameter=args.tokens_per_parameter, multiple=args.multiple)
  ladders.write_ladder(ladder, args.folder)
  script = launch.write_slurm(ladder, args.folder)
  print(ladders.format_ladder(ladder))
  print(f'{args.folder / ladders.MANIFEST}: on this machine, t5x-lite scaling ladder run '
        f'--folder={args.folder} --jobs=1; on a cluster, {script}')


def _run(args) -> None:
  from scaling.ladder import design as ladders
  from scaling.ladder import launch
  launch.train_runs(args.folder, ladders.read_ladder(args.folder).runs, args.jobs)


def _fit(args) -> None:
  from scaling.ladder import design as ladders
  from scaling.ladder import verdict
  prediction = verdict.predict_target(ladders.read_ladder(args.folder), args.folder, args.level)
  print(verdict.format_prediction(prediction))


def _check(args) -> None:
  from scaling.ladder import design as ladders
  from scaling.ladder import verdict
  verdict = verdict.check_target(ladders.read_ladder(args.folder), args.folder)
  print(json.dumps(verdict, indent=1))
  print(verdict['sentence'])
