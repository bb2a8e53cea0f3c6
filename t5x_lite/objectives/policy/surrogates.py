"""Surrogate losses of a policy: the advantage of each token times a bounded ratio of probabilities.

The ratio is pi(token) / pi_old(token), where pi_old is what the tokens were drawn from: 1 until the
first update, and bounded so that one batch does not move the policy far. trl is its release 1.16.

Shape letters: B rows, L length.
"""

from collections.abc import Callable
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp

KLEstimator = Literal['k1', 'k2', 'k3']
RatioLevel = Literal['token', 'sequence_mean', 'sequence_sum']
Average = Literal['token', 'sequence', 'sequence_sum', 'constant']
_MAX_LOG_RATIO = 20.0   # e^20 is finite, times any advantage


def kl_estimate(logprobs: jax.Array, reference: jax.Array, estimator: KLEstimator) -> jax.Array:
  """An estimate of KL(policy | reference) from tokens that the policy drew; any shape, nats.

  Of the log ratio x: `k1` is x; `k2` x^2 / 2; `k3` e^-x - 1 + x (Schulman 2020). In a loss it is
  the gradient that counts: that of k1 is 0 on average, that of k2 is the divergence's, and that of
  k3, which GRPO has, is KL(reference | policy)'s.
  """
  x = logprobs - reference
  return {'k1': lambda: x, 'k2': lambda: 0.5 * jnp.square(x), 'k3': lambda: jnp.expm1(-x) + x}[
      estimator]()


def importance_ratio(logprobs: jax.Array, old: jax.Array, mask: jax.Array,
                     level: RatioLevel) -> jax.Array:
  """pi / pi_old, [batch, length], of a sequence's tokens all alike: [batch, 1].

  Args:
    logprobs, old: [batch, length] of the tokens, now and when they were drawn.
    mask: [batch, length], 1 for tokens of the response and 0 for others.
    level: `token` (PPO, GRPO); of a sequence the geometric mean of its tokens, `sequence_mean`
      (GSPO, Zheng et al. 2025, equation 7), or their product, `sequence_sum` (RLOO).
  """
  log_ratio_BL = (logprobs - old) * mask
  if level != 'token':
    log_ratio_BL = log_ratio_BL.sum(1, keepdims=True)
  if level == 'sequence_mean':
    log_ratio_BL = log_ratio_BL / jnp.maximum(mask.sum(1, keepdims=True), 1)
  return jnp.exp(jnp.clip(log_ratio_BL, -_MAX_LOG_RATIO, _MAX_LOG_RATIO))


class Bounds(NamedTuple):
  """What bounds a ratio; see the fields of PolicyLoss."""
  low: float = 0.2
  high: float = 0.2
  max_ratio: float | None = None
  gate_temperatures: tuple[float, float] = (1.0, 1.05)


def _clip(ratio, advantages, logprobs, bounds):
  """PPO's (Schulman et al. 2017, equation 7); with max_ratio that of dual clip (Ye et al. 2020)."""
  clipped = jnp.clip(ratio, 1 - bounds.low, 1 + bounds.high)
  if bounds.max_ratio is not None:   # matters where the advantage is negative, trl's delta
    ratio = jnp.minimum(ratio, bounds.max_ratio)
  return -jnp.minimum(ratio * advantages, clipped * advantages)


def _cispo(ratio, advantages, logprobs, bounds):
  """CISPO (MiniMax 2025, equation 4): the bounded ratio is a weight, so no token is left out."""
  return -jax.lax.stop_gradient(jnp.minimum(ratio, bounds.max_ratio)) * advantages * logprobs


def _sapo(ratio, advantages, logprobs, bounds):
  """SAPO (Gao et al. 2025): a sigmoid of the ratio in place of a clip, steeper below 0."""
  positive, negative = bounds.gate_temperatures
  temperature = jnp.where(advantages > 0, positive, negative)
  return -jax.nn.sigmoid(temperature * (ratio - 1)) * 4 / temperature * advantages


# (ratio, advantages, log-probabilities, Bounds) -> loss of each token
SURROGATES: dict[str, Callable] = {'clip': _clip, 'cispo': _cispo, 'sapo': _sapo}


def surrogate_loss(name: str, ratio: jax.Array, advantages: jax.Array, logprobs: jax.Array,
                   bounds: Bounds) -> jax.Array:
  """A loss of SURROGATES of each token, [batch, length].

  Args:
    name: of SURROGATES, whose docstrings say who defines it.
    ratio: of importance_ratio, [batch, length] or [batch, 1].
    advantages: [batch, length].
    logprobs: [batch, length], of which the gradient of cispo is.
    bounds: of the ratio.
  """
  return SURROGATES[name](ratio, advantages, logprobs, bounds)


def aggregate(loss: jax.Array, mask: jax.Array, average: Average,
              max_new_tokens: int | None = None) -> tuple[jax.Array, jax.Array]:
  """(sum, what divides it) of losses of tokens; both are added over the parts of a batch.

  Args:
    loss: [batch, length].
    mask: [batch, length], 1 for tokens of the responses and 0 for others. Rows without any, such as
      of responses that were cut off, are no sequences.
    average: `token`, over all tokens (DAPO, Yu et al. 2025; PPO in trl; trl's bnpo over those of a
      microbatch); `sequence`, over the tokens of a response, then over responses (GRPO);
      `sequence_sum`, of the sums of responses (LUSPO); `constant`, of the sums divided by the
      number of tokens that there could be (Dr. GRPO, Liu et al. 2025).
    max_new_tokens: of `constant`.
  """
  sums_B, lengths_B = (loss * mask).sum(1), mask.sum(1)
  sequences = (lengths_B > 0).sum().astype(loss.dtype)
  if average == 'token':
    return sums_B.sum(), lengths_B.sum()
  if average == 'sequence':
    return (sums_B / jnp.maximum(lengths_B, 1)).sum(), sequences
  return sums_B.sum() / (max_new_tokens if average == 'constant' else 1), sequences


def value_losses(values: jax.Array, old: jax.Array, returns: jax.Array,
                 clip: float | None) -> tuple[jax.Array, jax.Array]:
  """(loss, 1 where the bound is what counts) of each token, [batch, length].

  0.5 * the larger of the squared errors of the values, and of the values bounded to `clip` around
  the old ones (lm-human-preferences, trl); without `clip` 0.5 * the squared error.
  """
  error = jnp.square(values - returns)
  if clip is None:
    return 0.5 * error, jnp.zeros_like(error)
  bounded_error = jnp.square(jnp.clip(values, old - clip, old + clip) - returns)
  return 0.5 * jnp.maximum(error, bounded_error), (bounded_error > error).astype(error.dtype)
