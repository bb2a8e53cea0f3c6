"""`t5x-lite scaling downstream`: an accuracy or error from the loss."""

import argparse
import math

from t5x_lite.core.errors import UserError
from t5x_lite.core.paths import local_path

EXAMPLE = 't5x-lite scaling downstream evals.csv --metric=arc --fit=fits/mine --flops=1e22'


def add_flags(parser: argparse.ArgumentParser) -> None:
  from scaling.planning.amounts import parse_amount
  add = parser.add_argument
  add('runs', metavar='CSV', type=local_path,
      help='a run on each line: loss, metric, and where known examples (of the task) and run (of '
           'checkpoints: cluster)')
  add('--metric', required=True, metavar='COLUMN', help='the column of the accuracy, a fraction')
  add('--error', action='store_true', help='the metric is an error rate, 1 less an accuracy')
  add('--loss_column', metavar='COLUMN', help='of nats a token or bits a byte')
  add('--chance', type=float, default=0.0, metavar='ACCURACY',
      help='of guessing, which no asymptote is below; default 0')
  add('--form', choices=('exponential', 'sigmoid'),
      help='default: each that the runs allow, by how well it fits')
  add('--loss', metavar='LOSS,…', help='to predict at')
  add('--loss_interval', metavar='LOW,HIGH', help='that of the one --loss, at --level')
  add('--fit', metavar='FOLDER',
      help='of scaling fit --output, whose law tells the loss of --flops with its interval')
  add('--flops', type=parse_amount, metavar='FLOPS', help='with --fit: predict at its optimum')
  add('--level', type=float, default=0.95, help='level of the intervals (default 0.95)')
  add('--bootstrap', type=int, default=300, metavar='COUNT', help='refits (default 300)')
  add('--json', action='store_true', help='print JSON')
  add('--output', type=local_path, metavar='FILE', help='write a picture there: .png, .pdf or .svg')


def run(args: argparse.Namespace) -> int:
  from scaling import figures
  from scaling.commands import output
  from scaling.fitting import downstream, downstream_report
  from scaling.planning.amounts import check_level
  check_level(args.level)
  output.check_picture(args.output)
  if not 0 <= args.chance < 1:
    raise UserError(f'--chance={args.chance:g}: give the accuracy of guessing, e.g. 0.25')
  if args.bootstrap < 20:
    raise UserError(f'--bootstrap={args.bootstrap}: give 20 or more')
  scores = downstream.read_scores(args.runs, args.metric, loss=args.loss_column, error=args.error)
  targets = _targets(args, scores)
  found = downstream.fit_downstream(scores, args.chance, args.form, args.bootstrap)
  for target in targets:
    found.check_reach(target.loss)
  report = downstream_report.report_downstream(found, targets, args.error, args.level)
  output.print_warnings(downstream_report.list_warnings(report))
  if args.json:
    output.print_json(report)
  else:
    print(downstream_report.format_downstream(report))
  if args.output is not None:
    figures.save_figure(downstream_report.draw_downstream(found, targets, args.error, args.level),
                        args.output)
  return 0


def _targets(args: argparse.Namespace, scores) -> list:
  """Losses to predict at: those given, those of the law; else the lowest of the runs and below."""
  from scaling.fitting.downstream_report import Target
  if (args.fit is None) != (args.flops is None):
    raise UserError('a loss by a law: pass --fit=FOLDER and --flops=FLOPS')
  losses = _numbers('loss', args.loss) if args.loss else []
  if args.loss_interval and len(losses) != 1:
    raise UserError('--loss_interval is that of one --loss: pass one')
  targets = [Target(loss, _draws(args, loss)) for loss in losses]
  if args.fit is not None:
    targets.append(_from_law(args.fit, args.flops))
  low, span = float(scores.loss.min()), float(scores.loss.max() - scores.loss.min())
  below = [low - share * span for share in (0.0, 0.1, 0.2)]
  return targets or [Target(loss) for loss in below if loss > 0]


def _numbers(flag: str, text: str) -> list[float]:
  try:
    values = [float(part) for part in text.split(',')]
  except ValueError:
    values = [math.nan]
  if not all(0 < value < math.inf for value in values):
    raise UserError(f'--{flag}={text}: give losses, e.g. --{flag}=2.5,2.4')
  return values


def _draws(args: argparse.Namespace, loss: float):
  """Of a normal loss with --loss_interval; None without."""
  import numpy as np
  from scipy import stats
  if not args.loss_interval:
    return None
  ends = _numbers('loss_interval', args.loss_interval)
  if len(ends) != 2 or not ends[0] < loss < ends[1]:
    raise UserError(f'--loss_interval={args.loss_interval}: give two losses about --loss={loss:g}')
  quantiles = (np.arange(400) + 0.5) / 400
  width = ends[1] - ends[0]
  return loss + stats.norm.ppf(quantiles) * width / 2 / stats.norm.isf((1 - args.level) / 2)


def _from_law(path: str, flops: float):
  """The loss of the optimum of a fitted law, with the losses of its bootstrap samples."""
  import numpy as np

  from scaling.fitting.downstream_report import Target
  from scaling.fitting.parametric import load_law
  from scaling.laws.laws import ParametricLaw
  law = load_law(path)
  if not isinstance(law.form, ParametricLaw):
    raise UserError(f'--fit={path} is an allocation without losses: fit with --approach=3')
  if not 0 < flops < math.inf:
    raise UserError(f'--flops={flops:g}: give a number above 0')
  at = law.form.optimum(flops)
  draws = np.array([form.loss(*at) for form in law.bootstrap_samples])
  draws = draws[np.isfinite(draws)]
  reach = law.extrapolation(flops)
  return Target(law.form.loss(*at), draws if len(draws) else None,
                f'{flops:.3g} FLOPs' + (f', {reach:.3g} times outside the runs of the law'
                                        if reach > 1.001 else ''))
