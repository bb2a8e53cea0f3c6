"""Preferences and policies on a mesh of eight devices, in parts, and where nothing has moved."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t5x_lite import models
from t5x_lite.objectives.logprobs import token_logprobs
from t5x_lite.objectives.objective import SharedForward, add_objectives, normalizers
from t5x_lite.objectives.policy.policy_loss import PolicyLoss
from t5x_lite.objectives.policy.pretraining_mix import PretrainingMix
from t5x_lite.objectives.policy.value_loss import ValueLoss
from t5x_lite.objectives.preference.direct import DirectPreference
from t5x_lite.objectives.preference.reference_free import SimPO
from t5x_lite.objectives.preference.reward_model import RewardModel
from t5x_lite.parallel.mesh import MeshConfig
from t5x_lite.parallel.partitioner import Partitioner
from t5x_lite.training.state import abstract_params
from t5x_lite.training.step import loss_and_gradients
from tests.conftest import CONFIGS, VOCAB
from tests.objectives.logits_model import LogitsModel

ROWS, RESPONSES, LENGTH, PROMPT = 8, 2, 9, 3


def make_batch(family, params, network, groups):
  """Random groups or rows with all features that the objectives read; the last one is padding."""
  rng = np.random.default_rng(0)
  shape = (ROWS, RESPONSES, LENGTH) if groups else (ROWS, LENGTH)
  there = np.arange(LENGTH) < rng.integers(PROMPT + 1, LENGTH + 1, (*shape[:-1], 1))
  there[-1] = False
  batch = {f'decoder_{name}': rng.integers(1, VOCAB, shape) for name in (
      'input_tokens', 'target_tokens')}
  batch |= {'decoder_segment_ids': there.astype(np.int32),
            'decoder_loss_weights': (there & (np.arange(LENGTH) >= PROMPT)).astype(np.int32),
            'decoder_positions': np.broadcast_to(np.arange(LENGTH), shape)}
  if family == 'encoder_decoder':
    batch['encoder_input_tokens'] = rng.integers(1, VOCAB, (ROWS, 5))
    batch['encoder_segment_ids'] = np.ones((ROWS, 5), np.int32)
  mask = batch['decoder_loss_weights']
  if not groups:
    batch |= {f'pretraining_{name}': x for name, x in batch.items()}
  batch = {name: jnp.asarray(x) for name, x in batch.items()}

  @jax.jit
  def drawn(params, batch):
    model = SharedForward(network.bind(params))
    found = token_logprobs(model, batch)
    return found * mask, model.outputs(batch).values_BL.reshape(shape) * mask

  logprobs, values = drawn(params, batch)
  if groups:
    scores = np.tile(np.float32([1, 0]), (ROWS, 1))
    return batch | {'response_scores': jnp.asarray(scores), 'reference_logprobs': logprobs.sum(-1)}
  noise = rng.normal(size=(2, *shape)).astype(np.float32) * mask
  return batch | {'old_logprobs': logprobs, 'reference_logprobs': logprobs, 'old_values': values,
                  'advantages': jnp.asarray(noise[0]), 'returns': jnp.asarray(noise[1])}


def test_the_losses_of_objectives_add_up_as_means():
  """Each is a mean over its own pairs or tokens, whatever else is minimised."""
  scores = np.tile(np.float32([1, 0]), (2, 1))
  mask = jnp.array([[[0, 1, 1], [0, 1, 0]], [[0, 1, 0], [0, 1, 1]]])
  ones = jnp.ones(mask.shape, jnp.int32)
  batch = {'decoder_input_tokens': ones, 'decoder_target_tokens': ones,
           'decoder_segment_ids': ones, 'decoder_loss_weights': mask,
           'response_scores': jnp.asarray(scores), 'reference_logprobs': jnp.ones((2, 2))}
  model = LogitsModel(jax.random.normal(jax.random.key(0), (4, 3, 5)))
  model.config = CONFIGS['decoder']

  def loss(*objectives):
    sums = add_objectives(objectives)(model, batch, None, normalizers(batch))
    return float(sums.total / sums.weight)

  parts = DirectPreference(), DirectPreference(loss='bco_pair'), SimPO()
  assert loss(*parts) == pytest.approx(sum(map(loss, parts)), rel=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize('groups', [True, False])
@pytest.mark.parametrize('name', ['decoder', 'encoder_decoder'])
def test_a_mesh_and_parts_change_nothing(name, groups, assert_gradients_close):
  config = dataclasses.replace(CONFIGS[name], num_layers=1, head='value')
  network = models.build_network(config)
  params = network.init(jax.random.key(0))
  batch = make_batch(config.family, params, network, groups)
  objectives = (DirectPreference(nll=0.5), RewardModel()) if groups else (
      PolicyLoss(average='sequence', beta=0.1), ValueLoss(), PretrainingMix(gamma=2.0))

  def run(network, parts):
    return jax.jit(lambda params, batch: loss_and_gradients(
        network, objectives, params, batch, None, microbatches=parts))

  want, want_grads = run(network, 1)(params, batch)
  mean = lambda name: float(np.divide(*want.metrics[name]))
  if groups:
    assert mean('rewards/margins') != 0 and mean('nll_loss') > 1   # margins: the reward model's
    alone = jax.jit(lambda params, batch: loss_and_gradients(
        network, (DirectPreference(),), params, batch, None)[0])(params, batch)
    assert float(alone.metrics['loss'][0]) == pytest.approx(7 * math.log(2), rel=1e-6)
    assert float(alone.metrics['rewards/margins'][0]) == pytest.approx(0, abs=1e-6)
  else:
    assert [mean('kl'), mean('approx_kl')] == pytest.approx([0, 0], abs=1e-7)
    assert [mean('ratio'), mean('mismatch')] == pytest.approx([1, 1], abs=1e-6)

  mesh = MeshConfig(data=2, fsdp=2, tensor=2)
  partitioner = Partitioner(mesh.make(), mesh.rules)
  sharded = models.build_network(config, partitioner)
  shardings = jax.tree.map(lambda x: x.sharding, abstract_params(sharded, partitioner))
  placed = jax.device_put(params, shardings), partitioner.put_batch(jax.device_get(batch))
  for given in (run(network, 2)(params, batch), run(sharded, 2)(*placed)):
    got, grads = jax.device_get(given)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=2e-5), got, want)
    assert_gradients_close(grads, jax.device_get(want_grads))
