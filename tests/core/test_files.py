"""Errors of the file system: which are a line, and what it says."""

import errno
import os

import pytest

from t5x_lite import cli
from t5x_lite.core import files


@pytest.fixture
def failing(monkeypatch):
  """(error) -> the status of a command that raises it."""
  from t5x_lite.commands import describe

  def run(error):
    def raises(args):
      raise error
    monkeypatch.setattr(describe, 'run', raises)
    return cli.main(['describe'])
  return run


@pytest.mark.parametrize('error, message', [
    (OSError(errno.ENOSPC, 'x', 'runs/a'), 'runs/a: No space left on device; free some space'),
    (OSError(errno.ENOSPC, 'x'), 'No space left on device; free some space'),
    (OSError(errno.EROFS, 'x', 'a'), 'a: Read-only file system; name a place that can be'),
    (OSError(errno.EACCES, 'x', b'a'), 'a: Permission denied; name a place that you have'),
    (OSError(errno.ENOENT, 'x', 'a', None, 'b'), 'b: No such file or directory; name one'),
    (OSError(errno.ENAMETOOLONG, 'x', 'a' * 300), 'a: File name too long; name a shorter one'),
    (OSError(errno.ENOTDIR, 'x', 'a/b'), 'a/b: Not a directory; a part of this path is a file'),
    (OSError(errno.EISDIR, 'x', 'a'), 'a: Is a directory; this is a folder: name a file'),
])
def test_an_error_of_a_path_is_one_line_with_the_cure(error, message, failing, capsys):
  assert failing(error) == 1
  shown = capsys.readouterr().err
  assert shown.startswith('error: ') and shown.count('\n') == 1 and message in shown


@pytest.mark.parametrize('error', [
    OSError('the disk is gone'), OSError(errno.EBADF, 'x'), OSError(errno.ENOENT, 'no path'),
    OSError(errno.EINVAL, 'x', 'a'), ConnectionResetError(errno.ECONNRESET, 'x')])
def test_an_error_of_no_path_is_a_bug(error, failing):
  with pytest.raises(OSError):
    failing(error)


def test_an_interrupt_is_a_line_whatever_it_became(failing, capsys):
  assert failing(KeyboardInterrupt()) == 130
  error = ImportError('half imported')
  error.__context__ = KeyboardInterrupt()
  assert failing(error) == 130
  assert capsys.readouterr().err == 'error: interrupted\n' * 2


def test_an_error_without_a_path_gets_one(tmp_path):
  with pytest.raises(OSError) as caught, files.naming(tmp_path):
    raise OSError(errno.ENOSPC, 'full')
  assert caught.value.filename == str(tmp_path)
  for error in (OSError(errno.ENOSPC, 'full', 'mine'), OSError('no number'), KeyError('x')):
    with pytest.raises(type(error)) as caught, files.naming(tmp_path):
      raise error
    assert caught.value is error


def test_a_place_is_tried_before_the_work(tmp_path):
  files.check_writable(tmp_path / 'a' / 'out.jsonl')
  assert not (tmp_path / 'a').exists()
  (tmp_path / 'file').write_text('x')
  files.check_writable(tmp_path / 'file')
  assert os.listdir(tmp_path) == ['file'] and (tmp_path / 'file').read_text() == 'x'
  for path in (tmp_path / 'file' / 'out', tmp_path, tmp_path / ('a' * 300)):
    with pytest.raises(OSError) as caught:
      files.check_writable(path)
    assert files.explain(caught.value)
