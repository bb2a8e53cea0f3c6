"""Evaluation on multiple choice: documents a second, beside lm-evaluation-harness on transformers.

    python benchmarks/evaluation.py --model FOLDER --data SETS --whole \\
        --output benchmarks/results/evaluation.json

FOLDER is a model of Hugging Face, SETS has the documents (docs/evaluation.md). Both sides are warm
processes that score the same prompts, text to log-likelihoods, and take turns at so many documents,
ours after it has compiled what they need; their log-likelihoods must agree. The harness has the
batch size that was its fastest on the first documents. With --whole ours then scores all of them in
a process of its own, loading and compiling included, as `t5x-lite evaluate` does.
"""

import argparse
import json
import multiprocessing
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

from speed import machine

TASKS = {'arc_challenge': 1172, 'hellaswag': 2000}   # and how many documents
BATCH_SIZES = (1, 8, 32)                             # of the harness
CLOSE = 1e-3                                         # of a log-likelihood, nats


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  add = parser.add_argument
  add('--model', type=pathlib.Path, required=True, help='a folder of Hugging Face')
  add('--data', type=pathlib.Path, required=True, help='files of the documents')
  add('--tasks', nargs='+', choices=TASKS, default=[*TASKS])
  add('--rounds', type=int, default=5)
  add('--documents', type=int, default=32, help='of a turn')
  add('--batch_size', type=int, default=4, help='of ours')
  add('--max_length', type=int, help='tokens that both sides read; a prompt that is longer loses '
      'its first ones, and then answers of unlike lengths share none (default: the positions)')
  add('--threads', type=int, default=os.cpu_count())
  add('--whole', action='store_true')
  add('--output', type=pathlib.Path)
  args = parser.parse_args()
  results = {'machine': machine(), 'model': describe(args.model), 'threads': args.threads,
             'max_length': args.max_length, 'tasks': {}}
  with tempfile.TemporaryDirectory() as folder:
    run = import_run(args.model, pathlib.Path(folder) / 'run')
    for name in args.tasks:
      results['tasks'][name] = row = compare(name, run, args)
      if args.whole:
        row['whole'] = whole(name, run, args)
      print(name, json.dumps(row), flush=True)
      if args.output:
        args.output.write_text(json.dumps(results, indent=1) + '\n')


def describe(model: pathlib.Path) -> dict[str, int | str]:
  """Its kind and sizes."""
  config = json.loads((model / 'config.json').read_text())
  names = ('model_type', 'num_hidden_layers', 'hidden_size', 'vocab_size',
           'max_position_embeddings')
  return {name: config[name] for name in names if name in config}


def import_run(model: pathlib.Path, run: pathlib.Path) -> pathlib.Path:
  from t5x_lite import cli
  if cli.main(['import', f'--from={model}', f'--to={run}']):
    raise SystemExit(1)
  return run


def items_of(name: str, data: pathlib.Path):
  """(the task, its items with the solved examples of its convention)."""
  from t5x_lite.evaluation.suites.tasks import TASKS as tasks
  task = tasks[name]
  return task, task.read_items(data, task.shots)[:TASKS[name]]


def ours(pipe, name: str, run: pathlib.Path, args: argparse.Namespace) -> None:
  """A process that answers (first document, last, _) by [seconds, log-likelihoods]."""
  from t5x_lite.commands import evaluate
  from t5x_lite.evaluation.suites.scoring import answer_items
  from t5x_lite.experiment import gin_config
  task, items = items_of(name, args.data)
  experiment = gin_config.load_experiment([str(run / 'config.gin')], [], trains=False)[0]
  model, _ = evaluate.load_text_model(experiment, batch_size=args.batch_size,
                                      max_length=args.max_length, fresh=True)
  model._log = None   # every answer is computed, each time it is asked for
  serve(pipe, lambda start, stop, _: [
      logprob for record in answer_items(task, items[start:stop], model)
      for logprob in record['logprobs']])


def theirs(pipe, name: str, run: pathlib.Path, args: argparse.Namespace) -> None:
  """The same of the harness; (first document, last, batch size)."""
  import torch
  import transformers
  torch.set_num_threads(args.threads)
  from lm_eval.api.instance import Instance
  from lm_eval.models.huggingface import HFLM
  _, items = items_of(name, args.data)
  model = HFLM(pretrained=transformers.AutoModelForCausalLM.from_pretrained(args.model),
               tokenizer=transformers.AutoTokenizer.from_pretrained(args.model), batch_size=1,
               max_length=args.max_length)

  def score(start: int, stop: int, batch_size: int) -> list[float]:
    model.batch_size_per_gpu = batch_size
    asked = [Instance('loglikelihood', {}, (item.context, text), 0)
             for item in items[start:stop] for text in item.continuations]
    return [value for value, _ in model.loglikelihood(asked, disable_tqdm=True)]

  serve(pipe, score)


def serve(pipe, score) -> None:
  pipe.send('ready')
  while (asked := pipe.recv()) is not None:
    begun = time.perf_counter()
    found = score(*asked)
    pipe.send([time.perf_counter() - begun, found])


class Side:
  """A process of `ours` or `theirs`."""

  def __init__(self, target, *arguments):
    context = multiprocessing.get_context('spawn')
    self._pipe, other = context.Pipe()
    self._process = context.Process(target=target, args=(other, *arguments))
    self._process.start()
    other.close()
    self._pipe.recv()

  def __call__(self, *asked: int) -> tuple[float, list[float]]:
    """(seconds, log-likelihoods) of documents."""
    self._pipe.send(asked)
    return self._pipe.recv()

  def stop(self) -> None:
    self._pipe.send(None)
    self._process.join()


def compare(name: str, run: pathlib.Path, args: argparse.Namespace) -> dict:
  """Seconds of both sides in turns, and the quartiles of their ratio."""
  os.environ |= {'OMP_NUM_THREADS': str(args.threads), 'JAX_PLATFORMS': 'cpu',
                 'HF_HUB_OFFLINE': '1'}
  os.environ.pop('JAX_COMPILATION_CACHE_DIR', None)
  sides = {'ours': Side(ours, name, run, args), 'harness': Side(theirs, name, run, args)}
  tried = {size: sides['harness'](0, 8, size)[0] for size in (BATCH_SIZES[0], *BATCH_SIZES)}
  size = min(tried, key=tried.get)
  for turn in range(args.rounds):   # every shape is compiled before the turns that count
    sides['ours'](turn * args.documents, (turn + 1) * args.documents, size)
  seconds, furthest = {side: [] for side in sides}, 0.0
  for turn in range(args.rounds):
    start, found = turn * args.documents, {}
    for side in [*sides][::1 if turn % 2 else -1]:
      spent, found[side] = sides[side](start, start + args.documents, size)
      seconds[side].append(spent)
    furthest = max([furthest, *(abs(a - b) for a, b in zip(*found.values(), strict=True))])
  for side in sides.values():
    side.stop()
  if furthest > CLOSE:
    raise SystemExit(f'{name}: log-likelihoods are {furthest:.2g} apart')
  ratios = [a / b for a, b in zip(seconds['harness'], seconds['ours'])]
  rate = lambda side: round(args.documents / statistics.median(seconds[side]), 2)
  return {'documents_s': {side: rate(side) for side in sides},
          'ratio': [round(q, 2) for q in statistics.quantiles(ratios, n=4)],
          'documents': args.documents * args.rounds, 'batch_size_of_harness': size,
          'apart': float(f'{furthest:.1e}'), 'load': round(os.getloadavg()[0], 1)}


def whole(name: str, run: pathlib.Path, args: argparse.Namespace) -> dict:
  """Seconds of all documents from the start of a process, and what it found."""
  _, items = items_of(name, args.data)
  begun = time.perf_counter()
  out = subprocess.run(
      [sys.executable, '-m', 't5x_lite', 'evaluate', str(run), f'--tasks={name}', '--fresh',
       f'--data={args.data}', f'--limit={len(items)}', f'--batch_size={args.batch_size}',
       '--json', *([f'--max_length={args.max_length}'] if args.max_length else [])],
      capture_output=True, text=True, check=True).stdout
  spent = time.perf_counter() - begun
  result, = json.loads(out)
  return {'documents': len(items), 'seconds': round(spent, 1),
          'metrics': {key: round(value, 4) for key, (value, _) in result['metrics'].items()}}


if __name__ == '__main__':
  main()
