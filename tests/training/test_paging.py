"""Moments in the host's memory: where they are, and that the trajectory is AdamW's."""

import dataclasses
import functools

import jax
import numpy as np
import pytest

from t5x_lite import models
from t5x_lite.adaptation.lora import Lora
from t5x_lite.core.errors import UserError
from t5x_lite.cost import memory
from t5x_lite.experiment import gin_config
from t5x_lite.objectives.language_model import CrossEntropy
from t5x_lite.parallel.mesh import MeshConfig
from t5x_lite.parallel.partitioner import Partitioner
from t5x_lite.training import checkpoints, optimizers, schedules
from t5x_lite.training.state import abstract_state, init_state, shardings_of
from t5x_lite.training.step import make_train_step

ADAMW = optimizers.AdamW(learning_rate=schedules.WarmupCosine(
    peak=0.01, warmup_steps=2, total_steps=6))
PAGED = dataclasses.replace(ADAMW, paged=True)
MESH = MeshConfig(fsdp=4, tensor=2)


@pytest.fixture(scope='module')
def train(configs, packed_batch):
  """(optimizer, scanned, adaptation, mesh) -> (losses, network, partitioner, state) of 4 steps."""

  @functools.cache
  def compute(optimizer, scan_layers, adaptation, mesh):
    config = dataclasses.replace(configs['decoder'], scan_layers=scan_layers)
    partitioner = Partitioner(mesh.make())
    network = models.build_network(config, partitioner)
    network = network if adaptation is None else adaptation.adapt(network)
    made = optimizer.make()
    state = jax.jit(lambda: init_state(network, made, 0), out_shardings=shardings_of(
        abstract_state(network, made, partitioner)))()
    step = make_train_step(network, [CrossEntropy()], made, partitioner, seed=0)
    losses = []
    for i in range(4):
      state, sums = step(state, partitioner.put_batch(packed_batch(config, seed=i)))
      losses.append(float(sums.total))
    return losses, network, partitioner, state

  def run(optimizer, scan_layers=True, adaptation=None, mesh=MESH):
    return compute(optimizer, scan_layers, adaptation, mesh)   # one key of the cache

  return run


def differences(a, b):
  assert jax.tree.structure(a) == jax.tree.structure(b)
  pairs = zip(*map(jax.tree.leaves, (a, b)))
  return [np.abs(np.asarray(x) - np.asarray(y)).max() for x, y in pairs]


@pytest.mark.parametrize('adaptation, mesh', [
    (None, MESH), (Lora(rank=4), MeshConfig(data=8))])
def test_paged_moments_give_the_same_trajectory_bit_for_bit(adaptation, mesh, train):
  paged, whole = (train(optimizer, False, adaptation, mesh) for optimizer in (PAGED, ADAMW))
  assert paged[0] == whole[0] and paged[0][-1] < paged[0][0]
  for part in ('params', 'opt_state'):
    assert max(differences(paged[3][part], whole[3][part])) == 0


def test_moments_of_stacked_layers_are_paged_by_layer_to_the_same_losses(train):
  paged, whole = train(PAGED), train(ADAMW)
  np.testing.assert_allclose(paged[0], whole[0], rtol=1e-5)
  assert max(differences(paged[3]['params'], whole[3]['params'])) < 1e-5
  assert int(paged[3]['opt_state'][1][0].count) == 4   # not a count for each layer


@pytest.mark.parametrize('scan_layers', [True, False])
def test_moments_stay_in_the_hosts_memory_and_all_else_on_the_device(scan_layers, train):
  state = train(PAGED, scan_layers)[3]
  kinds = lambda tree: {x.sharding.memory_kind for x in jax.tree.leaves(tree) if x.ndim}
  assert kinds(state['opt_state']) == {'pinned_host'}
  assert kinds(state['params']) == kinds(train(ADAMW)[3]['opt_state']) == {'device'}
  specs = lambda state: [x.sharding.spec for x in jax.tree.leaves(state['opt_state'])]
  assert specs(state) == specs(train(ADAMW, scan_layers)[3])


def test_a_checkpoint_of_either_is_restored_for_the_other(train, tmp_path):
  _, network, partitioner, state = train(PAGED)
  saved = checkpoints.Checkpoints(tmp_path, 1)
  saved.save(state, 4, {'seed': 0})
  saved.close()
  for optimizer, kind in ((ADAMW, 'device'), (PAGED, 'pinned_host')):
    restored, _ = saved.restore(abstract_state(network, optimizer.make(), partitioner), 4)
    assert max(differences(restored['opt_state'], state['opt_state'])) == 0
    assert {x.sharding.memory_kind for x in jax.tree.leaves(restored['opt_state']) if x.ndim} == {
        kind}


def test_memory_of_a_device_has_no_paged_moments(configs):
  per_device = functools.partial(memory.per_device, configs['decoder'], mesh={}, rows=4,
                                 targets_length=16)
  whole, paged = per_device(optimizer=ADAMW), per_device(optimizer=PAGED)
  assert whole.optimizer == 2 * whole.parameters + 8   # and two counts of steps
  assert paged.optimizer == 8
  assert whole.total - paged.total == 2 * whole.parameters


def test_a_run_may_be_resumed_with_and_without_pages(tmp_path):
  load = lambda *bindings: gin_config.load_experiment(
      ['experiments/tiny_lm.gin'], [f"MODEL_DIR='{tmp_path}'", *bindings])
  _, text = load()
  (tmp_path / 'config.gin').write_text(text)
  gin_config.check_same_run(tmp_path / 'config.gin', load('AdamW.paged=True')[0])
  with pytest.raises(UserError, match='optimizer.beta1'):
    gin_config.check_same_run(tmp_path / 'config.gin', load('AdamW.beta1=0.8')[0])
