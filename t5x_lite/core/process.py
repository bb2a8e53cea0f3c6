"""The process that a command runs in: its compilation cache and its path of modules."""

import os
import pathlib
import sys


def set_up_process() -> None:
  """The persistent compilation cache, in JAX_COMPILATION_CACHE_DIR if set; '' turns it off."""
  cache = os.environ.get('JAX_COMPILATION_CACHE_DIR')
  if cache is None:
    base = os.environ.get('XDG_CACHE_HOME') or '~/.cache'
    cache = str(pathlib.Path(base).expanduser() / 't5x_lite' / 'xla')
    os.environ['JAX_COMPILATION_CACHE_DIR'] = cache
  os.environ.setdefault('JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS', '0')
  sys.path.insert(0, os.getcwd())   # a user's own modules are in the working directory
