"""`t5x-lite quickstart`: trains a small model on Python's own source, evaluates and samples it.

Everything here is the public interface: read it as the shortest program that uses the project.
"""

import argparse
import dataclasses
import itertools
import pathlib
import time

from t5x_lite.commands import gin_flags

EXAMPLE = 't5x-lite quickstart'
PROMPTS = ('def __init__(self', 'import ', 'class ', '    for ')


def add_flags(parser: argparse.ArgumentParser) -> None:
  gin_flags.add_flags(parser)


def run(args: argparse.Namespace) -> int:
  main(args.gin_file, args.bindings)
  return 0


def run_folder(parent: pathlib.Path) -> pathlib.Path:
  """The first of quickstart, quickstart-2, … that does not exist: no run is overwritten."""
  names = itertools.chain(['quickstart'], (f'quickstart-{n}' for n in itertools.count(2)))
  return next(parent / name for name in names if not (parent / name).exists())


def main(gin_files: list[str], bindings: list[str]) -> None:
  """Trains, evaluates and samples; gin files and bindings ('NAME=VALUE') change the experiment."""
  began = time.monotonic()
  from t5x_lite.commands import describe, infer, next_steps, train
  from t5x_lite.core import console
  from t5x_lite.cost import summary
  from t5x_lite.experiment import gin_config
  from t5x_lite.inference import sampling
  from t5x_lite.training.run_folder import RunFolder
  folder = run_folder(pathlib.Path('runs'))
  experiment, config_gin = gin_config.load_experiment(
      ['experiments/quickstart.gin', *gin_files], [f"MODEL_DIR='{folder}'", *bindings])
  print('A decoder-only Transformer, to learn the bytes of Python\'s standard library:\n')
  print(summary.as_text(describe.summarize(experiment)), '\n')
  print('Training (reading the library takes half a minute the first time):')
  result = train.train(experiment, config_gin)
  if not result.finished:
    return
  losses = [r for r in RunFolder(folder).read_metrics() if r['kind'] == 'train']
  first, last = losses[0], losses[-1]
  print(f'\nThe loss fell from {first["loss"]:.2f} (step {first["step"]}) to {last["loss"]:.2f} '
        f'nats a byte (step {last["step"]}).')
  print(f'Held-out modules cost {result.metrics["stdlib_lm/bits_per_byte"]:.2f} bits a byte; a '
        'model that knew only how frequent each byte is would need 4.67.')
  print('\nWhat it writes after a prompt (temperature 0.5):')
  settings = dataclasses.replace(
      experiment.infer, decoding=sampling.Sampling(temperature=0.5), max_tokens=80)
  generator, _ = infer.load_generator(dataclasses.replace(experiment, infer=settings))
  for record in generator(PROMPTS):
    print('  | ' + (record['inputs'] + record['output']).rstrip().replace('\n', '\n  | '))
    print()
  next_steps.show(experiment)
  print(f'  {next_steps.program()} train --gin_file=experiments/tiny_mlm.gin '
        '--gin.MODEL_DIR=runs/mlm   # another family')
  print(f'The quickstart took {console.duration(time.monotonic() - began)}.')
