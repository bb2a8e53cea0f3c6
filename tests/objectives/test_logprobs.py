"""Log-probabilities of targets against a softmax of all logits; groups against their rows."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t5x_lite import models
from t5x_lite.objectives import logprobs
from t5x_lite.objectives.objective import SharedForward, normalizers, rows_of_groups
from tests.conftest import CONFIGS, VOCAB

GROUPS, RESPONSES, L, INPUTS = 2, 3, 9, 5


def make_groups(family, seed=0):
  """A batch of groups; the last response of the last group is missing."""
  rng = np.random.default_rng(seed)
  shape = GROUPS, RESPONSES, L
  there = np.ones(shape, np.int32)
  there[0, 1, 6:] = there[1, 2] = 0
  batch = {'decoder_input_tokens': rng.integers(1, VOCAB, shape),
           'decoder_target_tokens': rng.integers(1, VOCAB, shape),
           'decoder_segment_ids': there, 'decoder_positions': np.broadcast_to(np.arange(L), shape),
           'decoder_loss_weights': there * (np.arange(L) >= 3),
           'response_scores': np.asarray([[2, 1, 0], [1, 0, np.nan]], np.float32)}
  if family == 'encoder_decoder':
    batch['encoder_input_tokens'] = rng.integers(1, VOCAB, (GROUPS, INPUTS))
    batch['encoder_segment_ids'] = np.ones((GROUPS, INPUTS), np.int32)
  return jax.tree.map(jnp.asarray, batch)


@pytest.mark.parametrize('name, loss_tokens', [
    ('decoder', 1), ('decoder', 24), ('decoder', 10_000), ('encoder_decoder', 24)])
def test_logprobs_and_their_gradient_are_those_of_all_logits(name, loss_tokens, monkeypatch):
  monkeypatch.setitem(logprobs.LOSS_TOKENS, 'cpu', loss_tokens)
  network = models.build_network(dataclasses.replace(CONFIGS[name], dropout_rate=0.5))
  params, batch = network.init(jax.random.key(0)), make_groups(CONFIGS[name].family)
  weights = jax.random.normal(jax.random.key(1), batch['decoder_target_tokens'].shape)

  def ours(params):
    found = logprobs.token_logprobs(SharedForward(network.bind(params)), batch, temperature=0.7)
    return (found * weights).sum(), found

  def whole(params):
    found = []
    for k in range(RESPONSES):   # each response by itself
      one = {n: x[:, k] if n.startswith('decoder_') else x for n, x in batch.items()}
      log_p = jax.nn.log_softmax(network.bind(params)(one) / 0.7)
      found.append(jnp.take_along_axis(log_p, one['decoder_target_tokens'][..., None], -1)[..., 0])
    found = jnp.stack(found, 1)
    return (found * weights).sum(), found

  (grads, found), (want_grads, want) = (jax.jit(jax.grad(f, has_aux=True))(params)
                                        for f in (ours, whole))
  real = batch['decoder_segment_ids'] > 0
  np.testing.assert_allclose(np.where(real, found, 0), np.where(real, want, 0), atol=1e-5)
  for one, other in zip(jax.tree.leaves(grads), jax.tree.leaves(want_grads), strict=True):
    np.testing.assert_allclose(one, other, atol=2e-4)


def test_ids_beyond_the_vocabulary_are_not_part_of_the_distribution():
  network = models.build_network(CONFIGS['decoder'])
  model = network.bind(network.init(jax.random.key(0)))
  rows = rows_of_groups(make_groups('decoder_only'))
  batch = rows | {'vocabulary_size': jnp.full(GROUPS * RESPONSES, 50),
                  'decoder_target_tokens': rows['decoder_target_tokens'] % 50}
  found = logprobs.token_logprobs(model, batch)
  want = jnp.take_along_axis(jax.nn.log_softmax(model(rows)[..., :50]),
                             batch['decoder_target_tokens'][..., None], -1)[..., 0]
  np.testing.assert_allclose(found, want, atol=1e-5)


@pytest.mark.parametrize('name', ['decoder', 'encoder_decoder'])
def test_values_are_a_linear_map_of_the_last_hidden_states(name):
  network = models.build_network(dataclasses.replace(CONFIGS[name], head='value'))
  params = network.init(jax.random.key(0))
  batch = rows_of_groups(make_groups(CONFIGS[name].family))
  outputs = network.bind(params).outputs(batch)
  np.testing.assert_allclose(outputs.values_BL,
                             (outputs.hidden @ params['value']['kernel'])[..., 0], atol=1e-5)
  plain = models.build_network(CONFIGS[name])
  others = {name: x for name, x in params.items() if name != 'value'}
  assert plain.bind(others).outputs(batch).values_BL is None
  np.testing.assert_array_equal(plain.bind(others)(batch), network.bind(params)(batch))


def test_normalizers_count_rows_with_a_loss_and_groups_with_such_a_row():
  batch = make_groups('decoder_only')
  batch['decoder_loss_weights'] = batch['decoder_loss_weights'].at[0, 2].set(0)
  found, weight = normalizers(batch), float(batch['decoder_loss_weights'].sum())
  assert weight == 6 + 3 + 6 + 6
  assert {n: float(x) for n, x in found.items()} == pytest.approx(
      {'token': weight / 42, 'row': weight / 5, 'sequence': weight / 4, 'group': weight / 2,
       'pair': weight / 2, 'chosen': weight / 12})
  alone = normalizers(rows_of_groups(batch))
  assert float(alone['group']) == float(alone['sequence']) == pytest.approx(weight / 4)
