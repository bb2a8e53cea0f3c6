"""Losses without a reference, of unpaired responses and of rewards: gradients, and by hand."""

import math
import os
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t5x_lite.objectives.preference.reference_free import (
    alpha_reward,
    cpo_loss,
    log_odds_ratio,
    simpo_loss,
)
from t5x_lite.objectives.preference.reward_model import ranking_losses, response_rewards
from t5x_lite.objectives.preference.unpaired import kto_baseline, kto_loss

PEERS = pathlib.Path(os.environ.get('T5X_LITE_TEST_DATA', '/nonexistent')) / 'peers/losses'
needs_data = pytest.mark.skipif(not PEERS.exists(), reason='T5X_LITE_TEST_DATA is not set')
GOOD = np.array([True, False, True])


def of_pairs(loss):
  """Of [2 * pairs], the chosen ones first."""
  return lambda x: loss(*jnp.split(x, 2))


# Each is a function of [6].
LOSSES = {
    'simpo': of_pairs(lambda c, r: simpo_loss(c, r, beta=2.5, gamma=0.5, smoothing=0.1)),
    'alphapo': of_pairs(lambda c, r: simpo_loss(
        alpha_reward(c, 0.25), alpha_reward(r, 0.25), beta=2.0, gamma=0.5)),
    'cpo': of_pairs(lambda c, r: cpo_loss('sigmoid', c, r, beta=0.1, smoothing=0.1)),
    'cpo_hinge': of_pairs(lambda c, r: cpo_loss('hinge', c, r, beta=0.3)),
    'cpo_ipo': of_pairs(lambda c, r: cpo_loss('ipo', c, r, beta=0.2)),
    'orpo': of_pairs(lambda c, r: -jax.nn.log_sigmoid(log_odds_ratio(c, r))),
    'kto': lambda x: kto_loss(x[:3], GOOD, 0.3, beta=0.4, undesirable_weight=1.5),
    'apo_zero_unpaired': lambda x: kto_loss(x[:3], GOOD, 0.0, beta=0.4),
    'reward': lambda x: ranking_losses(
        x.reshape(2, 3), np.array([[2, 1, 0], [1, 1, np.nan]]), margin=0.5, center=0.1)[0]}


@pytest.mark.parametrize('name', LOSSES)
def test_a_gradient_is_that_of_finite_differences(name):
  logps = -np.random.default_rng(0).uniform(0.2, 3, 6)
  with jax.enable_x64(True):
    loss = lambda x: LOSSES[name](x).sum()
    got = jax.grad(loss)(jnp.asarray(logps))
    assert got.dtype == jnp.float64
    want = [float(loss(logps + e) - loss(logps - e)) / 2e-5 for e in 1e-5 * np.eye(6)]
  np.testing.assert_allclose(got, want, rtol=1e-7, atol=1e-9)


@needs_data
@pytest.mark.parametrize('case,averages,loss', [
    ('cpo_simpo_beta2.0_gamma1.0_ls0.0_alpha0.0', True,
     lambda c, r: simpo_loss(c, r, beta=2.0, gamma=1.0)),
    ('cpo_simpo_beta2.5_gamma0.5_ls0.1_alpha0.0', True,
     lambda c, r: simpo_loss(c, r, beta=2.5, gamma=0.5, smoothing=0.1)),
    ('cpo_simpo_beta2.0_gamma0.5_ls0.0_alpha0.25', True, lambda c, r: simpo_loss(
        alpha_reward(c, 0.25), alpha_reward(r, 0.25), beta=2.0, gamma=0.5)),
    ('cpo_sigmoid_beta0.1_gamma0.0_ls0.0_alpha0.0', False,
     lambda c, r: cpo_loss('sigmoid', c, r, beta=0.1)),
    ('cpo_sigmoid_beta0.1_gamma0.0_ls0.1_alpha0.0', False,
     lambda c, r: cpo_loss('sigmoid', c, r, beta=0.1, smoothing=0.1)),
    ('cpo_hinge_beta0.3_gamma0.0_ls0.0_alpha0.0', False,
     lambda c, r: cpo_loss('hinge', c, r, beta=0.3)),
    ('cpo_ipo_beta0.2_gamma0.0_ls0.0_alpha0.0', True,
     lambda c, r: cpo_loss('ipo', c, r, beta=0.2)),
    ('orpo_beta0.1', True, lambda c, r: -0.1 * jax.nn.log_sigmoid(log_odds_ratio(c, r))),
    ('orpo_beta0.5', True, lambda c, r: -0.5 * jax.nn.log_sigmoid(log_odds_ratio(c, r)))])
def test_losses_without_a_reference_are_trls(case, averages, loss):
  data = np.load(PEERS / 'orpo_simpo.npz')
  logps = data['avg_logps' if averages else 'sum_logps']
  sign = -1 if case.startswith('orpo') else 1   # trl subtracts the mean of ORPO's
  np.testing.assert_allclose(of_pairs(loss)(logps), sign * data[f'{case}/losses'],
                             rtol=1e-6, atol=1e-6)
  gradient = jax.grad(lambda x: of_pairs(loss)(x).mean())(logps)
  name = 'grad_avg_logps' if case.startswith('orpo') else 'grad_logps'
  np.testing.assert_allclose(gradient, data[f'{case}/{name}'], atol=1e-6)


def test_log_odds_by_hand_and_at_the_ends():
  """Odds of 0.8 and 0.5 are 4 and 1. A probability of 1, in float32, is not infinite odds."""
  got = log_odds_ratio(jnp.log(jnp.array([0.8])), jnp.log(jnp.array([0.5])))
  assert got == pytest.approx([math.log(4)], rel=1e-6)
  ends = jnp.array([0.0, -1e-9, -200.0])
  grads = jax.grad(lambda x: -jax.nn.log_sigmoid(log_odds_ratio(x, ends[::-1])).sum())(ends)
  assert np.isfinite(log_odds_ratio(ends, ends[::-1])).all() and np.isfinite(grads).all()


def test_alpha_reward_tends_to_the_log_probability():
  logps = np.float32([-3.0, -0.5])
  np.testing.assert_allclose(alpha_reward(logps, 1e-4), logps, rtol=1e-3)
  np.testing.assert_allclose(alpha_reward(logps, 1.0), 1 - np.exp(-logps), rtol=1e-6)


def test_the_baseline_is_a_mean_above_0_of_what_is_valid():
  ratio, valid = jnp.array([1.0, -0.5, 9.0]), jnp.array([1.0, 1.0, 0.0])
  assert kto_baseline(ratio, valid) == 0.25
  assert kto_baseline(-ratio, valid) == 0
  assert kto_baseline(ratio, 0 * valid) == 0
  assert (jax.grad(kto_baseline)(ratio, valid) == 0).all()


def test_all_pairs_of_a_group():
  """Rewards 3, 1, 1 of scores 2, 0, 0: two pairs whose difference is 2 less the margin of 1."""
  losses, pairs = ranking_losses(jnp.array([[3.0, 1.0, 1.0]]), jnp.array([[2.0, 0.0, 0.0]]),
                                 margin=0.5, center=0.1)
  want = np.zeros((1, 3, 3))
  want[0, 0, 1:] = math.log1p(math.exp(-1)) + 0.1 * 16
  np.testing.assert_allclose(losses, want, rtol=1e-6)
  assert pairs.tolist() == (want > 0).tolist()


def test_no_response_and_no_difference_are_no_pair():
  scores = jnp.array([[1.0, jnp.nan, 1.0], [jnp.nan] * 3])
  value, gradient = jax.value_and_grad(lambda r: ranking_losses(r, scores, margin=1.0)[0].sum())(
      jnp.ones((2, 3)))
  assert value == 0 and (gradient == 0).all()


def test_a_reward_is_the_value_at_the_last_position_with_weight():
  values = jnp.array([[1.0, 2.0, 3.0, 4.0]] * 4)
  weights = jnp.array([[0, 1, 1, 0], [1, 1, 1, 1], [0, 1, 0, 0], [0, 0, 0, 0]])
  assert response_rewards(values, weights).tolist() == [3, 4, 2, 0]
