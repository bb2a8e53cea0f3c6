"""`t5x-lite contamination`: overlap of an evaluation set with training text."""

import argparse
from collections.abc import Iterator
import dataclasses
import json
import pathlib
from typing import Any

from t5x_lite.commands import gin_flags
from t5x_lite.core.console import note
from t5x_lite.core.errors import UserError
from t5x_lite.core.files import check_writable, write_text
from t5x_lite.core.paths import local_path

EXAMPLE = ("t5x-lite contamination runs/lm/evaluations/arc_challenge-25shot-1000.json "
           "--training='data/*.jsonl'")


def add_flags(parser: argparse.ArgumentParser) -> None:
  from t5x_lite.evaluation.contamination import CONVENTIONS, DEFAULT_FIELDS
  add = parser.add_argument
  add('items', metavar='ITEMS', help='the JSON file of a result, whose items are beside it; or '
      'a file of items of any format that a FileTask reads')
  add('--fields', metavar='NAMES', help='whose texts are compared, such as question,choices; '
      f'default: those of {", ".join(DEFAULT_FIELDS)} that an item has')
  add('--training', action='append', default=[], metavar='FILES', help='path, URL or glob of '
      'training text, of any format that a FileTask reads; may be given again')
  add('--training_field', default='text', metavar='FIELD', help='of the text in JSON and tables, '
      "or a text with {names} of fields; default: text")
  add('--skip_bad', action='store_true', help='count and leave out lines of the training files '
      'that are not as they should be')
  add('--convention', choices=CONVENTIONS, default='gpt3', help='; '.join(
      f'{name}: an item is dirty if {rule}' for name, rule in CONVENTIONS.items()
  ).replace('%', '%%') + '; default: gpt3')
  add('--n', type=int, help="words of an n-gram; default: the convention's")
  add('--rule', help="any, ngrams or words; default: the convention's")
  add('--threshold', type=float, help='the share that makes an item dirty, of ngrams and words')
  add('--output', metavar='FILE', type=local_path, help='JSON; default: contamination/NAME.json '
      'beside the items')
  add('--json', action='store_true', help='print JSON')
  group = parser.add_argument_group('the training source of a run, or its cache')
  gin_flags.add_flags(group)


def run(args: argparse.Namespace) -> int:
  from t5x_lite.evaluation import contamination
  changes = {name: value for name in ('n', 'rule', 'threshold')
             if (value := getattr(args, name)) is not None}
  if args.n is not None and args.n < 1:
    raise UserError(f'--n={args.n}: give 1 or more')
  if args.threshold is not None and not 0 < args.threshold <= 1:
    raise UserError(f'--threshold={args.threshold:g}: give a share above 0 and at most 1')
  convention = dataclasses.replace(contamination.CONVENTIONS[args.convention], **changes)
  if 'threshold' in changes and convention.rule == 'any':
    raise UserError('--threshold is of the rules ngrams and words: name one by --rule')
  if bool(args.training) == bool(args.gin_file):
    raise UserError('name the training text: files by --training, or a run by --gin_file')
  path, records, about = _read_items(args.items)
  name = path.name if about else f'{path.name}.json'
  output = args.output or path.parent / 'contamination' / name
  check_writable(output)
  fields = args.fields and [name.strip() for name in args.fields.split(',')]
  items = contamination.make_items(records, fields, str(path))
  index = contamination.NgramIndex(items, convention.n)
  sources = _read_training(args, index)
  if not index.num_words:
    raise UserError('the training text is empty: name other files, or another field of them by '
                    '--training_field')
  report = about | contamination.make_report(index, records, convention)
  report['fields'] = fields or [*contamination.DEFAULT_FIELDS]
  report['training'] |= sources
  write_text(output, json.dumps(report, indent=1, ensure_ascii=False) + '\n')
  print(json.dumps(report) if args.json else
        f'{contamination.as_text(report)}\n{output}')
  return 0


def _read_items(text: str) -> tuple[pathlib.Path, list[dict[str, Any]], dict[str, Any]]:
  """(the file, its items, of what result they are)."""
  from t5x_lite.data.files.texts import read_records
  from t5x_lite.evaluation import results
  path = local_path(text)
  if path.suffix == '.json' and path.with_suffix('.jsonl').is_file():
    result = results.read_result(path)
    return path, results.read_items(path), {
        'task': result.task, 'shots': result.shots, 'model': result.model, 'step': result.step}
  return path, [record for _, record in read_records(text, 'ITEMS')], {}


def _read_training(args: argparse.Namespace, index) -> dict[str, Any]:
  """Reads the training text once; returns what it was."""
  from t5x_lite.data.files.texts import TextStream
  if args.gin_file:
    data = gin_flags.load_described(args, trains=True).data
    index.read(_texts_of_run(data))
    return {'source': data.name, 'split': getattr(data, 'split', None),
            'cache': getattr(data, 'cache_dir', None)}
  streams = [TextStream(pattern, args.training_field, '--training', args.skip_bad)
             for pattern in args.training]
  for stream in streams:
    index.read(stream)
    if stream.num_skipped:
      note(f'{stream.num_skipped} examples are left out, the first: {stream.skipped}')
  return {'files': [name for stream in streams for name in stream.files],
          'num_skipped': sum(stream.num_skipped for stream in streams)}


def _texts_of_run(data: Any) -> Iterator[Any]:
  from tasks.pipeline.imports import import_seqio
  from tasks.pipeline.seqio_data import DataConfig
  if not isinstance(data, DataConfig):
    raise UserError(f'{type(data).__name__} is no source of texts: name the training files by '
                    '--training')
  import_seqio()
  from tasks.pipeline.texts import training_texts
  return training_texts(data)
