"""One process at a time trains a run, and the lock ends with its process."""

import os
import signal
import subprocess
import sys

import pytest

from t5x_lite.core.errors import UserError
from t5x_lite.training.lock import locked
from t5x_lite.training.run_folder import RunFolder

HOLD = """
import pathlib, sys, time
from t5x_lite.training.lock import locked
from t5x_lite.training.run_folder import RunFolder
with locked(RunFolder(pathlib.Path(sys.argv[1]))):
  print('locked', flush=True)
  time.sleep(60)
"""


def test_the_second_process_is_refused_and_the_first_is_named(tmp_path):
  folder = RunFolder(tmp_path / 'runs/a')
  with subprocess.Popen([sys.executable, '-c', HOLD, str(folder.path)],
                        stdout=subprocess.PIPE) as first:
    assert first.stdout.readline() == b'locked\n'
    with pytest.raises(UserError, match=rf'another process \(pid {first.pid} on .*, since 2.*\): '):
      with locked(folder):
        pass
    assert folder.path.is_dir()   # the holder's
    first.send_signal(signal.SIGKILL)
    first.wait()
    assert folder.lock.exists()
    with locked(folder):   # what a killed process has left holds nobody up
      assert str(os.getpid()) in folder.lock.read_text()
  assert not folder.lock.exists()


def test_a_folder_in_which_nothing_was_written_is_gone(tmp_path):
  folder = RunFolder(tmp_path / 'runs/deep/a')
  with pytest.raises(ZeroDivisionError):
    with locked(folder):
      assert folder.path.is_dir()
      raise ZeroDivisionError
  assert list(tmp_path.iterdir()) == []
  with locked(folder):
    folder.config.write_text('x')
  assert [p.name for p in folder.path.iterdir()] == ['config.gin']


def test_a_lock_file_that_its_holder_removes_is_not_taken_for_the_lock(tmp_path, monkeypatch):
  """Another process removes the file between our open and our lock."""
  import fcntl
  folder, flock = RunFolder(tmp_path), fcntl.flock
  def late(file, how):
    monkeypatch.setattr(fcntl, 'flock', flock)
    folder.lock.unlink()
    flock(file, how)

  monkeypatch.setattr(fcntl, 'flock', late)
  with locked(folder):
    with pytest.raises(UserError, match='another process'):
      with locked(folder):
        pass


def test_a_file_system_without_locks_is_said(tmp_path, monkeypatch, capsys):
  import errno
  import fcntl
  def unsupported(file, how):
    raise OSError(errno.ENOLCK, 'No locks available')

  monkeypatch.setattr(fcntl, 'flock', unsupported)
  with locked(RunFolder(tmp_path)):
    assert 'has no locks' in capsys.readouterr().err
