"""`t5x-lite dialogue convert`: dialogues of a public corpus as JSON Lines of the one schema."""

import argparse
from collections.abc import Sequence
import json
import pathlib

from t5x_lite.core.errors import UserError, why
from t5x_lite.core.files import check_writable, write_text
from t5x_lite.core.paths import local_path
from t5x_lite.dialogue.domains import Schema, derive_schema
from t5x_lite.dialogue.faults import KINDS, POLICIES, FaultReport, check_dialogues
from t5x_lite.dialogue.schema import Dialogue, json_lines
from tasks.datasets.prepared_dialogues import PREFIX, read_prepared
from tasks.dialogue import multiwoz_names, sgd
from tasks.dialogue.reading import FORMS, read_dialogues
from tasks.dialogue.records import SPLITS
from tasks.dialogue.results import read_database, with_results

EXAMPLE = ('t5x-lite dialogue convert MultiWOZ_2.1 --form=multiwoz21 --split=test '
           '--output=dialogues.jsonl --policy=skip')


def add_flags(parser: argparse.ArgumentParser) -> None:
  add = parser.add_argument
  add('source', metavar='SOURCE', type=_source,
      help='a file, plain or packed (.zip, .gz, .xz), a folder as it is published, or '
      f'{PREFIX}NAME of a data set that TFDS has prepared')
  add('--form', choices=FORMS, help='of files; multiwoz21 is that of 2.0 to 2.4 but 2.2')
  add('--split', choices=SPLITS, help='of a folder; default: all of it')
  add('--output', required=True, type=local_path, metavar='FILE', help='JSON Lines')
  add('--policy', choices=POLICIES, default='keep',
      help='with dialogues that have faults; default: keep them all')
  add('--ignore', metavar='KINDS', default='',
      help='faults that are counted only, comma-separated: ' + ', '.join(KINDS))
  add('--schema', type=local_path, metavar='FILE',
      help='of services, as SGD and MultiWOZ 2.2 have one; default: what is known of the form, '
      'else the names that the dialogues use')
  add('--database', type=local_path, metavar='PATH', help="MultiWOZ's folder or CamRest's file, by "
      'which turns of the system get the number of entries that match the state before them')


def run(args: argparse.Namespace) -> int:
  named = args.source if isinstance(args.source, pathlib.Path) else None
  check_writable(args.output, (named, args.schema, args.database))
  ignored = [kind.strip() for kind in args.ignore.split(',') if kind.strip()]
  if unknown := [kind for kind in ignored if kind not in KINDS]:
    raise UserError(f'--ignore: {unknown[0]!r} is no fault: choose from {", ".join(KINDS)}')
  dialogues, report = _read(args), FaultReport()
  schema = _schema(args.schema, args.form) or derive_schema(dialogues)
  if args.database is not None:
    dialogues = [*with_results(dialogues, read_database(args.database, schema))]
  good = [*check_dialogues(dialogues, schema, args.policy, report, ignored)]
  write_text(args.output, json_lines(good))
  print('\n'.join([*summary(good), *_fault_lines(report), str(args.output)]))
  return 0


def _source(text: str) -> str | pathlib.Path:
  """A name of TFDS as it is, else a path."""
  return text if text.startswith(PREFIX) else local_path(text)


def _read(args: argparse.Namespace) -> list[Dialogue]:
  if isinstance(args.source, str):
    if args.form is not None:
      raise UserError(f'--form is of files, and {args.source} is of TFDS: leave it out')
    found = [*read_prepared(args.source.removeprefix(PREFIX), args.split)]
    print('TFDS has texts and domains: no states, acts or spans')
    return found
  if args.form is None:
    raise UserError(f'--form is missing: one of {", ".join(FORMS)}')
  return [*read_dialogues(args.source, args.form, args.split)]


def summary(dialogues: Sequence[Dialogue]) -> list[str]:
  """Lines: how many dialogues and turns, and how many are about each domain."""
  turns = sum(len(one.turns) for one in dialogues)
  lines = [f'{len(dialogues):,} dialogues, {turns:,} turns']
  domains = [domain for one in dialogues for domain in dict.fromkeys(one.domains)]
  lines += [f'  {domains.count(domain):6,d}  {domain}' for domain in sorted({*domains})]
  return lines


def _fault_lines(report: FaultReport) -> list[str]:
  lines = [f'{report.skipped:,} of {report.dialogues:,} left out'] if report.skipped else []
  return lines + [f'fault: {line}' for line in report.lines()] or ['no faults']


def _schema(path: pathlib.Path | None, form: str | None) -> Schema | None:
  if path is None:
    return FORMS[form].schema if form else None
  try:
    services = json.loads(path.read_text(encoding='utf-8'))
    own = all(slot['name'].startswith(f'{service["service_name"]}-')   # as MultiWOZ 2.2 names them
              for service in services for slot in service['slots'])
    return sgd.read_schema(services, **({'name': multiwoz_names.slot_name} if own else {}))
  except (OSError, ValueError) as error:
    raise UserError(f'{path}: cannot be read: {why(error)}') from error
  except (KeyError, TypeError, AttributeError) as error:
    raise UserError(f'{path}: is no list of services with service_name and slots, '
                    f'{type(error).__name__}: {error}') from error
