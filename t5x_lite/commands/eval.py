"""`t5x-lite eval`: metrics of a checkpoint on a split of its task."""

import argparse
from collections.abc import Sequence
import json

from t5x_lite.commands import gin_flags

EXAMPLE = 't5x-lite eval --gin_file=runs/lm/config.gin --gin.EvalConfig.split=test'


def add_flags(parser: argparse.ArgumentParser) -> None:
  gin_flags.add_flags(parser)
  parser.add_argument('--json', action='store_true', help='print JSON')


def run(args: argparse.Namespace) -> int:
  metrics = evaluate(gin_flags.load_experiment(args, trains=False)[0], args.trusted_modules)
  lines = '\n'.join(f'{name:<40}{value:>12.4f}' for name, value in metrics.items())
  print(json.dumps(metrics) if args.json else lines)
  return 0


def evaluate(experiment, trusted_modules: Sequence[str] = ()) -> dict[str, float]:
  """Metrics of a checkpoint of the run (eval.step, or the newest) on its evaluation split.

  `trusted_modules` are those outside this project that config.gin of adapters may import.
  """
  from t5x_lite.commands.adapters import load_chosen
  from t5x_lite.core.errors import UserError
  if experiment.eval is None:
    raise UserError('Experiment.eval is not set: bind an evaluation, such as '
                    '@evaluator.EvalConfig() of tasks.pipeline')
  network, partitioner = experiment.build_network(experiment.mesh.make())
  params, step = load_chosen(experiment, network, partitioner, experiment.eval.step,
                             experiment.data.fingerprint(), trusted_modules)
  evaluator = experiment.eval.make(network, partitioner, experiment.data, experiment.seed,
                                   required=True)
  return evaluator(params, step)
