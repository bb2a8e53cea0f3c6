"""The prediction of a ladder for its target, and the verdict on it.

The prediction is written before the target is trained, and is never overwritten.
"""

from collections.abc import Sequence
import dataclasses
import datetime
import hashlib
import json
import pathlib

import numpy as np

from scaling.ladder import design as ladders
from scaling.ladder import launch
from scaling.ladder.design import Ladder, Run
from scaling.planning import architecture
from t5x_lite.core.errors import UserError
from t5x_lite.cost import accounting

PREDICTION, VERDICT, TARGET = 'prediction.json', 'verdict.json', 'target'


def predict_target(ladder: Ladder, folder: pathlib.Path, level: float = 0.95) -> dict:
  """Fits the ladder, sizes the target by the fit, and writes its gin file and prediction.json.

  The prediction holds the law, the target, the interval of its loss, the outliers, and a hash of
  the losses. An existing prediction from the same losses is returned unchanged; UserError if the
  losses differ.
  """
  from scaling import figures
  from t5x_lite.experiment import gin_config

  results = launch.write_results(ladder, folder)
  digest = hashlib.sha256(results.read_bytes()).hexdigest()
  path = folder / PREDICTION
  if path.exists():
    prediction = json.loads(path.read_text())
    if prediction['losses_sha256'] != digest:
      raise UserError(f'{path} was made from other losses than those of {results}: a prediction '
                      'is not overwritten; remove it to make another')
    return prediction
  all_runs, fit, outliers = fit_ladder(results, [run.name for run in ladder.runs])
  experiment, _ = gin_config.load_experiment(ladder.gin_files, [*ladder.bindings, "MODEL_DIR=''"])
  config = architecture.config_for_size(
      experiment.model, fit.law.optimum(ladder.target_flops)[0], multiple=ladder.multiple)
  target = target_run(ladder, experiment, config)
  loss, low, high = fit.predict_loss(target.parameters, target.tokens, level)
  ladders.gin_path(folder, TARGET).write_text(ladders.format_gin(ladder, target, folder))
  largest = max(run.flops for run in ladder.runs)
  prediction = {
      'made': datetime.datetime.now(datetime.UTC).isoformat(timespec='seconds'),
      'losses_sha256': digest, 'law': dataclasses.asdict(fit.law),
      'outliers': outliers, 'level': level,
      'target': dataclasses.asdict(target), 'times_the_largest_rung': target.flops / largest,
      'loss': loss, 'low': low, 'high': high,
      'loss_with_outliers': float(
          all_runs.law.loss(target.parameters, target.tokens))}
  launch.save_json(path, prediction)
  figures.save_figures(fit, folder / 'figures')
  return prediction


def fit_ladder(results: pathlib.Path, names: Sequence[str]):
  """(fit of approach 3 to all runs, fit without `diagnostics.outliers`, their names).

  The two are the same if there are no outliers.
  """
  from scaling.fitting import diagnostics, parametric
  from scaling.fitting.runs import read_csv

  runs = read_csv(results)
  fit = parametric.fit_unchecked(runs)
  outliers = diagnostics.outliers(fit)
  if not outliers:
    parametric.check_identified(fit)
    fit = parametric.bootstrap(fit)
    return fit, fit, []
  kept = np.ones(len(runs), bool)
  kept[[outlier.index for outlier in outliers]] = False
  without = parametric.bootstrap(parametric.fit_law(runs.select(kept)))
  return fit, without, [names[outlier.index] for outlier in outliers]


def target_run(ladder: Ladder, experiment, config) -> Run:
  """The run of `config` with the FLOPs of the target and the ladder's schedule."""
  per_step = ladder.tokens_per_step
  steps = round(ladder.target_flops / 6 / accounting.parameters(config).total / per_step)
  return ladders.make_run(
      experiment, config, TARGET, steps, warmup=max(run.warmup_steps for run in ladder.runs),
      decay=round(ladders.DECAY * steps), checkpoint_every=max(1, steps // 10))


def format_prediction(prediction: dict) -> str:
  """The prediction as text."""
  target = prediction['target']
  outliers = 'none' if not prediction['outliers'] else (
      f'{", ".join(prediction["outliers"])}: left out (with them the prediction is '
      f'{prediction["loss_with_outliers"]:.4f})')
  return '\n'.join([
      'L = E + A / N^alpha + B / D^beta: ' + ', '.join(
          f'{name} {value:.4g}' for name, value in prediction['law'].items()),
      f'Outliers: {outliers}',
      f'Target: {target["parameters"]:,} parameters, {target["tokens"]:,} tokens, '
      f'{target["flops"]:.3g} FLOPs, {prediction["times_the_largest_rung"]:.1f} times the largest '
      'rung',
      f'Predicted loss: {prediction["loss"]:.4f}, with {prediction["level"]:.0%} between '
      f'{prediction["low"]:.4f} and {prediction["high"]:.4f}'])


def check_target(ladder: Ladder, folder: pathlib.Path) -> dict:
  """Trains the target, and writes verdict.json: whether its loss is in the interval."""
  path = folder / PREDICTION
  if not path.exists():
    raise UserError(f'{path} is missing: predict first (t5x-lite scaling ladder fit '
                    f'--folder={folder})')
  prediction = json.loads(path.read_text())
  target = Run(**prediction['target'])
  launch.train_runs(folder, [target])
  verdict = judge_prediction(prediction, launch.read_final_loss(folder, target))
  launch.save_json(folder / VERDICT, verdict)
  return verdict


def judge_prediction(prediction: dict, measured: float) -> dict:
  """The verdict on a measured loss."""
  inside = prediction['low'] <= measured <= prediction['high']
  error = measured - prediction['loss']
  return {
      'measured': measured, 'predicted': prediction['loss'], 'low': prediction['low'],
      'high': prediction['high'], 'level': prediction['level'], 'inside': inside,
      'error': error, 'relative_error': error / measured,
      'sentence': f'{"Inside" if inside else "OUTSIDE"} the {prediction["level"]:.0%} interval: '
                  f'measured {measured:.4f}, predicted {prediction["loss"]:.4f} '
                  f'({prediction["low"]:.4f} to {prediction["high"]:.4f}), '
                  f'off by {error / measured:+.2%}'}
