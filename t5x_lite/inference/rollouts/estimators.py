"""How rewards become advantages: settings that a rollout source is given.

Shape letters: R rows (the completions of a prompt are rows, side by side), L length of a row.
"""

import dataclasses
from typing import Literal, NamedTuple, Protocol, runtime_checkable

import numpy as np

from t5x_lite.core.dataclass_checks import FieldError, check_types
from t5x_lite.data.features import Batch


class Scored(NamedTuple):
  """A rollout, as an estimator reads it.

  Attributes:
    rewards_R: float32, of completions.
    weights_RL: 1 on the tokens that are trained on, else 0.
    logprobs_RL, reference_logprobs_RL: float32, of the policy and its reference, 0 outside what was
      written; None without a reference.
    values_RL: float32, at the position that predicts a token; None without a head of values.
    ended_R: bool, whether a completion came to an end.
  """
  rewards_R: np.ndarray | None
  weights_RL: np.ndarray
  logprobs_RL: np.ndarray
  reference_logprobs_RL: np.ndarray | None
  values_RL: np.ndarray | None
  ended_R: np.ndarray


class Estimate(NamedTuple):
  """Features [rows, length] of a batch, what is logged, and the state of the estimator after it."""
  features: Batch
  stats: dict[str, float]
  state: dict[str, float]


@runtime_checkable
class Estimator(Protocol):
  """Settings of an estimate of advantages; a frozen dataclass with these may be bound in gin."""

  initial_state: dict[str, float]   # {} if no rollout depends on the one before

  def check(self, group_size: int) -> None:
    """Raises FieldError for groups that it cannot estimate from."""

  def __call__(self, scored: Scored, group_size: int, state: dict[str, float]) -> Estimate:
    """The advantages of a rollout, given the state after the one before."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class GroupAdvantage:
  std: Literal['group', 'batch', 'none'] = 'group'

  def __post_init__(self):
    check_types(self)

  @property
  def initial_state(self):
    return {}

  def check(self, group_size: int) -> None:
    if group_size == 1:
      raise FieldError(self, 'std', 'needs groups')

  def __call__(self, scored, group_size, state):
    r = scored.rewards_R.reshape(-1, group_size).astype(np.float64)
    a = (r - r.mean(1, keepdims=True))
    equal = (r == r[:, :1]).all(1)
    if self.std == 'group':
      a = a / (r.std(1, ddof=1, keepdims=True) + 1e-4)
    a = a.reshape(-1, 1).astype(np.float32)
    w = scored.weights_RL * ~np.repeat(equal, group_size)[:, None]
    f = {'advantages': a * w, 'old_logprobs': scored.logprobs_RL, 'decoder_loss_weights': w.astype(np.int32)}
    if scored.reference_logprobs_RL is not None:
      f['reference_logprobs'] = scored.reference_logprobs_RL
    return Estimate(f, {'skipped_groups': float(equal.mean())}, {})
