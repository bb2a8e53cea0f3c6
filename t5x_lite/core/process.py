"""The process that a command runs in: its compilation cache, and what other libraries print."""

import contextlib
import logging
import os
import pathlib
import sys
import tempfile


def set_up_process() -> None:
  """The persistent compilation cache, in JAX_COMPILATION_CACHE_DIR if set; '' turns it off."""
  cache = os.environ.get('JAX_COMPILATION_CACHE_DIR')
  if cache is None:
    base = os.environ.get('XDG_CACHE_HOME') or '~/.cache'
    cache = str(pathlib.Path(base).expanduser() / 't5x_lite' / 'xla')
    os.environ['JAX_COMPILATION_CACHE_DIR'] = cache
  os.environ.setdefault('JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS', '0')
  sys.path.insert(0, os.getcwd())   # a user's own modules are in the working directory


@contextlib.contextmanager
def silent_stderr():
  """Drops what native code writes to stderr; writes it after all if the block raises.

  TensorFlow logs from C++ before its own settings take effect.
  """
  try:
    real = os.dup(2)
  except OSError:   # no stderr at all
    yield
    return
  sys.stderr.flush()
  with tempfile.TemporaryFile() as captured:
    os.dup2(captured.fileno(), 2)
    try:
      yield
    except BaseException:
      captured.seek(0)
      os.write(real, captured.read())
      raise
    finally:
      os.dup2(real, 2)
      os.close(real)


def quiet_logs() -> None:
  """Errors only, from the libraries that log through absl."""
  logging.getLogger('absl').setLevel(logging.ERROR)
