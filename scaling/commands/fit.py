"""`t5x-lite scaling fit`: a scaling law of the user's runs, with diagnostics."""

import argparse
import math
import pathlib
import sys
import warnings

from scaling.commands import output
from t5x_lite.core.errors import UserError
from t5x_lite.core.files import write_text
from t5x_lite.core.paths import local_path
from t5x_lite.core.strict_json import format_json

EXAMPLE = 't5x-lite scaling fit runs.csv --columns loss=val_loss --budgets=1e21,1e22'
SAMPLES = {1: 1000, 2: 1000, 3: 1000, 'form': 200}   # resamples of an approach, or of a form
DATA = pathlib.Path(__file__).resolve().parent.parent / 'data' / 'ladder' / 'ladder.csv'


def add_flags(parser: argparse.ArgumentParser) -> None:
  add = parser.add_argument
  add('runs', nargs='*', metavar='RUNS',
      help='a CSV file with a run on each line, or folders of finished runs; default: the ladder '
           'of the package')
  add('--columns', action='append', default=[], metavar='QUANTITY=NAME',
      help='the column of parameters, tokens, flops, loss, name, unique_tokens, experts, …; may be '
           'repeated')
  add('--approach', type=int, choices=(1, 2, 3), default=3,
      help='of Hoffmann et al.: 1 envelope of training curves, 2 parabolas of equal FLOPs, 3 '
           'parametric (default)')
  add('--form', metavar='NAME',
      help='a law of more than N and D in place of an approach: over_training, repeats, '
      'experts or precision')
  add('--loss', choices=('huber', 'lad', 'linear'),
      help='Huber loss of delta 1e-3 (default); least absolute deviations (lad, approach 3); or '
           'least squares of the log loss (linear, --form; its default for few runs)')
  add('--drop_highest', type=int, default=0, metavar='K',
      help='leave out the K runs of the highest loss before fitting')
  add('--drop_outliers', action='store_true',
      help='report the fit without outliers, which is otherwise shown beside the fit')
  add('--budgets', metavar='FLOPS,…',
      help='budgets to predict; default: 1, 10 and 100 times the largest run')
  add('--bootstrap', type=int, metavar='COUNT',
      help=f'number of resamples, or of draws (default {SAMPLES[3]}; with --form '
           f'{SAMPLES["form"]})')
  add('--resample', choices=('clusters', 'noise', 'runs'),
      help='approach 3: whole clusters (runs of one size or trunk), noise about the law, or single '
           'runs; default: noise below 40 clusters')
  add('--bayes', action='store_true',
      help='approach 3: draws of a posterior under priors of published laws, for 3 runs and more')
  add('--level', type=float, default=0.95, help='level of the intervals (default 0.95)')
  add('--seed', type=int, default=0, help='seed of the resamples (default 0)')
  add('--json', action='store_true', help='print the report as JSON')
  add('--output', type=local_path, metavar='FOLDER',
      help='write fit.json, for plan --fit, and figures there')


def run(args: argparse.Namespace) -> int:
  from scaling.fitting import fit_report
  _check(args)
  runs = _dropped(_read(args), args.drop_highest)
  budgets = _budgets(args, runs)
  fit = None
  if args.form is not None:
    return _run_form(args, runs, budgets)
  if args.bayes:
    fit, report = _posterior(args, runs, budgets)
  elif args.approach == 3:
    fit, report = _parametric(args, runs, budgets)
  else:
    report = _allocation(args, runs, budgets)
  output.print_warnings(fit_report.list_warnings(report))
  if args.json:
    output.print_json(report)
  elif args.bayes:
    from scaling.fitting import posterior_report
    print(posterior_report.format_posterior(report))
  else:
    print(fit_report.format_report(report))
  if args.output is not None:
    written = _write(args, runs, fit, report)
    stream = sys.stderr if args.json else sys.stdout   # JSON stands alone
    print(f'\n{args.output}: {", ".join(path.name for path in written)}', file=stream)
    if fit is not None:
      print(f'Plan by it: t5x-lite scaling plan --fit={args.output} --flops=FLOPS', file=stream)
  return 0


def _run_form(args: argparse.Namespace, runs, budgets) -> int:
  """Fits a form, prints its report, and writes it."""
  from scaling import figures
  from scaling.fitting.fit_report import residual_figure
  from scaling.forms import form_fit, form_report
  from scaling.forms.form_figure import form_figure
  from scaling.forms.table import FORMS
  form = FORMS[args.form](runs)
  fit = form_fit.fit_form(form, runs, args.loss or form_fit.default_loss(form, runs))
  fit = form_fit.bootstrap(fit, args.bootstrap, args.seed)
  report = form_report.report_form(args.form, fit, budgets, args.level, args.seed)
  output.print_warnings(form_report.list_warnings(report))
  if args.json:
    output.print_json(report)
  else:
    print(form_report.format_form(report))
  if args.output is not None:
    args.output.mkdir(parents=True, exist_ok=True)
    write_text(args.output / 'fit.json', format_json(report) + '\n')
    name, picture = form_figure(args.form, fit, args.level)
    figures.save_figure(residual_figure(fit), args.output / 'residuals.png')
    figures.save_figure(picture, args.output / f'{name}.png')
    print(f'\n{args.output}: fit.json, residuals.png, {name}.png\nPlan by it: t5x-lite scaling '
          f'plan --fit={args.output} --flops=FLOPS', file=sys.stderr if args.json else sys.stdout)
  return 0


def _write(args: argparse.Namespace, runs, fit, report) -> list[pathlib.Path]:
  """Writes fit.json and the figures; returns the files."""
  from scaling import figures
  from scaling.fitting import fit_report, isoflop
  args.output.mkdir(parents=True, exist_ok=True)
  write_text(args.output / 'fit.json', format_json(report) + '\n')
  save = lambda figure, name: figures.save_figure(figure, args.output / name)
  if fit is not None:
    found = [save(fit_report.residual_figure(fit), 'residuals.png'),
             *figures.save_figures(fit, args.output)]
  elif args.approach == 2:
    found = [save(figures.isoflop(runs), 'isoflop.png')]
  else:
    found = [save(figures.envelope(isoflop.group_curves(runs)), 'envelope.png')]
  return [args.output / 'fit.json', *found]


def _check(args: argparse.Namespace) -> None:
  from scaling.planning.amounts import check_level, check_seed
  check_level(args.level)
  check_seed(args.seed)
  if args.bootstrap is None:
    args.bootstrap = SAMPLES['form' if args.form is not None else args.approach]
  _check_form(args)
  for name, good, cure in (
      ('bootstrap', args.bootstrap >= 20, 'give 20 or more'),
      ('drop_highest', args.drop_highest >= 0, 'give 0 or more')):
    if not good:
      raise UserError(f'--{name}={getattr(args, name)}: {cure}')
  if args.form is not None:
    return
  args.loss = args.loss or 'huber'
  if args.loss == 'linear':
    raise UserError('--loss=linear applies to --form: choose huber or lad')
  for flag, given in (('--loss=lad', args.loss == 'lad'), ('--drop_outliers', args.drop_outliers),
                      (f'--resample={args.resample}', args.resample is not None)):
    if given and args.approach != 3:
      raise UserError(f'{flag} applies to approach 3: leave it or --approach={args.approach} out')
    if given and args.bayes:
      raise UserError(f'{flag} does not apply to --bayes: leave one of them out')
  if args.bayes and args.approach != 3:
    raise UserError(f'--bayes applies to approach 3: leave it or --approach={args.approach} out')


def _check_form(args: argparse.Namespace) -> None:
  """Raises UserError for an unknown form, or flags that do not apply to forms."""
  if args.form is None:
    return
  from scaling.forms.table import FORMS
  if args.form not in FORMS:
    raise UserError(f'--form={args.form}: choose from {", ".join(FORMS)}')
  for flag, given in (('--approach', args.approach != 3), ('--loss=lad', args.loss == 'lad'),
                      ('--drop_outliers', args.drop_outliers), ('--resample', args.resample),
                      ('--bayes', args.bayes)):
    if given:
      raise UserError(f'{flag} does not apply to --form: leave it out')


def _read(args: argparse.Namespace):
  from scaling.fitting.run_folders import read_curves, read_folders
  from scaling.fitting.runs import read_csv
  columns = {}
  for item in args.columns:
    quantity, equals, name = item.partition('=')
    if not equals or not name:
      raise UserError(f'--columns {item}: expected QUANTITY=NAME, e.g. loss=val_loss')
    columns[quantity] = name
  paths = [local_path(path) for path in args.runs or [DATA]]
  folders = [path for path in paths if path.is_dir()]
  if folders and len(folders) == len(paths):
    if columns:
      raise UserError('--columns applies to CSV files, not to folders of runs: leave it out')
    return read_curves(paths) if args.approach == 1 else read_folders(paths)
  if len(paths) > 1:
    raise UserError(f'{len(paths)} paths: give one CSV file, or only folders of runs')
  return read_csv(paths[0], columns)


def _dropped(runs, count: int):
  """The runs without the `count` of the highest loss."""
  if count >= len(runs):
    raise UserError(f'--drop_highest={count} leaves none of {len(runs)} runs: give fewer')
  return runs.select(runs.loss.argsort(kind='stable')[:len(runs) - count])


def _budgets(args: argparse.Namespace, runs) -> list[float]:
  if args.budgets is None:
    return [float(runs.flops.max()) * factor for factor in (1, 10, 100)]
  try:
    budgets = [float(text) for text in args.budgets.split(',')]
  except ValueError:
    budgets = [math.nan]
  if not all(0 < budget < math.inf for budget in budgets):
    raise UserError(f'--budgets={args.budgets}: give FLOPs, e.g. --budgets=1e21,1e22')
  return budgets


def _parametric(args: argparse.Namespace, runs, budgets):
  from scaling.fitting import diagnostics, fit_report, parametric
  _, fit, outliers = diagnostics.fit_kept(runs, args.loss, args.drop_outliers)
  fit = parametric.bootstrap(fit, args.bootstrap, args.seed, args.resample)
  return fit, fit_report.report_fit(fit, budgets, args.level, outliers)


def _posterior(args: argparse.Namespace, runs, budgets):
  from scaling.fitting import bayesian, posterior_report
  fit = bayesian.fit_posterior(runs, args.bootstrap, args.seed)
  return fit, posterior_report.report_posterior(fit, budgets, args.level)


def _allocation(args: argparse.Namespace, runs, budgets):
  from scaling.fitting import fit_report, isoflop
  from scaling.fitting.runs import check_settings, check_unique
  check_unique(runs)
  check_settings(runs)
  if args.approach == 1:
    found = isoflop.fit_envelope(isoflop.group_curves(runs), args.bootstrap, args.seed)
  else:
    with warnings.catch_warnings(record=True):   # they are in the report
      found = isoflop.fit_parabolas(runs.parameters, runs.flops, runs.loss, args.bootstrap,
                                    args.seed)
  fitted = min(m.flops for m in found.minima), max(m.flops for m in found.minima)
  return fit_report.report_allocation(found, args.approach, fitted, len(runs), budgets, args.level)
