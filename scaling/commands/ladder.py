"""`t5x-lite scaling ladder`: small runs that predict a large one, and the verdict on it."""

import argparse
import math
import sys

from t5x_lite.core.errors import UserError
from t5x_lite.core.paths import local_path

EXAMPLE = ('t5x-lite scaling ladder design --gin_file=experiments/tiny_lm.gin --target=1e18 '
           '--folder=runs/ladder')
_ACTIONS = """
actions:
  design   choose the runs, print their cost and what they are expected to tell; write the
           manifest, a gin file for each run and a script for SLURM
  run      train the unfinished runs, --jobs at a time, on this machine
  fit      collect the losses, fit the law, choose the target's size, register the prediction
  check    train the target and compare its loss with the prediction
  all      all of these in order; finished steps are skipped
"""


def add_flags(parser: argparse.ArgumentParser) -> None:
  from scaling.planning.amounts import parse_amount, parse_count
  parser.epilog = f'{_ACTIONS}\nexample: {EXAMPLE}'
  add = parser.add_argument
  add('action', choices=('design', 'run', 'fit', 'check', 'all'))
  add('--folder', type=local_path, required=True, help='folder of the ladder')
  add('--gin_file', action='append', default=[], metavar='FILE',
      help='base experiment, whose sizes, steps and rates are replaced; may be repeated')
  add('--bind', action='append', default=[], metavar='NAME=VALUE',
      help='a gin binding on top of it; may be repeated')
  add('--target', type=parse_amount, metavar='FLOPS',
      help='6 N D of the run to predict; for fit and check, of another than the designed one')
  add('--largest', type=parse_amount, metavar='FLOPS',
      help='6 N D of the largest runs; default: target/100')
  add('--budgets', type=parse_count, default=8, help='budgets, each half of the next (default 8)')
  add('--sizes', type=parse_count, default=5, help='sizes of each budget (default 5)')
  add('--spread', type=float, default=16.0,
      help='largest to smallest size of a budget (default 16)')
  add('--seeds', type=parse_count, default=1, help='seeds of each run (default 1)')
  add('--tokens_per_parameter', type=float, default=20.0,
      help='estimate of the optimal D / N, the centre of the sizes (default 20)')
  add('--law', metavar='LAW', help='estimate of the law instead: a name of scaling plan, the '
      'folder of scaling fit --output, or E,A,ALPHA,B,BETA')
  add('--noise', type=float, default=0.003,
      help='relative noise of a loss, for what the ladder is expected to tell (default 0.003)')
  add('--multiple', type=parse_count, default=128, help='divisor of all widths (default 128)')
  add('--layers', type=parse_count, help='layers of every model; default: more with the size')
  add('--jobs', type=parse_count, default=1, help='runs at a time on this machine (default 1)')
  add('--level', type=float, default=0.95, help='level of the predicted interval (default 0.95)')
  add('--bayes', action='store_true',
      help='predict by a posterior under priors of published laws, as scaling fit --bayes does')
  add('--leave_out', action='append', default=[], metavar='RUN',
      help='a run that is neither trained nor fitted; may be repeated')


def run(args: argparse.Namespace) -> int:
  from scaling.planning.amounts import check_level
  actions = ('design', 'run', 'fit', 'check') if args.action == 'all' else (args.action,)
  if args.jobs < 1:
    raise UserError(f'--jobs={args.jobs}: give 1 or more')
  check_level(args.level)
  for action in actions:
    {'design': _design, 'run': _run, 'fit': _fit, 'check': _check}[action](args)
  return 0


def _design(args) -> None:
  from scaling.ladder import design, launch, manifest
  if not args.gin_file or args.target is None:
    raise UserError('a ladder needs a base experiment and a target: pass --gin_file=FILE and '
                    '--target=FLOPS')
  ladder = design.make_ladder(
      args.gin_file, args.bind, target_flops=args.target, largest=args.largest,
      multiple=args.multiple, depth=args.layers, law=args.law and _law(args.law),
      tokens_per_parameter=args.tokens_per_parameter, noise=args.noise, budgets=args.budgets,
      sizes=args.sizes, spread=args.spread, seeds=args.seeds)
  manifest.write_ladder(ladder, args.folder)
  script = launch.write_slurm(ladder, args.folder)
  print(manifest.format_ladder(ladder))
  print(design.format_expected(ladder))
  print(f'{args.folder / manifest.MANIFEST}: on this machine, t5x-lite scaling ladder run '
        f'--folder={args.folder} --jobs=1; on a cluster, {script}')


def _law(text: str):
  """A published law of this name, a fitted one or five constants; UserError if it has no loss."""
  from scaling.forms import saved
  from scaling.laws.laws import LAWS, ParametricLaw
  if text.count(',') == 4:
    try:
      constants = [float(x) for x in text.split(',')]
    except ValueError:
      constants = [math.nan]
    if not all(0 < x < math.inf for x in constants):
      raise UserError(f'--law={text}: give E,A,ALPHA,B,BETA, all above 0, e.g. '
                      '1.69,406.4,0.34,410.7,0.28')
    return ParametricLaw(*constants)
  law = LAWS[text] if text in LAWS else saved.load_law(text)
  if not isinstance(law.form, ParametricLaw):
    raise UserError(f'--law={text}: has no loss; use a law of approach 3, such as besiroglu')
  form = law.form
  return ParametricLaw(form.e, form.a, form.alpha, form.b, form.beta)


def _run(args) -> None:
  from scaling.ladder import launch, manifest
  ladder = manifest.read_ladder(args.folder)
  launch.train_runs(ladder, args.folder, launch.kept_runs(ladder, args.leave_out), args.jobs)


def _fit(args) -> None:
  from scaling.ladder import manifest, verdict
  prediction = verdict.predict_target(manifest.read_ladder(args.folder), args.folder, args.level,
                                      target_flops=args.target, leave_out=args.leave_out,
                                      bayes=args.bayes)
  print(verdict.format_prediction(prediction))


def _check(args) -> None:
  from scaling.ladder import manifest, registry, verdict
  judged = verdict.check_target(manifest.read_ladder(args.folder), args.folder, args.target)
  print(judged['sentence'])
  print(registry.format_score(judged['calibration']))
  print(f'{args.folder / verdict.VERDICT}', file=sys.stderr)
