"""Ladders: what they cost, what their gin files say, and the loop from design to verdict."""

import dataclasses
import functools
import hashlib
import itertools
import json
import os
import pathlib
import subprocess
import threading
import types

import numpy as np
import pytest

from scaling.fitting import parametric, solver
from scaling.ladder import design as ladders
from scaling.ladder import launch, verdict
from t5x_lite import cli
from t5x_lite.core.errors import UserError
from t5x_lite.experiment import gin_config

BASE = 'experiments/stdlib_ladder.gin'
SETTINGS = dict(target_flops=2.4e13, multiple=32, tokens_per_parameter=5.0, spread=6.0)
# What the made-up runs obey.
LAW = dict(e=0.8, a=20.0, alpha=0.3, b=60.0, beta=0.35)


@pytest.fixture(scope='module')
def ladder():
  return ladders.make_ladder([BASE], [], **SETTINGS)


def made_up_loss(run, noise=1e-3):
  """A loss by a law, and noise that depends on the run's name alone."""
  rng = np.random.default_rng(abs(run.parameters * 31 + run.tokens) % 2 ** 32)
  value = (LAW['e'] + LAW['a'] * run.parameters ** -LAW['alpha']
           + LAW['b'] * run.tokens ** -LAW['beta'])
  return value * float(np.exp(noise * rng.normal()))


@pytest.fixture
def trainer(monkeypatch):
  """`subprocess.run` writes what a finished run writes, at once, and records what was launched."""
  launched, failing, spoilt, lock = [], set(), {}, threading.Lock()

  def run(command, **_):
    gin_file = next(word for word in command if word.startswith('--gin_file=')).split('=')[1]
    folder = next(word for word in command if word.startswith('--gin.MODEL_DIR=')).split('=')[1]
    name = os.path.basename(folder)
    launched.append(name)
    if name in failing:
      return types.SimpleNamespace(returncode=1)
    with lock:   # gin has one state for the whole process
      experiment, text = gin_config.load_experiment([gin_file], [f"MODEL_DIR='{folder}'"])
    made = types.SimpleNamespace(
        parameters=ladders.accounting.parameters(experiment.model).total,
        tokens=experiment.train.steps * 1024)
    os.makedirs(folder, exist_ok=True)
    (pathlib.Path(folder) / 'config.gin').write_text(text)
    record = {'step': experiment.train.steps, 'kind': 'eval',
              'stdlib_lm/loss': made_up_loss(made) + spoilt.get(name, 0.0)}
    (pathlib.Path(folder) / 'metrics.jsonl').write_text(json.dumps(record) + '\n')
    return types.SimpleNamespace(returncode=0)

  monkeypatch.setattr(launch.subprocess, 'run', run)
  return types.SimpleNamespace(launched=launched, failing=failing, spoilt=spoilt)


@pytest.fixture
def fewer_starts(monkeypatch):
  """Fits from a tenth of the starts, and a tenth of the resamples: these tests are of the loop."""
  starts = solver.standard_starts()[::10]
  monkeypatch.setattr(solver, 'standard_starts', lambda: starts)
  monkeypatch.setattr(parametric, 'bootstrap', functools.partial(parametric.bootstrap, count=100))


def test_budgets_double_and_sizes_are_spread(ladder):
  by_size = {n: sorted(run.tokens for run in runs) for n, runs in itertools.groupby(
      ladder.runs, key=lambda run: run.parameters)}
  assert len(by_size) == 4 and all(len(tokens) == 3 for tokens in by_size.values())
  assert max(by_size) / min(by_size) == pytest.approx(6, rel=0.15)
  for tokens in by_size.values():
    np.testing.assert_allclose(np.divide(tokens[1:], tokens[:-1]), 2, rtol=0.01)
  assert max(run.flops for run in ladder.runs) == pytest.approx(2.4e13 / 5, rel=0.01)
  for run in ladder.runs:
    assert run.flops == 6 * run.parameters * run.tokens


def test_the_cost_is_that_of_the_steps_that_are_taken(ladder):
  """Counted step by step: a branch has those after the step it branches off at."""
  taken = sum(6 * run.parameters * 1024
              for run in ladder.runs
              for _ in range(run.branches_off[1] if run.branches_off else 0, run.steps))
  assert ladder.flops == pytest.approx(taken)
  assert ladder.flops < 0.7 * sum(run.flops for run in ladder.runs)


def test_learning_rates_follow_the_cube_root_of_the_size(ladder):
  rates = {run.parameters: run.learning_rate for run in ladder.runs}
  for (n, rate), (m, other) in itertools.combinations(rates.items(), 2):
    assert rate / other == pytest.approx((m / n) ** (1 / 3), rel=1e-3)


def test_the_gin_file_of_a_run_builds_it(ladder, tmp_path):
  ladders.write_ladder(ladder, tmp_path)
  for run in ladder.runs:
    experiment, _ = gin_config.load_experiment([str(ladders.gin_path(tmp_path, run.name))],
                                       [f"MODEL_DIR='{tmp_path}'"])
    assert ladders.accounting.parameters(experiment.model).total == run.parameters
    assert experiment.train.steps == run.steps
    assert experiment.train.keep_checkpoints * run.checkpoint_every > run.steps
    assert experiment.optimizer.learning_rate(run.warmup_steps) == pytest.approx(run.learning_rate)
    assert experiment.optimizer.learning_rate(run.steps) == 0


def test_a_branch_leaves_at_a_checkpoint_of_its_trunk_where_both_schedules_agree(ladder, tmp_path):
  ladders.write_ladder(ladder, tmp_path)
  schedule = lambda name: gin_config.load_experiment(
      [str(ladders.gin_path(tmp_path, name))], ["MODEL_DIR='x'"])[0].optimizer.learning_rate
  branches = [run for run in ladder.runs if run.branches_off]
  assert len(branches) == 8
  for run in branches:
    name, step = run.branches_off
    trunk = next(other for other in ladder.runs if other.name == name)
    assert trunk.parameters == run.parameters and trunk.branches_off is None
    assert step % trunk.checkpoint_every == 0 and step == run.steps - run.decay_steps
    for taken in (0, 1, run.warmup_steps, step // 2, step):
      assert schedule(run.name)(taken) == schedule(trunk.name)(taken)
    assert schedule(run.name)(step + 1) < schedule(trunk.name)(step + 1)


@pytest.mark.parametrize('settings, message', [
    (dict(largest=2.4e13), 'give less than the target of 2.4e.13 FLOPs'),
    (dict(sizes=2), '2 sizes and 3 durations'),
    (dict(durations=1), '4 sizes and 1 durations'),
    (dict(multiple=128), 'set a smaller multiple than 128'),
    (dict(spread=1.01), 'set a smaller --multiple, fewer --sizes or a larger --spread'),
    (dict(largest=4e11, tokens_per_parameter=0.1), 'the shortest run would have'),
])
def test_a_ladder_that_cannot_work_is_refused(settings, message):
  with pytest.raises(UserError, match=message):
    ladders.make_ladder([BASE], [], **SETTINGS | settings)


def test_a_folder_holds_one_ladder(ladder, tmp_path):
  ladders.write_ladder(ladder, tmp_path)
  assert ladders.read_ladder(tmp_path) == ladder
  ladders.write_ladder(ladder, tmp_path)   # the same again is no mistake
  before = (tmp_path / ladders.MANIFEST).read_text()
  with pytest.raises(UserError, match='is of another ladder'):
    ladders.write_ladder(dataclasses.replace(ladder, target_flops=1e14), tmp_path)
  assert (tmp_path / ladders.MANIFEST).read_text() == before
  with pytest.raises(UserError, match='manifest.json is missing: design a ladder there first'):
    ladders.read_ladder(tmp_path / 'elsewhere')


def test_trunks_are_trained_before_their_branches_and_nothing_twice(ladder, tmp_path, trainer):
  ladders.write_ladder(ladder, tmp_path)
  trainer.failing.add(ladder.runs[0].name)
  with pytest.raises(UserError, match='1 of the runs failed .* run the same command again'):
    launch.train_runs(tmp_path, ladder.runs, log_line=lambda line: None)
  # The branches of a trunk that failed were not tried.
  assert len(trainer.launched) == 10
  with pytest.raises(UserError, match='3 of 12 runs are not finished'):
    launch.write_results(ladder, tmp_path)
  trainer.failing.clear()
  launch.train_runs(tmp_path, ladder.runs, jobs=3, log_line=lambda line: None)
  assert sorted(trainer.launched[10:]) == sorted(run.name for run in ladder.runs[:3])
  assert trainer.launched[10] == ladder.runs[0].name
  launch.train_runs(tmp_path, ladder.runs, log_line=lambda line: None)
  assert len(trainer.launched) == 13


def test_slurm_runs_every_command_in_two_waves(ladder, tmp_path):
  """A stand-in for sbatch runs the job of each index of its array."""
  ladders.write_ladder(ladder, tmp_path)
  script = launch.write_slurm(ladder, tmp_path)
  bin_folder = tmp_path / 'bin'
  bin_folder.mkdir()
  (bin_folder / 'sbatch').write_text("""#!/bin/bash
echo "$@" >> "$RECORD"
for word in "$@"; do
  case $word in
    --array=*) last=${word#--array=0-}; last=${last%%%*};;
    --wrap=*) job=${word#--wrap=};;
  esac
done
for i in $(seq 0 $last); do
  SLURM_ARRAY_TASK_ID=$i bash -c "${job//eval/echo}" >> "$RECORD.jobs"
done
echo 7
""")
  (bin_folder / 'sbatch').chmod(0o755)
  record = tmp_path / 'record'
  env = os.environ | {'PATH': f'{bin_folder}:{os.environ["PATH"]}', 'RECORD': str(record)}
  submit = lambda env: subprocess.run([str(script), '--partition=cpu'], check=True,
                                      capture_output=True, env=env)
  submit(env)
  first, second = record.read_text().splitlines()
  assert '--array=0-3 ' in first and '--partition=cpu' in first and 'dependency' not in first
  assert '--array=0-7 ' in second and '--dependency=afterok:7' in second
  jobs = (tmp_path / 'record.jobs').read_text().splitlines()
  want = [run for wave in launch.split_waves(ladder.runs) for run in wave]
  assert jobs == [' '.join(launch.train_command(tmp_path, run)) for run in want]
  submit(env | {'LIMIT': '2'})
  assert ['%2' in line for line in record.read_text().splitlines()] == [False] * 2 + [True] * 2


def test_the_loop_from_design_to_verdict(tmp_path, trainer, capsys, fewer_starts):
  """One command, on made-up runs of a known law: the target falls inside the interval."""
  argv = ['scaling', 'ladder', 'all', f'--gin_file={BASE}', '--target=2.4e13', '--multiple=32',
          '--tokens_per_parameter=5', '--spread=6', f'--folder={tmp_path}']
  assert cli.main(argv) == 0, capsys.readouterr().err
  said = capsys.readouterr().out
  judged = json.loads((tmp_path / verdict.VERDICT).read_text())
  prediction = json.loads((tmp_path / verdict.PREDICTION).read_text())
  assert judged['inside'] and judged['sentence'] in said
  assert judged['low'] < judged['measured'] < judged['high']
  assert prediction['low'] < prediction['loss'] < prediction['high']
  assert prediction['target']['flops'] == pytest.approx(2.4e13, rel=0.01)
  assert prediction['times_the_largest_rung'] == pytest.approx(5, rel=0.02)
  # Again: nothing is trained, nothing changes.
  launched, before = len(trainer.launched), (tmp_path / verdict.PREDICTION).read_text()
  assert launched == 13 and cli.main(argv) == 0
  assert len(trainer.launched) == launched
  assert (tmp_path / verdict.PREDICTION).read_text() == before


def test_a_prediction_is_not_made_twice_from_other_losses(ladder, tmp_path, trainer, fewer_starts):
  ladders.write_ladder(ladder, tmp_path)
  launch.train_runs(tmp_path, ladder.runs, log_line=lambda line: None)
  verdict.predict_target(ladder, tmp_path)
  path = ladders.run_folder(tmp_path, ladder.runs[0].name) / 'metrics.jsonl'
  record = json.loads(path.read_text())
  path.write_text(json.dumps(record | {'stdlib_lm/loss': record['stdlib_lm/loss'] + 0.01}))
  with pytest.raises(UserError, match='was made from other losses'):
    verdict.predict_target(ladder, tmp_path)


@pytest.mark.parametrize('index', [3, 7, 11])
def test_any_spoilt_rung_of_the_committed_ladder_is_an_outlier(index, tmp_path, fewer_starts):
  """With the spoilt run at 3 or 11, the runs do not identify a law."""
  folder = pathlib.Path(ladders.__file__).parents[1] / 'data' / 'ladder'
  lines = (folder / launch.RESULTS).read_text().splitlines()
  cells = lines[index + 1].split(',')
  cells[4] = str(float(cells[4]) + 0.5)
  lines[index + 1] = ','.join(cells)
  spoilt = tmp_path / 'spoilt.csv'
  spoilt.write_text('\n'.join(lines))
  names = [run.name for run in ladders.read_ladder(folder).runs]
  _, fit, named = verdict.fit_ladder(spoilt, names)
  assert named == [names[index]] and len(fit.runs) == 11


def test_a_spoilt_rung_is_an_outlier(ladder, tmp_path, trainer, fewer_starts):
  ladders.write_ladder(ladder, tmp_path)
  spoilt = ladder.runs[4].name
  trainer.spoilt[spoilt] = 0.5
  launch.train_runs(tmp_path, ladder.runs, log_line=lambda line: None)
  prediction = verdict.predict_target(ladder, tmp_path)
  assert prediction['outliers'] == [spoilt]
  assert f'Outliers: {spoilt}' in verdict.format_prediction(prediction)


def test_the_committed_ladder_is_what_its_command_designs():
  folder = pathlib.Path(ladders.__file__).parents[1] / 'data' / 'ladder'
  saved = ladders.read_ladder(folder)
  made = ladders.make_ladder([BASE], [], target_flops=2.4e13, largest=4e12, multiple=16,
                      tokens_per_parameter=6, spread=5.5)
  assert dataclasses.replace(made, versions=saved.versions) == saved
  prediction = json.loads((folder / verdict.PREDICTION).read_text())
  losses = (folder / launch.RESULTS).read_bytes()
  assert prediction['losses_sha256'] == hashlib.sha256(losses).hexdigest()
  judged = json.loads((folder / verdict.VERDICT).read_text())
  assert judged == verdict.judge_prediction(prediction, judged['measured'])


@pytest.mark.parametrize('measured, inside', [(1.1, True), (1.0, True), (1.2, True),
                                              (0.999999, False), (1.200001, False)])
def test_the_verdict_at_both_edges(measured, inside):
  prediction = {'loss': 1.1, 'low': 1.0, 'high': 1.2, 'level': 0.95}
  judged = verdict.judge_prediction(prediction, measured)
  assert judged['inside'] is inside
  assert judged['sentence'].startswith('Inside' if inside else 'OUTSIDE')
  assert judged['error'] == pytest.approx(measured - 1.1)


@pytest.mark.parametrize('argv, message', [
    (['design', '--folder=x'], 'pass --gin_file=FILE and --target=FLOPS'),
    (['run', '--folder=x'], 'manifest.json is missing'),
    (['run', '--folder=x', '--jobs=0'], '--jobs=0: give 1 or more'),
    (['fit', '--folder=x', '--level=95'], '--level=95.0: give a number between 0 and 1'),
    (['check', '--folder=x'], 'manifest.json is missing'),
])
def test_a_mistake_is_one_line(argv, message, capsys, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  assert cli.main(['scaling', 'ladder', *argv]) == 1
  said = capsys.readouterr().err
  assert said.startswith('error: ') and message in said and said.count('\n') == 1
  assert not list(tmp_path.iterdir())
