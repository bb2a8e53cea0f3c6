"""Advantages beside trl, rlax and a recursion by hand; what is masked changes nothing."""

import math
import os
import pathlib

import hypothesis
from hypothesis import strategies as st
import numpy as np
import pytest

from t5x_lite.core.errors import UserError
from t5x_lite.inference.rollouts import advantages
from t5x_lite.inference.rollouts.advantages import GroupAdvantages

PEERS = pathlib.Path(os.environ.get('T5X_LITE_TEST_DATA', '/nonexistent')) / 'peers/losses'
needs_data = pytest.mark.skipif(not PEERS.exists(), reason='T5X_LITE_TEST_DATA is not set')


def test_gae_is_that_of_rlax():
  """rlax 0.1.9's truncated_generalized_advantage_estimation, with a value of 0 after the end."""
  rewards = np.float32([[0, 0.3, -0.27, -0.89, -0.45, -0.99, 0.06, 1.34]])
  values = np.float32([[-0.49, -0.62, 0.49, 0.36, 0.11, -0.93, -0.03, 0.7]])
  for gamma, lam, want in (
      (0.99, 0.95, [-0.374652058, -0.266722023, -1.777588487, -1.460912704, -0.340045422,
                    1.212817192, 1.384920001, 0.640000045]),
      (1.0, 1.0, [-0.409999728, -0.279999733, -1.689999819, -1.289999843, -0.149999857,
                  1.340000153, 1.430000067, 0.640000045])):
    got, returns = advantages.generalized_advantages(
        rewards, values, np.ones((1, 8)), gamma=gamma, lam=lam)
    np.testing.assert_allclose(got[0], want, atol=1e-6)
    np.testing.assert_allclose(returns, got + values, atol=1e-6)
    assert got.dtype == returns.dtype == np.float32


def test_gae_is_the_sum_of_discounted_differences():
  """A_t = sum of (gamma lam)^i delta_{t+i}, worked out anew for each token of each row."""
  rng = np.random.default_rng(0)
  rewards, values = rng.normal(size=(2, 4, 9))
  mask = (np.arange(9) >= 2) & (np.arange(9) < rng.integers(3, 10, (4, 1)))
  got, returns = advantages.generalized_advantages(rewards, values, mask, gamma=0.9, lam=0.8)
  for b in range(4):
    tokens = np.flatnonzero(mask[b])
    following = [*values[b, tokens[1:]], 0]
    deltas = [rewards[b, t] + 0.9 * v - values[b, t] for t, v in zip(tokens, following)]
    for i, t in enumerate(tokens):
      want = sum((0.9 * 0.8) ** j * d for j, d in enumerate(deltas[i:]))
      assert got[b, t] == pytest.approx(want, abs=1e-6)
      assert returns[b, t] == pytest.approx(want + values[b, t], abs=1e-6)
  assert (got[~mask] == 0).all() and (returns[~mask] == 0).all()


def test_with_lambda_1_returns_are_rewards_to_go_and_without_values_advantages_too():
  rewards = np.float32([[1, 2, 3, 0]])
  mask = np.array([[1, 1, 1, 0]])
  for values in (np.zeros((1, 4)), np.float32([[5, -1, 2, 7]])):
    _, returns = advantages.generalized_advantages(rewards, values, mask, lam=1.0)
    np.testing.assert_allclose(returns, [[6, 5, 3, 0]], atol=1e-6)


@needs_data
@pytest.mark.parametrize('case,estimator,whiten,gamma,lam,penalty', [
    ('k1_whiten0_gamma1.0_lam0.95_missingeosNone', 'k1', False, 1.0, 0.95, 0.0),
    ('k1_whiten1_gamma1.0_lam0.95_missingeos1.0', 'k1', True, 1.0, 0.95, 1.0),
    ('k3_whiten0_gamma0.99_lam0.9_missingeosNone', 'k3', False, 0.99, 0.9, 0.0)])
def test_ppo_is_trls(case, estimator, whiten, gamma, lam, penalty):
  """trl gives values a mask that is one token longer, and the score its last position."""
  data = np.load(PEERS / 'ppo.npz')
  of_case = lambda name: data[f'{case}/{name}']
  mask, longer = ~of_case('padding_mask'), ~of_case('padding_mask_p1')
  kl = advantages.kl_penalties(data['logprobs'], data['ref_logprobs'], mask, estimator)
  np.testing.assert_allclose(kl, of_case('kl') * mask, atol=1e-6)
  ended = (data['postprocessed_responses'] == data['eos_token_id']).any(1)
  assert 0 < ended.sum() < len(ended)
  rewards = advantages.token_rewards(data['scores'], kl, longer, beta=0.05, ended=ended,
                                     missing_end_penalty=penalty)
  if whiten:
    rewards = advantages.whiten(rewards, longer, shift_mean=False)
  np.testing.assert_allclose(rewards, of_case('rewards'), atol=1e-6)
  values = np.where(longer, data['values'], 0)
  found, returns = advantages.generalized_advantages(rewards, values, longer, gamma=gamma, lam=lam)
  np.testing.assert_allclose(returns, of_case('returns'), rtol=1e-6, atol=1e-6)
  np.testing.assert_allclose(advantages.whiten(found, mask), of_case('advantages'),
                             rtol=1e-6, atol=1e-6)


@needs_data
@pytest.mark.parametrize('name,shift_mean', [('shift', True), ('noshift', False)])
def test_whitening_is_trls(name, shift_mean):
  data = np.load(PEERS / 'ppo.npz')
  mask = ~data['k1_whiten0_gamma1.0_lam0.95_missingeosNone/padding_mask']
  got = advantages.whiten(data['masked_whiten/in'], mask, shift_mean=shift_mean)
  np.testing.assert_allclose(got, data[f'masked_whiten/{name}'] * mask, atol=1e-6)


def test_the_score_is_at_the_last_token_and_a_missing_end_costs():
  """KL of 0.5 a token at beta 0.1; scores 2 and 3, of which the second has no end and loses 1."""
  mask = np.array([[0, 1, 1, 0], [0, 1, 1, 1], [0, 0, 0, 0]])
  kl = advantages.kl_penalties(np.full((3, 4), -1.0), np.full((3, 4), -1.5), mask)
  np.testing.assert_allclose(kl, 0.5 * mask)
  got = advantages.token_rewards(np.array([2.0, 3.0, 4.0]), kl, mask, beta=0.1,
                                 ended=[True, False, True], missing_end_penalty=1.0)
  np.testing.assert_allclose(
      got, [[0, -0.05, 1.95, 0], [0, -0.05, -0.05, 1.95], [0, 0, 0, 0]], atol=1e-7)
  np.testing.assert_allclose(advantages.penalized_scores([2.0, 3.0, 4.0], kl, 0.1),
                             [1.9, 2.85, 4.0], atol=1e-6)


def test_estimators_of_kl_have_the_same_mean_and_k3_is_never_negative():
  """Over draws from p, of two outcomes: both are KL(p | q) on average."""
  p, q = np.log([0.8, 0.2]), np.log([0.5, 0.5])
  want = (np.exp(p) * (p - q)).sum()
  for estimator in ('k1', 'k3'):
    each = advantages.kl_penalties(p[None], q[None], np.ones((1, 2)), estimator)[0]
    assert (np.exp(p) * each).sum() == pytest.approx(want, rel=1e-6)
  assert (each >= 0).all()


def test_the_coefficient_of_kl_follows_its_target():
  """lm-human-preferences: 0.2, target 6, horizon 10,000, 512 responses a batch."""
  adapt = lambda kl: advantages.adapted_kl_coefficient(
      0.2, kl, target=6.0, horizon=10_000, responses=512)
  assert adapt(6.0) == 0.2
  assert adapt(6.6) == pytest.approx(0.2 * (1 + 0.1 * 0.0512))
  assert adapt(60.0) == pytest.approx(0.2 * (1 + 0.2 * 0.0512))   # clipped, as below
  assert adapt(0.0) == pytest.approx(0.2 * (1 - 0.2 * 0.0512))


@needs_data
@pytest.mark.parametrize('size', [4, 8])
@pytest.mark.parametrize('name,convention', [
    ('sum_then_normalize_group', GroupAdvantages(weights=(1.0, 0.5))),
    ('sum_then_normalize_batch', GroupAdvantages(weights=(1.0, 0.5), scale='batch')),
    ('sum_then_normalize_none', GroupAdvantages(weights=(1.0, 0.5), scale='none')),
    ('normalize_then_sum_group',
     GroupAdvantages(weights=(1.0, 0.5), combine='normalize_then_sum'))])
def test_advantages_of_groups_are_trls(size, name, convention):
  data = np.load(PEERS / 'grpo.npz')
  got = convention(data['rewards_per_func'].reshape(-1, size, 2))
  assert got.dtype == np.float32
  np.testing.assert_allclose(got.ravel(), data[f'advantages/G{size}_{name}'], atol=1e-6)


def test_leave_one_out_is_the_reward_less_the_mean_of_the_others():
  rewards = np.random.default_rng(0).normal(size=(3, 4))
  want = np.array([[row[i] - np.delete(row, i).mean() for i in range(4)] for row in rewards])
  rloo = GroupAdvantages(baseline='leave_one_out', scale='none')
  np.testing.assert_allclose(rloo(rewards), want, atol=1e-6)
  scaled = GroupAdvantages(baseline='leave_one_out', scale='batch')
  np.testing.assert_allclose(scaled(rewards), want / (want.std(ddof=1) + 1e-4), atol=1e-6)


def test_standard_deviations_by_hand():
  """Rewards 1 and 0: mean 1/2, variance 1/2 with Bessel's correction and 1/4 without."""
  rewards = np.array([[1.0, 0.0]])
  np.testing.assert_allclose(GroupAdvantages()(rewards),
                             np.array([[0.5, -0.5]]) / (math.sqrt(0.5) + 1e-4), rtol=1e-6)
  np.testing.assert_allclose(GroupAdvantages(ddof=0, epsilon=1e-6)(rewards),
                             np.array([[0.5, -0.5]]) / (0.5 + 1e-6), rtol=1e-6)


@pytest.mark.parametrize('convention', [
    GroupAdvantages(), GroupAdvantages(scale='batch'), GroupAdvantages(scale='none'),
    GroupAdvantages(baseline='leave_one_out', scale='none'),
    GroupAdvantages(combine='normalize_then_sum')])
def test_equal_rewards_are_exactly_0_and_what_has_no_score_counts_for_nothing(convention):
  """0.1 has no exact mean: without care a group of it has advantages of rounding / 1e-4."""
  rewards = np.array([[0.1] * 3 + [np.nan], [1.0, 0.0, np.nan, 0.5], [np.nan] * 4,
                      [np.nan, 7.0, np.nan, np.nan]])
  got = convention(rewards)
  assert (got[[0, 2, 3]] == 0).all() and got[1, 2] == 0 and got[1, 0] > 0 > got[1, 1]
  if convention.scale != 'batch' and convention.combine == 'sum_then_normalize':
    np.testing.assert_allclose(got[1, [0, 1, 3]], convention(rewards[1:2, [0, 1, 3]])[0], atol=1e-6)


def test_a_reward_function_that_says_nothing_is_left_out_of_the_sum():
  rewards = np.array([[[1.0, np.nan], [0.0, 2.0], [3.0, 0.0]]])
  want = GroupAdvantages()(np.array([[1.0, 2.0, 3.0]]))
  np.testing.assert_allclose(GroupAdvantages()(rewards), want, atol=1e-6)


@pytest.mark.parametrize('run,message', [
    (lambda: GroupAdvantages()(np.zeros((3, 1))), 'a group of one response has nothing to be '
     'compared with, and no standard deviation: draw two or more'),
    (lambda: GroupAdvantages(weights=(1.0,))(np.zeros((3, 2, 2))), 'there are 2 reward functions'),
    (lambda: GroupAdvantages()(np.array([[np.inf, 0.0]])), 'a reward is infinite'),
    (lambda: GroupAdvantages(combine='normalize_then_sum', scale='none'), "goes with baseline "
     "'mean' and scale 'group' alone"),
    (lambda: GroupAdvantages(scale='std'), 'GroupAdvantages.scale'),
    (lambda: advantages.whiten(np.zeros((1, 2)), np.array([[1, 0]])), 'has 1: draw more'),
    (lambda: advantages.kl_penalties(np.zeros((1, 1)), np.zeros((1, 1)), np.ones((1, 1)), 'k2'),
     "no estimator of the KL divergence of rewards is named 'k2': choose from k1, k3")])
def test_what_cannot_be_is_one_line(run, message):
  with pytest.raises(UserError, match=message) as error:
    run()
  assert '\n' not in str(error.value)


@hypothesis.settings(max_examples=60, deadline=None)
@hypothesis.given(
    spans=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 6)), min_size=2, max_size=5),
    after=st.integers(1, 4), seed=st.integers(0, 2 ** 16), estimator=st.sampled_from(['k1', 'k3']))
def test_prompts_padding_and_tokens_after_the_end_change_nothing(spans, after, seed, estimator):
  """Rows with a prompt, of any length, to which columns are added, and rows that are masked."""
  rng = np.random.default_rng(seed)
  length = 9
  mask = np.array([[start <= t < start + n for t in range(length)] for start, n in spans])
  hypothesis.assume(mask.sum() > 1)
  arrays = rng.normal(size=(3, *mask.shape))
  scores, ended = rng.normal(size=len(mask)), rng.random(len(mask)) > 0.5

  def run(arrays, mask, scores, ended):
    logprobs, reference, values = arrays
    kl = advantages.kl_penalties(logprobs, reference, mask, estimator)
    rewards = advantages.token_rewards(scores, kl, mask, beta=0.1, ended=ended,
                                       missing_end_penalty=1.0)
    rewards = advantages.whiten(rewards, mask, shift_mean=False)
    found, returns = advantages.generalized_advantages(rewards, values, mask)
    return np.stack([kl, rewards, advantages.whiten(found, mask), returns])

  want = run(arrays, mask, scores, ended)
  assert (want[:, ~mask] == 0).all()
  noise = np.where(mask, arrays, 1e3 * rng.normal(size=arrays.shape))
  more = np.concatenate([noise, rng.normal(size=(3, len(mask), after))], axis=2)
  more = np.concatenate([more, rng.normal(size=(3, 1, length + after))], axis=1)
  got = run(more, np.pad(mask, ((0, 1), (0, after))), np.append(scores, 9.0),
            np.append(ended, True))
  np.testing.assert_array_equal(got[:, :-1, :length], want)
  assert (got[:, -1] == 0).all() and (got[:, :, length:] == 0).all()
