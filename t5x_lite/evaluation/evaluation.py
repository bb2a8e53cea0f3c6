"""The protocol of an evaluation, bound in gin as Experiment.eval."""

from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

from t5x_lite.data.source import Source
from t5x_lite.models import Network
from t5x_lite.parallel.partitioner import Partitioner

# (all parameters, step) -> {'task/metric': value}
Evaluator = Callable[[Any, int], dict[str, float]]


@runtime_checkable
class Evaluation(Protocol):
  """Settings of an evaluation; a frozen dataclass with this method may be bound."""

  step: int | None   # of the checkpoint that `t5x-lite eval` reads; None: the newest

  def make(self, network: Network, partitioner: Partitioner, data: Source, seed: int, *,
           required: bool = False) -> Evaluator | None:
    """The evaluator; UserError if the settings do not fit.

    None, or UserError if it is `required`, where there is nothing to evaluate.
    """
