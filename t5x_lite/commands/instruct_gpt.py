"""`t5x-lite instruct-gpt`: demonstrations, comparisons, a reward model and a policy in sequence.

The sequence of Ouyang et al. 2022, figure 2; each stage is a run in a folder of its own, and the
next one's start.
"""

import argparse
import pathlib

from t5x_lite.commands import gin_flags
from t5x_lite.commands.stages import Stage, load, run_stages, training
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


def run(args: argparse.Namespace) -> int:
  if args.prompts is not None and args.prompts < 1:
    raise UserError(f'--prompts={args.prompts}: 1 or more')
  return run_stages(plan(args), args.plan)


def plan(args: argparse.Namespace) -> list[Stage]:
  """The stages, each of which is checked as far as it can be before the others have run."""
  folder = args.folder
  sft, pairs = folder / 'sft', folder / 'comparisons.jsonl'
  reward_model, ppo = folder / 'reward_model', folder / 'ppo'
  compared = {'PREFERENCES': pairs} if args.judge else {}
  train = lambda name, file, output, macros: training(name, file, output, macros,
                                                      args.trusted_modules)
  stages = [train('demonstrations', args.sft, sft, {'INIT_FROM': args.start} if args.start else {})]
  if args.judge:
    stages.append(_comparing(args, sft, pairs))
  return [*stages,
          train('reward model', args.reward_model, reward_model, {'INIT_FROM': sft} | compared),
          train('policy', args.ppo, ppo, {'INIT_FROM': sft, 'REWARD_MODEL': reward_model})]


def _comparing(args: argparse.Namespace, policy: pathlib.Path, output: pathlib.Path) -> Stage:
  from t5x_lite.inference.rollouts.source import Rollouts
  macros = {'MODEL_DIR': policy, 'INIT_FROM': policy}
  source = load(args.judge, macros, args.trusted_modules)[0].data
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
