"""`t5x-lite evaluate`: the scores of a run on tasks by which models are compared."""

import argparse
from collections.abc import Sequence
import dataclasses
import hashlib
import json
import pathlib
import sys

from t5x_lite.commands import gin_flags, served_model
from t5x_lite.core.console import Counter
from t5x_lite.core.errors import UserError

EXAMPLE = 't5x-lite evaluate runs/lm --tasks=arc_easy,hellaswag --data=sets'


def add_flags(parser: argparse.ArgumentParser) -> None:
  parser.add_argument('run', metavar='RUN', help='the folder of a run')
  parser.add_argument('--tasks', default='open_llm_v1', metavar='NAMES',
                      help='tasks and suites, such as arc_easy,mmlu (default: open_llm_v1)')
  parser.add_argument('--shots', type=int, metavar='N',
                      help='solved examples before a question (default: as the task is published)')
  parser.add_argument('--data', metavar='FOLDER',
                      help='files of the data sets (default: from the hub)')
  parser.add_argument('--limit', type=int, metavar='N',
                      help='the first N documents of each task, for a quick look')
  parser.add_argument('--batch_size', type=int, default=32, metavar='N', help='texts at a time')
  parser.add_argument('--max_length', type=int, metavar='N',
                      help='tokens that the model reads (default: as many as it has positions for)')
  parser.add_argument('--chat', action='store_true',
                      help='ask in conversations, by the chat template that the run was trained on '
                      'or of --gin.InferConfig.chat_template')
  parser.add_argument('--separate', action='store_true',
                      help='read each text whole, also what several share')
  parser.add_argument('--fresh', action='store_true', help='compute every answer again')
  parser.add_argument('--json', action='store_true', help='print JSON')
  gin_flags.add_flags(parser)


def run(args: argparse.Namespace) -> int:
  from t5x_lite.evaluation.results import write_result
  from t5x_lite.evaluation.suites import core
  from t5x_lite.evaluation.suites.tasks import choose_tasks
  from t5x_lite.training.run_folder import RunFolder
  names = [*filter(None, map(str.strip, args.tasks.split(',')))]
  if not names:
    raise UserError('--tasks is empty: name some, or leave it out for open_llm_v1')
  tasks = choose_tasks(names, lambda rule: UserError(f'--tasks: {rule}'))
  if 'core' in names:
    tasks = core.keep_present(tasks, args.data and pathlib.Path(args.data))
  for name in ('shots', 'limit', 'batch_size', 'max_length'):
    value = getattr(args, name)
    if value is not None and value < (name != 'shots'):
      raise UserError(f'--{name}={value}: give {int(name != "shots")} or more')
  asked = [(task, *_items(task, args)) for task in tasks]   # what is wrong with files comes first
  experiment = served_model.load_experiment(args)
  chat = _load_chat(experiment) if args.chat else None
  model, step = load_text_model(
      experiment, batch_size=args.batch_size, max_length=args.max_length, share=not args.separate,
      fresh=args.fresh, trusted_modules=args.trusted_modules)
  for task in tasks:
    if task.kind == 'written':
      model.check_writes(task.name)
  first = is_first_process()   # which alone writes and prints
  folder, results = RunFolder(experiment.folder).evaluations, []
  for task, shots, items in asked:
    result, records = evaluate(task, items, shots, model, limit=args.limit, chat=chat)
    result = dataclasses.replace(result, model=str(args.run), step=step)
    results.append(result)
    if first:
      path = write_result(folder, result, records)
      if not args.json:
        print('\n'.join([*format_result(result), f'  {path}']))
  if not first:
    return 0
  average = core.average(results) if 'core' in names else None
  if average:
    core.write_average(folder, average, step)
  if args.json:
    print(json.dumps([dataclasses.asdict(result) for result in results]))
  elif average:
    print(average)
  return 0


def is_first_process() -> bool:
  """Whether this is the one of the run's processes that writes."""
  import jax
  return jax.process_index() == 0


def _items(task, args: argparse.Namespace):
  """(shots, items) of a task."""
  shots = task.shots if args.shots is None else args.shots
  if shots and task.shots_split is None:
    raise UserError(f'--shots={shots}: {task.name} has no solved examples; its prompt is fixed')
  folder = args.data and pathlib.Path(args.data)
  return shots, task.read_items(folder, shots)[:args.limit]


def _load_chat(experiment):
  """The Chat of a run; UserError where it has none."""
  from t5x_lite.commands import infer
  if experiment.model.family == 'encoder_only':
    raise UserError('--chat: an encoder answers no conversations: leave it out')
  chat = infer.load_chat(experiment)
  if chat is None:
    raise UserError('--chat: the run was trained on no conversations: leave it out, or name a '
                    'template by --gin.InferConfig.chat_template=NAME')
  return chat


def load_text_model(experiment, *, batch_size: int, max_length: int | None, share: bool = True,
                    fresh: bool = False, trusted_modules: Sequence[str] = ()):
  """(the TextModel of a run, its step); its answers are kept in the folder of its evaluations, but
  for those of a run of several processes.

  `fresh` drops those that are there; the others are as of TextModel and infer.load_generator.
  """
  import jax

  from t5x_lite.commands import infer
  from t5x_lite.commands.adapters import load_chosen
  from t5x_lite.evaluation.answers import AnswerLog
  from t5x_lite.evaluation.text_model import TextModel
  from t5x_lite.training.digests import digest_arrays
  from t5x_lite.training.run_folder import RunFolder
  settings, data = experiment.infer, experiment.data
  network, partitioner = experiment.build_network(experiment.mesh.make())
  params, step = load_chosen(experiment, network, partitioner, settings.step, data.fingerprint(),
                             trusted_modules)
  frame = infer.frame_of(settings, data)
  facts = [digest_arrays(params)[0], max_length, data.fingerprint(), frame, settings.end_ids]
  path = RunFolder(experiment.folder).evaluations / f'answers-{step}.jsonl'
  first, log = is_first_process(), None
  if jax.process_count() == 1:   # several must compute the same, whatever one of them finds there
    if fresh:
      path.unlink(missing_ok=True)
    log = AnswerLog(path, hashlib.sha256(json.dumps(facts).encode()).hexdigest())
  counter = Counter('requests', sys.stderr, silent=not first)
  return TextModel(network, params, partitioner, data, frame=frame, end_ids=settings.end_ids,
                   max_length=max_length, batch_size=batch_size, share=share, log=log,
                   show=counter.show), step


def evaluate(task, items, shots: int, model, limit: int | None = None, chat=None):
  """(TaskResult, records of its items) of a task under a TextModel.

  `chat`, a Chat, asks in conversations; the task of the result is then another, 'NAME+chat'.
  """
  from t5x_lite.evaluation.results import TaskResult
  from t5x_lite.evaluation.suites.scoring import answer_items, summarize
  records = answer_items(task, items, model, chat)
  metrics, groups = summarize(task, records)
  reader = model.reader
  conventions = {
      'prompts': task.prompts, 'split': task.split, 'context': model.max_length,
      'ids before a text': [int(i) for i in reader.before],
      'scores': {'encoder_only': 'pseudo-log-likelihood, each token masked in its turn',
                 'encoder_decoder': 'log-likelihood, the context in the encoder',
                 'decoder_only': 'log-likelihood'}[reader.family]} | task.conventions()
  if limit is not None:
    conventions['limit'] = f'the first {limit} documents of each task'
  if chat is not None:
    digest = hashlib.sha256(chat.source.encode()).hexdigest()[:8]
    conventions['chat'] = f'solved examples are turns, template {digest}'
  return TaskResult(task=task.name + '+chat' * (chat is not None), shots=shots,
                    number=len(records), headline=task.headline, metrics=metrics, groups=groups,
                    conventions=conventions), records


def format_result(result) -> list[str]:
  """Lines of a table of metrics."""
  shots = f'{result.shots} shot' + 's' * (result.shots != 1)
  lines = [f'{result.task}, {shots}, {result.number} documents']
  for name, (value, error) in result.metrics.items():
    mark = '*' if name == result.headline else ' '
    lines.append(f'{mark} {name:<24}{value:>12.4f}' + ('' if error is None else f' +- {error:.4f}'))
  told = '; '.join(f'{name}: {value}' for name, value in result.conventions.items())
  return [*lines, f'  {told}']
