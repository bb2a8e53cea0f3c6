"""`t5x-lite calibration`: does the confidence of a model say how often it is right?"""

import argparse

from t5x_lite.core.errors import UserError
from t5x_lite.core.paths import local_path

EXAMPLE = ('t5x-lite calibration runs/lm/evaluations/arc_challenge-25shot-1000.json '
           '--output=reliability.png')
_LABELS = {'accuracy': 'accuracy', 'confidence': 'mean confidence',
           'ece': 'ECE, 15 bins of equal width', 'ece_equal_mass': 'ECE, 15 bins of equal mass',
           'max_error': 'maximum calibration error', 'brier': 'Brier, sum over choices',
           'brier_binary': 'Brier of being right', 'nll': 'negative log-likelihood, nats'}


def add_flags(parser: argparse.ArgumentParser) -> None:
  add = parser.add_argument
  add('result', metavar='RESULT', type=local_path,
      help='the JSON file of a multiple-choice result; its items lie beside it')
  add('--fit', metavar='OTHER', type=local_path,
      help='a result of the same model on a validation part: its temperature is fitted there and '
           'applied to RESULT')
  add('--output', metavar='FILE', type=local_path, help='draw the reliability diagram')
  add('--json', action='store_true', help='print JSON')


def run(args: argparse.Namespace) -> int:
  from t5x_lite.core.strict_json import format_json
  from t5x_lite.evaluation import calibration
  if args.fit and args.fit.resolve() == args.result.resolve():
    raise UserError(f'{args.fit} is what is measured: fit the temperature on another part')
  scores = calibration.choice_scores(args.result)
  temperatures = {'as it is': 1.0}
  if args.fit:
    fitted = calibration.fit_temperature(calibration.choice_scores(args.fit))
    temperatures[f'temperature {fitted:.3g}'] = fitted
  found = {name: calibration.measure(scores, t) for name, t in temperatures.items()}
  tables = {name: calibration.reliability(*calibration.confidences(
      scores.probs_NC(t), scores.gold_N)) for name, t in temperatures.items()}
  if args.json:
    print(format_json([{'temperature': t, 'items': len(scores.gold_N), **found[name]._asdict(),
                        'reliability': [row._asdict() for row in tables[name]]}
                       for name, t in temperatures.items()], indent=1))
  else:
    print(f'{len(scores.gold_N):,} items; confidence is a softmax over the log-likelihoods of '
          'choices')
    print(_figures(found))
    print(_table(next(iter(tables.values()))))
  if args.output:
    from t5x_lite.core.files import save_figure
    from t5x_lite.evaluation.calibration_plot import draw_reliability
    picture = save_figure(draw_reliability(tables), args.output)
    if not args.json:
      print(f'Picture: {picture}')
  return 0


def _figures(found) -> str:
  lines = [f'{"":<30}' + ''.join(f'{name:>18}' for name in found)]
  lines += [f'{label:<30}' + ''.join(f'{getattr(x, name):>18.4f}' for x in found.values())
            for name, label in _LABELS.items()]
  return '\n'.join(lines) + '\n'


def _table(table) -> str:
  lines = ['confidence     items  mean confidence  accuracy']
  lines += [f'{row.low:.3f} – {row.high:.3f}  {row.number:>4,}  {row.confidence:>15.3f}  '
            f'{row.accuracy:>8.3f}' for row in table if row.number]
  return '\n'.join(lines)
