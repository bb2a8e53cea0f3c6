"""Autoencoders of vectors: deterministic, and variational (Kingma and Welling 2014).

Shape letters: N examples, D dimensions of an example, Z of the latent, S samples.
"""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from t5x_lite.core.dataclass_checks import Count, NonNegative, Positive, Seed, check_types
from t5x_lite.dialogue.variational import latents
from t5x_lite.dialogue.variational.fitting import fit_params

Params = dict[str, Any]


@dataclasses.dataclass(frozen=True, kw_only=True)
class VaeConfig:
  """A Gaussian latent, a Gaussian decoder whose one variance is learnt."""
  latent: Count = 2                        # dimensions
  # Of a tanh layer on each side; None: linear, with posteriors of one variance, as they then are.
  hidden: Count | None = 64
  variational: bool = True                 # False: an autoencoder, without noise or KL divergence
  annealing: NonNegative[int] = 0          # steps over which the KL divergence's weight rises to 1
  free_bits: NonNegative[float] = 0.0      # nats of each dimension's KL divergence, in the mean
  steps: Count = 2000
  batch_size: Count = 256
  learning_rate: Positive[float] = 3e-3
  seed: Seed = 0

  def __post_init__(self):
    check_types(self)


@dataclasses.dataclass(frozen=True)
class FittedVae:
  """What was learnt.

  Attributes:
    history: {'elbo' | 'kl' | 'reconstruction': float32 [steps]}, nats an example.
  """
  config: VaeConfig
  params: Params
  history: dict[str, np.ndarray]

  def embed(self, x_ND: np.ndarray) -> np.ndarray:
    """The posterior means, float32 [examples, latent]."""
    return np.asarray(_encode(self.params, jnp.asarray(x_ND, jnp.float32))[0])

  def bound(self, x_ND: np.ndarray, samples: int = 1, seed: int = 0) -> np.ndarray:
    """IWAE's bound on log p(x) of each example, nats; of one sample an estimate of the ELBO."""
    key = jax.random.key(seed)
    return np.asarray(_bound(self.params, jnp.asarray(x_ND, jnp.float32), key, samples))

  def summary(self, x_ND: np.ndarray) -> dict[str, float]:
    """Whether the latent is used: `kl` nats an example, `active_units`."""
    mean_NZ, log_variance_NZ = _encode(self.params, jnp.asarray(x_ND, jnp.float32))
    return {'kl': float(latents.gaussian_kl(mean_NZ, log_variance_NZ).sum(-1).mean()),
            'active_units': int(latents.active_units(mean_NZ))}


def fit_vae(x_ND: np.ndarray, config: VaeConfig) -> FittedVae:
  """Fits examples, float [examples, dimensions]."""
  x_ND = jnp.asarray(x_ND, jnp.float32)

  def loss(params, x_ND, key, step):
    mean_NZ, log_variance_NZ = _encode(params, x_ND)
    kl_NZ = latents.gaussian_kl(mean_NZ, log_variance_NZ)
    z_NZ = latents.draw_gaussian(key, mean_NZ, log_variance_NZ) if config.variational else mean_NZ
    reconstruction = _log_likelihood(params, x_ND, z_NZ).mean()
    kl_Z = kl_NZ.mean(0)
    weight = latents.kl_weight(step, config.annealing) if config.variational else 0.0
    total = weight * latents.free_bits(kl_Z, config.free_bits).sum() - reconstruction
    return total, {'elbo': reconstruction - kl_Z.sum(), 'kl': kl_Z.sum(),
                   'reconstruction': reconstruction}

  params, history = fit_params(
      loss, _init(config, x_ND), x_ND, steps=config.steps, batch_size=config.batch_size,
      learning_rate=config.learning_rate, seed=config.seed)
  return FittedVae(config, params, jax.tree.map(np.asarray, history))


def _init(config: VaeConfig, x_ND: jax.Array) -> Params:
  """First parameters: the decoder's output is the mean, the noise the variance, of examples."""
  dimensions = x_ND.shape[1]
  keys = iter(jax.random.split(jax.random.key(config.seed), 8))

  def layer(inputs: int, outputs: int) -> Params:
    return {'kernel': jax.random.normal(next(keys), (inputs, outputs)) * inputs ** -0.5,
            'bias': jnp.zeros(outputs)}

  side = lambda inputs, outputs: [layer(inputs, outputs)] if config.hidden is None else [
      layer(inputs, config.hidden), layer(config.hidden, outputs)]
  decoder = side(config.latent, dimensions)
  decoder[-1]['bias'] = x_ND.mean(0)
  mean = side(dimensions, config.latent)
  mean[0]['bias'] = -x_ND.mean(0) @ mean[0]['kernel']
  spread = jnp.zeros(config.latent) if config.hidden is None else side(dimensions, config.latent)
  return {'mean': mean, 'log_variance': spread, 'decoder': decoder,
          'noise': jnp.log(jnp.var(x_ND, axis=0).mean())}


def _apply(layers: list[Params], x: jax.Array) -> jax.Array:   # [N, ...]
  for i, layer in enumerate(layers):
    x = (jnp.tanh(x) if i else x) @ layer['kernel'] + layer['bias'][None]
  return x


def _encode(params: Params, x_ND: jax.Array) -> tuple[jax.Array, jax.Array]:
  mean_NZ, spread = _apply(params['mean'], x_ND), params['log_variance']
  if isinstance(spread, list):
    return mean_NZ, _apply(spread, x_ND)
  return mean_NZ, jnp.broadcast_to(spread[None], mean_NZ.shape)


def _log_likelihood(params: Params, x: jax.Array, z: jax.Array) -> jax.Array:
  """log p(x | z) of the last axis, with the variance exp(noise)."""
  error = jnp.square(x - _apply(params['decoder'], z))
  noise = params['noise']
  return -0.5 * (error * jnp.exp(-noise) + noise + math.log(2 * math.pi)).sum(-1)


def _bound(params: Params, x_ND: jax.Array, key: jax.Array, samples: int) -> jax.Array:
  mean_NZ, log_variance_NZ = _encode(params, x_ND)
  normal = lambda z, mean, log_variance: -0.5 * (
      jnp.square(z - mean) * jnp.exp(-log_variance) + log_variance
      + math.log(2 * math.pi)).sum(-1)

  def log_weight(key):
    z_NZ = latents.draw_gaussian(key, mean_NZ, log_variance_NZ)
    return (_log_likelihood(params, x_ND, z_NZ) + normal(z_NZ, 0.0, jnp.zeros(()))
            - normal(z_NZ, mean_NZ, log_variance_NZ))

  return latents.importance_bound(jax.lax.map(log_weight, jax.random.split(key, samples)))
