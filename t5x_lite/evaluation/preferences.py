"""Evaluation on comparisons: how often a model rates the better response above the other.

Shape letters: B groups, K responses, L length of a row.
"""

from collections.abc import Callable
import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from t5x_lite.core.dataclass_checks import FieldError, Step, check_types
from t5x_lite.core.errors import UserError
from t5x_lite.data.source import Source
from t5x_lite.models import Network
from t5x_lite.objectives.logprobs import token_logprobs
from t5x_lite.objectives.objective import SharedForward
from t5x_lite.objectives.preference.reward_model import response_rewards
from t5x_lite.parallel.partitioner import Partitioner


@dataclasses.dataclass(frozen=True, kw_only=True)
class PreferenceEval:
  """The share of pairs of a split whose better response has the larger rating.

  The rating is the reward of a model with a head of values, else log p of a response. All pairs of
  a group of unequal scores count alike; ratings that are equal count a half. Beside it stands what
  the longer response, in tokens, would have.
  """
  split: str = 'validation'      # of the data, a source of groups
  step: Step | None = None       # the checkpoint `t5x-lite eval` reads; None: the newest

  def __post_init__(self):
    check_types(self)

  def make(self, network: Network, partitioner: Partitioner, data: Source, seed: int, *,
           required: bool = False) -> Callable[[Any, int], dict[str, float]] | None:
    """See Evaluation: metrics as `pair_metrics`, of `reward` or of `logp`, and of `length`."""
    if not hasattr(data, 'groups'):
      raise UserError(f'PreferenceEval reads groups of responses, and {type(data).__name__} has '
                      'none: give it a PreferenceData')
    if self.split not in data.splits():
      if required:
        raise FieldError(self, 'split', f'{data.name} has {", ".join(data.splits())}')
      return None
    name, rate = _make_rate(network, partitioner)

    def evaluate(params: Any, step: int) -> dict[str, float]:
      ratings, lengths, scores = [], [], []
      for batch in data.groups(network.config, self.split):
        ratings.append(jax.device_get(rate(params, partitioner.put_whole(batch))))
        lengths.append((batch['decoder_loss_weights'] > 0).sum(-1))
        scores.append(batch['response_scores'])
      scores_BK = np.concatenate(scores)
      return pair_metrics(name, np.concatenate(ratings), scores_BK) | {
          key: value for key, value in pair_metrics(
              'length', np.concatenate(lengths), scores_BK).items() if 'margin' not in key}

    return evaluate


def pair_metrics(name: str, ratings: np.ndarray, scores: np.ndarray) -> dict[str, float]:
  """`NAME/accuracy`, its standard error, clustered by group, `NAME/margin`, and `NAME/pairs`.

  Args:
    name: of the ratings.
    ratings: [groups, responses].
    scores: [groups, responses], larger is better, NaN where there is no response.

  Raises UserError if no two responses of a group have unequal scores.
  """
  better_BKK = scores[:, :, None] > scores[:, None, :]   # False of NaN
  pairs_B = better_BKK.sum((1, 2))
  if not (pairs := int(pairs_B.sum())):
    raise UserError('no two responses to a prompt have unequal scores: there is nothing to '
                    'evaluate')
  margin_BKK = np.float64(ratings)[:, :, None] - np.float64(ratings)[:, None, :]
  right_BKK = (margin_BKK > 0) + 0.5 * (margin_BKK == 0)
  right_B = np.where(better_BKK, right_BKK, 0).sum((1, 2))
  accuracy = right_B.sum() / pairs
  groups = (pairs_B > 0).sum()
  # Of a ratio of sums over groups, which are what is drawn.
  residuals_B = right_B - accuracy * pairs_B
  error = np.sqrt(np.square(residuals_B).sum() * groups / max(groups - 1, 1)) / pairs
  return {f'{name}/accuracy': float(accuracy), f'{name}/accuracy_stderr': float(error),
          f'{name}/margin': float(np.where(better_BKK, margin_BKK, 0).sum() / pairs),
          f'{name}/pairs': float(pairs)}


def _make_rate(network: Network, partitioner: Partitioner) -> tuple[str, Callable]:
  """(name, jitted (params, batch of groups) -> ratings [groups, responses])."""
  rewards = network.config.head == 'value'

  def rate(params, batch):
    model, weights_BKL = SharedForward(network.bind(params)), batch['decoder_loss_weights']
    if rewards:
      return response_rewards(model.outputs(batch).values_BL.reshape(weights_BKL.shape),
                              weights_BKL)
    return jnp.where(weights_BKL > 0, token_logprobs(model, batch), 0).sum(-1)

  return 'reward' if rewards else 'logp', jax.jit(rate, out_shardings=partitioner.replicated)
