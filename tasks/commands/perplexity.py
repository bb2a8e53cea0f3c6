"""`t5x-lite perplexity`: perplexity and bits a byte of documents, and the loss by position."""

import argparse
from collections.abc import Iterator
import dataclasses
import itertools
import json
import pathlib
import re

from t5x_lite.commands import gin_flags, served_model
from t5x_lite.core.console import note
from t5x_lite.core.errors import UserError
from t5x_lite.core.files import check_writable, write_text
from t5x_lite.core.paths import local_path

EXAMPLE = "t5x-lite perplexity runs/lm --text='books/*.txt'"


def add_flags(parser: argparse.ArgumentParser) -> None:
  add = parser.add_argument
  add('run', metavar='RUN', help='the folder of a run')
  add('--text', metavar='FILES', help='path, URL or glob of any format that a FileTask reads: a '
      '.txt file is one document, others have one in each record')
  add('--field', default='text', metavar='FIELD', help='of the text in JSON and tables, or a text '
      'with {names} of fields; default: text')
  add('--split', metavar='NAME', help="of the run's task, or of another's (--gin.TASK)")
  add('--join', metavar='TEXT', help='read all documents as one, with this between them; \\n is '
      'the end of a line')
  add('--limit', type=int, metavar='N', help='the first N documents')
  add('--batch_size', type=int, default=16, metavar='N', help='windows at a time')
  add('--max_length', type=int, metavar='N', help='tokens that the model reads (default: as many '
      'as it has positions for)')
  add('--stride', type=int, metavar='N', help='tokens from a window to the next one (default: '
      'windows share one token)')
  add('--name', metavar='NAME', help="of the result's files (default: of the file or task)")
  add('--output', metavar='FILE', type=local_path, help='draw the loss by position')
  add('--fresh', action='store_true', help='compute every answer again')
  add('--json', action='store_true', help='print JSON')
  gin_flags.add_flags(parser)


def run(args: argparse.Namespace) -> int:
  from t5x_lite.commands import evaluate
  from t5x_lite.evaluation import language_modelling
  from t5x_lite.evaluation.results import write_result
  from t5x_lite.training.run_folder import RunFolder
  for name in ('limit', 'batch_size', 'max_length', 'stride'):
    if (value := getattr(args, name)) is not None and value < 1:
      raise UserError(f'--{name}={value}: give 1 or more')
  if bool(args.text) == bool(args.split):
    raise UserError('name what is read: files by --text, or a split of a task by --split')
  if args.output:
    check_writable(args.output)
  experiment = served_model.load_experiment(args)
  if args.stride and experiment.model.family != 'decoder_only':
    raise UserError('--stride is of decoders: leave it out')
  name, documents = _read(args, experiment)
  model, step = evaluate.load_text_model(
      experiment, batch_size=args.batch_size, max_length=args.max_length, fresh=args.fresh,
      trusted_modules=args.trusted_modules)
  records, bands = language_modelling.score_documents(documents, model, args.stride)
  if left := len(documents) - len(records):
    note(f'{left} documents have no token to predict and are left out')
  result = dataclasses.replace(
      make_result(name, records, model, args.stride), model=str(args.run), step=step)
  if not evaluate.is_first_process():
    return 0
  path = write_result(RunFolder(experiment.folder).evaluations, result, records)
  rows = [band._asdict() for band in bands]
  table = path.with_suffix('.positions.csv')
  write_text(table, ''.join(','.join(map(str, row)) + '\n' for row in [rows[0], *(
      row.values() for row in rows)]))
  if args.output:
    from t5x_lite.core.files import save_figure
    from t5x_lite.evaluation.position_plot import draw_positions
    save_figure(draw_positions({name: bands}), args.output)
  if args.json:
    print(json.dumps({**dataclasses.asdict(result), 'positions': rows}))
    return 0
  print('\n'.join([*evaluate.format_result(result), f'  {path}', _format_bands(bands),
                   f'  {table}', *([f'  {args.output}'] if args.output else [])]))
  return 0


def make_result(name: str, records, model, stride: int | None):
  """The TaskResult of records of language_modelling.score_documents."""
  from t5x_lite.evaluation.results import TaskResult
  from t5x_lite.evaluation.suites.scoring import perplexities
  windows = 'each shares a token with the one before' if stride is None else (
      f'{stride} tokens from one to the next, the first token is not scored')
  return TaskResult(
      task=name, shots=0, number=len(records), headline='bits_per_byte',
      metrics=perplexities(records), conventions={
          'tokens': sum(r['tokens'] for r in records), 'words': sum(r['words'] for r in records),
          'bytes': sum(r['bytes'] for r in records), 'context': model.max_length,
          'windows': windows, 'ids before a text': [int(i) for i in model.reader.before]})


def _format_bands(bands) -> str:
  lines = [f'  {"tokens read before":<24}{"tokens":>12}  nats a token']
  lines += [f'  {f"{band.low} – {band.high}" if band.low < band.high else f"{band.low}":<24}'
            f'{band.tokens:>12,}  {band.loss:>12.4f}' for band in bands]
  return '\n'.join(lines)


def _read(args: argparse.Namespace, experiment):
  """(a name, Documents) of --text or --split."""
  from t5x_lite.evaluation.language_modelling import Document
  if args.split:
    name, found = f'{experiment.data.name}-{args.split}', _of_task(experiment, args.split)
  else:
    name, found = pathlib.PurePath(args.text).stem, _of_files(args.text, args.field)
  documents = [*itertools.islice(found, args.limit)]
  if not documents:
    raise UserError(f'{args.text or name} has no documents')
  if args.join is not None:
    if any(document.context is not None for document in documents):
      raise UserError('--join: the task has inputs, which belong to the targets of their own '
                      'example: leave it out')
    between = args.join.replace('\\n', '\n')
    documents = [Document(f'{len(documents)} documents', between.join(d.text for d in documents))]
  return re.sub(r'[^\w.-]+', '_', args.name or name), documents


def _of_files(pattern: str, field: str) -> Iterator:
  from t5x_lite.data.files.find import find_files
  from t5x_lite.data.files.plain import plain_file
  from t5x_lite.data.files.texts import TextStream
  from t5x_lite.evaluation.language_modelling import Document
  for name in find_files(pattern, '--text'):
    file = plain_file(name, '--text')
    if file.kind != '.txt':
      for text in TextStream(name, field, '--text'):
        yield Document(text.place, text.text)
      continue
    try:
      yield Document(name, file.path.read_bytes().decode())
    except UnicodeDecodeError as error:
      raise UserError(f'--text={name}: not UTF-8 (byte {error.start})') from error


def _of_task(experiment, split: str) -> Iterator:
  """Targets after the inputs of their example, or the texts of a task that has no inputs."""
  from t5x_lite.core.dataclass_checks import nearest
  from t5x_lite.evaluation.language_modelling import Document
  data = experiment.data
  splits = data.splits()
  if split not in splits:
    raise UserError(f'--split: {nearest(split, splits)}' if splits else
                    f'{data.name or "the run"} has no splits: name files by --text')
  if not data.lengths.get('inputs'):
    from tasks.pipeline.texts import targets_of
    for text in targets_of(data, split):
      yield Document(text.place, text.text)
    return
  for number, example in enumerate(data.examples(split, None, experiment.seed)):
    if not isinstance(example['targets'], str):
      raise UserError(f'{data.name} has targets that are no texts: choose a task of texts')
    yield Document(f'{data.name} {split} example {number}', example['targets'], example['ids'])
