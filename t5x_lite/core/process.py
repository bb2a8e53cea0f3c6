"""The process that a command runs in: its cache, its path of modules, its interrupts, its end."""

import atexit
from collections.abc import Callable
import os
import pathlib
import signal
import sys
import threading
from typing import NoReturn

INTERRUPTED = 130   # the status of what Ctrl-C ended, as shells have it


def set_up_process() -> None:
  """The persistent compilation cache, in JAX_COMPILATION_CACHE_DIR if set; '' turns it off."""
  cache = os.environ.get('JAX_COMPILATION_CACHE_DIR')
  if cache is None:
    base = os.environ.get('XDG_CACHE_HOME') or '~/.cache'
    cache = str(pathlib.Path(base).expanduser() / 't5x_lite' / 'xla')
    os.environ['JAX_COMPILATION_CACHE_DIR'] = cache
  os.environ.setdefault('JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS', '0')


def leave_working_directory() -> None:
  """Takes the working directory, where `python -m` looks first, off the path of modules.

  Files of a folder that came from elsewhere may be named as libraries are. This project's own
  checkout stays.
  """
  if pathlib.Path(sys.path[0] or '.').resolve() == pathlib.Path.cwd() != (
      pathlib.Path(__file__).resolve().parents[2]):
    del sys.path[0]


def search_working_directory() -> None:
  """Lets modules be found in the working directory, after all that are installed."""
  if os.getcwd() not in sys.path:
    sys.path.append(os.getcwd())


def was_interrupted(error: BaseException) -> bool:
  """Whether Ctrl-C is what an error came from: one during an import may end as another error."""
  seen = set()
  while error is not None and id(error) not in seen:
    if isinstance(error, KeyboardInterrupt):
      return True
    seen.add(id(error))
    error = error.__cause__ or error.__context__
  return False


def run_and_exit(main: Callable[[], int]) -> NoReturn:
  """Ends this process with the status that `main` returns.

  Ctrl-C interrupts `main`; a second one ends the process at once. At the end the threads of native
  libraries are not waited for: they may hang, or crash while Python's modules are taken apart.
  """
  signal.signal(signal.SIGINT, _interrupt)
  sys.unraisablehook = _interrupt_again
  try:
    status = main()
  except SystemExit:
    raise
  except BaseException:
    sys.excepthook(*sys.exc_info())
    status = 1
  if status != INTERRUPTED:
    atexit._run_exitfuncs()
  _exit(status)


_interrupted = False


def _interrupt(number, frame) -> None:
  global _interrupted
  if _interrupted:
    try:
      os.write(2, b'error: interrupted\n')   # print may be what was interrupted
    except OSError:
      pass
    _exit(INTERRUPTED)
  _interrupted = True
  raise KeyboardInterrupt


def _interrupt_again(failed) -> None:
  """As sys.unraisablehook; an interrupt that a callback of a library has swallowed is repeated."""
  if failed.exc_type is not KeyboardInterrupt:
    sys.__unraisablehook__(failed)
    return

  def repeat():
    global _interrupted
    _interrupted = False
    os.kill(os.getpid(), signal.SIGINT)

  again = threading.Timer(0.05, repeat)
  again.daemon = True
  again.start()


def _exit(status: int) -> NoReturn:
  for stream in (sys.stdout, sys.stderr):
    try:
      stream.flush()
    except (OSError, ValueError, RuntimeError):   # nobody reads it, or an interrupt is in its write
      pass
  os._exit(status)
