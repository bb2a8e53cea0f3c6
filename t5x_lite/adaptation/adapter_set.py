"""Several adapters of one base, of which any is chosen by name: the base is in memory once.

What an adapter adds stands beside the arrays of the base, which all of them share. A tree is what
the base's own network binds: one compiled program serves all adapters of equal settings, as the
structure of their leaves tells jax.jit, and changing from one to another copies nothing.
"""

import dataclasses

from t5x_lite.adaptation.adaptation import Adaptation
from t5x_lite.adaptation.lora import Lora
from t5x_lite.core import trees
from t5x_lite.core.dataclass_checks import nearest
from t5x_lite.core.errors import UserError
from t5x_lite.models import Network


@dataclasses.dataclass(frozen=True)
class AdapterSet:
  """The parameters of a base, and those of the base with each of its adapters.

  Attributes:
    network: of the base, whose kernels may be quantised; it binds the parameters of all.
    base: its parameters.
    adapted: {name: parameters with this adapter in them}, which hold the arrays of `base`.
  """
  network: Network
  base: dict
  adapted: dict[str, dict]

  def params(self, name: str | None) -> dict:
    """The parameters with an adapter, or of the base for None. Raises UserError for another."""
    if name is None:
      return self.base
    if name not in self.adapted:
      raise UserError(f'there is no adapter {name!r}: {nearest(name, self.adapted)}')
    return self.adapted[name]

  def add(self, name: str, adaptation: Adaptation, own: dict) -> None:
    """Takes an adapter in.

    Args:
      name: by which it is chosen.
      adaptation: of the adapter, on a base of plain arrays.
      own: its parameters, a nested dict: what it adds, and what of the base it trained whole.
    """
    if isinstance(adaptation, Lora):   # what training alone reads would make another program
      adaptation = dataclasses.replace(adaptation, dropout=0.0, trained=None)
    names = trees.flatten(own)
    shared, _ = trees.partition(self.base, lambda path: path not in names)
    network = adaptation.adapt(self.network)
    self.adapted[name] = network.assemble(trees.combine(shared, own), None)
