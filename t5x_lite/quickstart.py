"""`make quickstart`: trains a small model on Python's own source, evaluates it and samples from it.

Everything here is the public interface: read it as the shortest program that uses the project.
"""

import dataclasses
import itertools
import pathlib
import sys
import time

from t5x_lite import cli
from t5x_lite.errors import UserError

PROMPTS = ('def __init__(self', 'import ', 'class ', '    for ')


def run_folder(parent: pathlib.Path) -> pathlib.Path:
  """The first of quickstart, quickstart-2, … that does not exist: no run is overwritten."""
  names = itertools.chain(['quickstart'], (f'quickstart-{n}' for n in itertools.count(2)))
  return next(parent / name for name in names if not (parent / name).exists())


def main(bindings: list[str]) -> None:
  """Trains, evaluates and samples; `bindings` ('NAME=VALUE') change the experiment."""
  began = time.monotonic()
  cli.set_up_process()
  from t5x_lite import configuration, describe, inference, metrics, plots, trainer
  folder = run_folder(pathlib.Path('runs'))
  experiment, config_gin = configuration.load(
      ['experiments/quickstart.gin'], [f"MODEL_DIR='{folder}'", *bindings])
  print('A decoder-only Transformer, to learn the bytes of Python\'s standard library:\n')
  print(describe.as_text(describe.describe(experiment)), '\n')
  print('Training (reading the library takes half a minute the first time):')
  result = trainer.train(experiment, config_gin)
  if not result.finished:
    return
  losses = [r for r in metrics.read(folder / metrics.FILE) if r['kind'] == 'train']
  first, last = losses[0], losses[-1]
  print(f'\nThe loss fell from {first["loss"]:.2f} (step {first["step"]}) to {last["loss"]:.2f} '
        f'nats a byte (step {last["step"]}).')
  print(f'Held-out modules cost {result.metrics["stdlib_lm/bits_per_byte"]:.2f} bits a byte; a '
        'model that knew only how frequent each byte is would need 4.67.')
  print('\nWhat it writes after a prompt (temperature 0.5):')
  sampling = dataclasses.replace(experiment.infer, temperature=0.5, max_tokens=80)
  generator = inference.Generator(dataclasses.replace(experiment, infer=sampling))
  for record in generator(PROMPTS):
    print('  | ' + (record['inputs'] + record['output']).rstrip().replace('\n', '\n  | '))
    print()
  picture = plots.loss_curve(folder)
  config = folder / trainer.CONFIG
  command = f'{pathlib.Path(sys.executable).parent / "t5x-lite"}'
  command = command.removeprefix(f'{pathlib.Path.cwd()}/')
  print(f'The run is in {folder}: config.gin, metrics.jsonl, checkpoints/, TensorBoard events, and '
        f'{picture.name}.')
  took = metrics.duration(time.monotonic() - began)
  print(f'That took {took}. Three commands worth trying next:')
  print(f'  {command} infer --gin_file={config} --gin.InferConfig.input=prompts.txt   '
        '# a prompt on each line')
  print(f'  {command} eval --gin_file={config} --gin.EvalConfig.split=test')
  print(f'  {command} train --gin_file=experiments/tiny_mlm.gin --gin.MODEL_DIR=runs/mlm   '
        '# another family')


if __name__ == '__main__':
  try:
    main([a.removeprefix('--gin.') for a in sys.argv[1:]])
  except UserError as e:
    sys.exit(f'error: {e}')
