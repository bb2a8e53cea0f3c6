"""Hooks around steps that are functions: what is checked, saved, evaluated, and said."""

import math
import os
import signal
import types

import numpy as np
import pytest

from t5x_lite.core.errors import UserError
from t5x_lite.objectives.objective import LossSums
from t5x_lite.training import hooks, loop

IDENTITY = types.SimpleNamespace(put_batch=lambda batch: batch)


def take_steps(parts, losses, updates=None, start=0, until=None):
  """Runs steps that give these losses and norms of updates, the state being the step."""
  updates = updates or [1.0] * len(losses)

  def step_fn(state, batch):
    value = lambda x: (np.float32(x), np.float32(1))
    return state + 1, LossSums(np.float32(losses[state]), np.float32(1), {
        'loss': value(losses[state]), 'grad_norm': value(1), 'update_norm': value(updates[state])})

  ended = loop.run(start, step_fn, lambda state: {}, parts, until or len(losses),
                   partitioner=IDENTITY, start=start)
  return ended.step


class Saved:
  """Checkpoints that are numbers."""

  def __init__(self):
    self.finished = []

  def save(self, state, step, meta):
    self.finished.append(step)

  def finished_steps(self):
    return self.finished

  def close(self):
    pass


def health(saved, every=1):
  return hooks.StopIfNotFinite(every, saved.finished_steps)


@pytest.mark.parametrize('losses, updates, message', [
    # The update of step 3 has blown up: it is not saved, and that of step 2 is good.
    ([1, 1, 1, 1], [1, 1, math.inf, 1], r'at step 3 \(step 2 is saved and good\)'),
    # The loss of step 4 is of the parameters that were saved after step 3.
    ([1, 1, 1, math.nan], None,
     r'at step 4 \(step 2 is saved and good; step 3 is saved, and may be past what went wrong\)'),
    ([1, math.nan, 1, 1], None, r'at step 2 \(step 1 is saved, and may be past what went wrong\)'),
    ([math.inf, 1, 1, 1], None, r'at step 1 \(there is no checkpoint yet\)'),
])
def test_what_is_called_good_was_seen_to_be(losses, updates, message):
  saved = Saved()
  parts = [health(saved), hooks.SaveCheckpoints(saved, lambda step: {}, 1)]
  with pytest.raises(UserError, match=message):
    take_steps(parts, losses, updates)


def test_a_loss_between_two_logged_steps_is_found_before_the_state_is_saved():
  saved = Saved()
  parts = [health(saved, every=10), hooks.SaveCheckpoints(saved, lambda step: {}, 3)]
  with pytest.raises(UserError, match=r'at step 6 \(step 3 is saved, and may be past'):
    take_steps(parts, [1, 1, 1, 1, 1, math.nan, 1])
  assert saved.finished == [3]


def test_checkpoints_say_how_many_examples_were_read():
  metas = []
  saved = types.SimpleNamespace(save=lambda state, step, meta: metas.append(meta),
                                close=lambda: None)
  take_steps([hooks.SaveCheckpoints(saved, lambda step: {'examples': 8 * step}, 2)], [1] * 5)
  assert [meta['examples'] for meta in metas] == [16, 32, 40]


def test_the_first_signal_stops_after_a_step_the_second_now_the_third_is_for_others():
  others = []
  before = signal.signal(signal.SIGTERM, lambda *args: others.append(args[0]))
  try:
    class Slow(loop.Hook):
      """A third signal while what the second interrupted is closed."""

      def pause(self, run):
        os.kill(os.getpid(), signal.SIGTERM)
        raise AssertionError('not interrupted')

      def end(self, run):
        os.kill(os.getpid(), signal.SIGTERM)

    class First(loop.Hook):
      def after_step(self, run):
        os.kill(os.getpid(), signal.SIGTERM)

    assert take_steps([hooks.StopOnSignals(), First()], [1] * 4) == 1
    with pytest.raises(KeyboardInterrupt):
      take_steps([hooks.StopOnSignals(), First(), Slow()], [1] * 4)
    assert others == [signal.SIGTERM]
    os.kill(os.getpid(), signal.SIGTERM)   # handled as before the run
    assert others == [signal.SIGTERM] * 2
  finally:
    signal.signal(signal.SIGTERM, before)
