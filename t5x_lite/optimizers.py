"""Learning-rate schedules and optimizers: frozen dataclasses that make optax objects.

They are data, so that two runs can be compared; `optimizer.make()` gives the optax transformation.
"""

import dataclasses
import re
from typing import Literal

import jax
import jax.numpy as jnp
import optax

from t5x_lite.validation import FieldError, check_positive, check_types


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


Schedule = Constant | Rsqrt | WarmupCosine | WSD
# Parameters that are not weights of a linear map; decaying them only moves their mean.
NOT_DECAYED = r'norm|bias|scale|positions'


def decay_mask(params):
  """Tree of bools: True where weight decay applies."""
  name = lambda path: '/'.join(str(getattr(p, 'key', p)) for p in path)
  return jax.tree_util.tree_map_with_path(
      lambda path, _: re.search(NOT_DECAYED, name(path)) is None, params)


@dataclasses.dataclass(frozen=True, kw_only=True)
class AdamW:
  """AdamW (Loshchilov & Hutter 2019) with the gradient clipped to a global norm first."""
  learning_rate: Schedule
  beta1: float = 0.9
  beta2: float = 0.95
  epsilon: float = 1e-8
  weight_decay: float = 0.1
  clip_norm: float | None = 1.0
  moment_dtype: Literal['float32', 'bfloat16'] = 'float32'   # of the first moment

  def __post_init__(self):
    check_types(self)
    check_positive(self, 'epsilon', 'clip_norm')
    for name in ('beta1', 'beta2'):
      if not 0 <= getattr(self, name) < 1:
        raise FieldError(self, name, 'must be at least 0 and below 1')

  def make(self) -> optax.GradientTransformation:
    adamw = optax.adamw(self.learning_rate, self.beta1, self.beta2, self.epsilon,
                        mu_dtype=self.moment_dtype, weight_decay=self.weight_decay,
                        mask=decay_mask)
    return _clipped(self.clip_norm, adamw)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Adafactor:
  """Adafactor (Shazeer & Stern 2018): second moments as row and column sums, as T5 trained."""
  learning_rate: Schedule
  decay_rate: float = 0.8          # beta2 at step t is 1 - (t + 1)^-decay_rate
  momentum: float | None = None
  multiply_by_parameter_scale: bool = True
  clipping_threshold: float = 1.0  # of an update's root mean square
  min_dim_size_to_factor: int = 128
  weight_decay: float = 0.0        # a step's share, as optax applies it: not times the rate
  clip_norm: float | None = None

  def __post_init__(self):
    check_types(self)
    check_positive(self, 'decay_rate', 'clipping_threshold', 'clip_norm')

  def make(self) -> optax.GradientTransformation:
    adafactor = optax.adafactor(
        self.learning_rate, min_dim_size_to_factor=self.min_dim_size_to_factor,
        decay_rate=self.decay_rate, momentum=self.momentum,
        multiply_by_parameter_scale=self.multiply_by_parameter_scale,
        clipping_threshold=self.clipping_threshold,
        weight_decay_rate=self.weight_decay or None, weight_decay_mask=decay_mask)
    return _clipped(self.clip_norm, adafactor)


def _clipped(clip_norm: float | None, optimizer: optax.GradientTransformation):
  if clip_norm is None:
    return optimizer
  return optax.chain(optax.clip_by_global_norm(clip_norm), optimizer)


Optimizer = AdamW | Adafactor
