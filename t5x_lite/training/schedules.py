"""Learning-rate schedules: frozen dataclasses, called with a step."""

from collections.abc import Callable
import dataclasses
from typing import Any

import jax.numpy as jnp

from t5x_lite.core.dataclass_checks import FieldError, check_positive, check_types


@dataclasses.dataclass(frozen=True, kw_only=True)
class Constant:
  """`rate` from the first step on, after a linear warm-up."""
  rate: float
  warmup_steps: int = 0

  def __post_init__(self):
    check_types(self)
    check_positive(self, 'rate')

  def __call__(self, step):
    return _warmed(step, self.warmup_steps, jnp.float32(self.rate))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rsqrt:
  """rate / sqrt(max(step, warmup_steps)): T5's schedule; flat, not rising, in the warm-up."""
  rate: float = 1.0
  warmup_steps: int = 10_000

  def __post_init__(self):
    check_types(self)
    check_positive(self, 'rate', 'warmup_steps')

  def __call__(self, step):
    return self.rate / jnp.sqrt(jnp.maximum(step, self.warmup_steps).astype(jnp.float32))


@dataclasses.dataclass(frozen=True, kw_only=True)
class WarmupCosine:
  """Linear warm-up to `peak`, then half a cosine to `end` at `total_steps`, and `end` after it."""
  peak: float
  total_steps: int
  warmup_steps: int = 0
  end: float = 0.0

  def __post_init__(self):
    check_types(self)
    check_positive(self, 'peak', 'total_steps')

  def __call__(self, step):
    share = (step - self.warmup_steps) / max(self.total_steps - self.warmup_steps, 1)
    cosine = 0.5 * (1 + jnp.cos(jnp.pi * jnp.clip(share, 0.0, 1.0)))
    return _warmed(step, self.warmup_steps, self.end + (self.peak - self.end) * cosine, self.peak)


@dataclasses.dataclass(frozen=True, kw_only=True)
class WSD:
  """Warm-up, stable, decay (Hu et al. 2024): `peak`, then linear to `end` in `decay_steps`."""
  peak: float
  total_steps: int
  warmup_steps: int
  decay_steps: int
  end: float = 0.0

  def __post_init__(self):
    check_types(self)
    check_positive(self, 'peak', 'total_steps', 'decay_steps')
    if self.warmup_steps + self.decay_steps > self.total_steps:
      raise FieldError(self, 'decay_steps', f'warmup_steps {self.warmup_steps} and decay_steps do '
                       f'not fit into total_steps {self.total_steps}')

  def __call__(self, step):
    left = jnp.clip((self.total_steps - step) / self.decay_steps, 0.0, 1.0)
    return _warmed(step, self.warmup_steps, self.end + (self.peak - self.end) * left, self.peak)


def _warmed(step, warmup_steps: int, rate, peak=None):
  if not warmup_steps:
    return rate
  return jnp.where(step < warmup_steps, (rate if peak is None else peak) * step / warmup_steps,
                   rate)


Schedule = Callable[[Any], Any]   # step -> learning rate
