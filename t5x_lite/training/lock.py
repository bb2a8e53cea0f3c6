"""One process at a time trains a run: a lock on its folder that ends with the process."""

from collections.abc import Iterator
import contextlib
import errno
import fcntl
import json
import os
import pathlib
import socket
import time

import jax

from t5x_lite.core.console import note
from t5x_lite.core.errors import UserError
from t5x_lite.training.run_folder import RunFolder

_UNSUPPORTED = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)


@contextlib.contextmanager
def locked(folder: RunFolder) -> Iterator[None]:
  """Holds the lock of a run; its folder is made, and removed again if it is left empty.

  The first of the processes of a run holds it for all. Raises UserError, which names the holder, if
  another run holds it.
  """
  if jax.process_index():
    yield
    return
  made = [path for path in (folder.path, *folder.path.parents) if not path.exists()]
  folder.path.mkdir(parents=True, exist_ok=True)
  try:
    with _flock(folder.lock):
      yield
  finally:
    for path in made:
      try:
        path.rmdir()
      except OSError:   # it holds a run now
        break


@contextlib.contextmanager
def _flock(path: pathlib.Path) -> Iterator[None]:
  """Locks a file, which is made, and removed afterwards."""
  while True:
    file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
      fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
      holder = _read(file)
      os.close(file)
      raise UserError(f'{path.parent} is being trained by another process{holder}: wait until it '
                      'ends, stop it, or use another MODEL_DIR') from None
    except OSError as e:
      if e.errno not in _UNSUPPORTED:
        raise
      note(f'{path.parent}: this file system has no locks; let no two processes train this run')
    if path.exists() and os.path.samestat(os.fstat(file), path.stat()):
      break
    os.close(file)   # its holder removed it between the two calls
  try:
    os.ftruncate(file, 0)
    os.write(file, json.dumps({'host': socket.gethostname(), 'pid': os.getpid(),
                               'since': time.strftime('%Y-%m-%d %H:%M:%S')}).encode())
    yield
  finally:
    path.unlink(missing_ok=True)
    os.close(file)


def _read(file: int) -> str:
  """' (pid … on …, since …)' of the holder's file; '' if it has not written that yet."""
  try:
    return ' (pid {pid} on {host}, since {since})'.format(**json.loads(os.pread(file, 1000, 0)))
  except (ValueError, KeyError, TypeError):
    return ''
