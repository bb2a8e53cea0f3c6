"""The protocols of an adaptation, bound in gin as Experiment.adaptation."""

from typing import Protocol, runtime_checkable

from t5x_lite.models import Network


@runtime_checkable
class Adaptation(Protocol):
  """A transform of a network. A frozen dataclass with this method may be bound."""

  def adapt(self, network: Network) -> Network:
    """The network with other parameters, or with some of them frozen (`is_trained`)."""


@runtime_checkable
class Adapter(Adaptation, Protocol):
  """An adaptation that adds parameters which a plain network can take into its own."""

  def merge(self, network: Network, params: dict) -> dict:
    """The parameters of the base with what was added, of the adapted network and its parameters."""


@runtime_checkable
class Wrapper(Adaptation, Protocol):
  """An adaptation that holds the base of another in another form, such as quantised."""

  adaptation: Adaptation | None   # None: nothing is trained


def innermost(adaptation: Adaptation | None) -> Adaptation | None:
  """What an adaptation wraps, or itself: the same run on a base of plain arrays."""
  while isinstance(adaptation, Wrapper):
    adaptation = adaptation.adaptation
  return adaptation
