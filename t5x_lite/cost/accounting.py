"""Parameters of a model, and its FLOPs by a stated convention.

Parameters are counted on the shapes of the network that the config builds, so the counts are exact
for every config.

Only matrix products count as FLOPs. A multiply-add is 2 of them; a backward pass costs
twice its forward pass; recomputation (remat) is not counted, as in PaLM's model-FLOPs utilisation
(Chowdhery et al. 2022, appendix B).
"""

import dataclasses
import math
import re


@dataclasses.dataclass(frozen=True)
class Parameters:
  """Numbers of parameters.

  Attributes:
    total: all of them.
    embedding: of the embedder: the tables of tokens, positions and token types, their norm, and an
      output layer that is not tied to a table.
    active: those used by a token: all but the experts it is not routed to.
  """

  total: int
  embedding: int
  active: int

  @property
  def non_embedding(self) -> int:
    return self.total - self.embedding


def shapes(model) -> dict[str, tuple[int, ...]]:
  """Shape of every parameter of a Network or a ModelConfig: {'decoder/blocks/mlp/up/kernel': …}."""
  return {name: shape for name, shape, _ in _leaves(model)}


def _leaves(model) -> list[tuple[str, tuple[int, ...], tuple[str | None, ...]]]:
  """(path, shape, logical names of its axes) of every parameter."""
  from t5x_lite import models  # counting FLOPs needs no JAX
  from t5x_lite.core import trees
  network = model if isinstance(model, models.Network) else models.build_network(model)
  axes = network.axes_by_path
  return [(name, x.shape, axes[name]) for name, x in trees.flatten(network.shapes).items()]


def parameters(model) -> Parameters:
  """The exact counts of a Network, or of the one a ModelConfig builds; nothing is allocated."""
  sizes = {name: math.prod(shape) for name, shape in shapes(model).items()}
  total = sum(sizes.values())
  embedding = sum(size for name, size in sizes.items() if name.startswith('embedder/'))
  return Parameters(total, embedding, total - idle_parameters(getattr(model, 'config', model)))


def idle_parameters(config) -> int:
  """Parameters of the experts that a token is not routed to, in all layers; 0 without experts.

  All others are active, embeddings, router and norms included.
  """
  if config.num_experts is None:
    return 0
  experts = sum(math.prod(shape) for _, shape, axes in _leaves(config)
                if 'experts' in axes[:-1])
  return experts // config.num_experts * (config.num_experts - config.experts_per_token)


def _mlp(config) -> int:
  """Weights of a block's MLP, or of one of its experts."""
  return (3 if config.gated_mlp else 2) * config.embed_dim * config.mlp_dim


def _layer(config, cross: bool) -> tuple[int, int]:
  """Weights of a block's matrices: (applied to its own tokens, applied to the encoder's)."""
  query_out = 2 * config.embed_dim * config.num_heads * config.head_dim
  key_value = 2 * config.embed_dim * config.num_kv_heads * config.head_dim
  mlp = _mlp(config)
  if config.num_experts is not None:   # those a token is routed to, and the router
    mlp = mlp * config.experts_per_token + config.embed_dim * config.num_experts
  own = query_out + key_value + mlp
  return (own + query_out, key_value) if cross else (own, 0)


def _attention(config, pairs: int) -> int:
  """FLOPs of q·k and p·v of one layer, for `pairs` of a query and a key."""
  return 4 * config.num_heads * config.head_dim * pairs


def _self_attention(config, layer: int, length: int, bidirectional: bool, causal: bool) -> int:
  """FLOPs of q·k and p·v of the layer of this index; `causal` as in `forward_flops`."""
  if not causal:
    return _attention(config, length * length)
  reach = min(config.sliding_window_of(layer) or length, length)
  both_ways = _attention(config, reach * (2 * length - reach))   # length² without a window
  return both_ways if bidirectional else both_ways // 2


def forward_flops(config, inputs_length: int, targets_length: int, *, causal: bool = False) -> int:
  """FLOPs of the forward pass over one row.

  Embedding lookups cost nothing; the output layer counts at every position. In an encoder-decoder
  each stack counts for its own tokens only (6·N·D counts both stacks for all).

  Args:
    config: a ModelConfig (any object with its fields and its `sliding_window_of`).
    inputs_length: encoder tokens of the row; 0 without an encoder.
    targets_length: decoder tokens of the row; 0 without a decoder.
    causal: count only unmasked self-attention: the causal half, or less with a window; the usual
      convention (False) counts all of it, 6N + 12·L·D·S a token for training.
  """
  def stack(layers, length, bidirectional, cross_length=0):
    own, cross = _layer(config, bool(cross_length))
    flops = 2 * (own * length + cross * cross_length) + _attention(config, length * cross_length)
    return layers * flops + sum(_self_attention(config, layer, length, bidirectional, causal)
                                for layer in range(layers))

  head = 2 * config.embed_dim * (config.vocab_size + (config.head == 'value'))
  if config.family == 'decoder_only':
    flops = stack(config.num_layers, targets_length, False) + head * targets_length
    # Of a row's classes, or of one of its choices, whose number a config does not have.
    return flops + 2 * config.embed_dim * (config.num_classes or 1) * config.classifies_texts
  flops = stack(config.num_layers, inputs_length, True)
  if config.family == 'encoder_decoder':
    decoder = stack(config.num_decoder_layers, targets_length, False, inputs_length)
    return flops + decoder + head * targets_length
  transform = 2 * config.embed_dim ** 2
  pooler = transform * config.pooler_transform
  classes = 2 * config.embed_dim * (config.num_classes or 2)
  return flops + {
      'mlm': (head + transform) * inputs_length,
      'mlm_nsp': (head + transform) * inputs_length + pooler + classes,
      'classifier': pooler + classes, 'tagger': classes * inputs_length,
      'pooler': pooler}[config.head]


def train_flops(config, inputs_length: int, targets_length: int, *, causal: bool = False,
                network=None) -> int:
  """FLOPs of the forward and backward pass over one row: three times `forward_flops`.

  Of an adapted `network` of the config, those that its frozen parameters leave: their kernels have
  no gradient, but that of what they read has the cost of a forward pass, through all layers, unless
  heads, an output layer or the last norm alone are trained. What an adaptation adds counts as
  kernels that each token is multiplied by.
  """
  forward = forward_flops(config, inputs_length, targets_length, causal=causal)
  if network is None:
    return 3 * forward
  products = _products(network, inputs_length, targets_length)
  trained = {path for path in products if network.is_trained(path)}
  added = {path for path in products if network.is_added(path)}
  above = re.compile(r'embedder/output|\w+/final_norm/|(?!embedder/|encoder/|decoder/)')
  if all(above.match(path) for path in shapes(network) if network.is_trained(path)):
    return forward + 2 * sum(products[path] for path in trained)
  frozen = sum(n for path, n in products.items() if path not in trained | added)
  return 3 * forward - frozen + sum(
      (3 if path in trained else 2) * products[path] for path in added)


def _products(network, inputs_length: int, targets_length: int) -> dict[str, int]:
  """{path: FLOPs of a row} of the products with each kernel, and with what is added."""
  from flax import nnx
  config = network.config
  kernels = {'/'.join(map(str, path)) for path, x in nnx.to_flat_state(network.abstract)
             if getattr(x, 'num_in', 0)}
  head = {'encoder_only': inputs_length}.get(config.family, targets_length)

  def tokens(path):
    if path.startswith('embedder/tokens'):   # a look-up costs nothing
      return head if config.tied_embeddings and config.predicts_tokens else 0
    if path.startswith(('embedder/', 'mlm_head/')):
      return head
    if path.startswith('encoder/') or '/cross/key/' in path or '/cross/value/' in path:
      return inputs_length
    if path.startswith('decoder/'):
      return targets_length
    if config.head == 'value':
      return targets_length
    return inputs_length if config.head == 'tagger' else 1

  found = {}
  for path, shape, axes in _leaves(network):
    if path in kernels or network.is_added(path):
      size = math.prod(shape)
      if 'experts' in axes[:-1]:
        size = size // config.num_experts * config.experts_per_token
      found[path] = 2 * size * tokens(path)
  return found
