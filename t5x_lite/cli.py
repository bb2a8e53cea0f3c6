"""The command line: t5x-lite COMMAND --gin_file=FILE [--gin.NAME=VALUE …].

Nothing heavy is imported before a command is known to be well formed.
"""

import argparse
import json
import os
import pathlib
import sys

from t5x_lite import __version__
from t5x_lite.errors import UserError

COMMANDS = {
    'train': ('train a model, or take a stopped run up again',
              't5x-lite train --gin_file=experiments/tiny_lm.gin --gin.MODEL_DIR=runs/lm'),
    'eval': ('evaluate a checkpoint of a run on its task',
             't5x-lite eval --gin_file=runs/lm/config.gin --gin.EvalConfig.split=test'),
    'infer': ('write what a trained model says to a file or a task',
              't5x-lite infer --gin_file=runs/lm/config.gin --gin.InferConfig.input=prompts.txt'),
    'describe': ('print parameters, FLOPs and memory of a config, or of a model alone',
                 't5x-lite describe --gin_file=experiments/tiny_lm.gin'),
    'data': ('print what a run will read (shares, tokens, epochs, waste, examples), or tokenise it',
             't5x-lite data describe --gin_file=experiments/tiny_lm.gin'),
    'import': ('make a run of a Hugging Face folder or a T5X checkpoint',
               't5x-lite import --from=downloads/gpt2 --to=runs/gpt2'),
    'export': ('write a checkpoint of a run as Hugging Face transformers reads it',
               't5x-lite export --from=runs/gpt2 --to=exports/gpt2'),
    'train-vocab': ('train a SentencePiece vocabulary on the text of a task, or of files',
                    't5x-lite train-vocab --task=stdlib_docstring --size=2048 --output=runs/vocab'),
    'scaling': ('plan runs from a compute budget, and fit scaling laws to runs',
                't5x-lite scaling plan --flops=1e21'),
}


def main(argv: list[str] | None = None) -> int:
  """Runs one command; returns the exit status: 0, or 1 after a line on stderr that says why."""
  argv = sys.argv[1:] if argv is None else argv
  try:
    if argv[:1] == ['scaling']:
      from scaling import cli
      set_up_process()
      return cli.main(argv[1:])
    args, rest = _parser().parse_known_args(argv)
    if args.command in FLAGGED:
      if rest:
        raise UserError(f'{rest[0]}: not an option of {args.command}; see t5x-lite {args.command} '
                        '--help')
      set_up_process()
      return FLAGGED[args.command](args)
    files, bindings = _gin_arguments(rest)
    set_up_process()
    return _run(args, files, bindings)
  except UserError as e:
    print(f'error: {e}', file=sys.stderr)
    return 1
  except KeyboardInterrupt:
    print('error: interrupted', file=sys.stderr)
    return 130
  except BrokenPipeError:   # of `| head`: nobody reads the rest
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 141


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(
      prog='t5x-lite', description='Train and use text Transformers in JAX.',
      epilog='t5x-lite COMMAND --help shows an example of each.')
  parser.add_argument('--version', action='version', version=f't5x_lite {__version__}')
  commands = parser.add_subparsers(dest='command', required=True, metavar='COMMAND')
  for name, (summary, example) in COMMANDS.items():
    command = commands.add_parser(
        name, help=summary, description=summary[0].upper() + summary[1:] + '.',
        epilog=f'example: {example}', allow_abbrev=False)
    if name in FLAGGED:
      _add_flags(command, name)
      continue
    command.add_argument('--gin_file', metavar='FILE', help='a gin file; may be given again')
    command.add_argument('--gin.NAME', metavar='VALUE', dest='gin', help=(
        'sets a macro (--gin.STEPS=100) or a field (--gin.ModelConfig.num_layers=2)'))
    if name == 'data':
      command.add_argument('action', choices=('describe', 'cache'), help=(
          'cache: tokenise all of it into the folder DataConfig.cache_dir'))
      command.add_argument('--processes', type=int, default=os.cpu_count(), help='of cache')
    if name in ('eval', 'describe', 'data'):
      command.add_argument('--json', action='store_true', help='print JSON')
  # Each may be given any number of times, in any order: _gin_arguments reads them.
  for command in commands.choices.values():
    for action in list(command._actions):  # pylint: disable=protected-access
      if action.dest in ('gin_file', 'gin'):
        for option in action.option_strings:
          del command._option_string_actions[option]  # pylint: disable=protected-access
  return parser


def _add_flags(command: argparse.ArgumentParser, name: str) -> None:
  add = command.add_argument
  if name == 'train-vocab':
    source = command.add_mutually_exclusive_group(required=True)
    source.add_argument('--task', help='a registered seqio task')
    source.add_argument('--files', help='path, URL or glob of files of any format FileTask reads')
    add('--task_module', default='tasks.stdlib', help='module registering the task')
    add('--split', default='train', help='of the task')
    add('--text', default='text', help='of the files: a field, or a text with {names} of fields')
    add('--model_type', choices=('unigram', 'bpe'), default='unigram')
    add('--user_symbols', nargs='+', default=(), help='texts that are always one piece')
    add('--size', type=int, required=True, help='number of pieces')
    add('--output', required=True, help='writes OUTPUT.model and OUTPUT.vocab')
    return
  source, target = (('FOLDER', 'MODEL_DIR') if name == 'import' else ('MODEL_DIR', 'FOLDER'))
  add('--from', required=True, dest='source', metavar=source, type=pathlib.Path)
  add('--to', required=True, dest='target', metavar=target, type=pathlib.Path,
      help='must not exist, or be empty')
  if name == 'import':
    add('--activation', help='of a T5X checkpoint that is not T5 (UL2: silu)')
  else:
    add('--step', type=int, help='of the checkpoint; default: the newest')
    add('--dtype', choices=('float32', 'bfloat16'), default='float32')


def _gin_arguments(rest: list[str]) -> tuple[list[str], list[str]]:
  """(gin files, 'NAME=VALUE' bindings) of --gin_file=F, --gin_file F and --gin.NAME=VALUE."""
  files, bindings, rest = [], [], list(rest)
  while rest:
    word = rest.pop(0)
    if word == '--gin_file':
      if not rest:
        raise UserError('--gin_file: expected a file')
      files.append(rest.pop(0))
    elif word.startswith('--gin_file='):
      files.append(word.removeprefix('--gin_file='))
    elif word.startswith('--gin.'):
      bindings.append(word.removeprefix('--gin.'))
    else:
      raise UserError(f'{word}: not an option; options are --gin_file=FILE and --gin.NAME=VALUE')
  return files, bindings


def set_up_process() -> None:
  """The persistent compilation cache, on unless JAX_COMPILATION_CACHE_DIR says where or ''."""
  cache = os.environ.get('JAX_COMPILATION_CACHE_DIR')
  if cache is None:
    base = os.environ.get('XDG_CACHE_HOME') or '~/.cache'
    cache = str(pathlib.Path(base).expanduser() / 't5x_lite' / 'xla')
    os.environ['JAX_COMPILATION_CACHE_DIR'] = cache
  os.environ.setdefault('JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS', '0')
  sys.path.insert(0, os.getcwd())   # a user's own task module lies in the working directory


def _run(args, files: list[str], bindings: list[str]) -> int:
  from t5x_lite import configuration  # imports JAX: half a second
  if args.command == 'describe':
    from t5x_lite import describe
    table = describe.describe(configuration.load_described(files, bindings))
    print(json.dumps(table, indent=2) if args.json else describe.as_text(table))
    return 0
  if args.command == 'data':
    action = _cache_data if args.action == 'cache' else _describe_data
    return action(args, configuration.load_described(files, bindings))
  experiment, config_gin = configuration.load(files, bindings)
  if args.command == 'train':
    from t5x_lite import trainer
    trainer.train(experiment, config_gin)
  elif args.command == 'eval':
    from t5x_lite import evaluation
    metrics = evaluation.evaluate(experiment)
    lines = '\n'.join(f'{name:<40}{value:>12.4f}' for name, value in metrics.items())
    print(json.dumps(metrics) if args.json else lines)
  else:
    from t5x_lite import inference
    path, records = inference.infer(experiment)
    for record in records[:3]:
      print(json.dumps(record, ensure_ascii=False))
    print(f'{len(records)} lines: {path}')
  return 0


def _describe_data(args, experiment) -> int:
  import importlib

  from t5x_lite.input_pipeline import import_seqio
  import_seqio()
  description = importlib.import_module('tasks.description')
  members = description.describe(experiment)
  colour = sys.stdout.isatty() and 'NO_COLOR' not in os.environ
  print(json.dumps(description.as_json(members), indent=2) if args.json
        else description.as_text(members, colour))
  return 0


def _cache_data(args, experiment) -> int:
  import importlib

  if args.processes < 1:
    raise UserError(f'--processes={args.processes}: give 1 or more')
  from t5x_lite.input_pipeline import import_seqio
  import_seqio()
  caching = importlib.import_module('tasks.caching')
  for name, counts in caching.write(experiment.data, args.processes):
    print(json.dumps({name: counts}) if args.json else
          f'{name}: {counts["examples"]:,} examples, {caching.total_tokens(counts):,} tokens',
          flush=True)
  return 0


def _train_vocab(args) -> int:
  import importlib

  from t5x_lite.input_pipeline import import_seqio
  if args.files:
    texts = importlib.import_module('tasks.files').texts(args.files, args.text, '--files')
  else:
    import_seqio()
    importlib.import_module(args.task_module)
    texts = importlib.import_module('tasks.registry').raw_texts(args.task, args.split)
  path = importlib.import_module('tasks.train_vocabulary').train_sentencepiece(
      texts, args.size, args.output, model_type=args.model_type, user_symbols=args.user_symbols)
  print(f'{path}: use it with --gin.VOCABULARY={path}')
  return 0


def _import(args) -> int:
  from t5x_lite.interop import runs
  overrides = {'activation': args.activation} if args.activation else {}
  print(runs.import_run(args.source, args.target, overrides))
  print(f'Look at it: t5x-lite describe --gin_file={args.target}/config.gin')
  return 0


def _export(args) -> int:
  from t5x_lite.interop import runs
  print(runs.export_run(args.source, args.target, args.step, args.dtype))
  return 0


# Commands that take flags of their own and no gin files.
FLAGGED = {'train-vocab': _train_vocab, 'import': _import, 'export': _export}
