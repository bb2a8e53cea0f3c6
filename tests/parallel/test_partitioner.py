"""Meshes, the rules from logical axes to mesh axes, and what is refused before compiling."""

import dataclasses

import jax
from jax.sharding import PartitionSpec as P
import numpy as np
import pytest

from t5x_lite.core.errors import UserError
from t5x_lite.parallel.mesh import RULES, MeshConfig, check_fits
from t5x_lite.parallel.partitioner import Partitioner


def partitioner(**sizes) -> Partitioner:
  return Partitioner(MeshConfig(**sizes).make())


def one_line(error) -> str:
  text = str(error.value)
  assert '\n' not in text
  return text


@pytest.mark.parametrize('sizes, shape', [
    ({}, (8, 1, 1)), ({'fsdp': 8}, (1, 8, 1)), ({'fsdp': 4, 'tensor': 2}, (1, 4, 2)),
    ({'tensor': 2}, (4, 1, 2)), ({'data': 2, 'fsdp': 2, 'tensor': 2}, (2, 2, 2))])
def test_data_takes_the_devices_left_over(sizes, shape):
  mesh = MeshConfig(**sizes).make()
  assert mesh.shape == dict(zip(('data', 'fsdp', 'tensor'), shape))
  assert sorted(d.id for d in mesh.devices.flat) == list(range(8))


def test_a_mesh_may_be_smaller_than_the_machine():
  mesh = MeshConfig(data=1, fsdp=2).make()
  assert [d.id for d in mesh.devices.flat] == [0, 1]


def test_too_few_devices_is_refused_with_the_cure():
  with pytest.raises(UserError) as error:
    MeshConfig(fsdp=8, tensor=2).make()
  assert one_line(error) == (
      'The mesh data=1 x fsdp=8 x tensor=2 needs 16 devices but there are 8: lower '
      'MeshConfig.fsdp or MeshConfig.tensor, or set MeshConfig.data = -1')


@pytest.mark.parametrize('sizes, message', [
    ({'data': 0}, 'MeshConfig.data = 0: must be above 0, or -1 for all devices left over'),
    ({'data': -2}, 'MeshConfig.data = -2: must be at least -1'),
    ({'fsdp': 0}, 'MeshConfig.fsdp = 0: must be above 0'),
    ({'tensor': -1}, 'MeshConfig.tensor = -1: must be above 0'),
    ({'tensor': True}, 'MeshConfig.tensor = True: expected int'),
    ({'rules': (('embed', ('model',)),)},
     "MeshConfig.rules = (('embed', ('model',)),): there is no mesh axis 'model'; choose from "
     'data, fsdp, tensor')])
def test_wrong_mesh_is_refused_in_one_line(sizes, message):
  with pytest.raises(UserError) as error:
    MeshConfig(**sizes)
  assert one_line(error) == message


@pytest.mark.parametrize('axes, shape, want', [
    # an axis of the mesh is used once, by the first rule: batch before embed
    (('batch', 'length', 'embed'), (8, 16, 32), P('fsdp', None, None)),
    (('embed', 'mlp'), (32, 64), P('fsdp', 'tensor')),
    (('vocab', 'embed'), (64, 32), P('tensor', 'fsdp')),
    (('embed', 'heads', 'head_dim'), (32, 4, 8), P('fsdp', 'tensor', None)),
    (('layers', 'mlp', 'embed'), (2, 64, 32), P(None, 'tensor', 'fsdp')),
    (('norm',), (32,), P(None)),
    ((None, 'embed'), (16, 32), P(None, 'fsdp')),
    ((), (), P()),
    # sizes that the mesh does not divide stay whole
    (('embed', 'kv', 'head_dim'), (32, 1, 8), P('fsdp', None, None)),
    (('embed', 'mlp'), (30, 64), P(None, 'tensor')),
    # and leave the axis to a later rule
    (('batch', 'length', 'embed'), (3, 16, 32), P(None, None, 'fsdp'))])
def test_spec_follows_the_rules_in_their_order(axes, shape, want):
  assert partitioner(fsdp=4, tensor=2).spec(axes, shape) == want


def test_a_batch_is_cut_by_data_and_fsdp_together():
  mesh = partitioner(data=2, fsdp=2, tensor=2)
  assert mesh.spec(('batch', 'embed'), (8, 32)) == P(('data', 'fsdp'), None)
  assert mesh.batch_parts == 4
  assert mesh.batch_sharding(3).spec == P(('data', 'fsdp'), None, None)


def test_axes_of_size_one_are_not_named():
  mesh = partitioner(data=8)
  assert mesh.spec(('batch', 'embed'), (8, 32)) == P('data', None)
  assert mesh.spec(('embed', 'mlp'), (32, 64)) == P(None, None)


def test_rules_can_be_replaced():
  mesh = Partitioner(MeshConfig(fsdp=4, tensor=2).make(), (('mlp', ('fsdp',)), *RULES))
  assert mesh.spec(('embed', 'mlp'), (32, 64)) == P(None, 'fsdp')


def test_shard_constrains_inside_jit_and_does_nothing_on_one_device():
  mesh = partitioner(fsdp=8)
  x = jax.jit(lambda: mesh(jax.numpy.zeros((8, 4)), 'batch', 'length'))()
  assert x.sharding.spec == P('fsdp')
  alone = Partitioner(MeshConfig(data=1).make(jax.devices()[:1]))
  y = np.zeros((8, 4))
  assert alone(y, 'batch', 'length') is y


def test_batch_comes_back_as_it_was_put_and_rows_lie_on_their_devices():
  mesh = partitioner(fsdp=4, tensor=2)
  batch = {'tokens': np.arange(32, dtype=np.int32).reshape(8, 4), 'rows': np.arange(8.0)}
  put = mesh.put_batch(batch)
  assert put['tokens'].sharding.spec == P(('fsdp',), None)
  for name, x in batch.items():
    np.testing.assert_array_equal(put[name], x)
  assert {s.data.shape for s in put['tokens'].addressable_shards} == {(2, 4)}


@pytest.mark.parametrize('name', ['decoder', 'gpt', 'encoder_decoder', 'encoder'])
def test_every_large_parameter_is_cut_by_fsdp_and_tensor(name, configs):
  """Whole are only norms, biases over embed, and what BERT's head keeps."""
  from t5x_lite import models
  from t5x_lite.core import trees
  config = configs[name]
  network = models.build_network(config)
  shardings = trees.flatten(partitioner(fsdp=4, tensor=2).param_shardings(network))
  shapes = trees.flatten(network.shapes)
  assert shardings.keys() == shapes.keys()
  for path, sharding in shardings.items():
    cut = set(jax.tree.leaves(tuple(sharding.spec)))
    if path.endswith(('kernel', 'tokens', 'output')) and 'mlm_head' not in path:
      assert cut == {'fsdp', 'tensor'}, path


def mesh_of(**sizes):
  return MeshConfig(**sizes).make()


def test_what_fits_is_let_through(configs):
  check_fits(configs['decoder'], mesh_of(fsdp=4, tensor=2), 8, microbatches=2)


@pytest.mark.parametrize('field, value, sizes, message', [
    ('num_heads', 3, {'tensor': 2}, 'MeshConfig.tensor is 2'),
    ('mlp_dim', 63, {'tensor': 2}, 'MeshConfig.tensor is 2'),
    ('vocab_size', 65, {'tensor': 2}, 'MeshConfig.tensor is 2'),
    ('embed_dim', 36, {'fsdp': 8}, 'MeshConfig.fsdp is 8')])
def test_a_size_that_the_mesh_does_not_divide_is_refused(field, value, sizes, message, configs):
  changes = {'num_kv_heads': None, 'head_dim': 8, field: value}
  config = dataclasses.replace(configs['decoder'], **changes)
  with pytest.raises(UserError) as error:
    check_fits(config, mesh_of(**sizes), 8)
  assert one_line(error) == f'ModelConfig.{field} = {value}: not divisible by the mesh: {message}'


@pytest.mark.parametrize('batch_size, microbatches, message', [
    (12, 1, 'batch_size 12 is not divisible by the mesh: data x fsdp is 8; the next size that is: '
            '16'),
    (24, 2, 'batch_size 24 in 2 microbatches is not divisible by the mesh: data x fsdp is 8; the '
            'next size that is: 32'),
    (1, 1, 'batch_size 1 is not divisible by the mesh: data x fsdp is 8; the next size that is: '
           '8')])
def test_a_batch_that_the_mesh_does_not_divide_is_refused_with_the_next_size(
    batch_size, microbatches, message, configs):
  with pytest.raises(UserError) as error:
    check_fits(configs['decoder'], mesh_of(data=2, fsdp=4), batch_size, microbatches)
  assert one_line(error) == message
