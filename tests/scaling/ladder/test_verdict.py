"""Predictions are registered before their target runs, and scored after it."""

import hashlib
import json
import pathlib

import numpy as np
import pytest
from scipy import optimize

from scaling.ladder import launch, manifest, registry, verdict
from t5x_lite import cli
from t5x_lite.core.errors import UserError
from t5x_lite.training.run_folder import RunFolder

BASE = 'experiments/stdlib_ladder.gin'
QUIET = dict(log_line=lambda line: None)


@pytest.fixture
def trained(ladder, tmp_path, trainer, fewer_starts):
  """The folder of a ladder whose runs are finished."""
  manifest.write_ladder(ladder, tmp_path)
  launch.train_runs(ladder, tmp_path, ladder.runs, **QUIET)
  return tmp_path


def spoil(folder, run, change=0.01):
  """Changes the loss of a run."""
  path = RunFolder(manifest.run_folder(folder, run.name)).metrics
  record = json.loads(path.read_text())
  path.write_text(json.dumps(record | {'stdlib_lm/loss': record['stdlib_lm/loss'] + change}) + '\n')


def test_the_loop_from_design_to_verdict(tmp_path, trainer, capsys, fewer_starts, ladder):
  """One command, on made-up runs of a known law: the target falls inside the interval."""
  argv = ['scaling', 'ladder', 'all', f'--gin_file={BASE}', '--target=1e15', '--largest=4e13',
          '--multiple=16', '--budgets=4', '--spread=8', '--level=0.999', f'--folder={tmp_path}']
  assert cli.main(argv) == 0, capsys.readouterr().err
  said = capsys.readouterr().out
  judged = json.loads((tmp_path / verdict.VERDICT).read_text())
  prediction, = registry.read_predictions(tmp_path)
  assert judged['inside'] and judged['sentence'] in said
  assert judged['low'] < judged['measured'] < judged['high']
  assert prediction['low'] < prediction['loss'] < prediction['high']
  assert prediction['target']['flops'] == pytest.approx(1e15, rel=0.01)
  assert prediction['times_the_largest_rung'] == pytest.approx(25, rel=0.02)
  assert prediction['sha256'] in said and '1 of 1 predictions made with this folder' in said
  assert judged['prediction'] == prediction['sha256']
  assert any(line.startswith('Assumed: intervals: ') for line in said.splitlines())
  # Again: nothing is trained, nothing changes.
  launched, before = len(trainer.launched), (tmp_path / registry.PREDICTIONS).read_text()
  assert launched == len(ladder.runs) + 1 and cli.main(argv) == 0
  assert len(trainer.launched) == launched
  assert (tmp_path / registry.PREDICTIONS).read_text() == before


def test_a_prediction_may_be_renewed_until_its_target_begins(ladder, trained):
  """All of them are kept, and all are scored."""
  first = verdict.predict_target(ladder, trained)
  assert verdict.predict_target(ladder, trained) == first
  spoil(trained, ladder.runs[0])
  second = verdict.predict_target(ladder, trained)
  assert second['sha256'] != first['sha256'] and second['loss'] != first['loss']
  assert registry.read_predictions(trained) == [first, second]
  judged = verdict.check_target(ladder, trained)
  same = first['target'] == second['target']   # or another size was chosen
  assert judged['prediction'] == second['sha256']
  assert judged['calibration']['predictions'] == 1 + same
  assert judged['calibration']['unmeasured'] == 1 - same
  assert [each['prediction'] for each in judged['all']] == [first['sha256']] * same + [
      second['sha256']]
  assert verdict.predict_target(ladder, trained) == second
  spoil(trained, ladder.runs[1])
  with pytest.raises(UserError, match='has been started, .* is no prediction'):
    verdict.predict_target(ladder, trained)
  with pytest.raises(UserError, match='has been started'):
    verdict.predict_target(ladder, trained, level=0.5)


@pytest.mark.slow
@pytest.mark.sweep
def test_a_posterior_is_a_prediction_of_its_own(ladder, trained):
  pytest.importorskip('blackjax', reason='--bayes needs the extra bayes')
  plain, bayes = (verdict.predict_target(ladder, trained, bayes=bayes) for bayes in (False, True))
  assert registry.read_predictions(trained) == [plain, bayes]
  assert verdict.predict_target(ladder, trained, bayes=True) == bayes
  target = manifest.run_of(bayes['target'])
  truth = 0.8 + 20 * target.parameters ** -0.3 + 60 * target.tokens ** -0.35   # of conftest.LAW
  assert bayes['low'] < truth < bayes['high']
  assert bayes['high'] - bayes['low'] < 2 * (plain['high'] - plain['low'])
  assert 'draws of the posterior, by NUTS' in verdict.format_prediction(bayes)


def test_another_target_is_another_prediction(ladder, trained):
  own = verdict.predict_target(ladder, trained)
  other = verdict.predict_target(ladder, trained, target_flops=3e14)
  assert other['target']['name'] == 'target_3e+14' and other['loss'] > own['loss']
  assert verdict.check_target(ladder, trained, 3e14)['calibration']['predictions'] == 1
  assert verdict.check_target(ladder, trained)['calibration']['predictions'] == 2
  with pytest.raises(UserError, match='--target=1e.13: give more FLOPs than the largest rung'):
    verdict.predict_target(ladder, trained, target_flops=1e13)
  with pytest.raises(UserError, match='has no prediction of target_7e.14: predict first'):
    verdict.check_target(ladder, trained, 7e14)


def test_a_changed_prediction_is_noticed(ladder, trained):
  verdict.predict_target(ladder, trained)
  path = trained / registry.PREDICTIONS
  text = path.read_text()
  for change in (text.replace('"loss": ', '"loss": 1'), text.replace('"high": ', '"high": 9'),
                 '{}\n', text + text[:50]):
    path.write_text(change)
    with pytest.raises(UserError, match='line [12] is not what was registered'):
      verdict.check_target(ladder, trained)
  path.write_text(text)
  assert len(registry.read_predictions(trained)) == 1


def test_what_another_floor_predicts_is_a_fit_with_that_floor(ladder, trained):
  """Against Nelder and Mead on least squares of three of the five constants' logs."""
  prediction = verdict.predict_target(ladder, trained)
  low, high = prediction['sensitivity_to_e']
  assert low['e'] < prediction['law']['e'] < high['e'] and low['loss'] < prediction['loss']
  assert prediction['loss'] < high['loss'] and low['misfit'] >= 1 <= high['misfit']
  from scaling.fitting.runs import read_csv
  runs = read_csv(trained / launch.RESULTS)
  n, d, y = np.log(runs.parameters), np.log(runs.tokens), np.log(runs.loss)
  model = lambda x, n, d: np.log(low['e'] + np.exp(x[0] - x[1] * (n - 13)) + np.exp(
      x[2] - x[3] * (d - 17)))
  huber = lambda r: np.where(abs(r) < 1e-3, r * r / 2, 1e-3 * (abs(r) - 5e-4)).sum()
  start = optimize.least_squares(lambda x: model(x, n, d) - y, [-1, 0.3, -1, 0.3]).x
  best = optimize.minimize(lambda x: 1e6 * huber(model(x, n, d) - y), start, method='Nelder-Mead',
                           options={'maxiter': 8000, 'maxfev': 8000, 'xatol': 1e-8, 'fatol': 1e-9})
  target = prediction['target']
  assert low['loss'] == pytest.approx(
      np.exp(model(best.x, np.log(target['parameters']), np.log(target['tokens']))), rel=1e-3)


def test_a_spoilt_rung_is_an_outlier(ladder, trained):
  run = ladder.runs[4]
  spoil(trained, run, 0.5)
  prediction = verdict.predict_target(ladder, trained)
  assert prediction['outliers'] == [run.name]
  assert f'Outliers: {run.name}' in verdict.format_prediction(prediction)


def test_a_run_that_is_left_out_is_said(ladder, trained):
  prediction = verdict.predict_target(ladder, trained, leave_out=[ladder.runs[2].name])
  assert prediction['left_out'] == [ladder.runs[2].name]
  assert f'Left out: {ladder.runs[2].name}' in verdict.format_prediction(prediction)


@pytest.mark.parametrize('index', [3, 7, 11])
def test_any_spoilt_rung_of_the_committed_ladder_is_an_outlier(index, tmp_path, fewer_starts):
  """With the spoilt run at 3 or 11, the runs do not identify a law."""
  folder = pathlib.Path(verdict.__file__).parents[1] / 'data' / 'ladder'
  lines = (folder / launch.RESULTS).read_text().splitlines()
  cells = lines[index + 1].split(',')
  cells[4] = str(float(cells[4]) + 0.5)
  lines[index + 1] = ','.join(cells)
  spoilt = tmp_path / 'spoilt.csv'
  spoilt.write_text('\n'.join(lines))
  names = [run.name for run in manifest.read_ladder(folder).runs]
  _, fit, named, _ = verdict.fit_ladder(spoilt, names)
  assert named == [names[index]] and len(fit.runs) == 11


def test_the_committed_ladder_is_whole():
  folder = pathlib.Path(verdict.__file__).parents[1] / 'data' / 'ladder'
  assert len(manifest.read_ladder(folder).runs) == 12
  prediction = json.loads((folder / 'prediction.json').read_text())
  losses = (folder / launch.RESULTS).read_bytes()
  assert prediction['losses_sha256'] == hashlib.sha256(losses).hexdigest()
  judged = json.loads((folder / verdict.VERDICT).read_text())
  assert judged == registry.judge_prediction(prediction, judged['measured'])


@pytest.mark.parametrize('name, inside', [
    ('first_design_seed_0', True), ('seed_0', True), ('seed_1', True), ('window_seed_0', False)])
def test_committed_predictions_are_of_their_runs_and_their_verdicts_theirs(name, inside):
  folder = pathlib.Path(verdict.__file__).parents[1] / 'data' / 'closed_loop' / name
  (prediction,) = registry.read_predictions(folder)   # which checks the hash of the line
  losses = (folder / launch.RESULTS).read_bytes()
  assert prediction['losses_sha256'] == hashlib.sha256(losses).hexdigest()
  kept = [run for run in manifest.read_ladder(folder).runs
          if run.name not in prediction['left_out']]
  assert losses.count(b'\n') == len(kept) + 1
  assert prediction['times_the_largest_rung'] >= 20
  judged = json.loads((folder / verdict.VERDICT).read_text())
  again = registry.judge_prediction(prediction, judged['measured'])
  assert {key: judged[key] for key in again} == again and judged['inside'] is inside


@pytest.mark.parametrize('measured, inside', [(1.1, True), (1.0, True), (1.2, True),
                                              (0.999999, False), (1.200001, False)])
def test_the_verdict_at_both_edges(measured, inside):
  prediction = {'loss': 1.1, 'low': 1.0, 'high': 1.2, 'level': 0.95}
  judged = registry.judge_prediction(prediction, measured)
  assert judged['inside'] is inside
  assert judged['sentence'].startswith('Inside' if inside else 'OUTSIDE')
  assert judged['error'] == pytest.approx(measured - 1.1)


def test_calibration_counts_what_was_promised():
  """The probability is that of the binomial distribution, by hand: 0.05^2 for none of two."""
  at = lambda measured, level=0.95: registry.judge_prediction(
      {'loss': 1.1, 'low': 1.0, 'high': 1.2, 'level': level}, measured)
  good = registry.score_predictions([at(1.15), at(1.05)])
  assert good['inside'] == 2 and good['promised'] == 1.9 and good['probability'] == pytest.approx(1)
  assert good['errors'] == pytest.approx(0.5) and 'too narrow' not in registry.format_score(good)
  bad = registry.score_predictions([at(2.0), at(2.0)])
  assert bad['inside'] == 0 and bad['probability'] == pytest.approx(0.05 ** 2)
  assert '0 of 2 predictions' in registry.format_score(bad)
  assert 'too narrow' in registry.format_score(bad)
  mixed = registry.score_predictions([at(2.0, 0.5), at(1.1, 0.95)])
  assert mixed['probability'] == pytest.approx(1 - 0.5 * 0.95)


@pytest.mark.parametrize('argv, message', [
    (['design', '--folder=x'], 'pass --gin_file=FILE and --target=FLOPS'),
    (['run', '--folder=x'], 'manifest.json is missing'),
    (['run', '--folder=x', '--jobs=0'], '--jobs=0: give 1 or more'),
    (['fit', '--folder=x', '--level=95'], '--level=95.0: give a number between 0 and 1'),
    (['check', '--folder=x'], 'manifest.json is missing'),
    (['design', '--folder=x', f'--gin_file={BASE}', '--target=1e18', '--law=nowhere'],
     'nowhere'),
    (['design', '--folder=x', f'--gin_file={BASE}', '--target=1e18', '--law=hoffmann_1'],
     '--law=hoffmann_1: has no loss'),
    (['design', '--folder=x', f'--gin_file={BASE}', '--target=1e18', '--law=1,2,3,4,-5'],
     '--law=1,2,3,4,-5: give E,A,ALPHA,B,BETA, all above 0'),
])
def test_a_mistake_is_one_line(argv, message, capsys, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  assert cli.main(['scaling', 'ladder', *argv]) == 1
  said = capsys.readouterr().err
  assert said.startswith('error: ') and message in said and said.count('\n') == 1
  assert not list(tmp_path.iterdir())
