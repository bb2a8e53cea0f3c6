"""`t5x-lite scaling curve`: the loss of a run through a decay of its learning rate."""

import argparse

from t5x_lite.core.errors import UserError
from t5x_lite.core.paths import local_path

EXAMPLE = ('t5x-lite scaling curve runs/trunk --decayed=runs/branch --steps=20000 '
           '--decay_steps=4000')


def add_flags(parser: argparse.ArgumentParser) -> None:
  from scaling.planning.amounts import parse_count
  add = parser.add_argument
  add('run', metavar='RUN', type=local_path,
      help='the run in its stable phase: a MODEL_DIR, or a CSV file of step, loss, learning_rate '
           'and where known eval_loss')
  add('--decayed', action='append', default=[], metavar='RUN', type=local_path,
      help='a run of the same model that has decayed, such as a branch; may be repeated')
  add('--other', action='append', default=[], metavar='RUN', type=local_path,
      help='a decayed run of another model, such as a smaller one; may be repeated')
  add('--until', type=parse_count, metavar='STEP', help='read RUN up to this step alone')
  add('--decay_steps', type=parse_count, required=True, metavar='STEPS',
      help='in which the rate falls linearly to 0')
  add('--steps', type=parse_count, metavar='STEPS',
      help='of the whole run, with its decay; default: decay from the last step of RUN on')
  add('--memory', type=float, metavar='LAMBDA',
      help='of the annealing; default: several, by their likelihoods')
  add('--eval_noise', type=float, default=0.005, metavar='SHARE',
      help='of an evaluation, as a share of its loss (default 0.005)')
  add('--level', type=float, default=0.95, help='level of the intervals (default 0.95)')
  add('--bootstrap', type=int, default=400, metavar='COUNT', help='refits (default 400)')
  add('--json', action='store_true', help='print JSON')
  add('--output', type=local_path, metavar='FILE', help='write a picture there: .png, .pdf or .svg')


def run(args: argparse.Namespace) -> int:
  from scaling import figures
  from scaling.commands import output
  from scaling.fitting import annealing, annealing_report
  _check(args)
  output.check_picture(args.output)
  curves = _read(args)
  target = _plan(args, curves[0])
  fits, weights = annealing.fit_curves(curves, target, args.memory, args.eval_noise,
                                       args.bootstrap)
  report = annealing_report.report_curve(curves, fits, weights, target, args.decay_steps,
                                         args.level)
  output.print_warnings(annealing_report.list_warnings(report))
  if args.json:
    output.print_json(report)
  else:
    print(annealing_report.format_curve(report))
  if args.output is not None:
    figures.save_figure(annealing_report.draw_curve(curves, fits, weights, target, args.level),
                        args.output)
  return 0


def _check(args: argparse.Namespace) -> None:
  from scaling.planning.amounts import check_level
  check_level(args.level)
  for name, good, cure in (
      ('bootstrap', args.bootstrap >= 20, 'give 20 or more'),
      ('decay_steps', args.decay_steps >= 1, 'give 1 or more'),
      ('until', args.until is None or args.until >= 1, 'give 1 or more'),
      ('memory', args.memory is None or 0 <= args.memory < 1, 'give 0 or more, below 1'),
      ('eval_noise', 0 < args.eval_noise < 1, 'give a share above 0, e.g. 0.005')):
    if not good:
      raise UserError(f'--{name}={getattr(args, name)}: {cure}')


def _read(args: argparse.Namespace) -> list:
  from scaling.fitting.annealing_runs import read_curve
  first = read_curve(args.run)
  if args.until is not None:
    first = first.until(args.until)
    if not len(first.steps):
      raise UserError(f'--until={args.until}: {args.run} has logged no loss up to there')
  return [first, *(read_curve(path) for path in args.decayed),
          *(read_curve(path, model) for model, path in enumerate(args.other, 1))]


def _plan(args: argparse.Namespace, first):
  """The rates of the plan; UserError for a decay that does not fit into it."""
  from scaling.fitting import annealing
  last = int(first.steps[first.stable].max(initial=0))
  steps = args.steps if args.steps is not None else last + args.decay_steps
  if steps - args.decay_steps < first.warmup or steps > 1e7:
    raise UserError(f'--steps={steps} with --decay_steps={args.decay_steps}: the warm-up of '
                    f'{first.warmup} steps and the decay do not fit into it')
  return annealing.plan_rates(first, steps, args.decay_steps)
