"""Runs in sequence, each in a folder of its own: a plan, and what of it is still to be done."""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import pathlib
from typing import Any


@dataclasses.dataclass(frozen=True)
class Stage:
  """A stage: what it is called, what it makes, of what, and how.

  Attributes:
    run: returns a Result of training, whose `finished` may be False, or anything else.
  """
  name: str
  output: pathlib.Path
  reads: Sequence[str]
  tells: str                # a line of the plan
  is_done: Callable[[], bool]
  run: Callable[[], Any]


def run_stages(stages: Sequence[Stage], only_plan: bool) -> int:
  """Prints the plan, and does what is not done; returns the exit status."""
  for number, stage in enumerate(stages, 1):
    state = ' (done)' if stage.is_done() else ''
    print(f'{number}. {stage.name}{state}: {stage.tells}\n   {" and ".join(stage.reads) or "seed"}'
          f' -> {stage.output}')
  if only_plan:
    return 0
  for number, stage in enumerate(stages, 1):
    if stage.is_done():
      continue
    print(f'\n{number} of {len(stages)}: {stage.name}', flush=True)
    result = stage.run()
    if getattr(result, 'finished', True) is False:   # stopped by a signal: saved
      print('Stopped: the same command goes on from here')
      return 0
  return 0


def load(file: str, macros: Mapping[str, Any], trusted_modules: Sequence[str]):
  """(experiment, its config as gin) of a gin file and values of its macros."""
  from t5x_lite.experiment import gin_config
  return gin_config.load_experiment(
      [file], [f'{name}={value}' for name, value in macros.items()], trusted_modules)


def training(name: str, file: str, output: pathlib.Path, macros: Mapping[str, Any],
             trusted_modules: Sequence[str]) -> Stage:
  """The stage that trains a gin file with macros, what it reads, in the folder `output`."""
  from t5x_lite.training.checkpoints import Checkpoints
  experiment, config_gin = load(file, {'MODEL_DIR': output} | macros, trusted_modules)
  steps = experiment.train.steps

  def train():
    from t5x_lite.commands.train import train
    return train(experiment, config_gin)

  return Stage(
      name, output, [str(x) for x in macros.values()],
      f'{steps:,} steps of {experiment.data.batch_size} rows ({file})',
      lambda: (Checkpoints(output).steps() or [-1])[-1] >= steps, train)
