"""Our train step and decoding beside hand-written JAX and transformers, in turns, as ratios.

    python benchmarks/speed.py --sizes S --output benchmarks/results/cpu.json

Needs torch and transformers (the extra `test` on Python 3.11). A ratio is the time of the other
side over ours, round by round: above 1 we are faster. Given are the quartiles, the median among
them. On a busy machine no figure means much: `load` says how many processes ran at the start.
"""

import argparse
import json
import os
import pathlib
import platform
import statistics
import time
from typing import Any

from harness import FAMILIES, Worker

SCRIPTS = {'ours': 'ours.py', 'plain_jax': 'plain_jax.py', 'torch': 'torch_peer.py'}
ROUNDS = {'S': 10, 'M': 6}


def compare(case: dict[str, Any], peers: list[str], rounds: int, seconds: float, threads: int
            ) -> dict[str, Any]:
  """Times of us and the peers on one case, interleaved, and ours as ratios to theirs."""
  workers = {name: Worker(SCRIPTS[name], case, threads) for name in ('ours', *peers)}
  info = {name: worker.warm_up() for name, worker in workers.items()}
  times = {name: [] for name in workers}
  for turn in range(rounds):
    order = list(workers)[::1 if turn % 2 == 0 else -1]
    for name in order:
      times[name].append(statistics.median(wall for wall, _ in workers[name].run(seconds)))
  result = {'case': case}
  for name, worker in workers.items():
    worker.stop()
    figures = {'seconds': statistics.median(times[name])} | info[name] | peak(name, case, threads)
    result[name] = {key: round(value, 4) if isinstance(value, float) else value
                    for key, value in figures.items()}
  for name in peers:
    ratios = [theirs / ours for theirs, ours in zip(times[name], times['ours'])]
    quarters = statistics.quantiles(ratios, n=4)
    result[f'ratio_{name}'] = [round(q, 2) for q in quarters]
  return result


def peak(name: str, case: dict[str, Any], threads: int) -> dict[str, float]:
  """Peak memory of a side, `peak_mb`, alone and with the usual allocator."""
  worker = Worker(SCRIPTS[name], case, threads, malloc='')
  worker.warm_up()
  worker.run(1.0)
  return worker.stop()


def cases(sizes: list[str], families: list[str], tasks: list[str]):
  """Training of every family, and decoding of those that generate with 1 and 8 rows."""
  for size in sizes:
    for family in families:
      if 'train' in tasks:
        yield {'task': 'train', 'family': family, 'size': size}
      for rows in (1, 8):
        if 'decode' in tasks and family != 'bert':
          yield {'task': 'decode', 'family': family, 'size': size, 'rows': rows}


def dispatch_and_trace() -> dict[str, float]:
  """Of a step of 24 small layers: ms to dispatch from Python, seconds to trace and lower."""
  import jax
  import numpy as np
  from ours import features

  from t5x_lite import models
  from t5x_lite.models import ModelConfig
  from t5x_lite.objectives.language_model import CrossEntropy
  from t5x_lite.parallel.mesh import MeshConfig
  from t5x_lite.parallel.partitioner import Partitioner
  from t5x_lite.training import optimizers, schedules
  from t5x_lite.training.state import abstract_state, init_state, shardings_of
  from t5x_lite.training.step import make_train_step

  config = ModelConfig(family='decoder_only', vocab_size=128, embed_dim=16, num_layers=24,
                       num_heads=2, mlp_dim=32)
  partitioner = Partitioner(MeshConfig(data=1).make(jax.devices()[:1]))
  network = models.build_network(config, partitioner)
  optimizer = optimizers.AdamW(learning_rate=schedules.Constant(rate=1e-4)).make()
  abstract = abstract_state(network, optimizer, partitioner)
  state = jax.jit(lambda: init_state(network, optimizer, 0, one_device=True),
                  out_shardings=shardings_of(abstract))()
  tokens = np.ones((1, 8), np.int32)
  batch = partitioner.put_batch(features('gpt2', {
      'inputs': tokens, 'targets': tokens, 'weights': np.ones((1, 8), np.float32)}))
  step = make_train_step(network, [CrossEntropy()], optimizer, partitioner, seed=0)
  begun = time.perf_counter()
  step.lower(state, batch)
  trace = time.perf_counter() - begun
  state, _ = step(state, batch)
  dispatched = []
  for _ in range(200):
    jax.block_until_ready(state)
    begun = time.perf_counter()
    state, _ = step(state, batch)
    dispatched.append(time.perf_counter() - begun)
  return {'trace_and_lower_s': round(trace, 2),
          'dispatch_ms': round(1000 * statistics.median(dispatched), 2)}


def machine() -> dict[str, Any]:
  """What the figures were taken on."""
  model = next((line.split(':')[1].strip() for line in open('/proc/cpuinfo')
                if line.startswith('model name')), platform.processor())
  return {'cpu': model, 'cores': os.cpu_count(), 'python': platform.python_version(),
          'load': os.getloadavg()[0], 'date': time.strftime('%Y-%m-%d')}


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--sizes', nargs='+', default=['S', 'M'])
  parser.add_argument('--families', nargs='+', default=list(FAMILIES))
  parser.add_argument('--tasks', nargs='+', default=['train', 'decode'])
  parser.add_argument('--peers', nargs='+', default=['plain_jax', 'torch'], help=(
      'fewer where all of them do not fit in memory at once'))
  parser.add_argument('--rounds', type=int, help='default: 10 at S, 6 at M')
  parser.add_argument('--seconds', type=float, default=2.0, help='of a turn')
  parser.add_argument('--threads', type=int, default=2)
  parser.add_argument('--output', type=pathlib.Path)
  args = parser.parse_args()
  results = {'machine': machine(), 'step_of_24_layers': dispatch_and_trace(), 'cases': []}
  print(json.dumps(results['step_of_24_layers']))
  for case in cases(args.sizes, args.families, args.tasks):
    row = compare(case, args.peers, args.rounds or ROUNDS[case['size']], args.seconds,
                  args.threads)
    results['cases'].append(row)
    ratios = '  '.join(f'{name} {row[f"ratio_{name}"]} (memory '
                       f'{row["ours"]["peak_mb"] / row[name]["peak_mb"]:.2f})'
                       for name in args.peers)
    print(f'{case["task"]} {case["family"]} {case["size"]} {case.get("rows", "")}: {ratios}  '
          f'first step {row["ours"]["first_step_cpu_s"]} s of CPU', flush=True)
    if args.output:
      args.output.write_text(json.dumps(results, indent=1) + '\n')


if __name__ == '__main__':
  main()
