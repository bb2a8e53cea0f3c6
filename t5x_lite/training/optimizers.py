"""Optimizers: frozen dataclasses that make optax objects.

They are data, so that two runs are comparable; `optimizer.make()` gives the optax transformation.
"""

import dataclasses
import re
from typing import Literal, Protocol, runtime_checkable

import jax
import optax

from t5x_lite.core.dataclass_checks import Count, Fraction, NonNegative, Positive, check_types
from t5x_lite.training.paging import PagedTransformation
from t5x_lite.training.schedules import Schedule

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
  learning_rate: Schedule            # of training/schedules.py, or your own
  beta1: Fraction = 0.9              # decay of the first moment
  beta2: Fraction = 0.95             # decay of the second moment
  epsilon: Positive[float] = 1e-8    # added to the root of the second moment
  weight_decay: NonNegative[float] = 0.1        # a step's share, times the rate
  clip_norm: Positive[float] | None = 1.0       # of the gradient; None: not clipped
  moment_dtype: Literal['float32', 'bfloat16'] = 'float32'   # of the first moment
  paged: bool = False      # moments are in the host's memory, on the device a layer at a time

  def __post_init__(self):
    check_types(self)

  def make(self) -> optax.GradientTransformation | PagedTransformation:
    adamw = lambda mask: optax.adamw(
        self.learning_rate, self.beta1, self.beta2, self.epsilon, mu_dtype=self.moment_dtype,
        weight_decay=self.weight_decay, mask=mask)
    whole = _clipped(self.clip_norm, adamw(decay_mask))
    if not self.paged:
      return whole
    clip = None if self.clip_norm is None else optax.clip_by_global_norm(self.clip_norm)
    return PagedTransformation(whole, clip, adamw, decay_mask)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Adafactor:
  """Adafactor (Shazeer & Stern 2018): second moments as row and column sums, as T5 trained."""
  learning_rate: Schedule                    # of training/schedules.py, or your own
  decay_rate: Positive[float] = 0.8          # beta2 at step t is 1 - (t + 1)^-decay_rate
  momentum: Fraction | None = None           # decay of the first moment; None: without one
  multiply_by_parameter_scale: bool = True   # updates are relative to a parameter's size
  clipping_threshold: Positive[float] = 1.0  # of an update's root mean square
  min_dim_size_to_factor: Count = 128        # dimensions below it keep all second moments
  weight_decay: NonNegative[float] = 0.0     # a step's share, not times the rate (optax)
  clip_norm: Positive[float] | None = None   # of the gradient; None: not clipped

  def __post_init__(self):
    check_types(self)

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


@runtime_checkable
class Optimizer(Protocol):
  """What makes an optax transformation; a frozen dataclass with this method may be bound in gin.

  Its `learning_rate`, a schedule, is logged if it has one.
  """

  def make(self) -> optax.GradientTransformation:
    """The transformation of gradients to updates."""
