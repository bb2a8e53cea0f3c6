"""`t5x-lite describe`: parameters, FLOPs and memory of an experiment, or of a model alone."""

import argparse
import json
from typing import Any

from t5x_lite.commands import gin_flags

EXAMPLE = 't5x-lite describe --gin_file=experiments/tiny_lm.gin'


def add_flags(parser: argparse.ArgumentParser) -> None:
  gin_flags.add_flags(parser)
  parser.add_argument('--json', action='store_true', help='print JSON')
  parser.add_argument('--sizes', action='store_true',
                      help='print the bytes of the weights in each format instead')


def run(args: argparse.Namespace) -> int:
  from t5x_lite.cost import summary
  if args.sizes:
    return _print_sizes(gin_flags.load_described(args).model, args.json)
  table = summarize(gin_flags.load_described(args))
  print(json.dumps(table, indent=2) if args.json else summary.as_text(table))
  return 0


def _print_sizes(config, as_json: bool) -> int:
  from t5x_lite.interop import weight_sizes
  sizes = weight_sizes.weight_bytes(config)
  print(json.dumps(sizes, indent=2) if as_json else
        weight_sizes.as_text(sizes, sizes['checkpoint float32'] // 4))
  return 0


def summarize(experiment) -> dict[str, Any]:
  """What an experiment builds and costs; see cost.summary.summarize.

  Of one that tunes a checkpoint `tuning` has the ways side by side: cost.tuning.compare_ways.
  """
  from t5x_lite.cost import summary, tuning
  mesh = experiment.mesh.abstract()
  network, _ = experiment.build_network(mesh)
  found = summary.summarize(
      network, optimizer=experiment.optimizer, mesh=experiment.mesh,
      row_lengths=experiment.row_lengths, batch_size=experiment.data.batch_size,
      steps=experiment.train.steps, microbatches=experiment.train.microbatches)
  if experiment.init_from is not None or experiment.adaptation is not None:
    found['tuning'] = tuning.compare_ways(
        experiment.model, experiment.row_lengths, mesh=mesh.shape, rows=experiment.data.batch_size,
        adaptation=experiment.adaptation, optimizer=experiment.optimizer,
        microbatches=experiment.train.microbatches, rules=experiment.mesh.rules,
        platform='cpu' if experiment.model.dtype == 'float32' else 'tpu')
  return found
