"""Losses of policies and values beside trl's, by finite differences, on parts of a batch."""

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
from t5x_lite.objectives.policy import surrogates
from t5x_lite.objectives.policy.policy_loss import PolicyLoss
from t5x_lite.objectives.policy.pretraining_mix import PretrainingMix
from t5x_lite.objectives.policy.value_loss import ValueLoss
from t5x_lite.training.step import loss_and_gradients
from tests.conftest import CONFIGS, VOCAB
from tests.objectives.logits_model import LogitsModel, logits_of

PEERS = pathlib.Path(os.environ.get('T5X_LITE_TEST_DATA', '/nonexistent')) / 'peers/losses'
needs_data = pytest.mark.skipif(not PEERS.exists(), reason='T5X_LITE_TEST_DATA is not set')
GSPO = {'ratio': 'sequence_mean', 'average': 'sequence'}
GRPO = {  # cases of trl 1.16
    'grpo_beta0.0_epshigh0.2_deltaNone_token': PolicyLoss(average='sequence'),
    'grpo_beta0.04_epshigh0.28_deltaNone_token':
        PolicyLoss(average='sequence', beta=0.04, clip_high=0.28),
    'dr_grpo_beta0.0_epshigh0.2_deltaNone_token':
        PolicyLoss(average='constant', max_new_tokens=10),
    'dr_grpo_beta0.04_epshigh0.28_deltaNone_token':
        PolicyLoss(average='constant', max_new_tokens=10, beta=0.04, clip_high=0.28),
    'dapo_beta0.0_epshigh0.2_deltaNone_token': PolicyLoss(),
    'dapo_beta0.04_epshigh0.28_deltaNone_token': PolicyLoss(beta=0.04, clip_high=0.28),
    'bnpo_beta0.0_epshigh0.2_deltaNone_token': PolicyLoss(),
    'bnpo_beta0.04_epshigh0.28_deltaNone_token': PolicyLoss(beta=0.04, clip_high=0.28),
    'grpo_beta0.0_epshigh0.2_delta1.3_token': PolicyLoss(average='sequence', max_ratio=1.3),
    'grpo_beta0.04_epshigh0.2_deltaNone_sequence': PolicyLoss(**GSPO, beta=0.04),
    'dapo_beta0.0_epshigh0.28_deltaNone_sequence':
        PolicyLoss(ratio='sequence_mean', clip_high=0.28),
    'cispo_beta0.0_epshigh2.0_deltaNone_token': PolicyLoss(surrogate='cispo', max_ratio=2.0),
    'sapo_beta0.0_epshigh0.2_deltaNone_token': PolicyLoss(surrogate='sapo', average='sequence'),
    'luspo_beta0.0_epshigh0.2_deltaNone_sequence':
        PolicyLoss(ratio='sequence_mean', average='sequence_sum')}


def loss_of(objective, logprobs, batch):
  """What a step would minimise, of log-probabilities [batch, length] instead of a model."""
  (total, count), _ = objective.loss_of(logprobs, batch)
  return total / count


def rows(mask, **features):
  """Rollouts whose targets are 1."""
  ones = jnp.ones(mask.shape, jnp.int32)
  return {'decoder_input_tokens': ones, 'decoder_target_tokens': ones,
          'decoder_segment_ids': ones, 'decoder_loss_weights': jnp.asarray(mask, jnp.int32)} | {
              name: jnp.asarray(x) for name, x in features.items()}


@pytest.fixture(scope='module')
def grpo():
  """(inputs and outputs of trl, the batch). trl's advantages are those of its own reward run."""
  data = np.load(PEERS / 'grpo.npz')
  advantages = data['advantages/G4_sum_then_normalize_group'][:, None] * data['mask']
  return data, rows(data['mask'], old_logprobs=data['old_logps'] * data['mask'],
                    reference_logprobs=data['ref_logps'] * data['mask'],
                    advantages=advantages.astype(np.float32))


@needs_data
@pytest.mark.parametrize('case', GRPO)
def test_a_policy_loss_and_its_gradient_are_trls(grpo, case):
  data, batch = grpo
  manifest = json.loads((PEERS / 'manifest.json').read_text())['grpo'][case]
  masked = jnp.asarray(data['logps'] * data['mask'])
  loss, gradient = jax.value_and_grad(functools.partial(loss_of, GRPO[case]))(masked, batch=batch)
  assert float(loss) == pytest.approx(float(data[f'{case}/loss']), abs=1e-6)
  np.testing.assert_allclose(gradient * data['mask'], data[f'{case}/grad_logps'], atol=1e-6)

  logits = jnp.asarray(logits_of(np.where(data['mask'], data['logps'], -1)), jnp.float32)
  sums = GRPO[case](LogitsModel(logits), batch, None, normalizers(batch))
  assert float(sums.total / sums.weight) == pytest.approx(float(data[f'{case}/loss']), abs=2e-6)
  got = {name: float(total / weight) for name, (total, weight) in sums.metrics.items()}
  assert got['loss'] == pytest.approx(manifest['loss'], abs=2e-6)
  for name in ('low', 'high'):
    assert got.get(f'clip_ratio/{name}') == pytest.approx(manifest.get(f'clip_ratio/{name}_mean'))
  if 'kl' in manifest:
    assert got['kl'] == pytest.approx(manifest['kl'], abs=1e-6)


@needs_data
def test_the_cases_are_all_there_are(grpo):
  assert {name.rpartition('/')[0] for name in grpo[0].files if name.endswith('grad_logps')} == set(
      GRPO)


def draw_rollouts(seed=0, number=4, length=6):
  """(log-probabilities, batch), float64, none near a bound."""
  rng = np.random.default_rng(seed)
  mask = np.arange(length) < rng.integers(2, length + 1, (number, 1))
  old, reference = -rng.uniform(0.5, 3, (2, number, length))
  batch = {'decoder_loss_weights': mask, 'old_logprobs': old, 'reference_logprobs': reference,
           'advantages': rng.choice([-1.5, 1.0], (number, 1)) * mask}
  return old + rng.choice([-0.4, -0.1, 0.1, 0.4], old.shape) + 0.01 * rng.normal(size=old.shape), (
      batch)


@pytest.mark.parametrize('objective', [
    *GRPO.values(), PolicyLoss(ratio='sequence_sum', average='sequence'),
    PolicyLoss(beta=0.1, kl='k1'), PolicyLoss(beta=0.1, kl='k2')])
def test_a_gradient_is_that_of_finite_differences(objective):
  """CISPO's is not: its ratio is held; its gradient is that of log-probabilities by hand."""
  logprobs, batch = draw_rollouts()
  with jax.enable_x64(True):
    of_logprobs = lambda x: loss_of(objective, x, batch)
    got = jax.grad(of_logprobs)(jnp.asarray(logprobs))
    assert got.dtype == jnp.float64
    if objective.surrogate == 'cispo':
      mask = batch['decoder_loss_weights']
      ratio = np.minimum(np.exp(logprobs - batch['old_logprobs']), objective.max_ratio)
      want = -ratio * batch['advantages'] * mask / mask.sum()
    else:
      want = np.zeros_like(logprobs)
      for i in np.ndindex(logprobs.shape):
        step = np.zeros_like(logprobs)
        step[i] = 1e-5
        want[i] = float(of_logprobs(logprobs + step) - of_logprobs(logprobs - step)) / 2e-5
  np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-9)


@needs_data
@pytest.mark.parametrize('case', [
    'k1_whiten0_gamma1.0_lam0.95_missingeosNone', 'k1_whiten1_gamma1.0_lam0.95_missingeos1.0',
    'k3_whiten0_gamma0.99_lam0.9_missingeosNone'])
def test_ppo_is_trls(case):
  """trl's values have a mask that is a token longer, so the two objectives have a batch each."""
  data = np.load(PEERS / 'ppo.npz')
  of_case = lambda name: data[f'{case}/{name}']
  mask, longer = ~of_case('padding_mask'), ~of_case('padding_mask_p1')
  policy = rows(mask, old_logprobs=data['logprobs'] * mask, advantages=of_case('advantages'))
  loss, gradient = jax.value_and_grad(functools.partial(loss_of, PolicyLoss()))(
      jnp.asarray(data['new_logprobs'] * mask), batch=policy)
  assert float(loss) == pytest.approx(float(of_case('pg_loss')), abs=1e-6)
  np.testing.assert_allclose(gradient * mask, of_case('grad_new_logprobs'), atol=1e-6)

  values = rows(longer, old_values=data['values'] * longer, returns=of_case('returns'))

  def value_loss(predicted):
    model = LogitsModel(None, predicted)
    sums = ValueLoss()(model, values, None, normalizers(values))
    return sums.total / longer.sum(), sums.metrics

  (loss, metrics), gradient = jax.value_and_grad(value_loss, has_aux=True)(
      jnp.asarray(data['vpred']))
  assert float(loss) == pytest.approx(0.1 * float(of_case('vf_loss')), rel=1e-6)
  np.testing.assert_allclose(gradient, of_case('grad_vpred'), atol=1e-6)
  assert [float(metrics[name][0] / longer.sum()) for name in ('value_loss', 'value_clip')] == (
      pytest.approx([float(of_case('vf_loss')), float(of_case('vf_clipfrac'))], rel=1e-6))


def test_a_value_gradient_is_that_of_finite_differences():
  rng = np.random.default_rng(1)
  old, returns = rng.normal(size=(2, 30))
  values = old + rng.choice([-0.5, -0.1, 0.1, 0.5], 30)
  for clip in (None, 0.2):
    with jax.enable_x64(True):
      loss = lambda x: surrogates.value_losses(x, old, returns, clip)[0]
      got = jax.grad(lambda x: loss(x).sum())(jnp.asarray(values))
      want = np.asarray(loss(values + 1e-5) - loss(values - 1e-5)) / 2e-5
    np.testing.assert_allclose(got, want, atol=1e-8)


def test_clips_by_hand():
  """Ratios 0.5, 1 and 2 at advantages 1 and -1; dual clip bounds what a bad token may cost."""
  ratio = jnp.array([0.5, 1.0, 2.0, 0.5, 1.0, 2.0])[None]
  advantages = jnp.array([1.0, 1.0, 1.0, -1.0, -1.0, -1.0])[None]
  loss = lambda **bounds: surrogates.surrogate_loss(
      'clip', ratio, advantages, jnp.log(ratio), surrogates.Bounds(**bounds))[0]
  np.testing.assert_allclose(loss(), [-0.5, -1, -1.2, 0.8, 1, 2], rtol=1e-6)
  np.testing.assert_allclose(loss(high=0.28), [-0.5, -1, -1.28, 0.8, 1, 2], rtol=1e-6)
  np.testing.assert_allclose(loss(max_ratio=1.5), [-0.5, -1, -1.2, 0.8, 1, 1.5], rtol=1e-6)


def test_ratios_of_tokens_and_sequences_by_hand():
  """Log ratios 0.2 and 0.4 of two tokens; the third is no token."""
  old = jnp.zeros((1, 3))
  now, mask = jnp.array([[0.2, 0.4, 9.0]]), jnp.array([[1.0, 1.0, 0.0]])
  ratio = lambda level: np.log(surrogates.importance_ratio(now, old, mask, level)).tolist()[0]
  assert ratio('token') == pytest.approx([0.2, 0.4, 0])
  assert ratio('sequence_mean') == pytest.approx([0.3])
  assert ratio('sequence_sum') == pytest.approx([0.6])
  assert np.isfinite(surrogates.importance_ratio(1e4 * now, old, mask, 'sequence_sum')).all()


def test_rloo_and_gspo_are_means_over_sequences_of_one_clipped_ratio_each():
  """-mean min(r A, clip(r) A), r the product of a response's ratios (trl's RLOO) or their mean."""
  logprobs, batch = draw_rollouts(seed=2)
  mask, log_ratio = batch['decoder_loss_weights'], logprobs - batch['old_logprobs']
  sums, lengths = (log_ratio * mask).sum(1), mask.sum(1)
  advantages = batch['advantages'][:, 0]
  for level, ratio in (('sequence_sum', np.exp(sums)), ('sequence_mean', np.exp(sums / lengths))):
    want = -np.minimum(ratio * advantages, np.clip(ratio, 0.8, 1.2) * advantages).mean()
    with jax.enable_x64(True):
      got = loss_of(PolicyLoss(ratio=level, average='sequence'), jnp.asarray(logprobs), batch)
    assert float(got) == pytest.approx(want, rel=1e-6)


def test_averages_by_hand():
  """Losses 1, 1 and 4 of rows of two tokens and one; the third row has none."""
  loss = jnp.array([[1.0, 1.0, 7.0], [4.0, 7.0, 7.0], [7.0, 7.0, 7.0]])
  mask = jnp.array([[1.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
  mean = lambda average, n=None: float(np.divide(*surrogates.aggregate(loss, mask, average, n)))
  assert mean('token') == 2 and mean('sequence') == 2.5 and mean('sequence_sum') == 3
  assert mean('constant', 10) == pytest.approx(0.3)


def test_estimators_of_kl_and_their_gradients_over_all_outcomes():
  """k1 and k3 have the mean of KL(p | q), gradients as the docstring says."""
  logits, q = jnp.array([0.3, -1.0, 0.8]), jnp.log(jnp.array([0.5, 0.3, 0.2]))
  log_p = jax.nn.log_softmax
  p = jnp.exp(log_p(logits))
  forward = lambda x: (jnp.exp(log_p(x)) * (log_p(x) - q)).sum()
  backward = lambda x: (jnp.exp(q) * (q - log_p(x))).sum()
  for estimator, gradient in (('k1', lambda x: 0 * x), ('k2', jax.grad(forward)),
                              ('k3', jax.grad(backward))):
    mean = lambda x: (p * surrogates.kl_estimate(log_p(x), q, estimator)).sum()
    if estimator != 'k2':
      assert float(mean(logits)) == pytest.approx(float(forward(logits)), rel=1e-6)
    np.testing.assert_allclose(jax.grad(mean)(logits), gradient(logits), atol=1e-6)


def make_rollouts(family, params, network, length=9, number=4):
  """Rollouts of a network, drawn as its distribution has them; the last row is padding."""
  rng = np.random.default_rng(0)
  shape = number, length
  there = (np.arange(length) < rng.integers(5, length + 1, (number, 1))).astype(np.int32)
  there[-1] = 0
  batch = {'decoder_input_tokens': rng.integers(1, VOCAB, shape),
           'decoder_target_tokens': rng.integers(1, VOCAB, shape), 'decoder_segment_ids': there,
           'decoder_positions': np.broadcast_to(np.arange(length), shape),
           'decoder_loss_weights': there * (np.arange(length) >= 3)}
  if family == 'encoder_decoder':
    batch['encoder_input_tokens'] = rng.integers(1, VOCAB, (number, 5))
    batch['encoder_segment_ids'] = np.ones((number, 5), np.int32)
  batch = {name: jnp.asarray(x) for name, x in batch.items()}
  mask = batch['decoder_loss_weights'].astype(jnp.float32)

  @jax.jit
  def drawn(params, batch):
    outputs = network.bind(params).outputs(batch)
    found = jnp.take_along_axis(jax.nn.log_softmax(outputs.logits() / 0.7),
                                batch['decoder_target_tokens'][..., None], axis=-1)[..., 0]
    return found * mask, outputs.values_BL * mask

  logprobs, values = drawn(params, batch)
  noise = rng.normal(size=(2, *shape)).astype(np.float32) * np.asarray(mask)
  return batch | {'old_logprobs': logprobs, 'reference_logprobs': logprobs, 'old_values': values,
                  'advantages': jnp.asarray(noise[0]), 'returns': jnp.asarray(noise[1])}


@pytest.mark.parametrize('name', [
    'decoder', pytest.param('encoder_decoder', marks=pytest.mark.slow)])
def test_of_a_network_nothing_has_moved_at_step_0_and_parts_and_padding_change_nothing(
    name, assert_gradients_close):
  """KL 0 and ratio 1 with dropout in the config; microbatches; other tokens after the end."""
  config = dataclasses.replace(CONFIGS[name], num_layers=1, head='value', dropout_rate=0.5)
  network = models.build_network(config)
  params = network.init(jax.random.key(0))
  batch = make_rollouts(config.family, params, network)
  objectives = PolicyLoss(beta=0.05, average='sequence', temperature=0.7), ValueLoss()

  @functools.partial(jax.jit, static_argnums=2)
  def run(params, batch, parts):
    return loss_and_gradients(network, objectives, params, batch, jax.random.key(1),
                              microbatches=parts)

  want, want_grads = run(params, batch, 1)
  metrics = {name: float(total / weight) for name, (total, weight) in want.metrics.items()}
  assert metrics['kl'] == pytest.approx(0, abs=1e-6)
  assert [metrics[name] for name in ('ratio', 'mismatch')] == pytest.approx([1, 1], abs=1e-6)
  assert metrics['value_clip'] == metrics['clip_ratio/low'] == metrics['clip_ratio/high'] == 0
  assert metrics['entropy'] > 1
  got, grads = run(params, batch, 2)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), got, want)
  assert_gradients_close(grads, want_grads)
  there = batch['decoder_segment_ids'] > 0
  noisy = batch | {name: jnp.where(there, batch[name], (7 * batch[name] + 3) % VOCAB)
                   for name in ('decoder_input_tokens', 'decoder_target_tokens')}
  got, grads = run(params, noisy, 1)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), got, want)
  assert_gradients_close(grads, want_grads)


def test_pretraining_is_gamma_times_the_mean_of_its_tokens():
  """Log-probabilities -1 and -3 of two tokens with weight, beside a policy of three tokens."""
  batch = rows(np.array([[1, 1, 1, 0]]))
  batch |= {'pretraining_' + name: x[:, :3] for name, x in batch.items()}
  batch['pretraining_decoder_loss_weights'] = jnp.array([[1, 1, 0]])
  logits = jnp.asarray(logits_of([[-1.0, -3.0, -5.0]]), jnp.float32)
  model = LogitsModel(logits)
  model.config = CONFIGS['decoder']
  sums = PretrainingMix(gamma=10.0)(model, batch, None, normalizers(batch))
  assert float(sums.total) / 3 == pytest.approx(10 * 2, rel=1e-6) and sums.weight == 0
  loss, weight = sums.metrics['pretraining_loss']
  assert float(loss / weight) == pytest.approx(2, rel=1e-6) and math.isclose(float(weight), 2)


@pytest.mark.parametrize('objective,message', [
    (PolicyLoss(), r'PolicyLoss reads `old_logprobs`, which the data does not have: set '
     r'Experiment.data = @source.Rollouts\(\)'),
    (ValueLoss(), r'ValueLoss reads `old_values`, which the data does not have: set '
     r'Rollouts.estimator = @estimators.ValueEstimator\(\)'),
    (PretrainingMix(), 'PretrainingMix reads `pretraining_decoder_loss_weights`')])
def test_a_batch_that_is_none_of_rollouts_is_one_line(objective, message):
  batch = rows(np.ones((1, 3)))
  with pytest.raises(UserError, match=message) as error:
    objective(LogitsModel(jnp.zeros((1, 3, 4))), batch, None, normalizers(batch))
  assert '\n' not in str(error.value)


def test_a_reference_or_values_that_there_are_not_are_one_line():
  batch = rows(np.ones((1, 3)), **{name: np.zeros((1, 3), np.float32) for name in (
      'old_logprobs', 'advantages', 'old_values', 'returns')})
  model = LogitsModel(jnp.zeros((1, 3, 4)))
  with pytest.raises(UserError, match='set Rollouts.reference = True, or PolicyLoss.beta = 0'):
    PolicyLoss(beta=0.1)(model, batch, None, normalizers(batch))
  with pytest.raises(UserError, match="the model has none of: set ModelConfig.head = 'value'"):
    ValueLoss()(model, batch, None, normalizers(batch))


@pytest.mark.parametrize('make,message', [
    (lambda: PolicyLoss(average='constant'), "max_new_tokens = None: average 'constant' needs it"),
    (lambda: PolicyLoss(max_new_tokens=9), "average 'constant' needs it, and no other"),
    (lambda: PolicyLoss(surrogate='cispo'), 'cispo needs it'),
    (lambda: PolicyLoss(max_ratio=1.2), r'must be above 1 \+ clip_high \(1.2\)'),
    (lambda: PolicyLoss(surrogate='sapo', max_ratio=2.0), 'sapo has none'),
    (lambda: PolicyLoss(kl='k4'), 'PolicyLoss.kl'),
    (lambda: PolicyLoss(temperature=0.0), 'PolicyLoss.temperature = 0.0: must be above 0'),
    (lambda: ValueLoss(clip=0.0), 'ValueLoss.clip'),
    (lambda: PretrainingMix(gamma=-1.0), 'PretrainingMix.gamma')])
def test_settings_that_do_not_fit_are_refused(make, message):
  with pytest.raises(UserError, match=message):
    make()
