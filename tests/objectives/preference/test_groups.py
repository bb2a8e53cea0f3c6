"""Objectives of preferences on a batch of groups: trl's figures, padding, parts of a batch."""

import dataclasses
import functools
import json
import math
import os
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t5x_lite import models
from t5x_lite.core.errors import UserError
from t5x_lite.objectives.objective import normalizers
from t5x_lite.objectives.preference.direct import DirectPreference
from t5x_lite.objectives.preference.reference_free import CPO, ORPO, SimPO
from t5x_lite.objectives.preference.reward_model import RewardModel
from t5x_lite.objectives.preference.unpaired import KTO
from t5x_lite.training.step import loss_and_gradients
from tests.conftest import CONFIGS, VOCAB
from tests.objectives.logits_model import LogitsModel

PEERS = pathlib.Path(os.environ.get('T5X_LITE_TEST_DATA', '/nonexistent')) / 'peers/losses'
needs_data = pytest.mark.skipif(not PEERS.exists(), reason='T5X_LITE_TEST_DATA is not set')
PAIRED = [DirectPreference(), DirectPreference(loss='ipo', nll=0.5), CPO(), SimPO(), ORPO()]


def mean_of(objective, logits, batch, values=None):
  """(the loss that a step minimises, the sums) of logits [groups, responses, length, vocab]."""
  rows = logits.reshape(-1, *logits.shape[2:])
  sums = objective(LogitsModel(rows, values), batch, None, normalizers(batch))
  return sums.total / sums.weight, sums


def in_groups(x):
  """Rows of trl, all chosen ones before the rejected ones, as groups."""
  return np.stack(np.split(x, 2), 1)


def batch_of(ids, mask, **features):
  """Groups [batch, responses, length] whose targets are the ids, with weight where the mask is."""
  return {'decoder_input_tokens': jnp.zeros(ids.shape, jnp.int32),
          'decoder_target_tokens': jnp.asarray(ids, jnp.int32),
          'decoder_segment_ids': jnp.ones(ids.shape, jnp.int32),
          'decoder_loss_weights': jnp.asarray(mask, jnp.int32)} | features


@pytest.fixture(scope='module')
def manifest():
  return json.loads((PEERS / 'manifest.json').read_text())


@needs_data
@pytest.mark.parametrize('case,objective', [
    ('sigmoid_beta0.1_ls0.0_reverse_kl', DirectPreference()),
    ('ipo_beta0.4_ls0.0_reverse_kl', DirectPreference(loss='ipo', beta=0.4)),
    ('exo_pair_beta0.2_ls0.05_reverse_kl',
     DirectPreference(loss='exo_pair', beta=0.2, label_smoothing=0.05)),
    ('aot_beta0.1_ls0.1_reverse_kl', DirectPreference(loss='aot', label_smoothing=0.1)),
    ('sigmoid_beta0.1_ls0.0_js_divergence', DirectPreference(divergence='js'))])
def test_direct_preference_is_trls(manifest, case, objective):
  data = np.load(PEERS / 'dpo.npz')
  ids, mask = (in_groups(data[name])[..., 1:] for name in ('input_ids', 'completion_mask'))
  batch = batch_of(ids, mask, response_scores=jnp.tile(jnp.array([[1.0, 0.0]]), (4, 1)),
                   reference_logprobs=in_groups(data['ref_logps']))
  logits = in_groups(data['policy_logits'])[..., :-1, :]
  (loss, sums), gradient = jax.value_and_grad(
      lambda x: mean_of(objective, x, batch), has_aux=True)(jnp.asarray(logits))
  np.testing.assert_allclose(loss, data[f'{case}/loss'], rtol=1e-6)
  np.testing.assert_allclose(
      gradient, in_groups(data[f'{case}/grad_policy_logits'])[..., :-1, :], atol=1e-6)
  got = {name: float(total / weight) for name, (total, weight) in sums.metrics.items()}
  assert got == pytest.approx(manifest['dpo'][case], rel=1e-5, abs=1e-6)


@needs_data
def test_nll_is_trls_sft():
  """A mean over all tokens of the chosen responses, of which DPO has a share beside it."""
  data = np.load(PEERS / 'dpo.npz')
  ids, mask = (in_groups(data[name])[..., 1:] for name in ('input_ids', 'completion_mask'))
  batch = batch_of(ids, mask, response_scores=jnp.tile(jnp.array([[1.0, 0.0]]), (4, 1)),
                   reference_logprobs=in_groups(data['ref_logps']))
  logits = jnp.asarray(in_groups(data['policy_logits'])[..., :-1, :])
  loss_of = lambda nll: jax.value_and_grad(
      lambda x: mean_of(DirectPreference(nll=nll), x, batch), has_aux=True)(logits)
  ((with_nll, sums), gradient), ((without, _), base) = loss_of(0.5), loss_of(0.0)
  case = 'sft_beta0.1_ls0.0_reverse_kl'
  assert 2 * (with_nll - without) == pytest.approx(data[f'{case}/loss'], rel=1e-6)
  np.testing.assert_allclose(2 * (gradient - base), in_groups(
      data[f'{case}/grad_policy_logits'])[..., :-1, :], atol=1e-6)
  total, weight = sums.metrics['nll_loss']
  assert total / weight == pytest.approx(data[f'{case}/loss'], rel=1e-6)


@needs_data
@pytest.mark.parametrize('case,objective', [
    ('kto_beta0.1_d1.0_u1.0', KTO()),
    ('kto_beta0.3_d1.33_u1.0', KTO(beta=0.3, desirable_weight=1.33)),
    ('kto_beta0.3_d1.0_u1.5_swapKL', KTO(beta=0.3, undesirable_weight=1.5)),
    ('apo_zero_unpaired_beta0.2_d1.0_u1.0', KTO(loss='apo_zero_unpaired', beta=0.2))])
def test_kto_is_trls(manifest, case, objective):
  data = np.load(PEERS / 'kto.npz')
  both = lambda name: np.stack([data[name], data[f'KL_{name}']], 1)
  ids, mask = both('input_ids')[..., 1:], both('completion_mask')[..., 1:]
  policy, reference = (both(f'{name}_logits')[..., :-1, :] for name in ('policy', 'ref'))
  if case.endswith('swapKL'):
    policy[:, 1], reference[:, 1] = reference[:, 1].copy(), policy[:, 1].copy()
  found = np.take_along_axis(jax.nn.log_softmax(reference), ids[..., None], axis=-1)[..., 0]
  scores = jnp.stack([data['label'].astype(np.float32), jnp.full(5, jnp.nan)], 1)
  batch = batch_of(ids, mask, response_scores=scores,
                   reference_logprobs=jnp.asarray((found * mask).sum(-1)))
  (loss, sums), gradient = jax.value_and_grad(
      lambda x: mean_of(objective, x, batch), has_aux=True)(jnp.asarray(policy))
  assert loss == pytest.approx(data[f'{case}/loss'], rel=1e-6)
  np.testing.assert_allclose(
      gradient[:, 0], data[f'{case}/grad_policy_logits'][:, :-1], atol=1e-6)
  assert (np.asarray(gradient[:, 1]) == 0).all()   # the baseline has none
  assert sums.metrics['kl'][0] / 5 == pytest.approx(manifest['kto'][case]['kl'], abs=2e-6)


@pytest.fixture(scope='module')
def odds():
  """(inputs and outputs of trl, the batch) of ORPO, CPO and SimPO."""
  data = np.load(PEERS / 'orpo_simpo.npz')
  labels = in_groups(data['labels'])[..., 1:]
  return data, batch_of(np.maximum(labels, 0), labels != -100,
                        response_scores=jnp.tile(jnp.array([[1.0, 0.0]]), (6, 1)))


@needs_data
@pytest.mark.parametrize('case,objective', [
    ('cpo_simpo_beta2.0_gamma1.0_ls0.0_alpha0.0', SimPO()),
    ('cpo_simpo_beta2.5_gamma0.5_ls0.1_alpha0.0',
     SimPO(beta=2.5, gamma=0.5, label_smoothing=0.1)),
    ('cpo_simpo_beta2.0_gamma0.5_ls0.0_alpha0.25', SimPO(gamma=0.5, alpha=0.25)),
    ('cpo_sigmoid_beta0.1_gamma0.0_ls0.0_alpha0.0', CPO(nll=0.0)),
    ('cpo_sigmoid_beta0.1_gamma0.0_ls0.1_alpha0.0', CPO(label_smoothing=0.1, nll=0.0)),
    ('cpo_hinge_beta0.3_gamma0.0_ls0.0_alpha0.0', CPO(loss='hinge', beta=0.3, nll=0.0)),
    ('cpo_ipo_beta0.2_gamma0.0_ls0.0_alpha0.0', CPO(loss='ipo', beta=0.2, nll=0.0)),
    ('orpo_beta0.1', ORPO(nll=0.0)), ('orpo_beta0.5', ORPO(beta=0.5, nll=0.0))])
def test_losses_without_a_reference_are_trls(odds, case, objective):
  data, batch = odds
  losses = data[f'{case}/losses']
  losses = -losses if case.startswith('orpo') else losses
  loss, sums = mean_of(objective, jnp.asarray(in_groups(data['logits'])[..., :-1, :]), batch)
  assert loss == pytest.approx(losses.mean(), rel=2e-6)
  if case.startswith('orpo'):
    assert sums.metrics['log_odds_ratio'][0] / 6 == pytest.approx(
        data[f'{case}/log_odds'], rel=1e-5)
    return
  for side in ('chosen', 'rejected'):
    assert sums.metrics[f'rewards/{side}'][0] / 6 == pytest.approx(
        data[f'{case}/{side}_rewards'].mean(), rel=1e-5)


@needs_data
@pytest.mark.parametrize('case,center,margin', [
    ('margin0_centerNone', 0.0, None), ('margin1_centerNone', 0.0, 1.0),
    ('margin0_center0.01', 0.01, None), ('margin1_center0.1', 0.1, 1.0)])
def test_the_reward_model_is_trls(case, center, margin):
  """trl's margins are of pairs; here they are differences of the scores, times the factor."""
  data = np.load(PEERS / 'reward.npz')
  scores = np.stack([data['margin'] if margin else np.ones(7), np.zeros(7)], 1)
  if margin and (data['margin'] <= 0).any():
    scores[:, 0] = np.maximum(scores[:, 0], 1e-9)   # a pair all the same
  batch = batch_of(np.zeros((7, 2, 3)), np.tile([1, 1, 0], (7, 2, 1)),
                   response_scores=jnp.asarray(scores, jnp.float32))

  def loss(rewards):   # at the last position with weight; others are of no account
    values = jnp.stack([jnp.full(14, 9.0), rewards, jnp.full(14, -9.0)], 1)
    objective = RewardModel(margin=margin or 0.0, center=center)
    return mean_of(objective, jnp.zeros((7, 2, 3, 4)), batch, values)

  rewards = in_groups(data['scores']).ravel()
  (got, sums), gradient = jax.value_and_grad(loss, has_aux=True)(jnp.asarray(rewards))
  assert got == pytest.approx(data[f'{case}/loss'], rel=1e-6)
  np.testing.assert_allclose(gradient, in_groups(data[f'{case}/grad_scores']).ravel(), atol=1e-6)
  right, pairs = sums.metrics['rewards/accuracies']
  assert right / pairs == pytest.approx(data[f'{case}/accuracy'], abs=1e-6)


def make_groups(family, seed=0, groups=4, responses=2, length=9):
  """Random groups of prompts of three tokens; the last group is padding."""
  rng = np.random.default_rng(seed)
  shape = groups, responses, length
  ends = rng.integers(4, length + 1, (groups, responses, 1))
  there = (np.arange(length) < ends).astype(np.int32)
  there[-1] = 0
  scores = np.tile(np.arange(responses, 0.0, -1) - 1, (groups, 1)).astype(np.float32)
  scores[-1] = np.nan
  lengths = (there * (np.arange(length) >= 3)).sum(-1)
  batch = {'decoder_input_tokens': rng.integers(1, VOCAB, shape),
           'decoder_target_tokens': rng.integers(1, VOCAB, shape),
           'decoder_segment_ids': there,
           'decoder_positions': np.broadcast_to(np.arange(length), shape),
           'decoder_loss_weights': there * (np.arange(length) >= 3), 'response_scores': scores,
           'reference_logprobs': (-4.0 * lengths).astype(np.float32)}
  if family == 'encoder_decoder':
    batch['encoder_input_tokens'] = rng.integers(1, VOCAB, (groups, 5))
    batch['encoder_segment_ids'] = np.ones((groups, 5), np.int32)
  return {name: jnp.asarray(x) for name, x in batch.items()}


OBJECTIVES = [*PAIRED, KTO(loss='apo_zero_unpaired'), RewardModel(), RewardModel(average='pair')]


@pytest.mark.parametrize('objective', OBJECTIVES, ids=lambda x: f'{type(x).__name__}')
def test_parts_of_a_batch_and_padding_change_nothing(objective):
  """Halves of a batch, a group of padding less, and other tokens and logits after the end."""
  batch, keys = make_groups('decoder_only'), jax.random.split(jax.random.key(0))
  shape = batch['decoder_target_tokens'].shape
  logits, values = jax.random.normal(keys[0], (*shape, VOCAB)), jax.random.normal(keys[1], shape)
  weight = batch['decoder_loss_weights'].sum()

  def total(logits, values, batch, of_batch):
    rows = LogitsModel(logits.reshape(-1, *logits.shape[2:]), values.reshape(-1, values.shape[-1]))
    sums = objective(rows, batch, None, of_batch)
    assert sums.weight == batch['decoder_loss_weights'].sum()
    return sums.total / weight, sums.metrics

  loss = jax.value_and_grad(total, argnums=(0, 1), has_aux=True)
  (want, metrics), grads = loss(logits, values, batch, normalizers(batch))
  assert np.isfinite(want) and all(np.isfinite(g).all() for g in grads)
  some = lambda tree, groups: jax.tree.map(lambda x: x[groups], tree)
  for groups in (slice(0, 2), slice(2, 4)):
    (part, of_part), part_grads = loss(*some((logits, values, batch), groups), normalizers(batch))
    want, metrics = want - part, jax.tree.map(jnp.subtract, metrics, of_part)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6),
                 part_grads, some(grads, groups))
  np.testing.assert_allclose([want, *jax.tree.leaves(metrics)], 0, atol=1e-4)

  (want, metrics), _ = loss(logits, values, batch, normalizers(batch))
  real = batch['decoder_loss_weights'] > 0
  other = batch | {'decoder_target_tokens': jnp.where(real, batch['decoder_target_tokens'], 0)}
  noisy = jnp.where(real[..., None], logits, 50 * logits), jnp.where(real, values, 1e6)
  unpadded = some((logits, values, batch), slice(0, 3))
  for given in ((*noisy, other), unpadded):
    (got, of_given), _ = loss(*given, normalizers(given[-1]))
    assert float(got) == pytest.approx(float(want), rel=1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5),
                 of_given, metrics)


@pytest.mark.parametrize('name', [
    'decoder', pytest.param('encoder_decoder', marks=pytest.mark.slow)])
def test_microbatches_of_a_network_change_nothing(name, assert_gradients_close):
  config = dataclasses.replace(CONFIGS[name], num_layers=1, head='value', dropout_rate=0.5)
  network = models.build_network(config)
  params, batch = network.init(jax.random.key(0)), make_groups(config.family)
  objectives = DirectPreference(loss='ipo', nll=0.5), RewardModel(average='pair')

  @functools.partial(jax.jit, static_argnums=2)
  def run(params, batch, parts):
    return loss_and_gradients(network, objectives, params, batch, jax.random.key(1),
                              microbatches=parts)

  (want, want_grads), (got, grads) = run(params, batch, 1), run(params, batch, 2)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), got, want)
  assert_gradients_close(grads, want_grads)


def test_at_the_reference_dpo_is_log_2_and_kto_one_half():
  batch = make_groups('decoder_only')
  logits = jax.random.normal(jax.random.key(0), (*batch['decoder_target_tokens'].shape, VOCAB))
  found = jnp.take_along_axis(jax.nn.log_softmax(logits),
                              batch['decoder_target_tokens'][..., None], axis=-1)[..., 0]
  batch['reference_logprobs'] = (found * batch['decoder_loss_weights']).sum(-1)
  for objective, want in ((DirectPreference(), math.log(2)), (KTO(), 0.5)):
    loss, sums = mean_of(objective, logits, batch)
    assert loss == pytest.approx(want, abs=1e-6)
    assert sums.metrics['rewards/chosen'][0] == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize('objective,dropped,message', [
    (DirectPreference(), 'reference_logprobs', r'DirectPreference reads `reference_logprobs`, '
     r'which the data does not have: set Experiment.data = @reference_logprobs.WithReference\(\)'),
    (SimPO(), 'response_scores', r'SimPO reads `response_scores`, which the data does not have: '
     r'set Experiment.data = @preference_data.PreferenceData\(\)'),
    (ORPO(), None, 'ORPO reads groups of 2 responses, and the data has groups of 3: set '
     'PreferenceData.responses = 2'),
    (KTO(), None, 'KTO reads groups of 2 responses'),
    (RewardModel(), None, "RewardModel reads values, which the model has none of: set "
     "ModelConfig.head = 'value'")])
def test_what_a_batch_or_a_model_lacks_is_one_line(objective, dropped, message):
  batch = make_groups('decoder_only', responses=3)
  batch.pop(dropped, None)
  with pytest.raises(UserError, match=message) as error:
    mean_of(objective, jnp.zeros((*batch['decoder_target_tokens'].shape, 4)), batch)
  assert '\n' not in str(error.value)


@pytest.mark.parametrize('make,message', [
    (lambda: DirectPreference(loss='dpo'), 'DirectPreference.loss'),
    (lambda: DirectPreference(label_smoothing=0.1), 'loss sigmoid has none: choose from cdpo'),
    (lambda: DirectPreference(loss='exo_pair'), 'must be above 0 for exo_pair'),
    (lambda: DirectPreference(loss='robust', label_smoothing=0.5), 'must be at least 0 and below'),
    (lambda: DirectPreference(loss='aot', divergence='js'), 'loss aot is of log ratios'),
    (lambda: DirectPreference(beta=0.0), 'DirectPreference.beta = 0.0: must be above 0'),
    (lambda: CPO(loss='ipo', label_smoothing=0.1), 'loss ipo has none'),
    (lambda: KTO(desirable_weight=-1.0), 'KTO.desirable_weight'),
    (lambda: RewardModel(average='token'), 'RewardModel.average')])
def test_settings_that_do_not_fit_are_refused(make, message):
  with pytest.raises(UserError, match=message):
    make()
