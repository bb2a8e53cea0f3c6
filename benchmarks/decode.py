"""Greedy decoding: tokens a second, and the share of the memory's speed, beside other libraries.

    python benchmarks/decode.py --sizes S --rows 1 8 --output benchmarks/results/decode.json

Sides take turns: ours in float32, in int8 and other codes, transformers on torch, and llama.cpp on
the same network as a GGUF file, in F32 and Q8_0, where --llama_cpp names a Python that has
llama-cpp-python. A side that this machine has not is left out, and the file says so.

A turn writes the new tokens, then one alone, which reads the prompt: what lies between them is
decoding, tokens - 1 of each row. Its bytes are the weights that a token multiplies by and the
cached keys and values of a half-written text; the speed of the memory is that at which NumPy reads
a large array on all threads, in our process, in the same turns.
"""

import argparse
import importlib.util
import itertools
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
from typing import Any

import harness
from speed import machine

# Of Quantized, or of a GGUF file.
CODES = {name: {'format': name} for name in ('int8', 'llm_int8', 'nf4')}
GGUF = {'llama_cpp': 'float32', 'llama_cpp_q8_0': 'q8_0'}
SIDES = ('ours', 'ours_other', *CODES, 'torch', *GGUF)


def worker(side: str, case: dict[str, Any], args: argparse.Namespace, folder: pathlib.Path
           ) -> harness.Worker:
  """The process of a side."""
  if side in GGUF:
    file = gguf_file(case, GGUF[side], folder)
    return harness.Worker('llama_cpp_peer.py', case | {'file': str(file)}, args.threads,
                          python=args.llama_cpp)
  if side == 'torch':
    return harness.Worker('torch_peer.py', case, args.threads)
  python = args.other_python if side == 'ours_other' else sys.executable
  return harness.Worker('ours.py', case | {'quantized': CODES.get(side)}, args.threads,
                        python=python)


def gguf_file(case: dict[str, Any], dtype: str, folder: pathlib.Path) -> pathlib.Path:
  """Our network of a case as llama.cpp reads it, without a tokenizer; written once."""
  path = folder / f'{case["family"]}_{case["size"]}_{case["length"]}_{dtype}.gguf'
  if path.exists():
    return path
  import jax
  from ours import config_of

  from t5x_lite.interop import gguf_files, gguf_tokenizer
  from t5x_lite.models import build_network

  config = config_of(case['family'], case['size'], **case['config'])
  params = jax.jit(lambda: build_network(config).init(jax.random.key(0), True))()
  gguf_files.save_gguf(path, config, params, gguf_tokenizer.Vocabulary('none'),
                       gguf_files.Prompting(), dtype)
  return path


def compare(case: dict[str, Any], sides: list[str], args: argparse.Namespace,
            folder: pathlib.Path) -> dict[str, Any]:
  """Times of the sides on one case in turns, and the ratios of the others to ours in float32."""
  workers = {side: worker(side, case, args, folder) for side in sides}
  info = {side: w.warm_up() for side, w in workers.items()}
  clock = ('wall', 'cpu').index(args.clock)
  typical = lambda w, step, seconds: statistics.median(t[clock] for t in w.run(seconds, step))
  whole, first, memory = {s: [] for s in sides}, {s: [] for s in sides}, []
  for turn in range(args.rounds):
    for side in sides[::1 if turn % 2 == 0 else -1]:
      whole[side].append(typical(workers[side], '', args.seconds))
      first[side].append(typical(workers[side], 'first', args.seconds / 4))
    memory.append(harness.READ_MB / typical(workers['ours'], 'memory', args.seconds / 8))
  for w in workers.values():
    w.stop()
  speed = statistics.median(memory)
  result = {'case': {k: case[k] for k in ('family', 'size', 'rows', 'prompt', 'new')},
            'memory_mb_s': round(speed), 'load': round(os.getloadavg()[0], 1)}
  for side in sides:
    steps = [(a - b) / (case['new'] - 1) for a, b in zip(whole[side], first[side])]
    step = statistics.median(steps)
    row = {'seconds': round(statistics.median(whole[side]), 4), 'step_ms': round(1000 * step, 3),
           'tokens_s': round(case['rows'] / step, 1)}
    if 'jax' in info[side]:
      row['jax'] = info[side]['jax']
    if read_mb := info[side].get('read_mb'):
      row |= {'read_mb': round(read_mb, 1), 'of_memory': round(read_mb / step / speed, 2)}
    if side != 'ours':
      ratios = [a / b for a, b in zip(whole[side], whole['ours'])]
      row['ratio'] = [round(q, 2) for q in statistics.quantiles(ratios, n=4)]
    result[side] = row
  return result


def cases(args: argparse.Namespace):
  """All cases, small ones first."""
  for size, prompt, family, rows in itertools.product(
      args.sizes, args.prompts, args.families, args.rows):
    length = max(harness.SIZES[size]['length'], prompt + args.new)
    yield {'task': 'decode', 'family': family, 'size': size, 'rows': rows, 'prompt': prompt,
           'new': args.new, 'length': length, 'apart': True,
           'config': {'max_length': length} if family == 'gpt2' else {}}


def available(side: str, args: argparse.Namespace) -> str | None:
  """None, or why this machine lacks a side."""
  if side in GGUF:
    if args.llama_cpp is None:
      return '--llama_cpp names no Python that has llama-cpp-python'
    if subprocess.run([args.llama_cpp, '-c', 'import llama_cpp'], capture_output=True).returncode:
      return f'{args.llama_cpp} has no llama-cpp-python'
    return None if importlib.util.find_spec('gguf') else "files need gguf: pip install -e '.[gguf]'"
  if side == 'ours_other' and args.other_python is None:
    return '--other_python names none'
  if side == 'torch' and not importlib.util.find_spec('transformers'):
    return f'{sys.executable} has no transformers'
  return None


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  add = parser.add_argument
  add('--sizes', nargs='+', default=['S', 'M'])
  add('--families', nargs='+', default=['gpt2', 'llama'])
  add('--rows', nargs='+', type=int, default=[1, 8, 32])
  add('--prompts', nargs='+', type=int, default=[16, 1024], help='tokens')
  add('--new', type=int, default=64, help='tokens')
  add('--sides', nargs='+', choices=SIDES, default=SIDES, help='besides ours in float32')
  add('--llama_cpp', metavar='PYTHON', help='that has llama-cpp-python')
  add('--other_python', metavar='PYTHON', help='that has another jax: ours_other')
  add('--rounds', type=int, default=5)
  add('--seconds', type=float, default=1.0, help='of a turn')
  add('--threads', type=int, default=2)
  add('--clock', choices=['wall', 'cpu'], default='wall', help=(
      'cpu, with --threads=1: seconds of the processor, where other programs run beside'))
  add('--output', type=pathlib.Path)
  args = parser.parse_args()
  absent = {side: why for side in args.sides if (why := available(side, args))}
  for side, why in absent.items():
    print(f'{side} is left out: {why}')
  sides = ['ours', *(s for s in SIDES[1:] if s in args.sides and s not in absent)]
  results = {'machine': machine(), 'clock': args.clock, 'threads': args.threads,
             'left_out': absent, 'cases': []}
  with tempfile.TemporaryDirectory() as folder:
    for case in cases(args):
      row = compare(case, sides, args, pathlib.Path(folder))
      results['cases'].append(row)
      print(line_of(row), flush=True)
      if args.output:
        args.output.write_text(json.dumps(results, indent=1) + '\n')


def line_of(row: dict[str, Any]) -> str:
  """A case for the terminal."""
  head = ' '.join(f'{k} {v}' if k in ('rows', 'prompt') else str(v)
                  for k, v in row['case'].items() if k != 'new')
  sides = [f'{side} {r["tokens_s"]} tokens/s' + (f' {r["ratio"]}' if 'ratio' in r else '')
           + (f' {r["of_memory"]:.0%} of memory' if 'of_memory' in r else '')
           for side, r in row.items() if isinstance(r, dict) and side != 'case']
  return f'{head}: ' + ', '.join(sides)


if __name__ == '__main__':
  main()
