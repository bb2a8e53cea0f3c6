"""Learning-rate schedules: frozen dataclasses, called with the number of steps taken before.

A warm-up of n steps gives the first step the rate 1/n of the full one, the n-th all of it.
"""

from collections.abc import Callable
import dataclasses
from typing import Any

import jax.numpy as jnp

from t5x_lite.core.dataclass_checks import (
  Count,
  FieldError,
  NonNegative,
  Positive,
  Step,
  check_types,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Constant:
  """`rate` from the first step on, after a linear warm-up."""
  rate: Positive[float]      # the learning rate
  warmup_steps: Step = 0     # steps in which it rises

  def __post_init__(self):
    check_types(self)

  def __call__(self, step):
    return _warmed(step, self.warmup_steps, jnp.float32(self.rate))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rsqrt:
  """rate / sqrt(max(step, warmup_steps)): T5's schedule; flat, not rising, in the warm-up."""
  rate: Positive[float] = 1.0    # at step 1, were there no warm-up
  warmup_steps: Count = 10_000   # first steps, in which it does not fall

  def __post_init__(self):
    check_types(self)

  def __call__(self, step):
    return self.rate / jnp.sqrt(jnp.maximum(step, self.warmup_steps).astype(jnp.float32))


@dataclasses.dataclass(frozen=True, kw_only=True)
class WarmupCosine:
  """Linear warm-up to `peak`, then half a cosine to `end` at `total_steps`, and `end` after it."""
  peak: Positive[float]            # the highest learning rate
  total_steps: Count               # after which it is `end`
  warmup_steps: Step | None = 0    # steps in which it rises; None: 100, or half of a shorter run
  end: NonNegative[float] = 0.0    # the last learning rate

  def __post_init__(self):
    check_types(self)
    if self.warmup_steps is None:
      object.__setattr__(self, 'warmup_steps', min(100, self.total_steps // 2))
    if self.warmup_steps > self.total_steps:
      raise FieldError(self, 'warmup_steps', f'must be at most total_steps {self.total_steps}')

  def __call__(self, step):
    share = (step - self.warmup_steps) / max(self.total_steps - self.warmup_steps, 1)
    cosine = 0.5 * (1 + jnp.cos(jnp.pi * jnp.clip(share, 0.0, 1.0)))
    return _warmed(step, self.warmup_steps, self.end + (self.peak - self.end) * cosine, self.peak)


@dataclasses.dataclass(frozen=True, kw_only=True)
class WSD:
  """Warm-up, stable, decay (Hu et al. 2024): `peak`, then linear to `end` in `decay_steps`."""
  peak: Positive[float]            # the highest learning rate
  total_steps: Count               # after which it is `end`
  warmup_steps: Step               # steps in which it rises
  decay_steps: Count               # the last steps, in which it falls
  end: NonNegative[float] = 0.0    # the last learning rate

  def __post_init__(self):
    check_types(self)
    if self.warmup_steps + self.decay_steps > self.total_steps:
      raise FieldError(self, 'decay_steps', f'warmup_steps {self.warmup_steps} and decay_steps do '
                       f'not fit into total_steps {self.total_steps}')

  def __call__(self, step):
    left = jnp.clip((self.total_steps - step) / self.decay_steps, 0.0, 1.0)
    return _warmed(step, self.warmup_steps, self.end + (self.peak - self.end) * left, self.peak)


def _warmed(step, warmup_steps: int, rate, peak=None):
  if not warmup_steps:
    return rate
  return jnp.where(step < warmup_steps,
                   (rate if peak is None else peak) * (step + 1) / warmup_steps, rate)


Schedule = Callable[[Any], Any]   # step -> learning rate
