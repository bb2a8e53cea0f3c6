"""The mesh, and one table of rules from logical axes to mesh axes; models never name mesh axes."""

from collections.abc import Callable
import dataclasses
import math
from typing import Any

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
import numpy as np

from t5x_lite import models
from t5x_lite.errors import UserError
from t5x_lite.models import ModelConfig
from t5x_lite.validation import FieldError, check_positive, check_types

MESH_AXES = ('data', 'fsdp', 'tensor')
# In order of priority: each mesh axis is used once in an array, by the first rule that can. So
# activations are cut by batch and parameters by embed, though both name 'fsdp'.
RULES = (
    ('batch', ('data', 'fsdp')),
    ('vocab', ('tensor',)),
    ('heads', ('tensor',)),
    ('kv', ('tensor',)),
    ('mlp', ('tensor',)),
    ('embed', ('fsdp',)),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class MeshConfig:
  """How devices are arranged: copies of the model, slices of its state, slices of its layers."""
  data: int = -1       # data parallelism, one copy of the state each; -1: all devices left over
  fsdp: int = 1        # the batch and the state are cut, parameters gathered when used (ZeRO-3)
  tensor: int = 1      # heads, mlp and vocab are cut (Megatron)
  rules: tuple[tuple[str, tuple[str, ...]], ...] = RULES

  def __post_init__(self):
    check_types(self)
    check_positive(self, 'fsdp', 'tensor')
    if self.data == 0 or self.data < -1:
      raise FieldError(self, 'data', 'must be above 0, or -1 for all devices left over')
    for _, axes in self.rules:
      if set(axes) - set(MESH_AXES):
        raise FieldError(self, 'rules', f'mesh axes are {", ".join(MESH_AXES)}')

  def make(self, devices=None) -> Mesh:
    """The mesh over `devices` (default: all). Raises UserError if they do not suffice."""
    devices = jax.devices() if devices is None else devices
    inner = self.fsdp * self.tensor
    data = max(len(devices) // inner, 1) if self.data == -1 else self.data
    size = data * inner
    if self.data == -1 and size < len(devices):
      raise UserError(
          f'MeshConfig.fsdp = {self.fsdp} x MeshConfig.tensor = {self.tensor} does not divide the '
          f'{len(devices)} devices: choose sizes that do, or set MeshConfig.data = {data} to leave '
          'some idle')
    if size > len(devices):
      raise UserError(
          f'The mesh data={data} x fsdp={self.fsdp} x tensor={self.tensor} needs {size} devices '
          f'but there are {len(devices)}: lower MeshConfig.fsdp or MeshConfig.tensor, or set '
          'MeshConfig.data = -1')
    shape = (data, self.fsdp, self.tensor)
    if size == jax.device_count():  # let JAX order the devices by their place in the machine
      return jax.make_mesh(shape, MESH_AXES, axis_types=(AxisType.Auto,) * 3, devices=devices)
    return Mesh(np.array(devices[:size]).reshape(shape), MESH_AXES)


@dataclasses.dataclass(frozen=True)
class Partitioner:
  """A mesh and the rules that place arrays on it."""
  mesh: Mesh
  rules: tuple[tuple[str, tuple[str, ...]], ...] = RULES

  def spec(self, axes: tuple[str | None, ...], shape: tuple[int, ...]) -> PartitionSpec:
    """Mesh axes of an array whose dimensions have these logical names and sizes.

    A dimension that its mesh axes do not divide is left whole.
    """
    used, spec = set(), [None] * len(axes)
    for logical, mesh_axes in self.rules:
      if logical not in axes or spec[axes.index(logical)] is not None:
        continue
      dim = axes.index(logical)
      free = tuple(a for a in mesh_axes if a not in used and self.mesh.shape[a] > 1)
      if free and shape[dim] % math.prod(self.mesh.shape[a] for a in free) == 0:
        spec[dim] = free if len(free) > 1 else free[0]
        used.update(free)
    return PartitionSpec(*spec)

  def sharding(self, axes: tuple[str | None, ...], shape: tuple[int, ...]) -> NamedSharding:
    """As `spec`, bound to the mesh."""
    return NamedSharding(self.mesh, self.spec(axes, shape))

  @property
  def platform(self) -> str:
    """'cpu', 'gpu' or 'tpu', of the mesh's devices."""
    platform = self.mesh.devices.flat[0].platform
    return 'gpu' if platform in ('cuda', 'rocm') else platform

  def __call__(self, x: jax.Array, *axes: str | None) -> jax.Array:
    """`x` constrained to its logical axes inside a jitted function; this is a models' Shard."""
    if self.mesh.size == 1:
      return x
    return jax.lax.with_sharding_constraint(x, self.sharding(axes, x.shape))

  def map(self, fn: Callable, in_axes: Any, out_axes: Any) -> Callable:
    """`fn` run by each device on its own part of the arguments, cut along logical axes.

    `in_axes` is like the tuple of arguments and `out_axes` like the result, with a tuple of names
    for each array.
    """
    if self.mesh.size == 1:
      return fn
    is_axes = lambda x: isinstance(x, tuple) and all(a is None or isinstance(a, str) for a in x)

    def run(*args):
      specs = jax.tree.map(lambda axes, x: self.spec(axes, x.shape), in_axes, args,
                           is_leaf=is_axes)
      out_shapes = jax.eval_shape(fn, *args)
      out_specs = jax.tree.map(lambda axes, x: self.spec(axes, x.shape), out_axes, out_shapes,
                               is_leaf=is_axes)
      return jax.shard_map(fn, mesh=self.mesh, in_specs=specs, out_specs=out_specs,
                           check_vma=False)(*args)

    return run

  @property
  def replicated(self) -> NamedSharding:
    """Every device holds the whole array."""
    return NamedSharding(self.mesh, PartitionSpec())

  def batch_sharding(self, ndim: int) -> NamedSharding:
    """Rows of a batch over the data and fsdp axes; the other dimensions whole."""
    axes = tuple(a for a in ('data', 'fsdp') if self.mesh.shape[a] > 1)
    return NamedSharding(self.mesh, PartitionSpec(axes or None, *(None,) * (ndim - 1)))

  @property
  def batch_parts(self) -> int:
    """Into how many parts a batch is cut."""
    return self.mesh.shape['data'] * self.mesh.shape['fsdp']

  def check_rows(self, settings) -> None:
    """Raises FieldError if the mesh does not divide `settings.batch_size`."""
    if settings.batch_size % self.batch_parts:
      raise FieldError(settings, 'batch_size', 'not divisible by the mesh: data x fsdp is '
                       f'{self.batch_parts}')

  def put_batch(self, batch: dict[str, np.ndarray]) -> dict[str, jax.Array]:
    """This process's rows of a batch -> global arrays on the mesh."""
    put = lambda x: jax.make_array_from_process_local_data(self.batch_sharding(x.ndim), x)
    return {name: put(x) for name, x in batch.items()}

  def param_shardings(self, config: ModelConfig) -> dict:
    """Nested dict of NamedShardings, like the parameters of `config`'s model."""
    _, params = models.graph(config)
    shapes = {p: v.get_value().shape for p, v in models.nnx.to_flat_state(params)}
    shapes = models.nnx.traversals.unflatten_mapping(shapes)
    is_axes = lambda x: isinstance(x, tuple)
    return jax.tree.map(self.sharding, models.logical_axes(params), shapes, is_leaf=is_axes)


def check_fits(config: ModelConfig, mesh: Mesh, batch_size: int, microbatches: int = 1) -> None:
  """Raises UserError if the mesh cannot divide the model's heads, mlp or vocab, or the batch."""
  tensor = mesh.shape['tensor']
  for name in ('num_heads', 'mlp_dim', 'vocab_size'):
    if getattr(config, name) % tensor:
      raise FieldError(config, name, f'not divisible by the mesh: MeshConfig.tensor is {tensor}')
  if config.embed_dim % mesh.shape['fsdp']:
    raise FieldError(config, 'embed_dim',
                     f'not divisible by the mesh: MeshConfig.fsdp is {mesh.shape["fsdp"]}')
  parts = mesh.shape['data'] * mesh.shape['fsdp']
  if batch_size % (parts * microbatches):
    each = f' in {microbatches} microbatches' if microbatches > 1 else ''
    up = -(-batch_size // (parts * microbatches)) * parts * microbatches
    raise UserError(
        f'batch_size {batch_size}{each} is not divisible by the mesh: data x fsdp is {parts}; '
        f'the next size that is: {up}')
