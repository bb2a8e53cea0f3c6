"""The train step: the same losses on every mesh, dropout's key, and pinned figures of one step."""

import dataclasses
import functools
import os
import tempfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t5x_lite import models, optimizers, partitioning, train_step
from t5x_lite.partitioning import MeshConfig, Partitioner

OPTIMIZER = optimizers.AdamW(learning_rate=optimizers.Constant(rate=0.01))
ONE = MeshConfig(data=1)
MESHES = {'data=8': MeshConfig(data=8), 'fsdp=8': MeshConfig(fsdp=8),
          'fsdp=4 tensor=2': MeshConfig(fsdp=4, tensor=2)}
FAMILIES = ('decoder', 'encoder_decoder', 'encoder')
INVOLUNTARY = 'nvoluntary full rematerialization'


def partitioner_of(mesh: MeshConfig) -> Partitioner:
  return Partitioner(mesh.make(jax.devices()[:1] if mesh is ONE else None), mesh.rules)


def first_state(config, params, optimizer, partitioner):
  """A state with given parameters, placed on the mesh. Copied: the step donates it."""
  state = {'step': np.int32(0), 'params': params, 'opt_state': optimizer.init(params)}
  shardings = train_step.shardings_of(train_step.abstract_state(config, optimizer, partitioner))
  return jax.device_put(jax.tree.map(np.array, state), shardings)


def capture_stderr(function):
  """(result, what native code wrote to file descriptor 2 meanwhile)."""
  with tempfile.TemporaryFile() as file:
    real = os.dup(2)
    os.dup2(file.fileno(), 2)
    try:
      result = function()
    finally:
      os.dup2(real, 2)
      os.close(real)
    file.seek(0)
    return result, file.read().decode(errors='replace')


@pytest.fixture(scope='module')
def train(configs, random_params, packed_batch):
  """(name, mesh, microbatches, steps) -> (metrics of each step, final params, stderr)."""

  @functools.cache
  def run(name, mesh=ONE, microbatches=1, steps=10):
    config, optimizer, partitioner = configs[name], OPTIMIZER.make(), partitioner_of(mesh)

    def go():
      step = train_step.make_train_step(config, optimizer, partitioner, seed=0,
                                        microbatches=microbatches)
      state = first_state(config, random_params(config), optimizer, partitioner)
      metrics = []
      for i in range(steps):
        batch = partitioner.put_batch(packed_batch(config, seed=i))
        state, sums = step(state, batch)
        metrics.append({k: float(v) for k, v in sums.items()})
      return metrics, jax.device_get(state)

    (metrics, state), stderr = capture_stderr(go)
    return metrics, state, stderr

  return run


def loss(metrics):
  return [m['loss'] / m['weight'] for m in metrics]


@pytest.mark.parametrize('mesh', MESHES)
@pytest.mark.parametrize('name', FAMILIES)
def test_first_ten_losses_on_a_mesh_are_those_on_one_device(name, mesh, train):
  want, _, _ = train(name)
  got, _, _ = train(name, MESHES[mesh])
  assert len(set(loss(want))) == 10 and loss(want)[-1] < loss(want)[0]
  np.testing.assert_allclose(loss(got), loss(want), rtol=1e-4)
  for key in ('grad_norm', 'update_norm'):
    np.testing.assert_allclose([m[key] for m in got], [m[key] for m in want], rtol=1e-3)


@pytest.mark.parametrize('mesh', MESHES)
@pytest.mark.parametrize('name', FAMILIES)
def test_compiling_for_a_mesh_replicates_nothing_against_our_will(name, mesh, train):
  _, _, stderr = train(name, MESHES[mesh])
  assert INVOLUNTARY not in stderr


def test_the_partitioners_complaint_would_be_seen():
  """A table gathered by rows, cut along the axis that also cuts the batch."""
  mesh = Partitioner(MeshConfig(fsdp=4, tensor=2).make())
  table = jax.device_put(jnp.ones((64, 32)), mesh.sharding(('vocab', 'embed'), (64, 32)))
  tokens = mesh.put_batch({'x': np.zeros((8, 16), np.int32)})['x']
  lookup = jax.jit(lambda table, tokens: mesh.shard(table[tokens], 'batch', 'length', 'embed'))
  _, stderr = capture_stderr(lambda: jax.block_until_ready(lookup(table, tokens)))
  assert INVOLUNTARY in stderr


def test_microbatches_on_a_mesh_give_the_losses_of_one_device(train):
  want, _, _ = train('decoder')
  got, _, stderr = train('decoder', MESHES['fsdp=4 tensor=2'], microbatches=2)
  np.testing.assert_allclose(loss(got), loss(want), rtol=1e-4)
  assert INVOLUNTARY not in stderr


def test_step_counts_and_the_state_stays_float32(train):
  _, state, _ = train('decoder')
  assert state['step'] == 10 and state['step'].dtype == np.int32
  assert {str(x.dtype) for x in jax.tree.leaves(state['params'])} == {'float32'}


@functools.cache
def first_step(config):
  """(sums, params after, params before) of one step from the model's own initial values."""
  optimizer, partitioner = OPTIMIZER.make(), partitioner_of(ONE)
  step = train_step.make_train_step(config, optimizer, partitioner, seed=0)
  params = jax.device_get(models.init_params(config, jax.random.key(0)))
  return step, first_state(config, params, optimizer, partitioner)


GOLDEN = {  # loss, grad_norm, update_norm
    'decoder': (0, 0, 0),
    'encoder_decoder': (0, 0, 0),
    'encoder': (0, 0, 0),
}


@pytest.mark.parametrize('name', FAMILIES)
def test_one_step_from_seed_zero_gives_the_pinned_figures(name, configs, packed_batch):
  config = configs[name]
  step, state = first_step(config)
  _, sums = step(state, packed_batch(config))
  got = tuple(float(x) for x in (sums['loss'] / sums['weight'], sums['grad_norm'],
                                 sums['update_norm']))
  if got != pytest.approx(GOLDEN[name], rel=1e-5):
    pytest.fail(f'{name}: a step now gives {got}, not {GOLDEN[name]}. If the model, the loss or '
                'the optimizer was meant to change, put the new figures into GOLDEN in this file '
                'and say why in the commit; if not, something broke')


def test_dropout_draws_anew_each_step_and_the_same_for_the_same_seed(
    configs, random_params, packed_batch):
  config = dataclasses.replace(configs['decoder'], dropout_rate=0.3)
  optimizer = optimizers.AdamW(learning_rate=optimizers.Constant(rate=1e-30)).make()
  partitioner, batch = partitioner_of(ONE), packed_batch(config)

  def losses_of(seed, steps):
    step = train_step.make_train_step(config, optimizer, partitioner, seed=seed)
    state = first_state(config, random_params(config), optimizer, partitioner)
    out = []
    for _ in range(steps):
      state, sums = step(state, batch)
      out.append(float(sums['loss']))
    return out

  first, second = losses_of(0, 2)
  assert first != second
  assert losses_of(0, 1) == [first]
  assert losses_of(1, 1) != [first]


def test_a_batch_without_weight_moves_nothing_but_the_decay(configs, packed_batch):
  config = configs['decoder']
  step, state = first_step(config)
  state = jax.tree.map(jnp.copy, state)
  batch = packed_batch(config)
  batch['decoder_loss_weights'][:] = 0
  _, sums = step(state, batch)
  assert float(sums['grad_norm']) == 0 and float(sums['loss']) == 0
  assert np.isfinite(float(sums['update_norm']))


def test_initial_parameters_are_the_same_on_every_mesh(configs):
  config, optimizer = configs['decoder'], OPTIMIZER.make()
  want = models.init_params(config, jax.random.key(7))
  partitioner = partitioner_of(MESHES['fsdp=4 tensor=2'])
  shardings = train_step.shardings_of(train_step.abstract_state(config, optimizer, partitioner))
  state = jax.jit(lambda: train_step.init_state(config, optimizer, 7), out_shardings=shardings)()
  assert state['params']['embedder']['tokens'].sharding == shardings['params']['embedder']['tokens']
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7),
               jax.device_get(state['params']), jax.device_get(want))


def test_moments_lie_like_their_parameters_on_the_mesh(configs):
  abstract = train_step.abstract_state(configs['decoder'], OPTIMIZER.make(),
                                       partitioner_of(MESHES['fsdp=4 tensor=2']))
  place = lambda tree: jax.tree.map(lambda x: (x.shape, x.sharding.spec), tree)
  moments = [s for s in jax.tree.leaves(abstract['opt_state'], is_leaf=lambda x: hasattr(x, 'mu'))
             if hasattr(s, 'mu')]
  assert len(moments) == 1
  assert place(moments[0].mu) == place(moments[0].nu) == place(abstract['params'])
  assert moments[0].count.sharding.spec == partitioning.PartitionSpec()
  tokens = abstract['params']['embedder']['tokens']
  assert tokens.sharding.spec == partitioning.PartitionSpec('tensor', 'fsdp')


def test_adafactors_sums_are_whole_and_its_unfactored_moments_lie_like_parameters(configs):
  adafactor = optimizers.Adafactor(learning_rate=optimizers.Rsqrt(), min_dim_size_to_factor=32)
  abstract = train_step.abstract_state(configs['decoder'], adafactor.make(),
                                       partitioner_of(MESHES['fsdp=4 tensor=2']))
  whole = partitioning.PartitionSpec()
  state, = (s for s in jax.tree.leaves(abstract['opt_state'], is_leaf=lambda x: hasattr(x, 'v_row'))
            if hasattr(s, 'v_row'))
  row, col, v = (t['embedder']['tokens'] for t in (state.v_row, state.v_col, state.v))
  assert [(x.shape, x.sharding.spec) for x in (row, col, v)] == [
      ((32,), whole), ((64,), whole), ((1,), whole)]
  kernel = abstract['params']['decoder']['blocks']['attention']['query']['kernel']
  moment = state.v['decoder']['blocks']['attention']['query']['kernel']
  assert (moment.shape, moment.sharding) == (kernel.shape, kernel.sharding)
  assert kernel.shape == (2, 32, 4, 8)
