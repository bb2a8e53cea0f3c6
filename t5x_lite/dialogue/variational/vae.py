"""Autoencoders of vectors: deterministic, and variational (Kingma and Welling 2014).

Shape letters: N examples, D dimensions of an example, Z of the latent.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from t5x_lite.dialogue.variational import latents
from t5x_lite.dialogue.variational.gaussian import FittedGaussian, GaussianConfig, fit_gaussian

Params = dict[str, Any]


def fit_vae(x_ND: np.ndarray, config: GaussianConfig) -> FittedGaussian:
  """Fits examples, float [examples, dimensions]; the decoder is a Gaussian of one learnt variance.

  `hidden` is that of a tanh layer on each side; None: linear, with posteriors of one variance, as
  they then are.
  """
  x_ND = jnp.asarray(x_ND, jnp.float32)
  return fit_gaussian(_encode, _log_likelihood, _init(config, x_ND), x_ND, config)


def _init(config: GaussianConfig, x_ND: jax.Array) -> Params:
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


def _log_likelihood(params: Params, x_ND: jax.Array, z_NZ: jax.Array, key: None) -> jax.Array:
  """log p(x | z), with the variance exp(noise)."""
  return latents.log_normal(x_ND, _apply(params['decoder'], z_NZ), params['noise'])
