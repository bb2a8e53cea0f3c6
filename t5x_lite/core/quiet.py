"""What other libraries print."""

import contextlib
import gc
import logging
import os
import sys
import tempfile


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
  """Errors only, from the libraries that log through absl.

  What Orbax and the event loops of its threads report of an error is left out: it is raised, too.
  """
  absl = logging.getLogger('absl')
  absl.setLevel(logging.ERROR)
  absl.addFilter(_not_orbax)   # a filter is added once
  logging.getLogger('asyncio').setLevel(logging.CRITICAL)
  global _unraisable
  if sys.unraisablehook is not _report:
    _unraisable, sys.unraisablehook = sys.unraisablehook, _report


def _not_orbax(record: logging.LogRecord) -> bool:
  return 'orbax' not in record.pathname


_unraisable = sys.unraisablehook


def _report(failed) -> None:
  """As sys.unraisablehook; tensorstore calls it for a write that ends after its event loop."""
  if str(failed.exc_value) != 'Event loop is closed':
    _unraisable(failed)


def drop_failed_coroutines() -> None:
  """Drops what a failed asynchronous call has left, which Python would report with a traceback."""
  hook, sys.unraisablehook = sys.unraisablehook, lambda error: None
  try:
    gc.collect()
  finally:
    sys.unraisablehook = hook
