"""All that depends on the mesh follows its one table: checks, memory, describe, the planner."""

import dataclasses
import math

import jax
import pytest

from scaling.planning import layout
from t5x_lite import models
from t5x_lite.core.errors import UserError
from t5x_lite.cost import hardware, memory, summary
from t5x_lite.models import ModelConfig
from t5x_lite.parallel.mesh import DIVIDED, RULES, MeshConfig, check_fits
from t5x_lite.parallel.partitioner import Partitioner
from t5x_lite.training import optimizers, schedules
from t5x_lite.training.state import abstract_state, init_state, shardings_of

CONFIG = ModelConfig(family='decoder_only', vocab_size=256, embed_dim=64, num_layers=2, num_heads=4,
                     num_kv_heads=2, mlp_dim=128)
OPTIMIZER = optimizers.AdamW(learning_rate=schedules.Constant(rate=0.01))


def without(logical: str):
  return tuple(rule for rule in RULES if rule[0] != logical)


def described(rules) -> dict:
  mesh = MeshConfig(data=1, fsdp=4, tensor=2, rules=rules)
  network = models.build_network(CONFIG, Partitioner(mesh.abstract(), rules))
  return summary.summarize(network, optimizer=OPTIMIZER, mesh=mesh, row_lengths=(0, 16),
                           batch_size=8)['memory']


@pytest.mark.parametrize('left_out', [None, *(logical for logical, _ in RULES)])
def test_what_describe_says_of_a_device_is_what_it_holds(left_out):
  rules = RULES if left_out is None else without(left_out)
  mesh = MeshConfig(data=1, fsdp=4, tensor=2, rules=rules).make()
  partitioner = Partitioner(mesh, rules)
  network, optimizer = models.build_network(CONFIG, partitioner), OPTIMIZER.make()
  shardings = shardings_of(abstract_state(network, optimizer, partitioner))
  state = jax.jit(lambda: init_state(network, optimizer, 0), out_shardings=shardings)()
  held = {name: sum(x.addressable_shards[0].data.nbytes for x in jax.tree.leaves(state[name]))
          for name in ('params', 'opt_state')}
  table = described(rules)
  assert table['per_device']['parameters'] == table['step']['parameters'] == held['params']
  assert table['per_device']['gradients'] == table['step']['gradients'] == held['params']
  assert table['per_device']['optimizer'] == table['step']['optimizer'] == held['opt_state']
  if left_out in ('embed', 'mlp', 'vocab'):
    assert held['params'] > described(RULES)['per_device']['parameters']


def test_without_its_rule_a_batch_is_not_cut():
  mesh = MeshConfig(data=2, fsdp=4).make()
  assert Partitioner(mesh).batch_parts == 8
  whole = Partitioner(mesh, without('batch'))
  assert whole.batch_parts == 1
  assert whole.put_batch({'x': jax.numpy.ones((3, 2))})['x'].addressable_shards[0].data.shape == (
      3, 2)
  check_fits(CONFIG, mesh, 3, rules=without('batch'))
  rows = lambda rules: memory.per_device(
      CONFIG, mesh=mesh.shape, rows=8, targets_length=16, rules=rules).activations
  assert rows(without('batch')) > 4 * rows(RULES)


@pytest.mark.parametrize('logical', DIVIDED)
def test_a_size_is_refused_only_where_a_rule_cuts_it(logical):
  field = DIVIDED[logical]
  changes = {'num_kv_heads': None, 'head_dim': 16, field: getattr(CONFIG, field) + 1}
  config, mesh = dataclasses.replace(CONFIG, **changes), MeshConfig(fsdp=4, tensor=2).make()
  with pytest.raises(UserError, match=f'ModelConfig.{field} = .*: not divisible by the mesh'):
    check_fits(config, mesh, 8)
  check_fits(config, mesh, 8, rules=without(logical))


def test_planner_and_trainer_agree_on_one_key_value_head():
  """Every device keeps it whole; the planner refused what the trainer ran."""
  config = dataclasses.replace(CONFIG, num_kv_heads=1, dtype='bfloat16')
  mesh = MeshConfig(data=1, fsdp=2, tensor=4)
  check_fits(config, mesh.make(), 8)
  partitioner = Partitioner(mesh.make())
  kv = partitioner.spec(('embed', 'kv', 'head_dim'), (64, 1, 16))
  assert kv[1] is None
  chip = hardware.find_chip('h100')
  found = layout.find_layout(config, chip, 8, 8.0, (0, 16), tensor=4)
  assert found is not None and found.mesh['tensor'] == 4
  assert math.prod(found.mesh.values()) == 8
