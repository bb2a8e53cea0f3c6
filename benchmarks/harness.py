"""What speed.py, decode.py and tuning.py share: sizes, batches, and how a worker is driven.

A worker is a process that holds one case, warmed up. It reads a number of seconds on each line of
stdin, repeats its step for as long, and answers with a JSON list of [wall, CPU] seconds a step; a
name may follow, of one of several steps. The line 'stop' ends it with its peak memory. Workers of
all sides are warm at once and take turns, so that a machine that slows down slows all of them.
"""

from collections.abc import Callable
import json
import os
import subprocess
import sys
import time
from typing import Any

import numpy as np

# GPT-2, LLaMA, BERT of so many layers; T5 has them in each of its stacks. The gated MLPs (LLaMA,
# T5) have `gated_mlp` hidden units, the others four times the width.
SIZES = {
    'S': dict(layers=4, width=256, heads=4, length=256, batch=8, vocab=8192, gated_mlp=704),
    'M': dict(layers=8, width=512, heads=8, length=512, batch=4, vocab=32000, gated_mlp=1408),
}
FAMILIES = ('gpt2', 'llama', 't5', 'bert')
PROMPT, NEW = 16, 128   # tokens of a prompt, and those generated after it
READ_MB = 256           # of an array that is read for the memory's speed
MASKED = 0.15           # share of BERT's tokens that have a loss
RANK = 16               # of LoRA, on all linear layers
# Keeps the memory of a step for the next one, on all sides. Speed is measured so, memory without:
# the heap that is kept has holes, and peaks of twice what is in use.
MALLOC = ('glibc.malloc.mmap_max=0:glibc.malloc.arena_max=1:'
          'glibc.malloc.trim_threshold=17179869184:glibc.malloc.top_pad=67108864')


def batches(family: str, size: str, number: int = 4, answers: float = 1.0
            ) -> list[dict[str, np.ndarray]]:
  """`inputs`, `targets` and `weights`, which say what targets count, [batch, length] each.

  The last `answers` of a decoder's tokens count.
  """
  c, rng, result = SIZES[size], np.random.default_rng(0), []
  shape = c['batch'], c['length']
  for _ in range(number):
    inputs = rng.integers(1, c['vocab'], shape, dtype=np.int32)
    if family == 't5':
      targets, weights = rng.integers(1, c['vocab'], shape, dtype=np.int32), np.ones(shape)
    elif family == 'bert':
      targets, weights = inputs, rng.random(shape) < MASKED
    else:
      targets, weights = np.roll(inputs, -1, 1), np.ones(shape)
      weights[:, -1] = 0
      weights[:, :round((1 - answers) * c['length'])] = 0
    result.append({'inputs': inputs, 'targets': targets, 'weights': weights.astype(np.float32)})
  return result


def prompt(family: str, size: str, rows: int, length: int = PROMPT) -> np.ndarray:
  """What generation starts from, [rows, tokens]: a prompt, or T5's input."""
  c = SIZES[size]
  tokens = c['length'] if family == 't5' else length
  return np.random.default_rng(0).integers(1, c['vocab'], (rows, tokens), dtype=np.int32)


def serve(prepare: Callable[[dict[str, Any]], tuple[Any, dict[str, Any]]]) -> None:
  """Runs a worker: `prepare(case)` gives the step, and what is to be reported of getting there.

  Of several steps it gives a dict by their names, of which the first is reported of.
  """
  case = json.loads(sys.argv[1])
  steps, info = prepare(case)
  steps = steps if isinstance(steps, dict) else {'': steps}
  for number, step in enumerate(steps.values()):
    step()
    if number == 0:
      info['first_step_cpu_s'] = sum(os.times()[:4])
    for _ in range(2):
      step()
  print(json.dumps(info), flush=True)
  for line in sys.stdin:
    if line.strip() == 'stop':
      break
    seconds, _, name = line.strip().partition(' ')
    step, times, end = steps[name], [], time.perf_counter() + float(seconds)
    while not times or time.perf_counter() < end:
      wall, cpu = time.perf_counter(), time.process_time()
      step()
      times.append((time.perf_counter() - wall, time.process_time() - cpu))
    print(json.dumps(times), flush=True)
  # Not ru_maxrss, which begins at what the process that started this one held.
  peak = next(line for line in open('/proc/self/status') if line.startswith('VmHWM'))
  print(json.dumps({'peak_mb': int(peak.split()[1]) / 1024}))


class Worker:
  """The other end of `serve`: a process of this Python or another, begun when made."""

  def __init__(self, script: str, case: dict[str, Any], threads: int, malloc: str = MALLOC,
               python: str = sys.executable):
    path = os.path.join(os.path.dirname(os.path.abspath(__file__)), script)
    env = os.environ | {
        'GLIBC_TUNABLES': malloc, 'OMP_NUM_THREADS': str(threads), 'NPROC': str(threads),
        'HF_HUB_OFFLINE': '1', 'JAX_PLATFORMS': 'cpu',
        'JAX_ENABLE_COMPILATION_CACHE': case.get('cache', 'false')}
    self.process = subprocess.Popen([python, path, json.dumps(case)], env=env, text=True,
                                    stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                    stderr=subprocess.DEVNULL)

  def warm_up(self) -> dict[str, Any]:
    """Waits for the worker to be ready; returns what it reports of getting there."""
    return self._read()

  def run(self, seconds: float, step: str = '') -> list[tuple[float, float]]:
    """[(wall, CPU)] seconds of each run of a step, in a turn of so many."""
    return self._send(f'{seconds} {step}')

  def stop(self) -> dict[str, float]:
    """Ends the process; returns its peak memory, `peak_mb`."""
    result = self._send('stop')
    self.process.wait()
    return result

  def _send(self, line: str):
    self.process.stdin.write(line + '\n')
    self.process.stdin.flush()
    return self._read()

  def _read(self):
    for line in self.process.stdout:
      if line[0] in '[{':
        return json.loads(line)
    raise RuntimeError(f'{self.process.args} ended with {self.process.wait()}: run it by hand')
