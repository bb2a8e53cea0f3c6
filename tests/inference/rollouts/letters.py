"""Prompts of letters, and a policy of a tiny model that follows them."""

import dataclasses

import jax
import numpy as np
import optax

from t5x_lite import models
from t5x_lite.data.source import Source
from t5x_lite.inference.rollouts.source import Rollouts
from t5x_lite.parallel.mesh import MeshConfig
from t5x_lite.parallel.partitioner import Partitioner
from t5x_lite.rewards.reward import Rating
from t5x_lite.training.live_source import RunContext
from t5x_lite.training.run_folder import RunFolder
from t5x_lite.training.state import abstract_state, init_state, shardings_of
from t5x_lite.training.step import make_train_step
from tests.inference.test_generator import Letters

INPUTS, TARGETS = 5, 6


@dataclasses.dataclass(frozen=True)
class Prompts(Source):
  """Eleven prompts of one to five letters; the reference is the first letter."""
  batch_size: int = 16
  number: int = 11
  name = 'letters'
  lengths = {'inputs': INPUTS, 'targets': TARGETS}

  def tokenizer(self, feature='inputs'):
    return Letters(False)

  def splits(self):
    return ['train', 'validation']

  def examples(self, split, limit=None, seed=0):
    for i in range(min(self.number, limit or self.number)):
      text = 'abcdefghijklm'[i:i + 1 + i % INPUTS]
      yield {'ids': Letters(False).encode(text), 'inputs': text, 'targets': text[0]}


@dataclasses.dataclass(frozen=True)
class Vowels:
  """The share of vowels among what is written."""
  name = 'vowels'

  def make(self, data):
    return lambda completions: [
        Rating(sum(c in 'aeiou' for c in one.text) / max(len(one.text), 1))
        for one in completions]


def partitioner_of(devices=1):
  mesh = MeshConfig(data=1 if devices == 1 else 2, fsdp=1 if devices == 1 else devices // 2)
  return Partitioner(mesh.make(jax.devices()[:devices]))


class Follower:
  """A run on rollouts, a step at a time.

  Attributes:
    run_context, batches: of the source, which `wrap` may make of Rollouts.
    state, seen: the state, and (host batch, loss sums, statistics of the rollout) of each step.
  """

  def __init__(self, folder, config, objectives, estimator, *, devices=1, rate=1e-3, seed=0,
               microbatches=1, state=None, start=0, prompts=Prompts(), wrap=lambda source: source,
               **settings):
    self.source = wrap(Rollouts(prompts=prompts, rewards=(Vowels(),), estimator=estimator,
                                **dict(group_size=4) | settings))
    self.partitioner = partitioner_of(devices)
    self.network = models.build_network(config, self.partitioner)
    optimizer = optax.adam(rate)
    shardings = shardings_of(abstract_state(self.network, optimizer, self.partitioner))
    self.state = state or jax.jit(lambda: init_state(self.network, optimizer, seed),
                                  out_shardings=shardings)()
    self.run_context = RunContext(
        self.network, self.partitioner, RunFolder(folder), seed, start * prompts.batch_size,
        (0, 1), print)
    self.batches = self.source.open(self.run_context)
    self._step = make_train_step(self.network, objectives, optimizer, self.partitioner, seed=seed,
                                 microbatches=microbatches)
    self.seen = []

  def run(self, steps):
    for _ in range(steps):
      batch = self.batches(self.state)
      self.state, sums = self._step(self.state, self.partitioner.put_batch(batch))
      self.seen.append((batch, jax.device_get(sums), {
          name.removeprefix('rollout/'): x for name, x in self.batches.metrics(batch).items()}))
    return self

  def metric(self, step, name):
    total, weight = self.seen[step][1].metrics[name]
    return float(total) / max(float(weight), 1.0)

  def stats(self, step):
    return self.seen[step][2]

  def params(self):
    return [np.asarray(x) for x in jax.tree.leaves(self.state['params'])]


def assert_goes_on_as(again, whole, stop):
  """A run that began at step `stop` is bit for bit what the whole one was from there."""
  for (batch, sums, _), (want, want_sums, _) in zip(again.seen, whole.seen[stop:], strict=True):
    assert batch.keys() == want.keys()
    for name in batch:
      np.testing.assert_array_equal(batch[name], want[name], err_msg=name)
    jax.tree.map(np.testing.assert_array_equal, sums, want_sums)
  for one, other in zip(again.params(), whole.params(), strict=True):
    np.testing.assert_array_equal(one, other)
