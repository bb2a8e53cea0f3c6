"""A trace of some steps, in the files that the usual viewers open."""

import gzip
import json
import types

import jax
import jax.numpy as jnp
import pytest

from t5x_lite.core.errors import UserError
from t5x_lite.experiment import gin_config
from t5x_lite.experiment.experiment import TrainConfig
from t5x_lite.objectives.objective import LossSums
from t5x_lite.training import loop
from t5x_lite.training.profiling import Profile


def test_the_steps_after_the_first_up_to_the_second_are_traced(tmp_path, monkeypatch):
  traced, started = [], []
  monkeypatch.setattr(jax.profiler, 'start_trace', lambda *args, **kw: started.append(args))
  monkeypatch.setattr(jax.profiler, 'stop_trace', lambda: started.pop())

  def step_fn(state, batch):
    traced.extend([state + 1] * len(started))
    return state + 1, LossSums(1.0, 1.0, {})

  def take(start, until):
    traced.clear()
    loop.run(start, step_fn, lambda state: {}, [Profile(tmp_path, 2, 4, print)], until,
             partitioner=types.SimpleNamespace(put_batch=lambda x: x), start=start)
    assert not started
    return list(traced)

  assert take(0, 6) == [3, 4]
  assert take(3, 6) == [4]     # a run that was resumed between the two
  assert take(0, 3) == [3]     # and one that ends there
  assert take(4, 6) == take(0, 2) == []


def test_a_trace_has_what_ran_on_the_devices(tmp_path):
  hook, run = Profile(tmp_path, 0, 1, print), loop.Run({}, 0, 2)
  hook.begin(run)
  run.sums, run.step = jax.jit(lambda x: x @ x)(jnp.ones((64, 64))), 1
  hook.pause(run)
  (trace,) = tmp_path.rglob('perfetto_trace.json.gz')   # Perfetto's; the next is XProf's
  assert list(tmp_path.rglob('*.xplane.pb'))
  assert any('dot' in str(event.get('name')) for event in json.loads(
      gzip.decompress(trace.read_bytes()))['traceEvents'])


def test_steps_after_the_last_are_refused(tmp_path):
  load = lambda steps: gin_config.load_experiment(['experiments/tiny_lm.gin'], [
      f'MODEL_DIR={tmp_path}', 'STEPS=20', f'TrainConfig.profile={steps}'])[0]
  assert load((15, 20)).train.profile == (15, 20)
  with pytest.raises(UserError, match='ends after TrainConfig.steps 20'):
    load((15, 21))


@pytest.mark.parametrize('steps', [(3, 3), (-1, 2), (5, 2)])
def test_two_steps_that_are_no_interval_are_refused(steps):
  with pytest.raises(UserError, match='TrainConfig.profile = '):
    TrainConfig(steps=10, profile=steps)
