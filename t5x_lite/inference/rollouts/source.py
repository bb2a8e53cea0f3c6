"""The rollout source: completions drawn by the policy that is trained, rated, as batches."""

from collections.abc import Sequence
import dataclasses

from t5x_lite.core.dataclass_checks import Count, FieldError, NonNegative, Positive, check_types
from t5x_lite.core.errors import UserError
from t5x_lite.data.source import Source
from t5x_lite.data.wrapped import WrappedSource
from t5x_lite.inference.rollouts.estimators import Estimator
from t5x_lite.inference.rollouts.live import RolloutBatches
from t5x_lite.rewards.reward import Reward
from t5x_lite.training.live_source import RunContext


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rollouts(WrappedSource):
  """Batches of completions that the policy draws, with advantages of their rewards.

  A rollout is `minibatches` batches of completions, drawn by the parameters of one step; each
  epoch trains on all of them in an order of its own. Then the next one is drawn. The lengths and
  the rows of a batch are those of `prompts`, where the length of the targets is the most tokens of
  a completion.
  """
  prompts: Source                        # whose examples are asked; `targets` are the references
  rewards: Sequence[Reward]              # whose weighted sum is the reward of a completion
  estimator: Estimator                   # of advantages from rewards
  reward_weights: Sequence[float] | None = None   # None: 1 each
  group_size: Count = 8                  # completions of a prompt
  minibatches: Count = 1                 # steps of an epoch
  epochs: Count = 1                      # over one rollout
  temperature: Positive[float] = 1.0     # of the policy, in sampling and in the loss alike
  split: str = 'train'                   # of the prompts
  reference: bool = True                 # whether the policy at step 0 is kept, for the KL to it
  mask_truncated: bool = False           # completions without an end are not trained on (DAPO)
  truncation_penalty: NonNegative[float] = 0.0   # taken off their reward (trl, missing_eos_penalty)

  def __post_init__(self):
    check_types(self)
    if not self.rewards:
      raise FieldError(self, 'rewards', 'there is nothing to be rewarded for')
    weights = self.reward_weights
    if weights is not None and len(weights) != len(self.rewards):
      raise FieldError(self, 'reward_weights', f'are {len(weights)} for {len(self.rewards)} '
                       'rewards')
    if self.batch_size % self.group_size:
      raise FieldError(self, 'group_size', f'must divide the batch size {self.batch_size}, so that '
                       'a step has whole groups')
    self.estimator.check(self.group_size)

  @property
  def wrapped(self) -> Source:
    """See WrappedSource."""
    return self.prompts

  def open(self, run: RunContext) -> RolloutBatches:
    """See LiveSource."""
    if run.network.config.family == 'encoder_only' or run.network.config.has_classes:
      raise UserError('Rollouts are what a policy writes, and the model writes nothing')
    return RolloutBatches(self, run)
