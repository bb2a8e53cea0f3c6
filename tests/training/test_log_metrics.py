"""The rates that a run logs and shows."""

import io
import types

import numpy as np
import pytest

from t5x_lite.core.console import Progress
from t5x_lite.objectives.objective import LossSums
from t5x_lite.training import hooks, loop


def test_the_first_rate_and_time_left_leave_compilation_out(monkeypatch):
  clock, records, shown = types.SimpleNamespace(now=0.0), [], io.StringIO()
  monkeypatch.setattr(hooks.time, 'monotonic', lambda: clock.now)
  writer = types.SimpleNamespace(write=lambda *record: records.append(record), close=lambda: None)
  batch = {'decoder_input_tokens': np.ones((2, 5), np.int32)}

  def step_fn(state, _):
    clock.now += 100.0 if clock.now == 0 else 0.0   # compiled by the first call
    return state, LossSums(np.float32(8), np.float32(2), {'tokens': (np.float32(10), 1)})

  class Device(loop.Hook):
    """A step takes two seconds."""

    def after_step(self, run):
      clock.now += 2.0

  log = hooks.LogMetrics(writer, Progress(100, shown, every=0.0), 2, learning_rate=None,
                         flops_of=lambda batch: 1.0, peak_flops=float('nan'))
  loop.run({}, step_fn, lambda state: batch, [log, Device()], 100,
           partitioner=types.SimpleNamespace(put_batch=lambda batch: batch))
  first, second = records[0][2], records[1][2]
  assert records[0][0] == 2 and first['seconds_per_step'] == pytest.approx(2.0)
  assert first['tokens_per_second'] == pytest.approx(10 / 2.0)
  assert second['seconds_per_step'] == pytest.approx(2.0)
  assert shown.getvalue().splitlines()[:2] == [
      'Compiling the train step', 'step 2/100  loss 4.000  5 tokens/s  3 min 16 s left']
