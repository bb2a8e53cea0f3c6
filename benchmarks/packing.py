"""Packing of a task, ours beside seqio's: places filled, and tokens a second of one core.

    python benchmarks/packing.py --task stdlib_docstring --length 512

The examples are tokenised once and held in memory, so that the times are those of packing alone;
`tokenise` is what that took. In turns, medians of rounds.
"""

import argparse
import importlib
import json
import os
import statistics
import time

import numpy as np

from tasks.pipeline import imports


def one_pass(dataset, names: list[str]) -> tuple[float, dict[str, float]]:
  """(seconds, share of the places of each of the segment features that hold a token)."""
  begun, tokens, places = time.perf_counter(), dict.fromkeys(names, 0), dict.fromkeys(names, 0)
  # In batches, as training reads them: handing rows to Python one by one costs more than packing.
  for batch in dataset.batch(64).as_numpy_iterator():
    for name in names:
      tokens[name] += int((batch[name] > 0).sum())
      places[name] += batch[name].size
  filled = {name.split('_')[0]: round(tokens[name] / places[name], 4) for name in names}
  return time.perf_counter() - begun, filled


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--task', default='stdlib_docstring')
  parser.add_argument('--task_module', default='tasks.datasets.stdlib')
  parser.add_argument('--length', type=int, default=512, help='of each feature')
  parser.add_argument('--examples', type=int, default=4000)
  parser.add_argument('--rounds', type=int, default=5)
  args = parser.parse_args()
  os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})   # one core
  seqio = imports.import_seqio()
  import tensorflow as tf
  importlib.import_module(args.task_module)
  packing = importlib.import_module('tasks.pipeline.packing')
  task = seqio.get_mixture_or_task(args.task)
  lengths = dict.fromkeys(task.output_features, args.length)
  begun = time.perf_counter()
  examples = [{name: ex[name][:args.length] for name in lengths} for ex in task.get_dataset(
      lengths, 'train', shuffle=True, seed=0).take(args.examples).as_numpy_iterator()]
  seconds = time.perf_counter() - begun
  tokens = sum(len(x) for ex in examples for x in ex.values())
  report = {'task': args.task, 'length': args.length, 'examples': len(examples), 'tokens': tokens,
            'tokenise_tokens_per_s': round(tokens / seconds)}
  held = {name: tf.ragged.constant([ex[name].tolist() for ex in examples]) for name in lengths}
  dataset = tf.data.Dataset.from_tensor_slices(held).map(
      lambda ex: {name: tf.cast(x, tf.int32) for name, x in ex.items()})
  kinds = {'encoder_decoder': seqio.EncDecFeatureConverter} if 'inputs' in lengths else {}
  kinds['decoder_only'] = (
      seqio.PrefixLMFeatureConverter if 'inputs' in lengths else seqio.LMFeatureConverter)
  for family, kind in kinds.items():
    names = ['decoder_segment_ids'] + ['encoder_segment_ids'] * (family == 'encoder_decoder')
    converters = {'seqio': kind(pack=True), 'best_fit': packing.best_fit(kind)(pack=True)}
    times, filled = {name: [] for name in converters}, {}
    for turn in range(args.rounds):
      for name in list(converters)[::1 if turn % 2 == 0 else -1]:
        seconds, filled[name] = one_pass(converters[name](dataset, lengths), names)
        times[name].append(seconds)
    speed = {name: tokens / statistics.median(t) for name, t in times.items()}
    ratios = np.array(times['seqio']) / np.array(times['best_fit'])
    report[family] = {name: {'filled': filled[name], 'tokens_per_s': round(speed[name])}
                      for name in converters} | {
                          'ratio': [round(x, 2) for x in np.percentile(ratios, (25, 50, 75))]}
  print(json.dumps(report, indent=1))


if __name__ == '__main__':
  main()
