"""Iterators over TensorFlow's data are closed before Python ends.

Their threads call back into Python. One that does while the interpreter is taken apart never comes
back, and a script that read one batch hangs at its end.
"""

import atexit
from collections.abc import Iterator
import functools
import weakref

_OPEN = weakref.WeakSet()


def closed_at_exit(generator: Iterator) -> Iterator:
  """The generator, which is closed when Python exits."""
  _register()
  _OPEN.add(generator)
  return generator


@functools.cache
def _register() -> None:
  atexit.register(_close)   # after TensorFlow's own, so before them at the exit


def _close() -> None:
  for generator in list(_OPEN):
    try:
      generator.close()
    except ValueError:   # a thread of the user's is inside it
      pass
