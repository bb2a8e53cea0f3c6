"""Rates that change at given steps."""

import dataclasses

import numpy as np
import pytest
import scipy.stats
import tensorflow as tf

from t5x_lite.core.errors import UserError
from t5x_lite.experiment import gin_config
from tasks.files import FileTask
from tasks.pipeline import description, schedules
from tasks.pipeline.mixtures import Mixture

PHASES = [(0, (3.0, 1.0, 0.0)), (500, (0.0, 1.0, 1.0)), (800, (0.0, 0.0, 2.0))]


def drawn(seed: int, rows: int) -> np.ndarray:
  """(stream, place in it) [rows, 2] of streams that count."""
  streams = [tf.data.Dataset.counter().map(lambda i, n=n: (tf.constant(n, tf.int64), i))
             for n in range(3)]
  ds = schedules.scheduled(streams, PHASES, batch_size=8, seed=seed)
  return np.array(list(ds.take(rows).as_numpy_iterator()))


def test_each_phase_draws_by_its_rates_and_every_stream_goes_on():
  rows = drawn(seed=1, rows=8 * 1000)
  for begin, end, rates in ((0, 500, (3, 1, 0)), (500, 800, (0, 1, 1)), (800, 1000, (0, 0, 1))):
    counts = np.bincount(rows[8 * begin:8 * end, 0], minlength=3)
    expected = 8 * (end - begin) * np.array(rates) / sum(rates)
    assert not counts[expected == 0].any()
    held = expected > 0
    assert held.sum() == 1 or scipy.stats.chisquare(counts[held], expected[held]).pvalue > 1e-3
  for stream in range(3):
    places = rows[rows[:, 0] == stream, 1]
    np.testing.assert_array_equal(places, np.arange(len(places)))


def test_draws_follow_the_seed_and_the_row():
  np.testing.assert_array_equal(drawn(seed=1, rows=100), drawn(seed=1, rows=200)[:100])
  assert (drawn(seed=1, rows=100) != drawn(seed=2, rows=100)).any()


@pytest.mark.parametrize('steps, want', [
    (400, (0.75, 0.25, 0)), (500, (0.75, 0.25, 0)),
    (1000, ((0.75 * 5, 0.25 * 5 + 0.5 * 3, 0.5 * 3 + 2))),
])
def test_mean_rates(steps, want):
  np.testing.assert_allclose(schedules.mean_rates(PHASES, steps), np.array(want) / sum(want))


@pytest.fixture
def experiment(tmp_path):
  """First b's, from step 3 on half a's and half b's; the names are not in that order."""
  (tmp_path / 'a.txt').write_text('aaa\n' * 20)
  (tmp_path / 'b.txt').write_text('bbbbbbb\n' * 20)
  b, a = (FileTask(train=str(tmp_path / f'{n}.txt'), name=n) for n in 'ba')
  experiment = gin_config.load_described(['experiments/tiny_lm.gin'])
  data = dataclasses.replace(
      experiment.data, task=Mixture(tasks=(b, a), rates=(1, 0), rate_schedule={3: (1, 1)}),
      targets_length=16, batch_size=8)
  train = dataclasses.replace(experiment.train, steps=12)
  return dataclasses.replace(experiment, data=data, train=train)


@pytest.mark.slow
def test_a_run_changes_its_rates_at_the_step_and_resumes_there(experiment):
  stream = experiment.data.batches(experiment.model, seed=0)
  batches = [batch['decoder_target_tokens'] for _, batch in zip(range(60), stream)]
  has_a = np.array([(batch == ord('a') + 3).any(1) for batch in batches])
  has_b = np.array([(batch == ord('b') + 3).any(1) for batch in batches])
  assert not has_a[:3].any() and has_b[:3].all()
  assert (has_a ^ has_b).all(), 'a row is of one task'
  assert scipy.stats.binomtest(int(has_a[3:].sum()), has_a[3:].size).pvalue > 1e-3
  resumed = experiment.data.batches(experiment.model, seed=0,
                                    start=2 * experiment.data.batch_size)
  for want, batch in zip(batches[2:6], resumed):
    np.testing.assert_array_equal(batch['decoder_target_tokens'], want)


def test_describe_gives_the_shares_of_all_steps(experiment):
  members = {m.name: m for m in description.describe(experiment)}
  a, b = members['a_lm'], members['b_lm']
  # 3 steps of b and 9 of both. A row has 4 examples of a, 4 ids each, or 2 of b, 8 ids each.
  assert (a.filled, b.filled) == (1, 1)
  assert a.token_share == pytest.approx(4.5 / 12) and b.token_share == pytest.approx(7.5 / 12)
  assert a.share == pytest.approx(4.5 * 4 / (4.5 * 4 + 7.5 * 2))
  assert a.epochs == pytest.approx(12 * 8 * 16 * 4.5 / 12 / 80)


@pytest.mark.parametrize('change, message', [
    (dict(rates='equal'), "Mixture.rates = 'equal': rate_schedule needs numbers"),
    (dict(rate_schedule={0: (1, 1)}), 'steps count from 1 on, got 0'),
    (dict(rate_schedule={'3': (1, 1)}), "steps count from 1 on, got '3'"),
    (dict(rate_schedule={3: (1,)}), 'rate_schedule = {3: .*}: expected 2 numbers, one for each'),
    (dict(rate_schedule={3: (0, 0)}), 'at least 0 and not all 0'),
])
def test_wrong_changes(experiment, change, message):
  with pytest.raises(UserError, match=message):
    dataclasses.replace(experiment.data.task, **change)


def test_a_task_that_is_never_drawn_and_a_mixture_within(experiment):
  never = dataclasses.replace(experiment.data.task, rate_schedule={3: (2, 0)})
  with pytest.raises(UserError, match='is never drawn: leave it out'):
    never.register()
  inner = Mixture(tasks=experiment.data.task.tasks, rates='equal').register()
  outer = dataclasses.replace(experiment.data.task, tasks=(inner, experiment.data.task.tasks[0]))
  with pytest.raises(UserError, match='it is for tasks, and one of these is a mixture'):
    outer.register()
