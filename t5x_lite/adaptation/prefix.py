"""Prefix tuning (Li & Liang 2021) and prompt tuning (Lester et al. 2021): rows before every text.

Both are keys and values that all queries of a stack see, of every example of a packed row. Prefix
tuning trains them; prompt tuning trains rows of embeddings, and the stack, which reads them before
the text, makes their keys and values.
"""

from collections.abc import Callable
import dataclasses
from typing import Any

from flax import nnx
import jax
import jax.numpy as jnp

from t5x_lite.adaptation.partial import check_expressions, trained_whole
from t5x_lite.adaptation.prefix_leaf import PrefixLeaf
from t5x_lite.core import trees
from t5x_lite.core.dataclass_checks import Count, FieldError, check_types
from t5x_lite.models import Network, weights
from t5x_lite.models.attention.masks import Mask
from t5x_lite.models.context import Context

COMMON = 5000   # rows start from the first so many ids, the most common ones
PROMPT, KEYS, VALUES = 'prompt_rows', 'prefix_keys', 'prefix_values'


@dataclasses.dataclass(frozen=True, kw_only=True)
class PrefixTuning:
  """Trains keys and values before those of every layer, of the encoder if there is one."""
  length: Count = 10              # of the prefix
  tokens: tuple[int, ...] = ()    # ids that it starts from, in turn; none: some are drawn
  trained: str | None = None      # what else is trained, whole: as Partial.trained

  def __post_init__(self):
    _check(self)

  def adapt(self, network: Network) -> Network:
    """The network with a prefix, which starts as the keys and values of the base for `tokens`."""
    config, stack = network.config, main_stack(network)
    _check_fits(self, config)
    layers = config.num_layers
    x = jax.ShapeDtypeStruct((layers, config.num_kv_heads, self.length, config.head_dim),
                             jnp.float32)
    param = lambda: nnx.Param(x, axes=('kv', None, 'head_dim'), std=1.0, mean=0.0, num_in=0)

    def begin(flat):
      rows_PD = start_rows(self, flat, flat[f'{stack}/{KEYS}'][0, 0, :, 0])
      base = network.assemble(trees.fill(network.shapes, flat), None)
      return {f'{stack}/{KEYS}': (kv := keys_values(network, base, rows_PD))[0],
              f'{stack}/{VALUES}': kv[1]}

    def assemble(params, key):
      base, (keys, values) = take_added(params, stack, KEYS, VALUES)
      return with_prefix(network.assemble(base, key), stack, keys, values)

    return with_added(self, network, {(stack, KEYS): param(), (stack, VALUES): param()}, assemble,
                      begin)


@dataclasses.dataclass(frozen=True, kw_only=True)
class PromptTuning:
  """Trains rows of embeddings that a decoder reads before every text."""
  length: Count = 20              # rows
  tokens: tuple[int, ...] = ()    # ids that they start as, in turn; none: some are drawn
  trained: str | None = None      # what else is trained, whole: as Partial.trained

  def __post_init__(self):
    _check(self)

  def adapt(self, network: Network) -> Network:
    """The network with a prompt. Raises FieldError for an encoder, which reads both ways."""
    config, stack = network.config, main_stack(network)
    _check_fits(self, config)
    if config.family != 'decoder_only':
      raise FieldError(self, 'length', f'a prompt of {config.family} is not supported: set '
                       'Experiment.adaptation to prefix.PrefixTuning')
    rows = nnx.Param(jax.ShapeDtypeStruct((self.length, config.embed_dim), jnp.float32),
                     axes=(None, 'embed'), std=1.0, mean=0.0, num_in=0)
    name = f'{stack}/{PROMPT}'

    def assemble(params, key):
      base, (rows_PD,) = take_added(params, stack, PROMPT)
      tree = network.assemble(base, key)
      return with_prefix(tree, stack, *keys_values(network, tree, rows_PD))

    return with_added(self, network, {(stack, PROMPT): rows}, assemble,
                      lambda flat: {name: start_rows(self, flat, flat[name][:, 0])})


def main_stack(network: Network) -> str:
  """The stack that reads the inputs: 'encoder' or 'decoder'."""
  return 'decoder' if network.config.family == 'decoder_only' else 'encoder'


def with_added(owner: Any, network: Network, added: dict[tuple, nnx.Param],
               assemble: Callable, begin: Callable | None) -> Network:
  """The network with parameters more, which alone are trained, and those of `owner.trained`."""
  variables = dict(nnx.to_flat_state(network.abstract))
  extra = trained_whole(owner, variables)
  names = {'/'.join(path) for path in added}
  return dataclasses.replace(
      network, abstract=nnx.from_flat_state(variables | added), assemble=assemble,
      is_trained=lambda path: path in names or path in extra,
      is_added=lambda path: path in names or network.is_added(path), begin=begin)


def take_added(params: dict, stack: str, *names: str) -> tuple[dict, list[jax.Array]]:
  """(the parameters without those of these names in a stack, those)."""
  own = params[stack]
  base = params | {stack: {n: x for n, x in own.items() if n not in names}}
  return base, [own[name] for name in names]


def place_leaves(tree: dict, stack: str,
                 make: Callable[[dict, tuple, Callable[[jax.Array], jax.Array]], Any]) -> dict:
  """The tree with make({path: leaf}, path, at) for each kernel of self-attention's keys.

  `at` takes what is the layer's of an array [layers, …]: all of it where layers are stacked.
  """
  flat = nnx.traversals.flatten_mapping(tree)
  for path in list(flat):
    if path[:2] == (stack, 'blocks') and path[-3:] == ('attention', 'key', 'kernel'):
      layer = path[2] if isinstance(path[2], int) else ...
      flat[path] = make(flat, path, lambda x, layer=layer: x[layer])
  return nnx.traversals.unflatten_mapping(flat)


def with_prefix(tree: dict, stack: str, keys: jax.Array, values: jax.Array) -> dict:
  """The tree with keys and values [layers, kv, prefix, head_dim] beside the kernels of keys."""
  return place_leaves(tree, stack, lambda flat, path, at: PrefixLeaf(
      flat[path], at(keys), at(values)))


def keys_values(network: Network, tree: dict, rows_PD: jax.Array) -> tuple[jax.Array, jax.Array]:
  """The keys and values [layers, kv, rows, head_dim] that the main stack has for rows of
  embeddings in place of those of tokens, at the positions before 0."""
  stack, number = main_stack(network), len(rows_PD)
  model = nnx.merge(network.graphdef, tree | {'embedder': tree['embedder'] | {'tokens': rows_PD}})
  ids_BP = jnp.arange(number)[None]
  x_BPD = model.embedder(ids_BP, ids_BP)
  blocks = getattr(model, stack)
  context = Context(Mask(causal=stack == 'decoder'), ids_BP - number)
  _, caches, _ = blocks(x_BPD, context, blocks.init_caches(1, number))
  # Layers in order: of a scanned stack each entry has those of one place in its groups.
  join = lambda *x: jnp.stack(x, x[0].ndim - 4).reshape(-1, *x[0].shape[-3:])
  layers = jax.tree.map(join, *caches)
  return layers['key'], layers['value']


def start_rows(owner: Any, flat: dict[str, Any], normal_P: jax.Array) -> jax.Array:
  """Rows of the table of tokens that a prefix starts from: `owner.tokens`, or some that are drawn.

  `normal_P` are the normal numbers that stood in the prefix: they are of the run's seed.
  """
  table_VD = weights.value(flat['embedder/tokens'])
  if owner.tokens:
    ids_P = jnp.resize(jnp.asarray(owner.tokens), owner.length)
  else:
    uniform_P = jax.scipy.special.ndtr(normal_P)
    number = min(COMMON, len(table_VD))
    ids_P = jnp.clip((uniform_P * number).astype(jnp.int32), 0, number - 1)
  return table_VD[ids_P].astype(jnp.float32)


def _check(owner: Any) -> None:
  check_types(owner)
  check_expressions(owner, 'trained')
  if len(owner.tokens) > owner.length:
    raise FieldError(owner, 'tokens', f'{len(owner.tokens)} are more than length {owner.length}')


def _check_fits(owner: Any, config) -> None:
  if config.prefix_lm:
    raise FieldError(owner, 'length', 'not supported with ModelConfig.prefix_lm')
  if any(not 0 <= i < config.vocab_size for i in owner.tokens):
    raise FieldError(owner, 'tokens', f'ids are 0 to {config.vocab_size - 1}, below '
                     'ModelConfig.vocab_size')
