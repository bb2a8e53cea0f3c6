"""`t5x-lite train-vocab`: a SentencePiece vocabulary of the text of a task, or of files."""

import argparse

from t5x_lite.core.errors import UserError
from t5x_lite.core.paths import local_path

EXAMPLE = 't5x-lite train-vocab --task=stdlib_docstring --size=2048 --output=runs/vocab'


def add_flags(parser: argparse.ArgumentParser) -> None:
  add = parser.add_argument
  source = parser.add_mutually_exclusive_group(required=True)
  source.add_argument('--task', help='a registered seqio task')
  source.add_argument('--files', help='path, URL or glob of files of any format FileTask reads')
  add('--task_module', default='tasks.datasets.stdlib', help='module registering the task')
  add('--split', default='train', help='of the task')
  add('--text', default='text', help='of the files: a field, or a text with {names} of fields')
  add('--model_type', choices=('unigram', 'bpe'), default='unigram')
  add('--user_symbols', nargs='+', default=(), help='texts that are always one piece')
  add('--size', type=int, required=True, help='number of pieces')
  add('--output', required=True, type=local_path, help='writes OUTPUT.model and OUTPUT.vocab')


def run(args: argparse.Namespace) -> int:
  from tasks.pipeline.imports import import_seqio, import_task_module
  import_seqio()
  if args.files:
    from tasks import files
    texts = files.read_texts(args.files, args.text, '--files')
  else:
    from tasks.pipeline import registry
    try:
      import_task_module(args.task_module)
    except ModuleNotFoundError as e:
      raise UserError(f'--task_module={args.task_module}: cannot be imported: {e}') from e
    try:
      texts = registry.raw_texts(args.task, args.split)
    except UserError as e:
      raise UserError(f'--task={args.task} --split={args.split}: {e}') from e
  from tasks.vocabularies import train_vocabulary
  path = train_vocabulary.train_sentencepiece(
      texts, args.size, str(args.output), model_type=args.model_type,
      user_symbols=args.user_symbols)
  print(f'{path}: use it with --gin.VOCABULARY={path}')
  return 0
