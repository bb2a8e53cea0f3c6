"""Direct preference optimisation: a policy learns from pairs, with no model of rewards."""

import dataclasses
from typing import Annotated, Literal

import jax

from t5x_lite.core.dataclass_checks import FieldError, NonNegative, Positive, Range, check_types
from t5x_lite.data.features import Batch
from t5x_lite.models import Model
from t5x_lite.objectives.objective import LossSums
from t5x_lite.objectives.preference import groups
from t5x_lite.objectives.preference.paired import (
    LOSSES,
    OF_RATIOS,
    SMOOTHED,
    Divergence,
    Pairs,
    paired_loss,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class DirectPreference:
  """DPO (Rafailov et al. 2023) and the losses of paired.LOSSES, a mean over pairs.

  Of a batch of groups of two responses, the chosen one first, with `reference_logprobs` [batch, 2],
  those of whole completions under the reference. Nothing is dropped out. Rewards are beta times
  the log ratio, whatever the loss; other metrics as groups.paired_sums. Defaults are DPO's.
  """
  loss: Literal[tuple(LOSSES)] = 'sigmoid'   # see objectives/preference/paired.py
  beta: Positive[float] = 0.1                # strength of the pull to the reference
  # Share of labels that are wrong, of cdpo, robust, exo_pair and aot.
  label_smoothing: Annotated[float, Range(min=0, below=0.5)] = 0.0
  divergence: Divergence = 'reverse_kl'      # f-DPO's f, of losses of the difference of scores
  alpha: Annotated[float, Range(min=0, max=2)] = 0.5   # of divergence `alpha`: 1 is reverse_kl
  nll: NonNegative[float] = 0.0              # factor of the chosen's cross-entropy (RPO, trl's sft)

  def __post_init__(self):
    check_types(self)
    if self.label_smoothing and self.loss not in SMOOTHED:
      raise FieldError(self, 'label_smoothing', f'loss {self.loss} has none: choose from '
                       f'{", ".join(SMOOTHED)}')
    if self.loss == 'exo_pair' and not self.label_smoothing:
      raise FieldError(self, 'label_smoothing', 'must be above 0 for exo_pair: trl has 1e-3')
    if self.divergence != 'reverse_kl' and self.loss in OF_RATIOS:
      raise FieldError(self, 'divergence', f'loss {self.loss} is of log ratios: reverse_kl alone')

  def __call__(self, model: Model, batch: Batch, key: jax.Array | None,
               normalizers: dict[str, jax.Array]) -> LossSums:
    groups.check_groups(batch, 'DirectPreference', 'reference_logprobs', responses=2)
    responses = groups.responses_of(model, batch)
    reference_BK = groups.reference_of(batch, responses)
    columns = [x_BK[:, k] for x_BK in (responses.logps, reference_BK, responses.lengths)
               for k in range(2)]
    loss_B = paired_loss(self.loss, Pairs(*columns, responses.pair_valid()), beta=self.beta,
                         smoothing=self.label_smoothing, divergence=self.divergence,
                         alpha=self.alpha)
    rewards_BK = self.beta * jax.lax.stop_gradient(responses.logps - reference_BK)
    return groups.paired_sums(loss_B, rewards_BK, responses, batch, normalizers, self.nll)
