"""The networks: three families of Transformers from one set of layers."""

from flax import nnx
import jax

from t5x_lite.models import initialization
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


def graph(config: ModelConfig, shard: Shard = unsharded):
  """(graph definition, parameters as ShapeDtypeStructs): the network without its arrays.

  `nnx.merge(graph definition, parameters)` gives the network back from a plain nested dict of
  parameters. Each abstract parameter carries its logical axes as metadata `axes`, and `std` and
  `mean` of its initial values.
  """
  return nnx.split(nnx.eval_shape(lambda: FAMILIES[config.family](config, shard)))


def init_params(config: ModelConfig, key: jax.Array, one_device: bool = False) -> dict:
  """Initial parameters as a nested dict of float32 arrays; see initialization.draw."""
  return initialization.draw(graph(config)[1], key, one_device)


def logical_axes(params: nnx.State) -> dict:
  """Nested dict of tuples: the logical axis names of each abstract parameter from `graph`."""

  def axes(variable):
    stacked = len(variable.get_value().shape) - len(variable.axes)
    return ('layers',) * stacked + tuple(variable.axes)

  flat = {path: axes(variable) for path, variable in nnx.to_flat_state(params)}
  return nnx.traversals.unflatten_mapping(flat)
