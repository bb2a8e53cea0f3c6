"""`t5x-lite questionnaire`: people's answers on systems as a table with intervals and tests."""

import argparse

from t5x_lite.core.paths import local_path

EXAMPLE = 't5x-lite questionnaire answers.csv'


def add_flags(parser: argparse.ArgumentParser) -> None:
  add = parser.add_argument
  add('file', metavar='FILE', type=local_path,
      help='a .csv or .jsonl file of system, question, success (0 or 1), and item, the dialogue or '
           'task asked about, where systems had the same')
  add('--json', action='store_true', help='print JSON')


def run(args: argparse.Namespace) -> int:
  from t5x_lite.core.strict_json import format_json
  from t5x_lite.evaluation.questionnaires import compare_systems, read_answers, tabulate
  answers = read_answers(args.file)
  cells, tests = tabulate(answers), compare_systems(answers)
  if args.json:
    print(format_json({'cells': [cell._asdict() for cell in cells],
                       'tests': [test._asdict() for test in tests]}, indent=1))
    return 0
  for question in dict.fromkeys(cell.question for cell in cells):
    print(_table(question, [cell for cell in cells if cell.question == question]))
    print(_tests([test for test in tests if test.question == question]))
  print('Intervals of 95 %: Wald, as papers print it, then Wilson and exact (Clopper-Pearson). '
        'p-values are of single tests.')
  return 0


def _table(question: str, cells) -> str:
  width = max(6, *(len(cell.system) for cell in cells))
  lines = [question, f'  {"system":<{width}}  {"n":>6}  {"yes":>7}  {"Wald":>6}  {"Wilson":>13}  '
           f'{"exact":>13}']
  ends = lambda interval: f'{100 * interval.low:.1f} – {100 * interval.high:.1f}'
  for cell in cells:
    lines.append(f'  {cell.system:<{width}}  {cell.number:>6,}  '
                 f'{100 * cell.successes / cell.number:>5.2f} %  ±{100 * cell.half_width:>5.2f}  '
                 f'{ends(cell.wilson):>13}  {ends(cell.exact):>13}')
  return '\n'.join(lines)


def _tests(tests) -> str:
  return ''.join(
      f'  {test.a} and {test.b}: {100 * test.difference:+.2f}, p = {test.p_value:.2g}, '
      + (f'McNemar, {test.number:,} items' if test.paired else 'two proportions') + '\n'
      for test in tests)
