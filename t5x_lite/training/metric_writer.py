"""The logs of a run: metrics.jsonl and TensorBoard events."""

import json
import math

from t5x_lite.core.files import write_text
from t5x_lite.training.run_folder import RunFolder


class MetricWriter:
  """Appends records to metrics.jsonl and to TensorBoard events beside it.

  A record is {'step': …, 'kind': 'train' or 'eval', name: number, …}; a number that is not finite
  is written as null, as JSON has no such number.
  """

  def __init__(self, folder: RunFolder, resumed_step: int = 0):
    """Drops what a stopped run logged after the checkpoint of `resumed_step`; it recurs."""
    from tensorboardX import SummaryWriter  # 0.5 s, and only a run that writes needs it
    if folder.metrics.exists():
      kept = [r for r in folder.read_metrics() if r['step'] <= resumed_step]
      write_text(folder.metrics, ''.join(json.dumps(r) + '\n' for r in kept))
    self._file = open(folder.metrics, 'a', buffering=1)
    self._events = SummaryWriter(str(folder.tensorboard), purge_step=resumed_step + 1)

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
