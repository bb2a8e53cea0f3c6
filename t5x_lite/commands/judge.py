"""`t5x-lite judge`: which of two models' outputs a third model prefers."""

import argparse
import json
import os

from t5x_lite.core.console import note
from t5x_lite.core.errors import UserError
from t5x_lite.core.files import check_writable
from t5x_lite.core.paths import local_path

EXAMPLE = ('t5x-lite judge a.jsonl b.jsonl --url=http://localhost:8000/v1 --model=judge '
           '--output=comparisons.jsonl')


def add_flags(parser: argparse.ArgumentParser) -> None:
  add = parser.add_argument
  add('file_a', metavar='A.jsonl', type=local_path, help='outputs of a model, as t5x-lite infer '
      'writes them: lines with `inputs` and `output`')
  add('file_b', metavar='B.jsonl', type=local_path, help='those of another, for the same inputs')
  add('--url', required=True, help="the judge's endpoint up to its version, such as "
      'http://localhost:8000/v1')
  add('--model', required=True, help="the judge's name there")
  add('--output', required=True, metavar='FILE', type=local_path,
      help='the log of verdicts, JSON lines; one that exists is continued')
  add('--names', metavar='A,B', help='of the models; default: the names of the files')
  add('--key_env', metavar='NAME', default='OPENAI_API_KEY',
      help='the environment variable that holds the key, if there is one; default: OPENAI_API_KEY')
  add('--prompt_file', metavar='FILE', type=local_path, help='the prompt of the judge, with '
      '{prompt}, {answer_a} and {answer_b}; its verdict is A, B or tie alone, or [[A]], [[B]] or '
      '[[tie]] on the last line')
  add('--matched_only', action='store_true', help='leave out inputs that one file lacks')
  add('--concurrency', type=int, default=4, help='requests at a time; default: 4')
  add('--timeout', type=float, default=120.0, help='seconds of a request; default: 120')
  add('--tries', type=int, default=5, help='of a request that is refused or fails; default: 5')
  add('--max_tokens', type=int, default=1024, help='of a reply; default: 1024')
  add('--json', action='store_true', help='print JSON')


def run(args: argparse.Namespace) -> int:
  from t5x_lite.evaluation import judge
  from t5x_lite.evaluation.chat_client import ChatClient
  if args.concurrency < 1:
    raise UserError(f'--concurrency={args.concurrency}: give 1 or more')
  names = args.names.split(',') if args.names else [args.file_a.stem, args.file_b.stem]
  if len(names) != 2 or not all(names):
    raise UserError(f'--names={args.names}: give two names, such as --names=base,tuned')
  template = judge.PROMPT
  if args.prompt_file:
    template = args.prompt_file.read_text(encoding='utf-8')
    judge.check_template(template, str(args.prompt_file))
  pairs, num_alone = judge.read_pairs(args.file_a, args.file_b, args.matched_only)
  if num_alone:
    note(f'{num_alone} outputs have no partner in the other file, and are left out')
  client = ChatClient(
      url=args.url, model=args.model, key=os.environ.get(args.key_env) or None,
      timeout=args.timeout, tries=args.tries, max_tokens=args.max_tokens)
  check_writable(args.output)
  log = judge.ComparisonLog(args.output, *names)
  verdicts, dropped = log.open(judge.settings_of(template, args.model, pairs))
  if dropped:
    note(f'the last line of {args.output} was half written, and is dropped: it is asked for again')
  for verdict in judge.judge_pairs(client, template, pairs, verdicts, args.concurrency):
    log.append(verdict)
    verdicts.append(verdict)
  summary = judge.summarize(verdicts, len(pairs))
  print(json.dumps(summary._asdict() | {'win_rate': summary.win_rate, 'names': names})
        if args.json else f'{judge.as_text(summary, *names)}\n{args.output}')
  return 0
