"""What a run prints: a progress line, and readable durations."""

import functools
import io
import math
import sys
import time
from typing import TextIO


def duration(seconds: float) -> str:
  """'1 h 02 min', '3 min 20 s' or '12 s'."""
  seconds = max(int(seconds), 0)
  if seconds >= 3600:
    return f'{seconds // 3600} h {seconds % 3600 // 60:02d} min'
  return f'{seconds // 60} min {seconds % 60:02d} s' if seconds >= 60 else f'{seconds} s'


def note(text: str) -> None:
  """A line on stderr: what a user should know of a command that goes on."""
  print(f'note: {text}', file=sys.stderr, flush=True)


@functools.cache
def note_once(text: str) -> None:
  """As `note`, once in a process."""
  note(text)


class _Line:
  """One line that is rewritten on a terminal, and plain lines at intervals elsewhere."""

  def __init__(self, stream: TextIO | None, every: float, silent: bool):
    """`silent`: in all processes of a run but one."""
    self.stream = io.StringIO() if silent else stream or sys.stdout
    self.every = 0.2 if self.stream.isatty() else every   # seconds between two lines
    self._last, self._open = -math.inf, False

  def say(self, text: str) -> None:
    """Prints a line of its own, under the progress line."""
    self.finish()
    print(text, file=self.stream, flush=True)

  def finish(self) -> None:
    """Ends the line that is being rewritten."""
    if self._open:
      print(file=self.stream, flush=True)
      self._open = False

  def _is_due(self, last: bool) -> bool:
    """Whether the line before is old enough for another, or this is the `last` one."""
    if time.monotonic() - self._last < self.every and not last:
      return False
    self._last = time.monotonic()
    return True

  def _print(self, line: str) -> None:
    if self.stream.isatty():
      print(f'\r\033[K{line}', end='', file=self.stream, flush=True)
      self._open = True
    else:
      print(line, file=self.stream, flush=True)


class Progress(_Line):
  """The state of a run, on one line."""

  def __init__(self, total: int, stream: TextIO | None = None, every: float = 10.0,
               silent: bool = False):
    super().__init__(stream, every, silent)
    self.total = total

  def show(self, step: int, values: dict[str, float], seconds_left: float) -> None:
    """Prints the state of the run, if the last line is old enough or the run is over."""
    if not self._is_due(step >= self.total):
      return
    loss = values['loss'] if 'loss' in values else values['objective']
    parts = [f'step {step}/{self.total}', f'loss {loss:.3f}',
             f'{values["tokens_per_second"]:,.0f} tokens/s']
    if math.isfinite(values.get('mfu', math.nan)):
      parts.append(f'MFU {100 * values["mfu"]:.1f} %')
    parts.append(f'{duration(seconds_left)} left')
    self._print('  '.join(parts))


class Counter(_Line):
  """How many of several things are done, and the time left, on one line."""

  def __init__(self, things: str, stream: TextIO | None = None, every: float = 10.0,
               silent: bool = False):
    """`things` are what is counted."""
    super().__init__(stream, every, silent)
    self._things, self._begun = things, time.monotonic()

  def show(self, done: int, count: int) -> None:
    """Prints the line, if the last one is old enough or all are done; `done` 1 begins anew."""
    if done == 1:
      self._begun = time.monotonic()
    if self._is_due(done == count and self._open):
      line = f'{done:,}/{count:,} {self._things}'
      if done > 1:   # since the first, which compiles
        left = (time.monotonic() - self._begun) / (done - 1) * (count - done)
        line += f'  {duration(left)} left'
      self._print(line)
    if done == count:
      self.finish()
