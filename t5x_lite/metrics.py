"""What a run writes down: metrics.jsonl, TensorBoard events and a progress line."""

import json
import math
import pathlib
import sys
import time
from typing import Any, TextIO

FILE = 'metrics.jsonl'


class MetricWriter:
  """Appends records to MODEL_DIR/metrics.jsonl and to TensorBoard events beside it.

  A record is {'step': …, 'kind': 'train' or 'eval', name: number, …}; a number that is not finite
  is written as null, since JSON knows no other.
  """

  def __init__(self, model_dir: pathlib.Path, resumed_step: int = 0):
    """Drops what a stopped run logged after the checkpoint of `resumed_step`: it comes again."""
    from tensorboardX import SummaryWriter  # 0.5 s, and only a run that writes needs it
    self.path = model_dir / FILE
    if self.path.exists():
      kept = [r for r in read(self.path) if r['step'] <= resumed_step]
      text = ''.join(json.dumps(r) + '\n' for r in kept)
      temporary = self.path.with_suffix('.tmp')
      temporary.write_text(text)
      temporary.replace(self.path)
    self._file = open(self.path, 'a', buffering=1)
    self._events = SummaryWriter(str(model_dir / 'tensorboard'), purge_step=resumed_step + 1)

  def write(self, step: int, kind: str, values: dict[str, float]) -> None:
    """Writes one record."""
    finite = {k: v if math.isfinite(v) else None for k, v in values.items()}
    self._file.write(json.dumps({'step': step, 'kind': kind} | finite) + '\n')
    for name, value in values.items():
      if finite[name] is not None:
        self._events.add_scalar(f'{kind}/{name}', value, step)

  def close(self) -> None:
    """Flushes both files."""
    self._file.close()
    self._events.close()


def read(path: pathlib.Path | str) -> list[dict[str, Any]]:
  """The records of a metrics.jsonl; a last line cut off by a crash is left out."""
  records = []
  for line in pathlib.Path(path).read_text().splitlines():
    try:
      records.append(json.loads(line))
    except json.JSONDecodeError:
      continue
  return records


def duration(seconds: float) -> str:
  """'1 h 02 min', '3 min 20 s' or '12 s'."""
  seconds = max(int(seconds), 0)
  if seconds >= 3600:
    return f'{seconds // 3600} h {seconds % 3600 // 60:02d} min'
  return f'{seconds // 60} min {seconds % 60:02d} s' if seconds >= 60 else f'{seconds} s'


class Progress:
  """One line that is rewritten on a terminal, and plain lines at intervals elsewhere."""

  def __init__(self, total: int, stream: TextIO | None = None, every: float = 10.0):
    self.total, self.stream = total, stream or sys.stdout
    self.every = 0.2 if self.stream.isatty() else every   # seconds between two lines
    self._last, self._open = -math.inf, False

  def show(self, step: int, values: dict[str, float], seconds_left: float) -> None:
    """Prints the state of the run, if the last line is old enough or the run has ended."""
    if time.monotonic() - self._last < self.every and step < self.total:
      return
    self._last = time.monotonic()
    parts = [f'step {step}/{self.total}', f'loss {values["loss"]:.3f}',
             f'{values["tokens_per_second"]:,.0f} tokens/s']
    if math.isfinite(values.get('mfu', math.nan)):
      parts.append(f'MFU {100 * values["mfu"]:.1f} %')
    parts.append(f'{duration(seconds_left)} left')
    self._print('  '.join(parts))

  def say(self, text: str) -> None:
    """Prints a line of its own, under the progress line."""
    self.finish()
    print(text, file=self.stream, flush=True)

  def finish(self) -> None:
    """Ends the line that is being rewritten."""
    if self._open:
      print(file=self.stream, flush=True)
      self._open = False

  def _print(self, line: str) -> None:
    if self.stream.isatty():
      print(f'\r\033[K{line}', end='', file=self.stream, flush=True)
      self._open = True
    else:
      print(line, file=self.stream, flush=True)
