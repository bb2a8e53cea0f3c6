"""`t5x-lite scaling hyperparameters`: learning rate and batch size by sweeps of one's own."""

import argparse
import math

from t5x_lite.core.errors import UserError
from t5x_lite.core.paths import local_path

EXAMPLE = 't5x-lite scaling hyperparameters sweep.csv --parameters=1e8 --tokens=2e9'


def add_flags(parser: argparse.ArgumentParser) -> None:
  from scaling.planning.amounts import parse_amount
  add = parser.add_argument
  add('sweep', metavar='CSV', type=local_path,
      help='a run on each line: parameters, tokens, learning_rate, batch_tokens, loss')
  add('--parameters', type=parse_amount, metavar='N',
      help='of the run to recommend for, counted as in the file')
  add('--tokens', type=parse_amount, metavar='D', help='of the run to recommend for')
  add('--level', type=float, default=0.95, help='level of the intervals (default 0.95)')
  add('--json', action='store_true', help='print JSON')


def run(args: argparse.Namespace) -> int:
  from scaling.commands.output import print_json
  from scaling.fitting import hyperparameter_fit
  from scaling.planning.amounts import check_level
  check_level(args.level)
  if (args.parameters is None) != (args.tokens is None):
    raise UserError('a recommendation is for N and D: pass --parameters and --tokens')
  law = hyperparameter_fit.fit_hyperparameters(hyperparameter_fit.read_sweep(args.sweep))
  points = [(cell.parameters, cell.tokens) for cell in law.cells]
  if args.parameters is not None:
    for name in ('parameters', 'tokens'):
      if not 0 < getattr(args, name) < math.inf:
        raise UserError(f'--{name}={getattr(args, name):g}: give a number above 0')
    law.check_inside(args.parameters, args.tokens)
    points = [(args.parameters, args.tokens)]
  report = {'rate': _law(law.rate, args.level), 'batch': law.batch and _law(law.batch, args.level),
            'noise': law.noise, 'cells': len(law.cells), 'dropped': law.dropped,
            'level': args.level, 'points': [_point(law, *point, args.level) for point in points]}
  if args.json:
    print_json(report)
  else:
    print(_format(report))
  return 0


def _law(law, level: float) -> dict:
  p, q = law.exponents(level)
  return {'coefficient': law.coefficient, 'p': p, 'q': q}


def _point(law, parameters: float, tokens: float, level: float) -> dict:
  """The optima at N and D: of this law, and of the published ones."""
  from scaling.laws import hyperparameters
  rules = {name: hyperparameters.compute_recipe(name, parameters=parameters, tokens=tokens,
                                                flops=6 * parameters * tokens)
           for name in hyperparameters.RECIPES}
  return {'parameters': parameters, 'tokens': tokens,
          'learning_rate': law.rate.predict(parameters, tokens, level),
          'batch_tokens': law.batch and law.batch.predict(parameters, tokens, level),
          'published': {name: {'learning_rate': rule[0], 'batch_tokens': rule[1]}
                        for name, rule in rules.items()}}


def _format(report: dict) -> str:
  between = lambda value: f'{value[0]:.3g} ({value[1]:.3g} to {value[2]:.3g})'
  lines = [f'{report["cells"]} cells of one N and D, noise of {100 * report["noise"]:.2g} % about '
           f'their quadratics; intervals at {report["level"]:.0%}']
  lines += [f'Left out: {line}' for line in report['dropped']]
  for name, law in (('rate', report['rate']), ('batch, tokens', report['batch'])):
    if law:
      lines.append(f'{name} = {law["coefficient"]:.4g} N^p D^q, p {between(law["p"])}, '
                   f'q {between(law["q"])}')
  names = list(report['points'][0]['published'])
  lines += ['', f'{"N":>10}{"D":>10}  {"rate by these sweeps":<34}'
            + ''.join(f'{name:>12}' for name in names)]
  lines += [f'{at["parameters"]:>10.3g}{at["tokens"]:>10.3g}  {between(at["learning_rate"]):<34}'
            + ''.join(f'{at["published"][name]["learning_rate"]:>12.3g}' for name in names)
            for at in report['points']]
  if report['batch']:
    lines += ['', f'{"N":>10}{"D":>10}  {"batch in tokens by these sweeps":<34}'
              + ''.join(f'{name:>12}' for name in names)]
    lines += [f'{at["parameters"]:>10.3g}{at["tokens"]:>10.3g}  {between(at["batch_tokens"]):<34}'
              + ''.join(f'{at["published"][name]["batch_tokens"]:>12.3g}' for name in names)
              for at in report['points']]
  return '\n'.join(lines)
