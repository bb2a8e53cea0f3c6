"""Runs from the folders that `t5x-lite train` writes (MODEL_DIR)."""

from collections.abc import Sequence
import pathlib

import numpy as np

from scaling.fitting.runs import Runs
from t5x_lite.core.errors import UserError
from t5x_lite.core.paths import local_path


def read_folders(paths: Sequence[pathlib.Path | str]) -> Runs:
  """The runs of folders written by `t5x-lite train` (MODEL_DIR).

  N counts all parameters that are active for a token, D the tokens of all batches; the loss is that
  of the evaluation after the last step. Raises UserError for a folder without a run, an unfinished
  run (earlier checkpoints of a decaying learning rate do not follow the law), and a run without
  evaluation.
  """
  rows = [_folder(local_path(path)) for path in paths]
  parameters, tokens, loss, experts, top_k = (np.array(column, float) for column in zip(*rows))
  settings = {'experts': experts, 'top_k': top_k} if (experts > 1).any() else {}
  return Runs(parameters, tokens, loss, 6 * parameters * tokens, tuple(map(str, paths)),
              settings=settings)


def read_curves(paths: Sequence[pathlib.Path | str]) -> Runs:
  """Every evaluation of each run: training curves, for approach 1 only.

  Raises UserError as `read_folders` does, but accepts unfinished runs.
  """
  rows = []
  for path in paths:
    model, tokens_per_step, _, losses = _evaluations(local_path(path))
    parameters = _active(model)
    rows += [(parameters, tokens_per_step * step, loss, f'{path}, step {step}')
               for step, loss in losses.items()]
  parameters, tokens, loss = (np.array(column, float) for column in list(zip(*rows))[:3])
  return Runs(parameters, tokens, loss, 6 * parameters * tokens, tuple(row[3] for row in rows))


def _active(model) -> int:
  from t5x_lite.cost import accounting  # the model is built from the run's gin
  return accounting.parameters(model).active


def _folder(path: pathlib.Path) -> tuple[int, int, float, int, int]:
  """(N, D, loss, experts, active experts) of a finished run."""
  model, tokens_per_step, steps, losses = _evaluations(path)
  if steps not in losses:
    raise UserError(f'{path} was last evaluated at step {max(losses)} of {steps}: a law '
                    'needs finished runs; resume its training first')
  experts = (1, 1) if model.num_experts is None else (model.num_experts, model.experts_per_token)
  return _active(model), tokens_per_step * steps, losses[steps], *experts


def _evaluations(path: pathlib.Path):
  """(model, tokens of a step, steps of the whole run, {step: evaluation loss}) of a folder."""
  from t5x_lite.experiment import gin_config
  from t5x_lite.training.run_folder import RunFolder
  config, log = RunFolder(path).config, RunFolder(path).metrics
  for file in (config, log):
    if not file.exists():
      raise UserError(f'{path} has no {file.name}: pass the MODEL_DIR of a finished run')
  losses = {}
  for record in RunFolder(path).read_metrics():
    found = {name: value for name, value in record.items() if name.endswith('/loss')}
    if record['kind'] != 'eval':
      continue
    if len(found) != 1:
      raise UserError(f'{path}: expected one evaluation loss after step {record["step"]}, found '
                      f'{", ".join(found) or "none"}: train one task with the metrics of a '
                      'language model')
    (name, loss), = found.items()
    if loss is None:
      raise UserError(f'{path}: {name} after step {record["step"]} is not finite: leave the run '
                      'out')
    losses[record['step']] = loss
  if not losses:
    raise UserError(f'{path} has no evaluation in {log.name}: finish its training, with a task '
                    'that has a validation split')
  experiment, _ = gin_config.load_experiment([str(config)])
  tokens = sum(experiment.row_lengths) * experiment.data.batch_size
  return experiment.model, tokens, experiment.train.steps, losses
