"""LLaMA-Adapter (Zhang et al. 2023): gated rows in the attention of the top layers.

A layer's rows are keys and values by the layer's own kernels, in a softmax of their own; tanh of a
gate for each head, which begins as 0, is the factor of what they add.
"""

import dataclasses

from flax import nnx
import jax
import jax.numpy as jnp

from t5x_lite.adaptation.partial import check_expressions
from t5x_lite.adaptation.prefix import main_stack, place_leaves, take_added, with_added
from t5x_lite.adaptation.prefix_leaf import GatedPrefixLeaf
from t5x_lite.core.dataclass_checks import Count, FieldError, check_types
from t5x_lite.models import Network

ROWS, GATE = 'adapter_rows', 'adapter_gate'


@dataclasses.dataclass(frozen=True, kw_only=True)
class LlamaAdapter:
  """Trains rows and gates in the top layers, of the encoder if there is one; all else is frozen."""
  length: Count = 10             # rows of a layer
  layers: Count | None = None    # the top so many; None: all but the two lowest, as in the paper
  trained: str | None = None     # what else is trained, whole: as Partial.trained

  def __post_init__(self):
    check_types(self)
    check_expressions(self, 'trained')

  def adapt(self, network: Network) -> Network:
    """The network with rows and gates. Raises FieldError if it has fewer layers."""
    config, stack = network.config, main_stack(network)
    number = self.layers or max(config.num_layers - 2, 1)
    if number > config.num_layers:
      raise FieldError(self, 'layers', f'the {stack} has {config.num_layers}')

    def param(shape, axes, std):
      x = jax.ShapeDtypeStruct((number, *shape), jnp.float32)
      return nnx.Param(x, axes=axes, std=std, mean=0.0, num_in=0)

    added = {(stack, ROWS): param((self.length, config.embed_dim), (None, 'embed'), 1.0),
             (stack, GATE): param((config.num_heads,), ('heads',), 0.0)}
    # Of the layers below the gates are 0.
    whole = lambda x: jnp.pad(x, [(config.num_layers - number, 0), *[(0, 0)] * (x.ndim - 1)])

    def assemble(params, key):
      base, own = take_added(params, stack, ROWS, GATE)
      rows, gate = map(whole, own)

      def leaf(flat, path, at):
        near = lambda *names: flat.get((*path[:-2], *names))
        return GatedPrefixLeaf(flat[path], near('value', 'kernel'), near('key', 'bias'),
                               near('value', 'bias'), at(rows), at(gate))

      return place_leaves(network.assemble(base, key), stack, leaf)

    return with_added(self, network, added, assemble, network.begin)
