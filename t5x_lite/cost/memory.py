"""Memory of a device in training on a mesh, and of the decoding cache.

Parameters, gradients, optimizer state and cache are exact: from the shapes and shardings of the
train step. Activations and logits are estimates: the network of one device (its rows, its shard of
heads, MLP and vocabulary) is traced with scanned layers, and its memory is derived from the trace;
see liveness.py. Nothing is compiled, no array is allocated, and the devices need not exist.

Accuracy: tests/cost/test_memory.py compares with XLA's compiler for CPUs, of models that are
tuned whole, by LoRA and by QLoRA. The estimate is too low for dropout under `full` (random bits),
for that of an adapter by up to two fifths, for QLoRA of 7B on a TPU by a fifth, and by a half for
experts without a capacity on a CPU, where XLA computes their products on a masked copy for each
expert. It is too high for unrolled layers, which XLA fuses across, and for logits on a TPU.
"""

from collections.abc import Callable, Mapping
import dataclasses
import functools
import math
import re

import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh

from t5x_lite import models
from t5x_lite.adaptation.lora import NORM
from t5x_lite.core import trees
from t5x_lite.cost import liveness
from t5x_lite.models import layers
from t5x_lite.objectives import language_model
from t5x_lite.objectives.cross_entropy import chunked_cross_entropy
from t5x_lite.parallel.mesh import MESH_AXES, RULES, Rules, num_parts
from t5x_lite.parallel.partitioner import Partitioner
from t5x_lite.training import optimizers, schedules
from t5x_lite.training.state import abstract_state, all_params, on_device, quantize_frozen


@dataclasses.dataclass(frozen=True)
class Memory:
  """Bytes of one device in a train step.

  Attributes:
    parameters: exact.
    gradients: exact; sharded like the parameters.
    optimizer: the optimizer's state, exact, without what is in the host's memory.
    activations: those that the forward pass keeps for the backward pass under the config's `remat`:
      between blocks, inside them and at the ends. Estimated.
    logits: of a chunk of the loss: logits, their gradient, the output layer. Estimated.
    workspace: other memory of the forward or backward pass of one layer, including gathered
      weights, recomputed activations and gradients not yet summed. Estimated.
    copy: parameters that the compiler copies, because loops read them while they are overwritten.
      Estimated.
  """
  parameters: int
  gradients: int
  optimizer: int
  activations: int
  logits: int
  workspace: int
  copy: int

  @property
  def parts(self) -> dict[str, int]:
    """The parts of the peak; the sum is `total`.

    The loss and the layers run at different times, and reuse the memory of copied parameters: of
    these three the largest is `at work`.
    """
    return {'parameters': self.parameters, 'gradients': self.gradients,
            'optimizer': self.optimizer, 'activations': self.activations,
            'at work': max(self.copy, self.logits, self.workspace)}

  @property
  def total(self) -> int:
    """Peak bytes."""
    return sum(self.parts.values())


def per_device(config, *, mesh: Mapping[str, int], rows: int, inputs_length: int = 0,
               targets_length: int = 0, optimizer=None, microbatches: int = 1,
               platform: str = 'cpu', rules: Rules = RULES,
               network: models.Network | None = None) -> Memory:
  """Memory of a device of a mesh in a train step over packed rows.

  Args:
    config: a ModelConfig.
    mesh: sizes of the mesh axes; those left out are 1.
    rows: of the global batch, rounded up to a multiple that the mesh divides
      (t5x_lite.parallel.mesh.check_fits refuses others).
    inputs_length: encoder tokens of a row.
    targets_length: decoder tokens of a row.
    optimizer: one of t5x_lite.training.optimizers; None: AdamW with float32 moments.
    microbatches: as in TrainConfig.
    platform: 'cpu', 'gpu' or 'tpu', which determines the attention kernel and the chunk of logits.
      A CPU computes bfloat16 in float32.
    rules: from logical axes to mesh axes, as in MeshConfig.
    network: of the config, adapted; None: all parameters are trained.
  """
  sizes = {axis: max(mesh.get(axis, 1), 1) for axis in MESH_AXES}
  parts = lambda logical: num_parts(logical, sizes, rules)
  on = optimizer, tuple(sizes.values()), tuple(rules)
  parameters, trained, optimizer_state = (
      _state(config, *on) if network is None else _bytes(network, *on))
  rows = -(-rows // (parts('batch') * microbatches))
  own = _part(config, parts, platform)
  paths = [] if network is None else [*trees.flatten(network.shapes)]
  is_trained = lambda pattern: network is None or any(
      network.is_trained(path) for path in paths if re.match(pattern, path))
  trained_head = is_trained('embedder/tokens' if config.tied_embeddings else 'embedder/output'
                            ) or is_trained('(?!embedder/|encoder/|decoder/)')
  traced = _traced(own, rows, inputs_length, targets_length, platform, trained_head)
  # An embedding table has a gradient besides the output layer's, unsharded on every device before
  # it is scattered.
  table = 4 * own.vocab_size * own.embed_dim
  lookup = table if own.tied_embeddings else table - table // parts('embed')
  if not is_trained('embedder/tokens'):
    lookup = 0
  if parts('vocab') > 1:   # the output layer is held in the order of each of its two products
    lookup += table
  summed = trained if microbatches > 1 else 0
  activations = traced['activations'] + traced['weights'] // parts('embed')
  if network is not None and config.remat == 'none':
    activations += rows * _dora_bytes(network, own, parts, inputs_length, targets_length)
  return Memory(parameters, trained, optimizer_state, activations,
                traced['logits'] + lookup + summed, traced['layer'] + lookup + summed, trained)


def _dora_bytes(network: models.Network, own, parts: Callable[[str], int], inputs_length: int,
                targets_length: int) -> int:
  """Bytes of a row: the products that norms scale, which are kept for the gradient of the norms."""
  axes = network.axes_by_path
  kept = 0
  for path, x in trees.flatten(network.shapes).items():
    if path.endswith(NORM):
      over_inputs = path.startswith('encoder/') or '/cross/key/' in path or '/cross/value/' in path
      kept += (inputs_length if over_inputs else targets_length) * math.prod(
          n if axis is None or n % parts(axis) else n // parts(axis)
          for n, axis in zip(x.shape, axes[path]))
  return kept * jnp.dtype(own.dtype).itemsize


@functools.lru_cache(maxsize=64)
def _state(config, optimizer, mesh: tuple[int, ...], rules: Rules) -> tuple[int, int, int]:
  """`_bytes` of the network of a config, all of which is trained."""
  return _bytes(models.build_network(config), optimizer, mesh, rules)


def _bytes(network: models.Network, optimizer, mesh: tuple[int, ...], rules: Rules
           ) -> tuple[int, int, int]:
  """Bytes of a device's (parameters, trained parameters, optimizer state)."""
  if optimizer is None:
    optimizer = optimizers.AdamW(learning_rate=schedules.Constant(rate=1.0))
  state = abstract_state(network, optimizer.make(), Partitioner(
      AbstractMesh(mesh, MESH_AXES), rules))
  count = lambda tree: sum(math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize
                           for x in jax.tree.leaves(tree))
  trained = count(state['params'])
  return count(all_params(state)), trained, count(
      [x for x in jax.tree.leaves(state['opt_state']) if on_device(x)])


def held_bytes(network: models.Network) -> int:
  """Exact bytes of all parameters as a state holds them, of all devices of an unsharded state."""
  held = quantize_frozen(network, network.shapes)
  return sum(math.prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves(held))


def _part(config, parts: Callable[[str], int], platform: str):
  """The config of the network of one device, with scanned layers.

  `parts` gives the number of shards of a logical axis.
  """
  cut = lambda logical, n: n if n % parts(logical) else n // parts(logical)
  heads, group = cut('heads', config.num_heads), config.full_attention_interval or 1
  whole_experts = config.num_experts is not None and config.expert_capacity is None
  round_up = lambda layers: layers and -(-layers // group) * group
  attention = config.attention
  if platform != 'cpu' and attention in ('auto', 'fused', 'splash'):
    attention = 'blockwise'   # keeps the same arrays as the flash kernels of accelerators
  return dataclasses.replace(
      config, num_heads=heads, num_kv_heads=math.gcd(heads, cut('kv', config.num_kv_heads)),
      mlp_dim=config.mlp_dim if whole_experts else cut('mlp', config.mlp_dim),
      vocab_size=cut('vocab', config.vocab_size), num_layers=round_up(config.num_layers),
      num_decoder_layers=round_up(config.num_decoder_layers), scan_layers=True,
      attention=attention, dtype='float32' if platform == 'cpu' else config.dtype)


@functools.lru_cache(maxsize=256)
def _traced(config, rows: int, inputs_length: int, targets_length: int, platform: str,
            trained_head: bool) -> dict[str, int]:
  """Bytes of a network on one device.

  Returns:
    `activations` and `weights` (cast or reshaped; sharded like the parameters) kept for the
    backward pass, and the peaks of a chunk of `logits` and of the largest `layer`.
  """
  jaxpr, number, parameters, x, head = _network(config, rows, inputs_length, targets_length)
  moving, fixed = liveness.kept_bytes(jaxpr, range(number), parameters)
  accelerator = platform != 'cpu'
  body = {'scan': 'jaxpr', 'while': 'body_jaxpr'}
  highest = lambda jaxpr, loop: max(
      liveness.peak_bytes(eqn.params[body[loop]].jaxpr, accelerator)
      for eqn in liveness.find_loops(jaxpr) if eqn.primitive.name == loop)
  loss = _loss(head, x, platform, trained_head)
  return {
      # The output of the stack, which the loss reads, and its gradient, which the loss makes.
      'activations': moving + 2 * math.prod(x.shape) * x.dtype.itemsize, 'weights': fixed,
      'logits': highest(loss, 'while'), 'layer': highest(jaxpr, 'scan')}


def _network(config, rows: int, inputs_length: int, targets_length: int):
  """The forward and backward pass up to the head, traced.

  Returns:
    (jaxpr, number of its outputs that are kept, number of its arguments that are parameters, shapes
    of the last hidden states and of the head).
  """
  class Device(layers.Unsharded):
    platform = 'cpu'   # the kernel is set by `_part`

  built = models.build_network(config, Device())
  params = built.shapes
  batch = _batch(config, rows, inputs_length, targets_length)
  key = jax.eval_shape(lambda: jax.random.key(0)) if config.is_random else None

  def network(params, batch, key):
    def outputs(params):
      out = built.bind(params).outputs(batch, key)
      return out._replace(head=None), out.head

    out, back, head = jax.vjp(outputs, params, has_aux=True)
    return back, back(jax.tree.map(jnp.zeros_like, out)), out.hidden, head

  jaxpr, (back, _, x, head) = jax.make_jaxpr(network, return_shape=True)(params, batch, key)
  return jaxpr.jaxpr, len(jax.tree.leaves(back)), len(jax.tree.leaves(params)), x, head


def _loss(head, x, platform: str, trained_head: bool):
  """The jaxpr of the loss and its gradient, for these shapes of hidden states and their head.

  The gradient is that of the hidden states, and of the head if it is trained.
  """
  chunk = max(1, language_model.LOSS_TOKENS[platform] // x.shape[0])

  def loss(head, x, targets, weights):
    summed = lambda head, x: chunked_cross_entropy(
        head, x, targets, weights, chunk, ())['objective']
    return jax.vjp(summed, head, x) if trained_head else jax.vjp(
        functools.partial(summed, head), x)

  shape = lambda dtype: jax.ShapeDtypeStruct(x.shape[:2], dtype)
  return jax.make_jaxpr(loss)(head, x, shape(jnp.int32), shape(jnp.float32)).jaxpr


def _batch(config, rows: int, inputs_length: int, targets_length: int) -> dict:
  """Shapes of a packed batch's features."""
  sides = {'encoder_decoder': ('encoder', 'decoder'), 'encoder_only': ('encoder',),
           'decoder_only': ('decoder',)}[config.family]
  lengths = {'encoder': inputs_length, 'decoder': targets_length}
  names = [(side, f'{side}_{name}') for side in sides
           for name in ('input_tokens', 'segment_ids', 'positions')]
  if config.prefix_lm:
    names.append(('decoder', 'decoder_causal_attention'))
  return {name: jax.ShapeDtypeStruct((rows, lengths[side]), jnp.int32) for side, name in names}


def cache_bytes(config, rows: int, length: int, inputs_length: int = 0, int8: bool = False) -> int:
  """Exact bytes of the decoding cache of `rows` rows of `length` tokens.

  Of all devices together, in the dtype of the model's activations, or, with `int8`, in 8 bits with
  their scales. An encoder-decoder also caches keys and values of its `inputs_length` encoder
  tokens; an encoder has no cache.
  """
  if config.family == 'encoder_only':
    return 0
  network = models.build_network(config)
  batch = _batch(config, rows, inputs_length, length)
  cache = jax.eval_shape(lambda params, batch: network.bind(params).start(
      batch, length, int8=int8), network.shapes, batch)
  return sum(math.prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves(cache))
