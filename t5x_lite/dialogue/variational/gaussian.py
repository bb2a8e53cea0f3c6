"""Models of a Gaussian latent, whatever they encode: what is minimised, bounds, collapse.

Shape letters: N examples, Z latent dimensions.
"""

from collections.abc import Callable
import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from t5x_lite.core.dataclass_checks import Count, NonNegative, Positive, Seed, check_types
from t5x_lite.dialogue.variational import latents
from t5x_lite.dialogue.variational.fitting import fit_params

# (params, rows) -> (mean, log-variance) [N, Z] of the posterior.
Encode = Callable[[Any, Any], tuple[jax.Array, jax.Array]]
# (params, rows, latents [N, Z], key of what is drawn while it trains, or None) -> log p(x | z) [N].
LogLikelihood = Callable[[Any, Any, jax.Array, jax.Array | None], jax.Array]


@dataclasses.dataclass(frozen=True, kw_only=True)
class GaussianConfig:
  """The latent, and how it is fitted."""
  latent: Count = 2                        # dimensions
  hidden: Count | None = 64                # of encoder and decoder
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
class FittedGaussian:
  """What was learnt; rows are examples as the model's `encode` reads them.

  Attributes:
    history: {'elbo' | 'kl' | 'reconstruction': float32 [steps]}, nats an example.
  """
  config: GaussianConfig
  params: Any
  history: dict[str, np.ndarray]
  encode: Encode
  log_likelihood: LogLikelihood

  def embed(self, rows: Any) -> np.ndarray:
    """The posterior means, float32 [examples, latent]."""
    return np.asarray(self.encode(self.params, jnp.asarray(rows))[0])

  def bound(self, rows: Any, samples: int = 1, seed: int = 0) -> np.ndarray:
    """IWAE's bound on log p(x) of each example, nats; of one sample an estimate of the ELBO."""
    rows = jnp.asarray(rows)
    mean_NZ, log_variance_NZ = self.encode(self.params, rows)

    def log_weight(key):
      z_NZ = latents.draw_gaussian(key, mean_NZ, log_variance_NZ)
      return (self.log_likelihood(self.params, rows, z_NZ, None)
              + latents.log_normal(z_NZ, jnp.zeros(()), jnp.zeros(()))
              - latents.log_normal(z_NZ, mean_NZ, log_variance_NZ))

    keys = jax.random.split(jax.random.key(seed), samples)
    return np.asarray(latents.importance_bound(jax.lax.map(log_weight, keys)))

  def summary(self, rows: Any, seed: int = 0) -> dict[str, float]:
    """Whether the latent is used: `kl` nats an example, of which `information` is that of x and z,
    and `active_units`."""
    mean_NZ, log_variance_NZ = self.encode(self.params, jnp.asarray(rows))
    return {'kl': float(latents.gaussian_kl(mean_NZ, log_variance_NZ).sum(-1).mean()),
            'information': float(latents.gaussian_information(
                jax.random.key(seed), mean_NZ, log_variance_NZ)),
            'active_units': int(latents.active_units(mean_NZ))}


def fit_gaussian(encode: Encode, log_likelihood: LogLikelihood, params: Any, rows: Any,
                 config: GaussianConfig) -> FittedGaussian:
  """Fits the model to rows from its first parameters."""

  def loss(params, rows, key, step):
    noise, dropped = jax.random.split(key)
    mean_NZ, log_variance_NZ = encode(params, rows)
    kl_Z = latents.gaussian_kl(mean_NZ, log_variance_NZ).mean(0)
    z_NZ = latents.draw_gaussian(noise, mean_NZ, log_variance_NZ) if config.variational else mean_NZ
    reconstruction = log_likelihood(params, rows, z_NZ, dropped).mean()
    weight = latents.kl_weight(step, config.annealing) if config.variational else 0.0
    total = weight * latents.free_bits(kl_Z, config.free_bits).sum() - reconstruction
    return total, {'elbo': reconstruction - kl_Z.sum(), 'kl': kl_Z.sum(),
                   'reconstruction': reconstruction}

  params, history = fit_params(
      loss, params, jnp.asarray(rows), steps=config.steps, batch_size=config.batch_size,
      learning_rate=config.learning_rate, seed=config.seed)
  return FittedGaussian(config, params, jax.tree.map(np.asarray, history), encode, log_likelihood)
