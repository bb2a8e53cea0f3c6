"""What is printed when a run is trained: its picture, and the commands to try next."""

from collections.abc import Sequence
import pathlib
import shlex
import sys

from t5x_lite.core.errors import UserError
from t5x_lite.experiment.experiment import Experiment
from t5x_lite.training import plots
from t5x_lite.training.run_folder import RunFolder


def program() -> str:
  """The command `t5x-lite` of this Python, as a shell in this folder takes it."""
  path = pathlib.Path(sys.executable).parent / 't5x-lite'
  return shlex.quote(str(path).removeprefix(f'{pathlib.Path.cwd()}/'))


def show(experiment: Experiment, trusted_modules: Sequence[str] = ()) -> None:
  """Draws the loss of a trained run, and prints where it is and the commands to try next.

  Args:
    experiment: of the run.
    trusted_modules: those that its gin files import.
  """
  folder = RunFolder(experiment.folder)
  try:
    picture = f', {plots.loss_curve(folder.path).name}'
  except UserError:   # fewer steps than TrainConfig.log_every
    picture = ''
  print(f'The run is in {folder.path}: config.gin, metrics.jsonl, checkpoints/, TensorBoard '
        f'events{picture}. Commands worth trying next:')
  for command in _commands(experiment, folder, trusted_modules):
    print(f'  {program()} {command}')


def _commands(experiment: Experiment, folder: RunFolder, trusted_modules: Sequence[str]
              ) -> list[str]:
  config = f'--gin_file={shlex.quote(str(folder.config))}'
  if trusted_modules:
    config += f' --trusted_modules={",".join(trusted_modules)}'
  commands = [f'plot {shlex.quote(str(folder.path))}   # of several runs: name them all']
  if 'test' in experiment.data.splits() and experiment.eval is not None:
    commands.insert(0, f'eval {config} --gin.EvalConfig.split=test')
  if experiment.model.family != 'encoder_only' or experiment.model.has_classes:
    several = experiment.model.classifies_texts and experiment.data.num_texts > 1   # no prompt
    commands.insert(0, f'infer {config}' + " --prompt='your text'" * (not several))
  return commands
