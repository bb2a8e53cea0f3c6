"""`t5x-lite dialogue score`: Inform, Success and more of a system's predictions on MultiWOZ."""

import argparse
import dataclasses
import pathlib
from typing import Any

from t5x_lite.core.errors import UserError
from t5x_lite.core.paths import local_path

EXAMPLE = 't5x-lite dialogue score predictions.json --data=multiwoz --against=baseline.json'


def add_flags(parser: argparse.ArgumentParser) -> None:
  add = parser.add_argument
  add('predictions', metavar='PREDICTIONS.json', type=local_path,
      help='responses and states of every system turn, as the public MultiWOZ evaluation reads '
           'them; may end in .gz')
  add('--data', metavar='FOLDER', type=local_path, required=True,
      help='has goals.json, booked_domains.json and database/; gold_states.json for states and '
           'references.json for BLEU')
  add('--against', metavar='OTHER.json', type=local_path,
      help='predictions of another system: differences on the dialogues of both')
  add('--output', metavar='FILE', type=local_path, help='write the result as JSON')
  add('--json', action='store_true', help='print JSON')


def run(args: argparse.Namespace) -> int:
  from t5x_lite.core.files import check_writable, write_text
  from t5x_lite.core.strict_json import format_json
  from t5x_lite.dialogue.scoring.predictions import read_predictions, read_reference, takes_gold
  from t5x_lite.dialogue.scoring.report import score
  if args.output:
    check_writable(args.output, (args.predictions, args.against))
  reference = read_reference(args.data)
  predictions = read_predictions(args.predictions, reference)
  other = read_predictions(args.against, reference) if args.against else None
  # States that a file takes from the corpus say nothing of a system.
  gold, stateless = takes_gold(predictions, reference), dataclasses.replace(reference, states=None)
  report = score(predictions, stateless if gold else reference)
  comparison = None
  if other is not None:
    comparison = _compare(args, predictions, other, stateless if (
        gold or takes_gold(other, reference)) else reference)
  found = {'predictions': args.predictions, 'report': report, 'against': comparison}
  if args.output:
    write_text(args.output, format_json(found, indent=1) + '\n')
  if args.json:
    print(format_json(found, indent=1))
  else:
    if gold:
      print('No states are predicted: Inform and Success are by those of the corpus')
    print(_text(report, len(predictions)))
    if comparison:
      print(_differences(comparison))
  return 0


def _compare(args: argparse.Namespace, ours, theirs, reference) -> dict[str, Any]:
  """Differences on the dialogues of both, and whether Inform and Success are apart."""
  from t5x_lite.dialogue.scoring.report import dialogue_sums, differences
  from t5x_lite.evaluation.comparison import compare
  names = [name for name in ours if name in theirs]
  if len(names) < 2:
    raise UserError(f'{args.against}: shares {len(names)} dialogues with {args.predictions}: '
                    'compare systems on the same ones')
  sums = [dialogue_sums({name: side[name] for name in names}, reference) for side in (ours, theirs)]
  verdicts = {}
  for kind in ('inform', 'success'):
    a, b = ([one[f'{kind} total'] for one in side.values()] for side in sums)
    verdicts[kind] = compare(a, b).verdict(*_names(args.predictions, args.against))
  return {'predictions': args.against, 'dialogues': len(names),
          'figures': differences(*sums), 'verdicts': verdicts}


def _names(*paths: pathlib.Path) -> list[str]:
  names = [path.name.removesuffix('.gz').removesuffix('.json') for path in paths]
  return names if len(set(names)) == 2 else list(map(str, paths))


def _text(report, number: int) -> str:
  richness, figures = report.richness, report.figures
  lines = [f'{number:,} dialogues' + (
      f'; {len(report.missing):,} were not predicted, such as {report.missing[0]}: figures are of '
      'those that were' if report.missing else '')]
  lines.append(f'{"":<28}  {"dialogues":>9}  {"score":>6}  {"95 % interval":>15}')
  for name, figure in figures.items():
    domain = name.split()[1] if name.startswith(('inform ', 'success ')) else 'total'
    lines.append(f'{name:<28}  {report.dialogues[domain]:>9,}  {figure.value:>6.2f}  '
                 f'{figure.interval.low:>6.2f} – {figure.interval.high:>6.2f}')
  lines.append(f'{richness.words:,} different words, {richness.bigrams:,} bigrams, '
               f'{richness.trigrams:,} trigrams; entropy {richness.entropy:.2f} bits, '
               f'{richness.conditional_entropy:.2f} after a word')
  return '\n'.join(lines)


def _differences(comparison: dict[str, Any]) -> str:
  lines = [f'\nless {comparison["predictions"]}, on {comparison["dialogues"]:,} dialogues of both']
  lines += [f'{name:<28}  {"":>9}  {figure.value:>+6.2f}  {figure.interval.low:>+6.2f} – '
            f'{figure.interval.high:>+6.2f}' for name, figure in comparison['figures'].items()]
  return '\n'.join(lines + [
      f'{kind}: {verdict}' for kind, verdict in comparison['verdicts'].items()])
