"""The one table of mesh axes and rules, from which all that depends on the mesh derives.

The axes of the mesh are the fields of MeshConfig; RULES map the logical axes of parameters and
activations to them, and the names of the batch's rows, too. How arrays are sharded
(partitioner.py), what is refused (check_fits), the memory of a device (cost/memory.py), `describe`
and the planner of scaling/ read this table. Models never name mesh axes.
"""

from collections.abc import Iterator, Mapping
import dataclasses
import math
from typing import Annotated

import jax
from jax.sharding import AbstractMesh, AxisType, Mesh
import numpy as np

from t5x_lite.core.dataclass_checks import (
  INT_MAX,
  Count,
  FieldError,
  Range,
  check_types,
  nearest,
)
from t5x_lite.core.errors import UserError
from t5x_lite.models import ModelConfig

Rules = tuple[tuple[str, tuple[str, ...]], ...]
# In order of priority: each mesh axis is used once in an array, by the first rule that can. So
# activations are sharded by batch and parameters by embed, though both name 'fsdp'.
RULES: Rules = (
    ('batch', ('data', 'fsdp')),
    ('vocab', ('tensor',)),
    ('heads', ('tensor',)),
    ('kv', ('tensor',)),
    ('mlp', ('tensor',)),
    ('embed', ('fsdp',)),
)
# What models name their axes: those of parameters, and of activations.
LOGICAL_AXES = ('batch', 'embed', 'experts', 'head_dim', 'heads', 'kv', 'layers', 'length', 'mlp',
                'norm', 'vocab')
MAX_DEVICES = 2 ** 24
# The logical axes that their rule must divide, and the fields of ModelConfig that are their sizes.
# Key-value heads are not among them: where they are too few, they are replicated.
DIVIDED = {'heads': 'num_heads', 'mlp': 'mlp_dim', 'vocab': 'vocab_size', 'embed': 'embed_dim'}


@dataclasses.dataclass(frozen=True, kw_only=True)
class MeshConfig:
  """How devices are arranged: copies of the model, slices of its state, slices of its layers."""
  # data parallelism, one copy of the state each; -1: all devices left over
  data: Annotated[int, Range(min=-1, max=INT_MAX)] = -1
  fsdp: Count = 1      # the batch and the state are sharded, parameters gathered when used (ZeRO-3)
  tensor: Count = 1    # heads, mlp and vocab are sharded (Megatron)
  rules: Rules = RULES   # logical axis and the mesh axes it is cut over, in order of priority

  def __post_init__(self):
    check_types(self)
    if self.data == 0:
      raise FieldError(self, 'data', 'must be above 0, or -1 for all devices left over')
    if math.prod(map(abs, self.shape)) > MAX_DEVICES:
      raise FieldError(self, 'data', f'the mesh has more than {MAX_DEVICES:,} devices: '
                       + ' x '.join(f'{axis} {n:,}' for axis, n in zip(MESH_AXES, self.shape)))
    for logical, axes in self.rules:
      if logical not in LOGICAL_AXES:
        raise FieldError(self, 'rules', f'there is no logical axis {logical!r}; '
                         + nearest(logical, LOGICAL_AXES))
      for axis in axes:
        if axis not in MESH_AXES:
          raise FieldError(self, 'rules', f'there is no mesh axis {axis!r}; '
                           + nearest(axis, MESH_AXES))

  @property
  def shape(self) -> tuple[int, ...]:
    """Sizes of the axes, in the order of MESH_AXES; `data` may be -1."""
    return tuple(getattr(self, axis) for axis in MESH_AXES)

  def abstract(self) -> AbstractMesh:
    """The mesh without its devices; an axis that takes all devices left over (-1) has one."""
    return AbstractMesh(tuple(max(size, 1) for size in self.shape), MESH_AXES)

  def make(self, devices=None) -> Mesh:
    """The mesh over `devices` (default: all). Raises UserError if they do not suffice."""
    devices = jax.devices() if devices is None else devices
    data, *inner = self.shape
    others = [f'MeshConfig.{axis}' for axis in MESH_AXES[1:]]
    if data == -1:
      data = max(len(devices) // math.prod(inner), 1)
    shape = (data, *inner)
    size = math.prod(shape)
    if self.data == -1 and size < len(devices):
      product = ' x '.join(f'{name} = {n}' for name, n in zip(others, inner))
      raise UserError(
          f'{product} does not divide the {len(devices)} devices: choose sizes that do, or set '
          f'MeshConfig.data = {data} to leave some idle')
    if size > len(devices):
      product = ' x '.join(f'{axis}={n}' for axis, n in zip(MESH_AXES, shape))
      raise UserError(
          f'The mesh {product} needs {size} devices but there are {len(devices)}: lower '
          f'{" or ".join(others)}, or set MeshConfig.data = -1')
    if size == jax.device_count():  # let JAX order the devices by their position in the machine
      types = (AxisType.Auto,) * len(MESH_AXES)
      return jax.make_mesh(shape, MESH_AXES, axis_types=types, devices=devices)
    return Mesh(np.array(devices[:size]).reshape(shape), MESH_AXES)


MESH_AXES = tuple(f.name for f in dataclasses.fields(MeshConfig) if f.name != 'rules')


def axes_of(logical: str, rules: Rules = RULES) -> tuple[str, ...]:
  """The mesh axes of the first rule for a logical axis; () if it has none."""
  return next((axes for name, axes in rules if name == logical), ())


def num_parts(logical: str, sizes: Mapping[str, int], rules: Rules = RULES) -> int:
  """The number of parts that a mesh of these sizes splits a logical axis into."""
  return math.prod(sizes.get(axis, 1) for axis in axes_of(logical, rules))


def indivisible(config: ModelConfig, sizes: Mapping[str, int], rules: Rules = RULES
                ) -> Iterator[tuple[str, str]]:
  """(field of the config, why) for each size that the rules do not divide as they should."""
  for logical, field in DIVIDED.items():
    choices = [axes for name, axes in rules if name == logical]
    parts = [math.prod(sizes.get(axis, 1) for axis in axes) for axes in choices]
    if parts and all(getattr(config, field) % n for n in parts):
      yield field, f'MeshConfig.{" x MeshConfig.".join(choices[0])} is {parts[0]}'


def check_fits(config: ModelConfig, mesh: Mesh, batch_size: int, microbatches: int = 1,
               rules: Rules = RULES) -> None:
  """Raises UserError for a size of the model, or a batch, that the mesh does not divide."""
  for field, why in indivisible(config, mesh.shape, rules):
    raise FieldError(config, field, f'not divisible by the mesh: {why}')
  parts = num_parts('batch', mesh.shape, rules)
  if batch_size % (parts * microbatches):
    each = f' in {microbatches} microbatches' if microbatches > 1 else ''
    up = -(-batch_size // (parts * microbatches)) * parts * microbatches
    raise UserError(
        f'batch_size {batch_size}{each} is not divisible by the mesh: '
        f'{" x ".join(axes_of("batch", rules))} is {parts}; the next size that is: {up}')
