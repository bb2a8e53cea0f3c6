"""Launching the runs of a ladder: their order, what was killed, failed or lost, and SLURM."""

import csv
import json
import os
import shutil
import subprocess

import pytest

from scaling.fitting.runs import read_csv
from scaling.ladder import design, launch, manifest
from scaling.laws.laws import LAWS
from t5x_lite import cli
from t5x_lite.core.errors import UserError
from t5x_lite.training.run_folder import RunFolder

QUIET = dict(log_line=lambda line: None)


def with_branches(ladder):
  """(trunk with the most branches, these)."""
  trunk = max((run for run in ladder.runs if not run.branches_off),
              key=lambda trunk: sum(run.trunk == trunk.name for run in ladder.runs))
  return trunk, [run for run in ladder.runs if run.trunk == trunk.name and run is not trunk]


def test_trunks_are_trained_before_their_branches_and_nothing_twice(ladder, tmp_path, trainer):
  manifest.write_ladder(ladder, tmp_path)
  trunk, branches = with_branches(ladder)
  trainer.failing.add(trunk.name)
  with pytest.raises(UserError) as failed:
    launch.train_runs(ladder, tmp_path, ladder.runs, **QUIET)
  message = str(failed.value)
  assert f'{trunk.name}: status 1, no space left' in message
  assert f'--leave_out={trunk.name}' in message
  assert all(f'{run.name}: not started, as {trunk.name}' in message for run in branches)
  # The branches of a trunk that failed were not tried.
  first = len(trainer.launched)
  assert first == len(ladder.runs) - len(branches)
  with pytest.raises(UserError, match=f'{1 + len(branches)} of {len(ladder.runs)} runs are not'):
    launch.write_results(ladder, tmp_path)
  trainer.failing.clear()
  launch.train_runs(ladder, tmp_path, ladder.runs, jobs=3, **QUIET)
  assert sorted(trainer.launched[first:]) == sorted(run.name for run in [trunk, *branches])
  assert trainer.launched[first] == trunk.name
  launch.train_runs(ladder, tmp_path, ladder.runs, **QUIET)
  assert len(trainer.launched) == len(ladder.runs) + 1


def test_a_run_that_was_not_evaluated_is_launched_again(ladder, tmp_path, trainer):
  """Killed between its last checkpoint and its evaluation; or in the middle of writing it."""
  manifest.write_ladder(ladder, tmp_path)
  launch.train_runs(ladder, tmp_path, ladder.runs, **QUIET)
  for index, left in ((0, ''), (1, '{"step": 5, "kind": "train", "loss": 1.0}\n{"step": 2')):
    run, count = ladder.runs[index], len(trainer.launched)
    RunFolder(manifest.run_folder(tmp_path, run.name)).metrics.write_text(left)
    assert launch.read_outcome(tmp_path, run) == launch.Outcome()
    launch.train_runs(ladder, tmp_path, ladder.runs, **QUIET)
    assert trainer.launched[count:] == [run.name]
  launch.write_results(ladder, tmp_path)


def test_training_itself_evaluates_a_run_killed_before_its_evaluation(tmp_path, monkeypatch):
  """A real run of two steps, through the command that the ladder launches."""
  law = LAWS['besiroglu'].form
  ladder = design.Ladder(
      target_flops=1e12, gin_files=('experiments/stdlib_ladder.gin',),
      bindings=('BATCH_SIZE=2', 'TARGETS_LENGTH=16', 'experiment.TrainConfig.log_every=1'),
      optimizer='AdamW', multiple=16, tokens_per_step=32, versions={}, assumed_law=vars(law),
      runs=(manifest.Run(
          name='n1_d1', shape=dict(embed_dim=16, num_layers=1, num_heads=1, mlp_dim=16,
                                   num_kv_heads=1), parameters=1, tokens=64, steps=2, flops=1e9,
          exact_flops=1e9, learning_rate=1e-3, warmup_steps=1, decay_steps=1,
          checkpoint_every=1),))
  manifest.write_ladder(ladder, tmp_path)
  run = ladder.runs[0]

  run_process = subprocess.run

  def in_process(command, **settings):
    if 't5x_lite' not in command:   # patched for the whole module, which others use too
      return run_process(command, **settings)
    words = command[command.index('t5x_lite') + 1:]
    return subprocess.CompletedProcess(command, cli.main(words))

  monkeypatch.setattr(launch.subprocess, 'run', in_process)
  launch.train_runs(ladder, tmp_path, [run], **QUIET)
  first = launch.read_outcome(tmp_path, run).loss
  log = RunFolder(manifest.run_folder(tmp_path, run.name)).metrics
  lines = [line for line in log.read_text().splitlines() if json.loads(line)['kind'] != 'eval']
  log.write_text('\n'.join(lines) + '\n')
  assert launch.read_outcome(tmp_path, run).loss is None
  launch.train_runs(ladder, tmp_path, [run], **QUIET)
  assert launch.read_outcome(tmp_path, run).loss == first > 1


def test_a_diverged_run_is_named_with_its_cure_and_stops_nothing(ladder, tmp_path, trainer, capsys):
  """`train` calls it finished, so that resuming alone would never give a loss."""
  manifest.write_ladder(ladder, tmp_path)
  trunk, branches = with_branches(ladder)
  trainer.diverged.add(trunk.name)
  for _ in range(2):
    with pytest.raises(UserError, match=f'1 of the runs failed: {trunk.name}: its final loss is '
                       f'not finite: remove .*{trunk.name} to train it again'):
      launch.train_runs(ladder, tmp_path, ladder.runs, **QUIET)
  assert len(trainer.launched) == len(ladder.runs)   # branches left before it diverged
  with pytest.raises(UserError, match=f'{trunk.name}: its final loss is not finite'):
    launch.write_results(ladder, tmp_path)
  path = launch.write_results(ladder, tmp_path, [trunk.name])
  assert len(read_csv(path)) == len(ladder.runs) - 1
  assert cli.main(['scaling', 'ladder', 'run', f'--folder={tmp_path}',
                   f'--leave_out={trunk.name}']) == 0
  assert cli.main(['scaling', 'ladder', 'fit', f'--folder={tmp_path}', '--leave_out=n1']) == 1
  assert '--leave_out=n1: not a run of this ladder; they are ' in capsys.readouterr().err


@pytest.mark.parametrize('record', [{}, {'a/loss': 1.0, 'b/loss': 2.0}, {'a/accuracy': 1.0},
                                    {'a/loss': 0.0}, {'a/loss': -1.0}])
def test_an_evaluation_without_one_loss_is_named(record, ladder, tmp_path, trainer):
  manifest.write_ladder(ladder, tmp_path)
  run = ladder.runs[0]
  folder = RunFolder(manifest.run_folder(tmp_path, run.name))
  folder.path.mkdir(parents=True)
  folder.metrics.write_text(json.dumps({'step': run.steps, 'kind': 'eval'} | record) + '\n')
  if not record:
    assert launch.read_outcome(tmp_path, run) == launch.Outcome()
    return
  with pytest.raises(UserError, match='1 of the runs failed'):
    launch.train_runs(ladder, tmp_path, [run], **QUIET)
  assert trainer.launched == []


def test_a_branch_whose_trunk_lost_its_checkpoints_starts_from_step_0(ladder, tmp_path, trainer):
  manifest.write_ladder(ladder, tmp_path)
  trunk, branches = with_branches(ladder)
  launch.train_runs(ladder, tmp_path, ladder.runs, **QUIET)
  shutil.rmtree(manifest.run_folder(tmp_path, trunk.name) / 'checkpoints')
  shutil.rmtree(manifest.run_folder(tmp_path, branches[0].name))
  said = []
  launch.train_runs(ladder, tmp_path, ladder.runs, log_line=said.append)
  assert trainer.gins[branches[0].name].init_from is None
  assert any('has no checkpoint of step' in line for line in said)
  launch.write_results(ladder, tmp_path)


def test_a_ladder_may_be_moved_and_may_lose_its_gin_files(ladder, tmp_path, trainer):
  old, new = tmp_path / "Ann's", tmp_path / 'new'
  manifest.write_ladder(ladder, old)
  trunk, branches = with_branches(ladder)
  launch.train_runs(ladder, old, [trunk], **QUIET)
  old.rename(new)
  shutil.rmtree(new / 'gin')
  launch.train_runs(ladder, new, ladder.runs, **QUIET)
  assert str(trainer.gins[branches[0].name].init_from.model_dir) == str(
      manifest.run_folder(new, trunk.name))


def test_the_results_name_trunk_and_seed(ladder, tmp_path, trainer):
  """As the table of runs reads them: what shares noise is a cluster."""
  manifest.write_ladder(ladder, tmp_path)
  launch.train_runs(ladder, tmp_path, ladder.runs, **QUIET)
  path = launch.write_results(ladder, tmp_path)
  with open(path) as file:
    rows = list(csv.DictReader(file))
  assert [row['trunk'] for row in rows] == [run.trunk for run in ladder.runs]
  runs = read_csv(path)
  assert runs.cluster == tuple(run.trunk for run in ladder.runs)
  assert set(runs.seed) == {'0'}
  assert len(set(runs.clusters)) == len({run.trunk for run in ladder.runs})


def test_slurm_runs_every_command_in_two_waves(ladder, tmp_path):
  """A stand-in for sbatch runs the job of each index of its array."""
  manifest.write_ladder(ladder, tmp_path)
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
  waves = launch.split_waves(ladder.runs)
  first, second = record.read_text().splitlines()
  assert f'--array=0-{len(waves[0]) - 1} ' in first and '--partition=cpu' in first
  assert 'dependency' not in first
  assert f'--array=0-{len(waves[1]) - 1} ' in second and '--dependency=afterany:7' in second
  jobs = (tmp_path / 'record.jobs').read_text().splitlines()
  assert jobs == [' '.join(launch.train_command(tmp_path, run)) for wave in waves for run in wave]
  submit(env | {'LIMIT': '2'})
  assert ['%2' in line for line in record.read_text().splitlines()] == [False] * 2 + [True] * 2
