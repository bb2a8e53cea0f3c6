"""The losses of pairs beside trl's, by finite differences, and by hand."""

import math
import os
import pathlib
from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t5x_lite.core.errors import UserError
from t5x_lite.objectives.preference import paired
from t5x_lite.objectives.preference.paired import LOSSES, SMOOTHED, Pairs, paired_loss

PEERS = pathlib.Path(os.environ.get('T5X_LITE_TEST_DATA', '/nonexistent')) / 'peers/losses'
needs_data = pytest.mark.skipif(not PEERS.exists(), reason='T5X_LITE_TEST_DATA is not set')
# Cases of trl 1.16: loss, beta, smoothing, divergence. trl names the divergences otherwise.
CASES = [
    ('sigmoid', 0.1, 0.0, 'reverse_kl'), ('sigmoid', 0.5, 0.0, 'reverse_kl'),
    ('ipo', 0.1, 0.0, 'reverse_kl'), ('ipo', 0.4, 0.0, 'reverse_kl'),
    ('robust', 0.1, 0.1, 'reverse_kl'), ('robust', 0.3, 0.3, 'reverse_kl'),
    ('hinge', 0.2, 0.0, 'reverse_kl'), ('exo_pair', 0.2, 0.05, 'reverse_kl'),
    ('apo_zero', 0.1, 0.0, 'reverse_kl'), ('apo_down', 0.1, 0.0, 'reverse_kl'),
    ('sppo_hard', 0.2, 0.0, 'reverse_kl'), ('nca_pair', 0.1, 0.0, 'reverse_kl'),
    ('bco_pair', 0.1, 0.0, 'reverse_kl'), ('aot', 0.1, 0.1, 'reverse_kl'),
    ('discopop', 0.1, 0.0, 'reverse_kl'), ('sigmoid_norm', 1.0, 0.0, 'reverse_kl'),
    ('sigmoid', 0.1, 0.0, 'forward_kl'), ('sigmoid', 0.1, 0.0, 'js'),
    ('sigmoid', 0.2, 0.0, 'alpha')]
TRL_DIVERGENCES = {'js': 'js_divergence', 'alpha': 'alpha_divergence'}


def pairs_of(logprobs, reference, lengths, valid=None) -> Pairs:
  """Of arrays [2 * pairs], the chosen ones first."""
  half = len(logprobs) // 2
  halves = [x[part] for x in (logprobs, reference, lengths)
            for part in (slice(half), slice(half, None))]
  return Pairs(*halves, valid=jnp.ones_like(halves[0]) if valid is None else valid)


def draw_pairs(number=5, seed=0):
  """(log-probabilities, those of the reference, lengths), float64 [2 * number]."""
  rng = np.random.default_rng(seed)
  lengths = rng.integers(2, 9, 2 * number).astype(np.float64)
  logprobs = -lengths * rng.uniform(0.5, 3, 2 * number)
  return logprobs, logprobs + rng.normal(size=2 * number), lengths


@pytest.fixture(scope='module')
def dpo():
  """(inputs and outputs of trl, log-probabilities of a response by the logits of the policy)."""
  data = np.load(PEERS / 'dpo.npz')
  ids, mask = data['input_ids'][:, 1:, None], data['completion_mask'][:, 1:]

  def logprobs(logits):
    found = jnp.take_along_axis(jax.nn.log_softmax(logits[:, :-1]), ids, axis=-1)[..., 0]
    return (found * mask).sum(1)

  return data, logprobs


@needs_data
@pytest.mark.parametrize('name,beta,smoothing,divergence', CASES)
def test_a_loss_and_its_gradient_are_trls(dpo, name, beta, smoothing, divergence):
  data, logprobs = dpo
  case = f'{name}_beta{beta}_ls{smoothing}_{TRL_DIVERGENCES.get(divergence, divergence)}'
  lengths = data['completion_mask'].sum(1)

  def loss(logits, reference):
    pairs = pairs_of(logprobs(logits), logprobs(reference), lengths)
    return paired_loss(name, pairs, beta=beta, smoothing=smoothing, divergence=divergence).mean()

  with jax.enable_x64(True):
    got, gradient = jax.value_and_grad(loss)(*(
        jnp.asarray(data[key], jnp.float64) for key in ('policy_logits', 'ref_logits')))
  np.testing.assert_allclose(got, data[f'{case}/loss'], rtol=1e-6, atol=1e-6)
  np.testing.assert_allclose(gradient, data[f'{case}/grad_policy_logits'], rtol=0, atol=1e-6)


@needs_data
def test_the_cases_are_all_there_are(dpo):
  cases = {name.rpartition('/')[0] for name in dpo[0].files if '/grad_policy_logits' in name}
  assert cases == {f'{n}_beta{b}_ls{s}_{TRL_DIVERGENCES.get(d, d)}' for n, b, s, d in CASES} | {
      'sft_beta0.1_ls0.0_reverse_kl'}   # is in test_groups.py


@needs_data
@pytest.mark.parametrize('beta,smoothing', [(0.1, 0.1), (0.5, 0.2), (0.1, 0.0)])
def test_cdpo_is_that_of_the_last_release_of_trl_that_had_it(dpo, beta, smoothing):
  data, _ = dpo
  case = f'cdpo_trl0.19.1_beta{beta}_ls{smoothing}'

  def losses(logprobs):
    pairs = pairs_of(logprobs, data['ref_logps'], np.ones(8))
    return paired_loss('cdpo', pairs, beta=beta, smoothing=smoothing)

  np.testing.assert_allclose(losses(data['policy_logps']), data[f'{case}/losses'], atol=1e-6)
  gradient = jax.grad(lambda x: losses(x).mean())(data['policy_logps'])
  np.testing.assert_allclose(gradient, data[f'{case}/grad_policy_logps'], atol=1e-6)


@pytest.mark.parametrize('name,divergence', [
    (name, divergence) for name in LOSSES for divergence in get_args(paired.Divergence)
    if name not in paired.OF_RATIOS or divergence == 'reverse_kl'])
def test_a_gradient_is_that_of_finite_differences(name, divergence):
  logprobs, reference, lengths = draw_pairs()
  smoothing = 0.1 if name in SMOOTHED else 0.0

  def loss(logprobs):
    return paired_loss(name, pairs_of(logprobs, reference, lengths), beta=0.3,
                       smoothing=smoothing, divergence=divergence).sum()

  with jax.enable_x64(True):
    got = jax.grad(loss)(jnp.asarray(logprobs))
    assert got.dtype == jnp.float64
    step = 1e-5 * np.eye(len(logprobs))
    want = [float(loss(logprobs + e) - loss(logprobs - e)) / 2e-5 for e in step]
  np.testing.assert_allclose(got, want, rtol=1e-7, atol=1e-7 * np.abs(want).max())


def test_where_policy_and_reference_agree():
  """DPO is log 2 and so are those that differ from it in what they make of other log ratios."""
  logprobs, _, lengths = draw_pairs()
  with jax.enable_x64(True):
    at = {name: np.asarray(paired_loss(name, pairs_of(logprobs, logprobs, lengths), beta=0.1,
                                       smoothing=0.1 if name in SMOOTHED else 0.0))
          for name in LOSSES}
  for name in ('sigmoid', 'sigmoid_norm', 'cdpo', 'robust', 'aot'):
    np.testing.assert_allclose(at[name], math.log(2), atol=1e-12)
  for name, want in {'hinge': 1, 'ipo': 25, 'ipo_sum': 25, 'sppo_hard': 50, 'apo_zero': 1,
                     'apo_down': 1, 'nca_pair': 2 * math.log(2), 'bco_pair': 2 * math.log(2),
                     'discopop': (math.log(2) + 1) / 2}.items():
    np.testing.assert_allclose(at[name], want, atol=1e-12, err_msg=name)


def test_discopop_stays_finite_where_the_chosen_is_far_less_likely():
  pairs = pairs_of(np.float32([-2000, -1]), np.float32([-1, -1]), np.float32([9, 9]))
  assert paired_loss('discopop', pairs, beta=1.0) == pytest.approx([1999])


def test_ipo_is_of_tokens_and_ipo_sum_of_responses():
  """Log ratios 6 and 2 of 3 and 4 tokens; margin 1 / (2 * 0.5) = 1."""
  pairs = pairs_of(np.float32([-3, -8]), np.float32([-9, -10]), np.float32([3, 4]))
  assert paired_loss('ipo', pairs, beta=0.5) == pytest.approx([(2 - 0.5 - 1) ** 2])
  assert paired_loss('ipo_sum', pairs, beta=0.5) == pytest.approx([(6 - 2 - 1) ** 2])


def test_alpha_has_both_kl_divergences_as_its_ends():
  x = np.linspace(-3, 3, 7, dtype=np.float32)
  np.testing.assert_allclose(paired.divergence_score(x, 'alpha', 1.0), x)
  np.testing.assert_allclose(paired.divergence_score(x, 'alpha', 0.0), 1 - np.exp(-x), rtol=1e-5)
  np.testing.assert_allclose(paired.divergence_score(x, 'alpha', 0.0),
                             paired.divergence_score(x, 'forward_kl', 0.0), rtol=1e-5)


@pytest.mark.parametrize('name', LOSSES)
def test_padding_changes_no_other_pair_and_has_no_gradient_that_is_not_finite(name):
  """Two pairs of zeros among five; AOT's order is of the five alone."""
  logprobs, reference, lengths = (np.float32(x) for x in draw_pairs())
  smoothing = 0.1 if name in SMOOTHED else 0.0
  spread = lambda x: np.insert(x.reshape(2, -1), [1, 3], 0.0, axis=1).ravel()
  valid = np.insert(np.ones(5, np.float32), [1, 3], 0.0)

  def losses(x):
    pairs = pairs_of(x, spread(reference), spread(lengths), valid)
    return paired_loss(name, pairs, beta=0.3, smoothing=smoothing)

  want = paired_loss(name, pairs_of(logprobs, reference, lengths), beta=0.3, smoothing=smoothing)
  np.testing.assert_allclose(losses(spread(logprobs))[valid > 0], want, rtol=1e-6)
  gradient = jax.grad(lambda x: (losses(x) * valid).sum())(spread(logprobs)).reshape(2, -1)
  assert np.isfinite(gradient).all() and (np.asarray(gradient)[:, valid == 0] == 0).all()


def test_aot_is_a_sum_over_sorted_margins():
  logprobs, reference, lengths = draw_pairs(6, seed=3)
  margins = lambda x: np.sort(x[:6] - x[6:])
  want = np.logaddexp(0, -0.2 * (margins(logprobs) - margins(reference))).sum()
  with jax.enable_x64(True):
    got = paired_loss('aot', pairs_of(logprobs, reference, lengths), beta=0.2).sum()
  assert float(got) == pytest.approx(want, rel=1e-12)


def test_names_that_there_are_not():
  pairs = pairs_of(np.zeros(2), np.zeros(2), np.ones(2))
  with pytest.raises(UserError, match="no loss of pairs is named 'sigmod': did you mean 'sigmoid'"):
    paired_loss('sigmod', pairs, beta=0.1)
  with pytest.raises(UserError, match="no divergence is named 'kl'"):
    paired_loss('sigmoid', pairs, beta=0.1, divergence='kl')
