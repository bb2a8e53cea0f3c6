"""The protocol of an adaptation, bound in gin as Experiment.adaptation."""

from typing import Protocol, runtime_checkable

from t5x_lite.models import Network


@runtime_checkable
class Adaptation(Protocol):
  """A transform of a network. A frozen dataclass with this method may be bound."""

  def adapt(self, network: Network) -> Network:
    """The network with other parameters, or with some of them frozen (`is_trained`)."""
