"""Latent variables: draws, KL divergences, bounds, and whether a model uses them.

Shape letters: ... any, Z latent dimensions, K categories, N examples, S samples, B dialogues,
E exchanges.
"""

import math

import jax
import jax.numpy as jnp


def gaussian_kl(mean: jax.Array, log_variance: jax.Array) -> jax.Array:
  """KL(N(mean, variance) || N(0, 1)), nats, of each dimension [..., Z].

  An example's is their sum (Kingma and Welling 2014, appendix B); a mean over dimensions, which is
  often seen, is another objective.
  """
  return 0.5 * (jnp.exp(log_variance) + jnp.square(mean) - 1 - log_variance)


def draw_gaussian(key: jax.Array, mean: jax.Array, log_variance: jax.Array) -> jax.Array:
  """mean + standard deviation * noise, through which gradients pass."""
  return mean + jnp.exp(0.5 * log_variance) * jax.random.normal(key, mean.shape, mean.dtype)


def log_normal(z: jax.Array, mean: jax.Array, log_variance: jax.Array) -> jax.Array:
  """The log-density of z under N(mean, variance), of the last axis."""
  return -0.5 * (jnp.square(z - mean) * jnp.exp(-log_variance) + log_variance
                 + math.log(2 * math.pi)).sum(-1)


def categorical_kl(posterior: jax.Array, prior: jax.Array) -> jax.Array:
  """KL(posterior || prior) of logits [..., K], nats [...]; of the distributions themselves, never
  of those that a temperature has sharpened."""
  log_q, log_p = jax.nn.log_softmax(posterior), jax.nn.log_softmax(prior)
  return (jnp.exp(log_q) * (log_q - log_p)).sum(-1)


def batch_kl(posterior_BEK: jax.Array, prior_BEK: jax.Array, mask_BE: jax.Array) -> jax.Array:
  """KL(mean of posteriors || mean of priors) of each exchange, times its dialogues; a sum.

  Of logits; it is 0 where the states of a batch are as frequent as the prior has them, however sure
  each posterior is (batch prior regularisation, Zhao et al. 2018).
  """
  weights_BE1 = mask_BE[:, :, None]
  count_E1 = jnp.maximum(weights_BE1.sum(0), 1)
  mean = lambda logits: ((jax.nn.softmax(logits) * weights_BE1).sum(0) / count_E1) + 1e-9
  return (categorical_kl(jnp.log(mean(posterior_BEK)), jnp.log(mean(prior_BEK)))
          * weights_BE1.sum((0, 2))).sum()


def draw_categorical(key: jax.Array, logits: jax.Array, temperature: float, hard: bool
                     ) -> jax.Array:
  """Gumbel-softmax (Jang et al. 2017) of logits [..., K]: weights of the categories.

  Args:
    temperature: towards 0 the draws are one-hot, and gradients noisier.
    hard: one-hot draws, exactly those of the distribution, with the gradient of the soft ones
      (straight-through).
  """
  noisy = logits + jax.random.gumbel(key, logits.shape, logits.dtype)
  soft = jax.nn.softmax(noisy / temperature)
  if not hard:
    return soft
  one_hot = jax.nn.one_hot(noisy.argmax(-1), logits.shape[-1], dtype=logits.dtype)
  return one_hot + soft - jax.lax.stop_gradient(soft)


def free_bits(kl: jax.Array, bits: float) -> jax.Array:
  """A KL divergence of a latent, in nats, from which the first `bits` nats are free (Kingma et al.
  2016, equation 15)."""
  return jnp.maximum(kl, bits)


def kl_weight(step: jax.Array, steps: int) -> jax.Array:
  """KL annealing (Bowman et al. 2016): from 0 to 1 over so many steps; 0 steps: 1."""
  return jnp.minimum(1.0, step / max(steps, 1)) if steps else jnp.ones(())


def importance_bound(log_weights: jax.Array) -> jax.Array:
  """IWAE's bound (Burda et al. 2016, equation 8) of log p(x, z) - log q(z | x) [S, ...]: log of
  the mean over samples; of one sample it is the ELBO's estimate."""
  return jax.nn.logsumexp(log_weights, axis=0) - jnp.log(log_weights.shape[0])


def active_units(means: jax.Array, threshold: float = 0.01) -> jax.Array:
  """How many dimensions of posterior means [N, Z] vary over examples (Burda et al. 2016)."""
  return (jnp.var(means, axis=0) > threshold).sum()


def gaussian_information(key: jax.Array, mean: jax.Array, log_variance: jax.Array) -> jax.Array:
  """I(x; z) in nats under posteriors [N, Z], log N at most (Hoffman and Johnson 2016): the mean of
  log q(z | x) - log q(z) over a draw of each, where q(z) is the mean of all posteriors."""
  z_NZ = draw_gaussian(key, mean, log_variance)
  of_all = jax.lax.map(
      lambda z_Z: importance_bound(log_normal(z_Z[None], mean, log_variance)), z_NZ)
  return (log_normal(z_NZ, mean, log_variance) - of_all).mean()


def categorical_information(posterior: jax.Array, weights: jax.Array) -> jax.Array:
  """I(x; z) in nats under posteriors [..., K], probabilities: 0 where all examples have the same.

  `weights` [...] are those of the examples, of any sum.
  """
  entropy = lambda p: -(p * jnp.log(jnp.maximum(p, 1e-30))).sum(-1)
  shares = weights / weights.sum()
  mean = (posterior * shares[..., None]).sum(range(shares.ndim))
  return entropy(mean) - (entropy(posterior) * shares).sum()
