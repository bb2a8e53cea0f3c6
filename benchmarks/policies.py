"""Policies that learn sums from rewards: PPO, RLOO and GRPO of several seeds, and DPO beside them.

    python benchmarks/policies.py --folder runs/policies --picture docs/rewards.png \\
        --output benchmarks/results/policies.json

All start from one model of careless demonstrations (experiments/addition.gin), of which one answer
in four is right. Given are the share of right answers, drawn at temperature 1, to the 803 sums that
no training has seen, KL divergences from the start in nats a completion, and the curves. DPO learns
from answers of the start to all problems of training, by which of them is right. What has been
trained is not trained again.
"""

import argparse
import json
import pathlib
import re

from speed import machine
from trainings import last_metrics, run, train

METHODS = ('ppo', 'rloo', 'grpo')
STAY = {'rloo': ('--gin.GroupEstimator.kl_coefficient=10.0',),   # told to stay
        'grpo': ('--gin.PolicyLoss.beta=10.0', '--gin.GroupEstimator.skip_equal=False'),
        'ppo': ('--gin.ValueEstimator.kl_coefficient=10.0',)}


def policy(folder: pathlib.Path, method: str, name: str, *flags: str) -> dict:
  """Figures and the curve of a policy, which is trained unless it has been."""
  done = train(folder / name, f'--gin_file=experiments/{method}_addition.gin',
               f'--gin.INIT_FROM={folder / "start"}', *flags)
  records = [*map(json.loads, (done / 'metrics.jsonl').read_text().splitlines())]
  steps = [one for one in records if 'rollout/reward' in one]
  found = last_metrics(done)
  return {'reward': round(found['reward/exact_answer'], 4),
          'stderr': round(found['reward/exact_answer_stderr'], 4),
          'kl': round(steps[-1]['rollout/kl_sequence'], 3),
          'largest_kl': round(max(one['rollout/kl_sequence'] for one in steps), 3),
          'minutes': round(sum(one['seconds_per_step'] for one in steps) * 10 / 60, 1),
          'curve': {one['step']: round(one['rollout/reward'], 3) for one in steps}}


def right(model: pathlib.Path, output: pathlib.Path, split: str, *flags: str) -> float:
  """The share of right answers of a model to a split's problems, eight to each; writes them."""
  if not output.exists():
    run('rate', str(model), '--gin_file=experiments/grpo_addition.gin', f'--output={output}',
        f"--gin.Rollouts.split='{split}'", *flags)
  rows = map(json.loads, output.read_text().splitlines())
  scores = [score for row in rows for score in row['scores']]
  return round(sum(scores) / len(scores), 4)


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  add = parser.add_argument
  add('--folder', type=pathlib.Path, required=True, help='of the runs')
  add('--seeds', type=int, default=3)
  add('--output', type=pathlib.Path)
  add('--picture', type=pathlib.Path, help='of the rewards while they train')
  args = parser.parse_args()
  folder = args.folder.absolute()
  start = train(folder / 'start', '--gin_file=experiments/addition.gin')
  results = {'machine': machine(),
             'start': right(start, folder / 'start.jsonl', 'validation'), 'policies': {}}
  for seed in range(args.seeds):
    for method in METHODS:
      results['policies'][f'{method} {seed}'] = policy(folder, method, f'{method}_{seed}',
                                                       f'--gin.SEED={seed}')
  for method, flags in STAY.items():
    results['policies'][f'{method}, told to stay'] = policy(
        folder, method, f'{method}_stay', '--gin.STEPS=100', *flags)
  right(start, folder / 'rated.jsonl', 'train', '--distinct')
  tuned = train(folder / 'dpo', '--gin_file=experiments/dpo_addition.gin',
                f'--gin.PREFERENCES={folder / "rated.jsonl"}', f'--gin.INIT_FROM={start}')
  results['dpo'] = right(tuned, folder / 'dpo.jsonl', 'validation')
  text = re.sub(r'\{[^{}]*\}', lambda found: ' '.join(found[0].split()),
                json.dumps(results, indent=1))
  print(text)
  if args.output:
    args.output.write_text(text + '\n')
  if args.picture:
    runs = [str(folder / f'{method}_{seed}') for method in METHODS for seed in range(args.seeds)]
    run('plot', *runs, '--metric=rollout/reward', f'--output={args.picture}')


if __name__ == '__main__':
  main()
