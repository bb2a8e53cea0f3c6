"""A run is its folder: what the same command does with a folder in whatever state it is left."""

import contextlib
import json
import shutil
import subprocess
import sys

import pytest

from t5x_lite import cli
from t5x_lite.training import resuming
from t5x_lite.training.checkpoints import Checkpoints
from t5x_lite.training.lock import locked
from t5x_lite.training.run_folder import RunFolder

PARTS = '''
"""Rows that say which they are, an evaluation that is quick, and a hook that records."""
import dataclasses
import numpy as np
from t5x_lite.data.source import Source
from t5x_lite.training.loop import Hook

ROWS, FAIL = [], []

@dataclasses.dataclass(frozen=True, kw_only=True)
class Numbered(Source):
  batch_size: int
  content: str = 'a'
  name = 'numbered'
  lengths = {'targets': 8}

  def batches(self, model, *, seed, start=0, shard=(0, 1)):
    while True:
      ROWS.extend(range(start, start + self.batch_size))
      rows = np.arange(start, start + self.batch_size)[:, None] % 200 + np.arange(9)
      if FAIL:
        raise FAIL[0]
      yield {'decoder_input_tokens': rows[:, :-1], 'decoder_target_tokens': rows[:, 1:],
             'decoder_loss_weights': np.ones((self.batch_size, 8), np.float32)}
      start += self.batch_size

  def data_digest(self):
    return open('content').read()

@dataclasses.dataclass(frozen=True, kw_only=True)
class Quick:
  step: int | None = None

  def make(self, network, partitioner, data, seed, *, required=False):
    return lambda params, step: {'numbered/loss': float(step)}
'''
GIN = '''
from __gin__ import dynamic_registration
from t5x_lite import experiment
from t5x_lite import models
import parts

include 'experiments/tiny_lm.gin'

experiment.Experiment.data = @parts.Numbered()
experiment.Experiment.eval = @parts.Quick()
parts.Numbered.batch_size = %BATCH_SIZE
experiment.TrainConfig.log_every = 1
experiment.TrainConfig.checkpoint_every = 2
models.ModelConfig:
  embed_dim = 16
  num_layers = 1
  num_heads = 2
  mlp_dim = 16
  init_std = 0.02
BATCH_SIZE = 8
STEPS = 4
WARMUP_STEPS = 1
'''


@contextlib.contextmanager
def folder_with_parts(path):
  """A folder with the parts above, in which commands run; gives the module of the parts."""
  (path / 'parts.py').write_text(PARTS)
  (path / 'run.gin').write_text(GIN)
  (path / 'content').write_text('first')
  with pytest.MonkeyPatch.context() as patch:
    patch.chdir(path)
    patch.syspath_prepend(path)
    import parts as module
    yield module
  sys.modules.pop('parts')


def train(*bindings, folder='run', status=0):
  argv = ['train', '--gin_file=run.gin', '--trusted_modules=parts', f'--gin.MODEL_DIR={folder}',
          *(b if b.startswith('--') else f'--gin.{b}' for b in bindings)]
  assert cli.main(argv) == status


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
  """The folder of a finished run of four steps, to copy."""
  path = tmp_path_factory.mktemp('trained')
  with folder_with_parts(path):
    train()
  return path / 'run'


@pytest.fixture
def parts(tmp_path):
  with folder_with_parts(tmp_path) as module:
    yield module


@pytest.fixture
def run(trained, parts, tmp_path):
  """A copy of the finished run."""
  shutil.copytree(trained, tmp_path / 'run')
  return RunFolder(tmp_path / 'run')


def error_of(capsys):
  """The one line of an error."""
  text = capsys.readouterr().err
  assert text.startswith('error: ') and text.count('\n') == 1, text
  return text.strip()


def test_the_same_command_makes_up_for_an_evaluation_that_was_not_reached(run, capsys):
  log = run.metrics.read_text()
  without = ''.join(line + '\n' for line in log.splitlines() if '"eval"' not in line)
  run.metrics.write_text(without + '{"step": 4, "kind": "ev')   # killed while writing it
  train()
  assert run.metrics.read_text() == log
  capsys.readouterr()
  train()
  assert 'already trained to step 4' in capsys.readouterr().out
  assert run.metrics.read_text() == log


@pytest.mark.parametrize('left', [None, '', ' \n'])
def test_checkpoints_without_their_config_are_never_started_anew(left, run, parts, capsys):
  config = run.config.read_text()
  run.config.unlink()
  if left is not None:
    run.config.write_text(left)
  before = sorted(path for path in run.path.rglob('*'))
  train('TrainConfig.steps=6', status=1)
  message = error_of(capsys)
  assert 'run has checkpoints (the newest of step 4) and no config.gin' in message
  assert sorted(path for path in run.path.rglob('*')) == before
  words = [word.strip(',') for word in message.split() if word.startswith('--gin')]
  if left is None:
    train('TrainConfig.steps=6', *words, folder='branch')   # one cure
    assert parts.ROWS[0] == 32
  run.config.write_text(config)               # the other
  train('TrainConfig.steps=6')
  assert Checkpoints(run.path).latest_step() == 6


def test_data_that_changed_are_refused_by_a_resumed_run_and_a_branch(run, tmp_path, capsys):
  (tmp_path / 'content').write_text('second')
  branch = ['--gin_file=runs/branch.gin', 'INIT_FROM=run', 'TrainConfig.steps=6']
  train('TrainConfig.steps=6', status=1)
  assert 'run, step 4, has read other data than there are now' in error_of(capsys)
  train(*branch, folder='branch', status=1)
  assert 'step 4, has read other data than there are now' in error_of(capsys)
  assert not (tmp_path / 'branch').exists()
  train(*branch, 'InitFrom.restore_state=False', folder='branch')   # the cure
  (tmp_path / 'content').write_text('first')
  train('TrainConfig.steps=6')


def test_a_log_with_bad_lines_does_not_stop_a_run(run, capsys):
  lines = run.metrics.read_text().splitlines()
  run.metrics.write_text('\n'.join(['\0\0', lines[0], '{"step": "x"}', *lines[1:]]) + '\n')
  train('TrainConfig.steps=6')
  assert '2 line(s) that are no records of metrics are left out' in capsys.readouterr().err
  assert [r['step'] for r in run.read_metrics() if r['kind'] == 'train'] == [1, 2, 3, 4, 5, 6]


def test_a_run_that_failed_at_its_first_step_is_in_nobodys_way(parts, tmp_path, monkeypatch):
  from t5x_lite.training import step
  make = step.make_train_step

  def failing(*args, **kwargs):
    def raises(state, batch):
      raise ZeroDivisionError
    return raises

  monkeypatch.setattr(step, 'make_train_step', failing)
  with pytest.raises(ZeroDivisionError):
    train()
  monkeypatch.setattr(step, 'make_train_step', make)
  parts.FAIL.append(ZeroDivisionError())
  with pytest.raises(ZeroDivisionError):
    train(folder='other')
  parts.FAIL.clear()
  assert not (tmp_path / 'other').exists()
  train('ModelConfig.mlp_dim=32')
  assert Checkpoints(tmp_path / 'run').steps() == [2, 4]


def test_another_batch_size_is_refused_and_the_way_that_is_named_goes_on(run, parts, capsys):
  train('TrainConfig.steps=6', 'BATCH_SIZE=4', status=1)
  message = error_of(capsys)
  assert 'data.batch_size: 8 → 4' in message
  words = [word.strip(',') for word in message.split() if word.startswith('--gin')]
  train('TrainConfig.steps=6', 'BATCH_SIZE=4', *words, folder='small')
  assert parts.ROWS[:8] == list(range(32, 40))
  train('TrainConfig.steps=8', 'BATCH_SIZE=4', *words, folder='small')   # resumed by examples too
  assert parts.ROWS[-8:] == list(range(40, 48))


def test_a_run_that_is_trained_is_read_but_not_trained_by_another(run, capsys):
  with locked(run):
    train('TrainConfig.steps=6', status=1)
    assert 'is being trained by another process (pid ' in error_of(capsys)
    argv = ['eval', '--gin_file=run/config.gin', '--trusted_modules=parts', '--json']
    assert cli.main(argv) == 0
    assert json.loads(capsys.readouterr().out) == {'numbered/loss': 4.0}
  train('TrainConfig.steps=6')


def test_a_truncated_newest_checkpoint_costs_the_steps_since_the_one_before(run, tmp_path, capsys):
  shutil.copytree(run.path, tmp_path / 'whole')
  for file in (run.checkpoints / '4').rglob('*'):
    if file.is_file():
      file.write_bytes(file.read_bytes()[:-20])
  shutil.copytree(run.path, tmp_path / 'copy')
  train()
  shown = capsys.readouterr()
  assert 'checkpoints/4 is damaged' in shown.err and 'at step 2' in shown.out
  assert (run.checkpoints / '4.damaged').is_dir()
  losses = lambda folder: [r.get('loss') for r in folder.read_metrics()]
  assert losses(run) == losses(RunFolder(tmp_path / 'whole'))
  argv = ['eval', '--gin_file=copy/config.gin', '--trusted_modules=parts', '--gin.MODEL_DIR=copy',
          '--gin.Quick.step=4']
  assert cli.main(argv) == 1
  assert 'other checkpoints: [2]' in error_of(capsys)


@pytest.mark.slow
@pytest.mark.parametrize('free', [0, 20, 60, 140, 300, 500])
def test_a_full_disk_is_one_line_and_the_same_command_goes_on_when_there_is_room(
    free, parts, tmp_path, capfd):
  """`free`: KiB of a disk of two MiB; a checkpoint takes about 200."""
  disk = tmp_path / 'disk'
  disk.mkdir()
  mounted = subprocess.run(['mount', '-t', 'tmpfs', '-o', 'size=2m', 'tmpfs', str(disk)],
                           capture_output=True, check=False)
  if mounted.returncode:
    pytest.skip('no right to mount a disk')
  try:
    (disk / 'filler').write_bytes(bytes(1024 * (2048 - free)))
    train(folder=str(disk / 'run'), status=1)
    shown = capfd.readouterr().err
    assert 'Traceback' not in shown and shown.count('error: ') == 1
    assert f'error: {disk}/' in shown and 'No space left on device; free some space' in shown
    (disk / 'filler').unlink()
    train(folder=str(disk / 'run'))
    assert Checkpoints(disk / 'run').steps() == [2, 4]
  finally:
    subprocess.run(['umount', '-l', str(disk)], check=True)


def test_a_folder_of_other_files_is_said_to_become_one_of_a_run(tmp_path, capsys):
  assert not resuming.check_folder(RunFolder(tmp_path / 'new'))
  (tmp_path / 'lock').touch()
  assert not resuming.check_folder(RunFolder(tmp_path)) and not capsys.readouterr().err
  (tmp_path / 'thesis.txt').touch()
  assert not resuming.check_folder(RunFolder(tmp_path))
  assert capsys.readouterr().err == (
      f'note: {tmp_path} is not empty, and becomes the folder of this run beside thesis.txt\n')
