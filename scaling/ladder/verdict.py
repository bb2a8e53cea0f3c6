"""The prediction of a ladder for a target, registered before the target runs, and its verdict."""

from collections.abc import Collection, Sequence
import hashlib
import pathlib
from typing import Any

import numpy as np
from scipy import optimize

from scaling.ladder import design, launch, manifest, registry
from scaling.ladder.manifest import Ladder, Run
from t5x_lite.core.errors import UserError
from t5x_lite.core.files import write_text
from t5x_lite.core.strict_json import format_json
from t5x_lite.training.run_folder import RunFolder

VERDICT, TARGET = 'verdict.json', 'target'
_HUBER = 1e-3   # of the fit with a given E, as in fitting/solver.py


def predict_target(ladder: Ladder, folder: pathlib.Path, level: float = 0.95, *,
                   target_flops: float | None = None, leave_out: Collection[str] = (),
                   bayes: bool = False) -> dict[str, Any]:
  """Fits the ladder, sizes the target by the fit, writes its gin file and registers a prediction.

  The prediction holds the law, the target, the interval of its loss, what it assumes, what other
  values of E would predict, the outliers, and a hash of the losses. The last one is returned
  unchanged if nothing has changed; others are added as long as the target has not been started,
  and refused with a UserError afterwards.

  Args:
    target_flops: None: the ladder's.
    leave_out: names of runs that are not fitted.
    bayes: predict by a posterior (fitting/bayesian.py) and not by the bootstrap.
  """
  flops = ladder.target_flops if target_flops is None else target_flops
  kept = launch.kept_runs(ladder, leave_out)
  largest = max(run.flops for run in kept)
  if not largest < flops < np.inf:
    raise UserError(f'--target={flops:.3g}: give more FLOPs than the largest rung, {largest:.3g}')
  results = launch.write_results(ladder, folder, leave_out)
  name = target_name(ladder, flops)
  same = {'losses_sha256': hashlib.sha256(results.read_bytes()).hexdigest(), 'level': level,
          'bayes': bayes}
  before = [p for p in registry.read_predictions(folder) if p['target']['name'] == name]
  if before and all(before[-1].get(key, False) == value for key, value in same.items()):
    return before[-1]
  if RunFolder(manifest.run_folder(folder, name)).read_metrics():
    raise UserError(f'{manifest.run_folder(folder, name)} has been started, and the losses of '
                    f'{results}, the level or --bayes are not those of its prediction: what is '
                    'registered after a target has begun is no prediction; give another --target')
  all_runs, fit, outliers, assumptions = fit_ladder(results, [run.name for run in kept], bayes)
  target = size_target(ladder, fit.law.optimum(flops)[0], flops, name)
  loss, low, high = fit.predict_loss(target.parameters, target.tokens, level)
  manifest.write_gin_files(ladder, [target], folder)
  prediction = registry.register_prediction(folder, {
      **same, 'law': fit.law, 'outliers': outliers, 'left_out': sorted(leave_out),
      'target': target, 'times_the_largest_rung': target.flops / largest,
      'loss': loss, 'low': low, 'high': high,
      'loss_with_outliers': float(all_runs.law.loss(target.parameters, target.tokens)),
      'assumptions': assumptions + _assumptions(kept),
      'sensitivity_to_e': sensitivity_to_e(fit, target.parameters, target.tokens, level)})
  from scaling import figures
  figures.save_figures(fit, folder / 'figures')
  return prediction


def target_name(ladder: Ladder, flops: float) -> str:
  """'target', or 'target_5e21' for FLOPs that are not the ladder's own."""
  return TARGET if flops == ladder.target_flops else f'{TARGET}_{flops:.6g}'


def fit_ladder(results: pathlib.Path, names: Sequence[str], bayes: bool = False):
  """(fit of approach 3 to all runs, fit without `diagnostics.outliers`, their names, assumptions).

  The two fits are the same if there are no outliers, and for a posterior, which leaves none out.
  """
  from scaling.fitting import diagnostics, parametric
  from scaling.fitting.runs import read_csv

  if bayes:
    from scaling.fitting import bayesian, posterior_report
    fit = bayesian.fit_posterior(read_csv(results))
    return fit, fit, [], [f'intervals: {fit.resampling}', *(
        f'doubt: {line}' for line in posterior_report.list_doubts(fit, []))]
  all_runs, fit, outliers = diagnostics.fit_kept(read_csv(results))
  fit = parametric.bootstrap(fit)
  found = diagnostics.diagnose(fit, outliers)
  return all_runs, fit, [names[outlier.index] for outlier in outliers], [
      f'intervals: {found.resampling}', *(f'doubt: {line}' for line in found.warnings)]


def _assumptions(runs: Sequence[Run]) -> list[str]:
  trunks = {run.trunk for run in runs}
  return [f'L = E + A / N^alpha + B / D^beta holds from the {len(runs)} runs '
          f'({len(trunks)} trunks) to the target; N counts all parameters, C is 6 N D',
          'data, batch size and length of the target are those of the runs; its peak rate follows '
          f'N^(-1/3), and decays in the last {design.DECAY:.0%} of its steps',
          'the target is one run, whose noise is that of the runs']


def sensitivity_to_e(fit, parameters: float, tokens: float, level: float
                     ) -> list[dict[str, float]]:
  """The predicted loss if E is at either end of its interval, the other constants refitted.

  `misfit` is the objective as a multiple of the best fit's.
  """
  low, high = fit.intervals(level)['e']
  highest = 0.98 * float(fit.runs.loss.min())
  _, best = _refit(fit, fit.law.e)
  found = []
  for e in np.clip([low, high], 1e-6, highest):
    (a, b, alpha, beta), objective = _refit(fit, e)
    found.append({'e': float(e), 'loss': float(
        e + np.exp(a - alpha * np.log(parameters)) + np.exp(b - beta * np.log(tokens))),
                  'misfit': objective / best})
  return found


def _refit(fit, e: float) -> tuple[np.ndarray, float]:
  """(ln A, ln B, alpha, beta) of the least Huber loss with this E, and the objective."""
  n, d, y = (np.log(x) for x in (fit.runs.parameters, fit.runs.tokens, fit.runs.loss))
  middle = np.array([n.mean(), d.mean()])
  # In units of the delta, or the optimizer's absolute tolerances end it early.
  miss = lambda x: (y - np.logaddexp(np.logaddexp(
      x[0] - x[2] * (n - middle[0]), x[1] - x[3] * (d - middle[1])), np.log(e))) / _HUBER
  start = np.array([np.log(fit.law.a), np.log(fit.law.b), fit.law.alpha, fit.law.beta])
  start[:2] -= start[2:] * middle
  start = optimize.least_squares(miss, start, x_scale='jac').x
  found = optimize.least_squares(miss, start, loss='huber', x_scale='jac', xtol=1e-12)
  return np.concatenate([found.x[:2] + found.x[2:] * middle, found.x[2:]]), float(found.cost)


def size_target(ladder: Ladder, parameters: float, flops: float, name: str) -> Run:
  """The run of about so many parameters with these FLOPs and the ladder's schedule."""
  experiment = design.base_experiment(ladder)
  config = design.config_of(ladder, experiment, parameters)
  count = design.count_parameters(config)
  steps = round(flops / 6 / count / ladder.tokens_per_step)
  return design.make_run(
      experiment, config, name, steps, warmup=max(run.warmup_steps for run in ladder.runs),
      decay=round(design.DECAY * steps), checkpoint_every=max(1, steps // 10),
      seed=experiment.seed)


def format_prediction(prediction: dict[str, Any]) -> str:
  """The prediction as text."""
  target = prediction['target']
  outliers = 'none' if not prediction['outliers'] else (
      f'{", ".join(prediction["outliers"])}: left out (with them the prediction is '
      f'{prediction["loss_with_outliers"]:.4f})')
  floors = '; '.join(f'{at["loss"]:.4f} for E = {at["e"]:.4g}'
                     for at in prediction['sensitivity_to_e'])
  return '\n'.join([
      'L = E + A / N^alpha + B / D^beta: ' + ', '.join(
          f'{name} {value:.4g}' for name, value in prediction['law'].items()),
      f'Outliers: {outliers}',
      *(f'Left out: {name}' for name in prediction['left_out']),
      f'Target: {target["parameters"]:,} parameters, {target["tokens"]:,} tokens, '
      f'{target["flops"]:.3g} FLOPs, {prediction["times_the_largest_rung"]:.1f} times the largest '
      'rung',
      f'Predicted loss: {prediction["loss"]:.4f}, with {prediction["level"]:.0%} between '
      f'{prediction["low"]:.4f} and {prediction["high"]:.4f}',
      f'With E at the ends of its interval: {floors}',
      *(f'Assumed: {line}' for line in prediction['assumptions']),
      f'Registered {prediction["made"]} in {registry.PREDICTIONS}, sha256 {prediction["sha256"]}'])


def check_target(ladder: Ladder, folder: pathlib.Path, target_flops: float | None = None
                 ) -> dict[str, Any]:
  """Trains a target whose prediction is registered, and writes verdict.json.

  It holds the verdict on the last prediction of this target, and the calibration over all
  predictions of the folder. Those of targets that are not trained (yet, or any more, as a later
  prediction chose another size) are counted.
  """
  name = target_name(ladder, ladder.target_flops if target_flops is None else target_flops)
  predictions = registry.read_predictions(folder)
  last = next((p for p in reversed(predictions) if p['target']['name'] == name), None)
  if last is None:
    raise UserError(f'{folder / registry.PREDICTIONS} has no prediction of {name}: predict first '
                    f'(t5x-lite scaling ladder fit --folder={folder})')
  target = manifest.run_of(last['target'])
  launch.train_runs(ladder, folder, [target])
  trained = {p['target']['name']: p['target'] for p in predictions}   # by the last of each name
  judged, unmeasured = [], 0
  for prediction in predictions:
    wanted = prediction['target']
    loss = launch.read_outcome(folder, manifest.run_of(wanted)).loss
    if loss is None or wanted != trained[wanted['name']]:
      unmeasured += 1
      continue
    judged.append({'prediction': prediction['sha256'], 'target': wanted['name'],
                   **registry.judge_prediction(prediction, loss)})
  verdict = {**registry.judge_prediction(last, launch.read_outcome(folder, target).loss),
             'prediction': last['sha256'],
             'calibration': registry.score_predictions(judged, unmeasured), 'all': judged}
  write_text(folder / VERDICT, format_json(verdict, indent=1) + '\n')
  return verdict

