"""A VAE of texts: its density by brute force, its bounds by quadrature, collapse and its cure."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from t5x_lite.core.errors import UserError
from t5x_lite.dialogue.variational import latents
from t5x_lite.dialogue.variational.text_vae import END, TextVaeConfig, fit_text_vae

TEXTS = ['a b', 'b a', 'a a', 'b b', 'a', 'b'] * 4
SMALL = dict(latent=1, hidden=6, width=4, steps=5)


@pytest.fixture(scope='module')
def tiny():
  return fit_text_vae(TEXTS, TextVaeConfig(**SMALL))


def test_probabilities_of_all_texts_sum_to_one(tiny):
  """Of up to two words, and of two others that may go on: the leaves of the tree of words."""
  words = range(len(tiny.vocabulary))
  rows = [row for row in itertools.product(words, repeat=3)
          if all(b == END for a, b in itertools.pairwise(row) if a == END)]
  rows = jnp.asarray(rows)
  log_p = tiny.fitted.log_likelihood(
      tiny.fitted.params, rows, jnp.full((len(rows), 1), 0.7), None)
  assert np.exp(log_p).sum() == pytest.approx(1, abs=1e-5)


def test_bounds_are_those_of_quadrature(tiny):
  """ELBO <= IWAE <= log p(x), whose integral over the one dimension of z is summed on a grid."""
  row = tiny.rows(['b a'])
  z, width = np.linspace(-8, 8, 2001), 16 / 2000
  log_p = np.asarray(tiny.fitted.log_likelihood(
      tiny.fitted.params, jnp.repeat(jnp.asarray(row), len(z), 0), jnp.asarray(z)[:, None], None))
  mean, log_variance = (float(x[0, 0]) for x in tiny.fitted.encode(
      tiny.fitted.params, jnp.asarray(row)))
  q, prior = stats.norm(mean, np.exp(log_variance / 2)), stats.norm()
  elbo = (q.pdf(z) * (log_p + prior.logpdf(z) - q.logpdf(z))).sum() * width
  evidence = np.log((np.exp(log_p) * prior.pdf(z)).sum() * width)
  rows = np.repeat(row, 4000, 0)
  assert tiny.fitted.bound(rows).mean() == pytest.approx(elbo, abs=0.02)
  assert elbo < evidence
  assert tiny.fitted.bound(rows[:1], 5000)[0] == pytest.approx(evidence, abs=0.02)
  assert elbo - 0.01 < tiny.fitted.bound(rows, 8).mean() < evidence + 0.01


def test_information_of_gaussians_is_none_or_all_or_that_of_an_integral():
  information = lambda mean, spread: float(latents.gaussian_information(
      jax.random.key(0), jnp.asarray(mean), jnp.full(mean.shape, 2 * np.log(spread))))
  assert information(np.zeros((50, 3)), 1.0) == pytest.approx(0, abs=1e-5)
  assert information(100.0 * np.eye(50), 1.0) == pytest.approx(np.log(50), abs=1e-4)
  two = np.repeat([[-1.0], [1.0]], 1000, 0)
  z = np.linspace(-9, 9, 4001)
  mixture = 0.5 * (stats.norm.pdf(z, -1) + stats.norm.pdf(z, 1))
  entropy = -(mixture * np.log(mixture)).sum() * 18 / 4000
  assert information(two, 1.0) == pytest.approx(entropy - stats.norm.entropy(), abs=0.03)


def test_texts_are_rows_of_known_words():
  model = fit_text_vae(['Book a table', 'a taxi'], TextVaeConfig(vocabulary=2, **SMALL))
  assert model.vocabulary == ('END', 'UNKNOWN', 'a', 'book')
  assert model.rows(['a boat Book a', 'book']).tolist() == [[2, 1, 3, 0], [3, 0, 0, 0]]
  assert model.embed(['a taxi', 'book']).shape == (2, 1)
  with pytest.raises(UserError, match='2 texts have no word'):
    fit_text_vae(['', ' '], TextVaeConfig())
  with pytest.raises(UserError, match='word_dropout'):
    TextVaeConfig(word_dropout=2.0)


def patterns(number):
  """Texts of eight words, all the same one of six, of which three in ten are any."""
  rng = np.random.default_rng(0)
  same = np.repeat(rng.integers(6, size=(number, 1)), 8, 1)
  any_of = rng.integers(6, size=(number, 8))
  return [' '.join('abcdef'[n] for n in row)
          for row in np.where(rng.random((number, 8)) < 0.3, any_of, same)]


@pytest.mark.slow
def test_free_bits_hold_a_latent_that_collapses_without():
  texts, held_out = patterns(600)[:500], patterns(600)[500:]
  config = dict(latent=2, hidden=24, width=8, steps=300, learning_rate=0.02)
  collapsed = fit_text_vae(texts, TextVaeConfig(**config)).summary(held_out)
  assert collapsed['kl'] < 0.5 and collapsed['information'] < 0.5   # of log 6 = 1.8 nats
  model = fit_text_vae(texts, TextVaeConfig(free_bits=1.0, annealing=100, word_dropout=0.5,
                                            **config))
  held = model.summary(held_out)
  assert held['active_units'] >= 1 and held['kl'] > 1 and held['information'] > 0.8
  assert held['information'] < held['kl'] + 0.1 and held['elbo'] <= held['iwae']
  words = np.bincount(model.rows(texts).ravel(), minlength=8)   # of nine tokens, END is one
  unigram = stats.entropy(words)
  assert held['iwae'] > -unigram + 0.1   # nats a token
  assert set(' '.join(model.write(model.embed(held_out))).split()) <= set('abcdef')
