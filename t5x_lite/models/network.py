"""A network: the graph of a config, built once and shared by all that compute with it."""

from collections.abc import Callable
import dataclasses
from typing import Any

from flax import nnx
import jax

from t5x_lite.core import trees
from t5x_lite.models import initialization, weights
from t5x_lite.models.config import ModelConfig
from t5x_lite.models.decoder_only import DecoderOnly
from t5x_lite.models.encoder_decoder import EncoderDecoder
from t5x_lite.models.encoder_only import EncoderOnly
from t5x_lite.models.layers import Shard, unsharded

FAMILIES = {
    'encoder_only': EncoderOnly,
    'encoder_decoder': EncoderDecoder,
    'decoder_only': DecoderOnly,
}
Model = EncoderOnly | EncoderDecoder | DecoderOnly


@dataclasses.dataclass(frozen=True)
class Network:
  """A model without its arrays.

  Attributes:
    config: of the model.
    graphdef: the static part, from which `bind` makes a model.
    abstract: the parameters as ShapeDtypeStructs, each with its logical names `axes` and the `std`
      and `mean` of its initial values.
    is_trained: whether the parameter of a path, 'decoder/blocks/mlp/up/kernel', is trained; the
      others are frozen.
    is_added: whether the parameter of a path is of an adaptation, which its base does not have.
    is_kept: whether a frozen parameter is of no base and no seed, so that checkpoints hold it.
    begin: first values {path: array} of those added parameters that follow from the base, of all
      others {path: array or leaf}; None: all begin as `init` draws them.
    assemble: the tree that `graphdef` has, of the tree of parameters and a key of dropout or None:
      an adaptation puts parameters together to a leaf (weights.StructuredLeaf).
    has_dropout: whether `assemble` draws anything from the key.
    quantized: how the frozen parameter of a path is held in the state; None: as it is.
  """

  config: ModelConfig
  graphdef: nnx.GraphDef
  abstract: nnx.State
  is_trained: Callable[[str], bool] = lambda path: True
  is_added: Callable[[str], bool] = lambda path: False
  is_kept: Callable[[str], bool] = lambda path: False
  begin: Callable[[dict[str, Any]], dict[str, jax.Array]] | None = None
  assemble: Callable[[dict, jax.Array | None], dict] = lambda params, key: params
  has_dropout: bool = False
  quantized: Callable[[str], weights.Layout | None] = lambda path: None

  def bind(self, params: dict, key: jax.Array | None = None) -> Model:
    """The model with these parameters, a nested dict of arrays; `key` is for `assemble`."""
    return nnx.merge(self.graphdef, self.assemble(params, key))

  def init(self, key: jax.Array, one_device: bool = False) -> dict:
    """Initial parameters as a nested dict of float32 arrays; see initialization.draw_params."""
    return initialization.draw_params(self.abstract, key, one_device)

  @property
  def shapes(self) -> dict:
    """Nested dict of the parameters as ShapeDtypeStructs."""
    return nnx.to_pure_dict(self.abstract)

  @property
  def logical_axes(self) -> dict[str, Any]:
    """Nested dict of tuples: the logical names of the axes of each parameter."""

    def axes(variable):
      stacked = len(variable.get_value().shape) - len(variable.axes)
      return ('layers',) * stacked + tuple(variable.axes)

    flat = {path: axes(variable) for path, variable in nnx.to_flat_state(self.abstract)}
    return nnx.traversals.unflatten_mapping(flat)

  @property
  def axes_by_path(self) -> dict[str, tuple[str | None, ...]]:
    """The logical names of the axes of the parameter of each path."""
    return trees.flatten(self.logical_axes, is_leaf=lambda x: isinstance(x, tuple))


def build_network(config: ModelConfig, shard: Shard = unsharded) -> Network:
  """The network of a config; `shard` constrains the sharding of its activations."""
  graphdef, abstract = nnx.split(nnx.eval_shape(lambda: FAMILIES[config.family](config, shard)))
  return Network(config, graphdef, abstract)
