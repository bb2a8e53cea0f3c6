"""Tokens a second that `t5x-lite data cache` writes, with one process and with one for each core.

    python benchmarks/tokenising.py --vocabulary words.model

The seconds hold the start of the processes, which import TensorFlow.
"""

import argparse
import dataclasses
import json
import os
import tempfile
import time

from tasks.pipeline import imports, provider
from tasks.pipeline.seqio_data import DataConfig


def cached(data: DataConfig, processes: int) -> tuple[int, float]:
  """(tokens, seconds) of writing a cache of `data`."""
  from tasks.pipeline import caching

  with tempfile.TemporaryDirectory() as folder:
    begun = time.perf_counter()
    written = caching.write_cache(dataclasses.replace(data, cache_dir=folder), processes)
    tokens = sum(caching.total_tokens(counts) for _, counts in written)
    return tokens, time.perf_counter() - begun


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--task', default='stdlib_lm')
  parser.add_argument('--inputs_length', type=int, help='of a task that has inputs')
  parser.add_argument('--vocabulary', help='default: bytes')
  args = parser.parse_args()
  imports.import_seqio()
  data = DataConfig(task=args.task, inputs_length=args.inputs_length, targets_length=512,
                    batch_size=8, vocabulary=args.vocabulary)
  provider.get_task(data).num_input_examples('train')   # prepared before the clock starts
  report = {'task': args.task, 'vocabulary': args.vocabulary or 'bytes', 'cores': os.cpu_count()}
  for processes in (1, os.cpu_count()):
    tokens, seconds = cached(data, processes)
    report[f'{processes} processes'] = {
        'tokens': tokens, 'seconds': round(seconds, 1), 'tokens_per_s': round(tokens / seconds)}
  print(json.dumps(report, indent=1))


if __name__ == '__main__':
  main()
