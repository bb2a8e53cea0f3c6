"""`t5x-lite instruct-gpt`: demonstrations, comparisons, a reward model and a policy in sequence.

The sequence of Ouyang et al. 2022, figure 2; each stage is a run in a folder of its own, and the
next one's start.
"""

import argparse
from collections.abc import Callable, Sequence
import dataclasses
import pathlib
from typing import Any

from t5x_lite.commands import gin_flags
from t5x_lite.core.errors import UserError
from t5x_lite.core.paths import local_path

EXAMPLE = ('t5x-lite instruct-gpt runs/instruct --sft=experiments/addition.gin '
           '--judge=experiments/grpo_addition.gin --reward_model=experiments/reward_addition.gin '
           '--ppo=experiments/ppo_reward_addition.gin --plan')


def add_flags(parser: argparse.ArgumentParser) -> None:
  add = parser.add_argument
  add('folder', metavar='FOLDER', type=local_path, help='in which the stages have their folders')
  add('--sft', metavar='FILE', required=True, help='gin of the training on demonstrations')
  add('--judge', metavar='FILE', help='gin of Rollouts, whose rewards compare what the first stage '
      'writes; without it PREFERENCES of --reward_model is set')
  add('--reward_model', metavar='FILE', required=True, help='gin of the reward model, which reads '
      'the macros INIT_FROM and PREFERENCES')
  add('--ppo', metavar='FILE', required=True, help='gin of the policy, which reads the macros '
      'INIT_FROM and REWARD_MODEL')
  add('--start', metavar='RUN', help='a run from which the first stage begins (INIT_FROM)')
  add('--prompts', type=int, metavar='N', help='that are compared (default: all)')
  add('--plan', action='store_true', help='print the plan alone')
  gin_flags.add_trusted_modules(parser)


@dataclasses.dataclass(frozen=True)
class Stage:
  """A stage: what it is called, what it makes, of what, and how."""
  name: str
  output: pathlib.Path
  reads: Sequence[str]
  tells: str                # a line of the plan
  is_done: Callable[[], bool]
  run: Callable[[], Any]


def run(args: argparse.Namespace) -> int:
  if args.prompts is not None and args.prompts < 1:
    raise UserError(f'--prompts={args.prompts}: 1 or more')
  stages = plan(args)
  for number, stage in enumerate(stages, 1):
    state = ' (done)' if stage.is_done() else ''
    print(f'{number}. {stage.name}{state}: {stage.tells}\n   {" and ".join(stage.reads) or "seed"}'
          f' -> {stage.output}')
  if args.plan:
    return 0
  for number, stage in enumerate(stages, 1):
    if stage.is_done():
      continue
    print(f'\n{number} of {len(stages)}: {stage.name}', flush=True)
    result = stage.run()
    if getattr(result, 'finished', True) is False:   # stopped by a signal: saved
      print('Stopped: the same command goes on from here')
      return 0
  return 0


def plan(args: argparse.Namespace) -> list[Stage]:
  """The stages, each of which is checked as far as it can be before the others have run."""
  folder = args.folder
  sft, pairs = folder / 'sft', folder / 'comparisons.jsonl'
  reward_model, ppo = folder / 'reward_model', folder / 'ppo'
  compared = {'PREFERENCES': pairs} if args.judge else {}
  stages = [_training('demonstrations', args, args.sft, sft,
                      {'INIT_FROM': args.start} if args.start else {})]
  if args.judge:
    stages.append(_comparing(args, sft, pairs))
  return [*stages,
          _training('reward model', args, args.reward_model, reward_model,
                    {'INIT_FROM': sft} | compared),
          _training('policy', args, args.ppo, ppo,
                    {'INIT_FROM': sft, 'REWARD_MODEL': reward_model})]


def _load(args: argparse.Namespace, file: str, macros: dict[str, Any]):
  from t5x_lite.experiment import gin_config
  return gin_config.load_experiment(
      [file], [f'{name}={value}' for name, value in macros.items()], args.trusted_modules)


def _training(name: str, args: argparse.Namespace, file: str, output: pathlib.Path,
              macros: dict[str, Any]) -> Stage:
  from t5x_lite.training.checkpoints import Checkpoints
  experiment, config_gin = _load(args, file, {'MODEL_DIR': output} | macros)
  steps = experiment.train.steps

  def train():
    from t5x_lite.commands.train import train
    return train(experiment, config_gin)

  return Stage(
      name, output, [str(x) for x in macros.values()],
      f'{steps:,} steps of {experiment.data.batch_size} rows ({file})',
      lambda: (Checkpoints(output).steps() or [-1])[-1] >= steps, train)


def _comparing(args: argparse.Namespace, policy: pathlib.Path, output: pathlib.Path) -> Stage:
  from t5x_lite.inference.rollouts.source import Rollouts
  source = _load(args, args.judge, {'MODEL_DIR': policy, 'INIT_FROM': policy})[0].data
  if not isinstance(source, Rollouts):
    raise UserError(f'--judge={args.judge}: its data is {type(source).__name__}, and prompts and '
                    'rewards are of Rollouts')

  def compare():
    from t5x_lite.commands.rate import rate
    print(rate(policy, source, output, prompts=args.prompts, distinct=True,
               trusted_modules=args.trusted_modules))

  names = ', '.join(reward.name for reward in source.rewards)
  return Stage('comparisons', output, [str(policy)],
               f'{source.group_size} responses to {args.prompts or "all"} prompts, judged by '
               f'{names} ({args.judge})', output.exists, compare)
