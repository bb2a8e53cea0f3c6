"""Full fine-tuning, LoRA and QLoRA: time and memory of a step, beside peft and transformers.

    pip install peft
    python benchmarks/tuning.py --sizes M --output benchmarks/results/tuning.json

LoRA is of rank 16 on all linear layers; QLoRA holds them in NF4 with double quantisation. A quarter
of the tokens, the answers, have a loss. All sides are warm at once and take turns (harness.py); a
ratio is the time of the other over ours, or of ours over our full fine-tuning, round by round.
Peaks of memory are of a process of its own. transformers has no 4-bit training on a CPU.
"""

import argparse
import json
import pathlib
import statistics

from harness import Worker
from speed import SCRIPTS, machine, peak

ANSWERS = 0.25
ROUNDS = {'S': 10, 'M': 6}
SIDES = (('ours', 'full'), ('ours', 'lora'), ('ours', 'qlora'), ('torch', 'full'),
         ('torch', 'lora'))


def compare(family: str, size: str, rounds: int, seconds: float, threads: int) -> dict:
  """Times of all SIDES in turns, their memory, and the ratios of quartiles."""
  case = lambda tune: {'task': 'train', 'family': family, 'size': size, 'tune': tune,
                       'answers': ANSWERS}
  workers = {side: Worker(SCRIPTS[side[0]], case(side[1]), threads) for side in SIDES}
  info = {side: worker.warm_up() for side, worker in workers.items()}
  times = {side: [] for side in SIDES}
  for turn in range(rounds):
    for side in SIDES[::1 if turn % 2 == 0 else -1]:
      times[side].append(statistics.median(wall for wall, _ in workers[side].run(seconds)))
  for worker in workers.values():
    worker.stop()
  quartiles = lambda a, b: [round(q, 3) for q in statistics.quantiles(
      [x / y for x, y in zip(times[a], times[b])], n=4)]
  full = ('ours', 'full')
  return {
      'family': family, 'size': size,
      'sides': {' '.join(side): {
          'seconds': round(statistics.median(times[side]), 4), **info[side],
          **peak(side[0], case(side[1]), threads)} for side in SIDES},
      'lora_to_full': quartiles(('ours', 'lora'), full),
      'qlora_to_full': quartiles(('ours', 'qlora'), full),
      'torch_full_to_ours': quartiles(('torch', 'full'), full),
      'peft_lora_to_ours': quartiles(('torch', 'lora'), ('ours', 'lora'))}


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--sizes', nargs='+', default=['S', 'M'])
  parser.add_argument('--families', nargs='+', default=['llama'])
  parser.add_argument('--rounds', type=int, help='default: 10 at S, 6 at M')
  parser.add_argument('--seconds', type=float, default=2.0, help='of a turn')
  parser.add_argument('--threads', type=int, default=2)
  parser.add_argument('--output', type=pathlib.Path)
  args = parser.parse_args()
  results = {'machine': machine(), 'cases': []}
  for size in args.sizes:
    for family in args.families:
      row = compare(family, size, args.rounds or ROUNDS[size], args.seconds, args.threads)
      results['cases'].append(row)
      print(json.dumps({name: value for name, value in row.items() if name != 'sides'}))
      for name, side in row['sides'].items():
        print(f'  {name:12} {side["seconds"]:8.3f} s, peak {side["peak_mb"]:,.0f} MB', flush=True)
      if args.output:
        args.output.write_text(json.dumps(results, indent=1) + '\n')


if __name__ == '__main__':
  main()
