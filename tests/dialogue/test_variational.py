"""Latent variables: closed forms, exact expectations, probabilistic PCA, bounds, collapse."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import normalized_mutual_info_score

from t5x_lite.dialogue.variational import latents
from t5x_lite.dialogue.variational.gaussian import GaussianConfig
from t5x_lite.dialogue.variational.vae import fit_vae
from t5x_lite.dialogue.variational.vrnn import VrnnConfig, bag_turns, fit_vrnn

RNG = np.random.default_rng(0)


def test_gaussian_kl_is_that_of_the_densities():
  mean, log_variance = np.array([0.3, -1.2]), np.array([-0.5, 0.7])
  z = RNG.normal(mean, np.exp(log_variance / 2), (400_000, 2))
  log_ratio = stats.norm.logpdf(z, mean, np.exp(log_variance / 2)) - stats.norm.logpdf(z)
  np.testing.assert_allclose(latents.gaussian_kl(mean, log_variance), log_ratio.mean(0), atol=5e-3)
  by_hand = 0.5 * (np.exp(log_variance) + mean ** 2 - 1 - log_variance)
  np.testing.assert_allclose(latents.gaussian_kl(mean, log_variance), by_hand, rtol=1e-6)
  assert latents.gaussian_kl(jnp.zeros(2), jnp.zeros(2)).tolist() == [0, 0]


def test_categorical_kl_is_scipys():
  q, p = RNG.normal(size=(2, 5, 4))
  soft = lambda x: np.exp(x) / np.exp(x).sum(-1, keepdims=True)
  np.testing.assert_allclose(latents.categorical_kl(q, p), stats.entropy(soft(q), soft(p), axis=-1),
                             rtol=1e-5)


def test_batch_kl_is_scipys_of_means_and_leaves_posteriors_that_are_sure():
  q, p = RNG.normal(size=(2, 6, 3, 4))
  mask = np.arange(3)[None] < np.array([3, 2, 1, 3, 0, 2])[:, None]
  soft = lambda x: np.exp(x) / np.exp(x).sum(-1, keepdims=True)
  want = sum(mask[:, e].sum() * stats.entropy(soft(q)[mask[:, e], e].mean(0),
                                              soft(p)[mask[:, e], e].mean(0)) for e in range(3))
  assert latents.batch_kl(q, p, mask.astype(float)) == pytest.approx(want, rel=1e-4)
  sure, flat = 50 * jnp.eye(4)[:, None], jnp.zeros((4, 1, 4))   # each state once, a prior of all
  assert latents.batch_kl(sure, flat, jnp.ones((4, 1))) == pytest.approx(0, abs=1e-5)
  assert latents.categorical_kl(sure, flat).sum() > 4


def test_hard_draws_have_the_frequencies_of_the_distribution():
  logits = jnp.log(jnp.array([0.1, 0.2, 0.3, 0.4]))
  keys = jax.random.split(jax.random.key(0), 20_000)
  draws = jax.vmap(lambda key: latents.draw_categorical(key, logits, 1.0, hard=True))(keys)
  assert set(np.unique(np.asarray(draws).round(6))) == {0, 1}
  np.testing.assert_allclose(draws.mean(0), [0.1, 0.2, 0.3, 0.4], atol=0.015)


def gradient_error(hard, temperature):
  """Of Gumbel-softmax against the exact gradient of E[f(z)], f linear; relative."""
  logits, f = jnp.array([0.5, -0.2, 0.1]), jnp.array([1.0, -2.0, 0.5])
  exact = jax.grad(lambda logits: (jax.nn.softmax(logits) * f).sum())(logits)
  keys = jax.random.split(jax.random.key(1), 200_000)
  estimate = jax.jit(jax.grad(lambda logits: (jax.vmap(lambda key: latents.draw_categorical(
      key, logits, temperature, hard))(keys) @ f).mean()))(logits)
  return float(jnp.linalg.norm(estimate - exact) / jnp.linalg.norm(exact))


def test_gradient_is_that_of_the_exact_expectation_as_the_temperature_falls():
  for hard in (False, True):
    assert gradient_error(hard, 0.1) < 0.03
  assert 0.1 < gradient_error(True, 2.0) < 1   # biased, as is known


def test_annealing_and_free_bits():
  assert [float(latents.kl_weight(jnp.asarray(n), 4)) for n in range(6)] == [
      0, 0.25, 0.5, 0.75, 1, 1]
  assert float(latents.kl_weight(jnp.asarray(0), 0)) == 1
  assert latents.free_bits(jnp.array([0.1, 0.7]), 0.5).tolist() == pytest.approx([0.5, 0.7])
  assert jax.grad(lambda kl: latents.free_bits(kl, 0.5))(0.1) == 0


def test_information_is_between_none_and_all():
  one_hot = jnp.eye(4)[jnp.arange(100) % 4]
  information = lambda posterior: float(latents.categorical_information(posterior, jnp.ones(100)))
  assert information(one_hot) == pytest.approx(np.log(4), abs=1e-5)
  same = jnp.tile(jnp.array([0.1, 0.2, 0.3, 0.4]), (100, 1))
  assert information(same) == pytest.approx(0, abs=1e-5)


@pytest.fixture(scope='module')
def plane():
  """4,000 points of ten dimensions near a plane."""
  rng = np.random.default_rng(3)
  directions = rng.normal(size=(2, 10)) * np.array([[1.5], [0.8]])
  return (rng.normal(size=(4000, 2)) @ directions + rng.normal(size=10)
          + 0.4 * rng.normal(size=(4000, 10)))


@pytest.fixture(scope='module')
def linear(plane):
  return fit_vae(plane, GaussianConfig(latent=2, hidden=None, steps=3000, batch_size=1000,
                                  learning_rate=0.02))


def ppca_log_likelihood(x, latent):
  """Of the closed form (Tipping and Bishop 1999, equations 4, 7 and 8), nats an example."""
  number, size = x.shape
  values, vectors = np.linalg.eigh(np.cov(x.T, bias=True))
  values, vectors = values[::-1], vectors[:, ::-1]
  noise = values[latent:].mean()
  weights = vectors[:, :latent] * np.sqrt(values[:latent] - noise)
  covariance = weights @ weights.T + noise * np.eye(size)
  return stats.multivariate_normal(x.mean(0), covariance).logpdf(x).mean()


@pytest.mark.slow
def test_a_linear_vae_reaches_the_likelihood_of_probabilistic_pca(plane, linear):
  decoder, noise = linear.params['decoder'][0], np.exp(linear.params['noise'])
  weights = np.asarray(decoder['kernel'])
  covariance = weights.T @ weights + noise * np.eye(10)
  found = stats.multivariate_normal(np.asarray(decoder['bias']), covariance).logpdf(plane).mean()
  want = ppca_log_likelihood(plane, 2)
  assert want - 0.01 * abs(want) < found <= want + 1e-6
  # The posterior of a linear model is a Gaussian, so its ELBO is tight, as is IWAE's bound.
  assert linear.bound(plane, samples=50).mean() == pytest.approx(found, abs=0.02 * abs(want))
  assert linear.history['elbo'][-200:].mean() == pytest.approx(want, rel=0.01)


def test_more_samples_bound_closer(plane):
  fitted = fit_vae(plane, GaussianConfig(latent=2, hidden=8, steps=30))   # whose posterior is poor
  bounds = [fitted.bound(plane[:500], samples=n).mean() for n in (1, 10, 100)]
  assert all(a < b for a, b in itertools.pairwise(bounds))


@pytest.mark.slow
def test_what_the_latent_does_not_need_is_collapsed_and_free_bits_hold_it(plane):
  config = dict(latent=6, hidden=None, steps=1500, batch_size=1000, learning_rate=0.02)
  used = fit_vae(plane, GaussianConfig(**config))
  variances = np.sort(used.embed(plane).var(0))
  assert variances[3] < 0.1 < 0.5 < variances[4]   # of four, and of two
  held = fit_vae(plane, GaussianConfig(**config, free_bits=0.5))
  assert held.summary(plane)['kl'] > used.summary(plane)['kl'] + 0.5
  assert held.summary(plane)['active_units'] == 6


@pytest.mark.slow
def test_an_autoencoder_is_a_projection_on_the_same_plane(plane):
  fitted = fit_vae(plane, GaussianConfig(latent=2, hidden=None, steps=1000, learning_rate=0.02,
                                    variational=False))
  centred = plane - plane.mean(0)
  pca = np.linalg.svd(centred, full_matrices=False)[2][:2]
  weights = np.asarray(fitted.params['decoder'][0]['kernel'])
  own = np.linalg.svd(weights, full_matrices=False)[2]
  assert np.linalg.svd(own @ pca.T, compute_uv=False).min() > 0.999


ACTS, WORDS = 5, 60   # of a side


def planted(seed, number=400):
  """(dialogues of ids of words, the acts of their turns) of a Markov chain of acts; three words in
  ten are those of no act."""
  rng = np.random.default_rng(seed)
  transitions = rng.dirichlet(np.full(ACTS, 0.3), size=(2, ACTS))
  words = np.full((2, ACTS, WORDS), 0.3 / WORDS)
  for side in range(2):
    for act in range(ACTS):
      words[side, act, rng.choice(WORDS, 6, replace=False)] += 0.7 / 6
  dialogues, acts = [], []
  for _ in range(number):
    act, said, done = rng.integers(ACTS), [], []
    for n in range(rng.integers(8, 15)):
      act = rng.choice(ACTS, p=transitions[n % 2, act]) if n else act
      said.append(rng.choice(WORDS, 8, p=words[n % 2, act]))
      done.append(act + ACTS * (n % 2))
    dialogues.append(said)
    acts.append(done)
  return dialogues, acts


def flat(lists):
  return [*itertools.chain(*lists)]


@pytest.mark.slow
@pytest.mark.parametrize('seed', [0, *(pytest.param(n, marks=pytest.mark.sweep) for n in (1, 2))])
def test_a_vrnn_recovers_a_planted_chain_of_acts(seed):
  dialogues, acts = planted(seed)
  counts, lengths = bag_turns(dialogues, WORDS)
  fitted = fit_vrnn(counts, lengths, VrnnConfig(user_states=8, system_states=8, seed=seed))
  states = fitted.states(counts, lengths)
  assert [len(one) for one in states] == [len(one) for one in acts]
  assert normalized_mutual_info_score(flat(acts), flat(states)) > 0.8
  assert fitted.history['kl'][-100:].mean() > 0.3           # the states say something of a turn
  assert fitted.history['information'][-100:].mean() > 1.0
  # From the posterior and from the prior: the same transitions, of what is common.
  counted = np.zeros((16, 16))
  for one in states:
    np.add.at(counted, (one[:-1], one[1:]), 1)
  common = counted.sum(1) > 100
  by_posterior = (counted / np.maximum(counted.sum(1, keepdims=True), 1))[common]
  distance = 0.5 * np.abs(by_posterior - fitted.prior_transitions()[:-1][common]).sum(1)
  assert distance.mean() < 0.15


def test_a_vrnn_of_few_steps_has_states_of_both_sides_and_distributions():
  dialogues, _ = planted(0, number=12)
  counts, lengths = bag_turns(dialogues, WORDS)
  assert counts.sum() == 8 * sum(map(len, dialogues))
  for config in (VrnnConfig(user_states=3, system_states=4, hidden=4, steps=3, hard=True),
                 VrnnConfig(user_states=3, system_states=4, hidden=4, steps=3, batch_prior=True,
                            prior='history', decoder='history')):
    fitted = fit_vrnn(counts, lengths, config)
    for one in fitted.states(counts, lengths):
      assert all((state < 3) == (n % 2 == 0) and state < 7 for n, state in enumerate(one))
    assert fitted.state_words(5).sum() == pytest.approx(1, abs=1e-5)
    if config.prior == 'state':
      prior = fitted.prior_transitions()
      np.testing.assert_allclose(prior.sum(1), 1, atol=1e-5)
      assert not prior[:3, :3].any() and not prior[3:7, 3:].any() and not prior[7, 3:].any()
    else:
      with pytest.raises(ValueError, match='no transition matrix'):
        fitted.prior_transitions()
