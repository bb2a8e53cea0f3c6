"""`t5x-lite rate`: several completions of each prompt by a run's model, rated: comparison data."""

import argparse
from collections.abc import Sequence
import json
import pathlib

from t5x_lite.commands import gin_flags
from t5x_lite.core.errors import UserError
from t5x_lite.core.files import check_writable, write_text
from t5x_lite.core.paths import local_path

EXAMPLE = ('t5x-lite rate runs/addition --gin_file=experiments/grpo_addition.gin --prompts=500 '
           '--output=rated.jsonl')


def add_flags(parser: argparse.ArgumentParser) -> None:
  add = parser.add_argument
  add('run', metavar='RUN', help='the folder of the run whose model writes')
  add('--output', metavar='FILE', type=local_path, required=True,
      help="a new file of rows with prompt, responses and scores: the schema 'scored' of a "
      'PreferenceTask')
  add('--prompts', type=int, metavar='N', help='the first so many (default: all of the split)')
  add('--distinct', action='store_true',
      help='leave out responses that are empty or were written before, and prompts with one '
      'response')
  gin_flags.add_flags(parser)


def run(args: argparse.Namespace) -> int:
  from t5x_lite.inference.rollouts.source import Rollouts
  if args.prompts is not None and args.prompts < 1:
    raise UserError(f'--prompts={args.prompts}: 1 or more')
  if args.output.exists():
    raise UserError(f'--output={args.output} exists and is not overwritten: name another file')
  check_writable(args.output)
  args.bindings = [f'MODEL_DIR={args.run}', f'INIT_FROM={args.run}', *args.bindings]
  source = gin_flags.load_experiment(args)[0].data
  if not isinstance(source, Rollouts):
    raise UserError(f'the data is {type(source).__name__}, and what prompts and rewards are is of '
                    'Rollouts: --gin_file=experiments/grpo_addition.gin')
  print(rate(local_path(args.run), source, args.output, prompts=args.prompts,
             distinct=args.distinct, trusted_modules=args.trusted_modules))
  return 0


def rate(run: pathlib.Path, source, output: pathlib.Path, *, prompts: int | None, distinct: bool,
         trusted_modules: Sequence[str] = ()) -> str:
  """Writes the file of rated completions of the prompts of a Rollouts; returns what to say of it.

  See `add_flags` for the arguments. Raises UserError for a run of another vocabulary.
  """
  rows = [*_rows(run, source, prompts, distinct, trusted_modules)]
  write_text(output, ''.join(json.dumps(row, ensure_ascii=False) + '\n' for row in rows))
  scores = [score for row in rows for score in row['scores']]
  mean = f'mean reward {sum(scores) / len(scores):.4g}, ' if scores else ''
  told = sum(len(set(row['scores'])) > 1 for row in rows)
  return (f'{len(rows)} prompts, {len(scores)} responses, {mean}{told} prompts with unequal '
          f'rewards: {output}')


def _rows(run: pathlib.Path, source, prompts: int | None, distinct: bool,
          trusted_modules: Sequence[str]):
  """The rows of the file."""
  from t5x_lite.core.console import Counter
  from t5x_lite.experiment import gin_config
  from t5x_lite.inference.rollouts.policy import Policy
  from t5x_lite.training.initial_params import load_params
  from t5x_lite.training.live_source import RunContext
  from t5x_lite.training.run_folder import RunFolder
  folder = RunFolder(run)
  other = gin_config.load_run(run, trusted_modules)
  if other.data.fingerprint() != source.fingerprint():
    raise UserError(f'{run} has another vocabulary than the prompts: name those that it was '
                    'trained on')
  network, partitioner = other.build_network(other.mesh.make())
  params, _ = load_params(folder.path, network, partitioner, None, source.fingerprint())
  policy = Policy(source, RunContext(network, partitioner, folder, other.seed, 0, (0, 1), print))
  examples = list(source.examples(source.split, prompts, other.seed))
  step, counter = source.batch_size // source.group_size, Counter('prompts')
  for start in range(0, len(examples), step):
    part = examples[start:start + step]
    asked = [*part, *[part[-1]] * (step - len(part))]   # as many as are compiled
    done = policy.complete(start // step, asked, params)
    rewards = done.rewards_RF @ done.reward_weights
    for i, example in enumerate(part):
      own = slice(i * source.group_size, (i + 1) * source.group_size)
      pairs = [*zip([one.text for one in done.completions[own]], rewards[own].tolist())]
      if distinct:
        pairs = [(text, score) for text, score in dict(pairs).items() if text.strip()]
      if len(pairs) > 1:
        texts, scores = zip(*pairs)
        yield {'prompt': example['inputs'], 'responses': texts, 'scores': scores}
    counter.show(min(start + step, len(examples)), len(examples))
