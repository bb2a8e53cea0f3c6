"""`t5x-lite evaluate tax`: what a fine-tuning took: scores and calibration before and after."""

import argparse
import dataclasses

from t5x_lite.core.paths import local_path

EXAMPLE = 't5x-lite evaluate tax runs/lm runs/tuned'


def add_flags(parser: argparse.ArgumentParser) -> None:
  add = parser.add_argument
  what = 'the folder of a run, whose evaluations are taken, or the JSON file of a result'
  add('before', metavar='BEFORE', type=local_path, help=what)
  add('after', metavar='AFTER', type=local_path, help='the same of the model that was made of it')
  add('--output', metavar='FILE', type=local_path, help='write the table as Markdown')
  add('--json', action='store_true', help='print JSON')


def run(args: argparse.Namespace) -> int:
  from t5x_lite.commands.evaluate_compare import names_of
  from t5x_lite.core.files import check_writable, write_text
  from t5x_lite.core.strict_json import format_json
  from t5x_lite.evaluation.alignment_tax import alignment_tax, as_markdown
  if args.output:
    check_writable(args.output)
  rows = alignment_tax(args.before, args.after)
  table = as_markdown(rows, tuple(names_of(args.before, args.after)))
  notes = [f'note: {row.task}, {row.shots}-shot: {note}' for row in rows for note in row.notes]
  if args.output:
    write_text(args.output, table + '\n')
  if args.json:
    print(format_json([{
        'task': row.task, 'shots': row.shots, 'metric': row.metric,
        'before': row.change.mean_b, 'after': row.change.mean_a,
        **dataclasses.asdict(row.change), 'differ': row.change.differ, 'notes': row.notes,
        'calibration': row.calibrations and [x._asdict() for x in row.calibrations]}
        for row in rows], indent=1))
  else:
    print('\n'.join([table, *notes]))
  return 0
