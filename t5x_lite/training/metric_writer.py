"""The log of a run: metrics.jsonl, and the writers beside it."""

from collections.abc import Sequence
import json
import math
import shutil

import jax

from t5x_lite.core.files import write_text
from t5x_lite.training.run_folder import RunFolder, read_metrics
from t5x_lite.training.writers import TensorBoard, Writer, WriterConfig


class MetricWriter:
  """Writes records to metrics.jsonl and to the writers beside it; of several processes, one does.

  A record is {'step': …, 'kind': 'train' or 'eval', name: number, …}; a number that is not finite
  is written as null, as JSON has no such number.
  """

  def __init__(self, folder: RunFolder, resumed_step: int = 0,
               writers: Sequence[WriterConfig] = (TensorBoard(),)):
    """Drops what a stopped run logged after the checkpoint of `resumed_step`; it recurs."""
    self._writers: list[Writer] = []
    if jax.process_index() == 0:
      self._writers.append(_JsonLines(folder, resumed_step))
      for config in writers:
        self._writers.append(config.open(folder, resumed_step))

  def write(self, step: int, kind: str, values: dict[str, float]) -> None:
    """Writes one record."""
    for writer in self._writers:
      writer.write(step, kind, values)

  def close(self) -> None:
    """Flushes all of it."""
    while self._writers:
      self._writers.pop().close()


class _JsonLines:
  """metrics.jsonl; lines of it that are no records are kept in another file when it is cut."""

  def __init__(self, folder: RunFolder, resumed_step: int):
    if folder.metrics.exists():
      before = folder.metrics.read_bytes()
      records = read_metrics(folder.metrics)
      if len(records) < len(before.rstrip(b'\n').split(b'\n')):
        shutil.copyfile(folder.metrics, folder.metrics.with_suffix('.jsonl.damaged'))
      kept = [r for r in records if r['step'] <= resumed_step]
      write_text(folder.metrics, ''.join(json.dumps(r) + '\n' for r in kept))
    self._file = open(folder.metrics, 'a', buffering=1)

  def write(self, step, kind, values):
    finite = {k: v if math.isfinite(v) else None for k, v in values.items()}
    self._file.write(json.dumps({'step': step, 'kind': kind} | finite) + '\n')

  def close(self):
    self._file.close()
