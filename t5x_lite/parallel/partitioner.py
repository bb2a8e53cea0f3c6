"""How arrays are sharded over a mesh, by logical axis names; models never name mesh axes."""

from collections.abc import Callable
import dataclasses
import math
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
import numpy as np

from t5x_lite.core.dataclass_checks import FieldError
from t5x_lite.models import Network
from t5x_lite.parallel.mesh import RULES, Rules, axes_of, num_parts


@dataclasses.dataclass(frozen=True)
class Partitioner:
  """A mesh and the rules that shard arrays over it."""
  mesh: Mesh
  rules: Rules = RULES

  def spec(self, axes: tuple[str | None, ...], shape: tuple[int, ...]) -> PartitionSpec:
    """Mesh axes of an array whose dimensions have these logical names and sizes.

    A dimension that its mesh axes do not divide is not sharded.
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

  def shard_map(self, fn: Callable, in_axes: Any, out_axes: Any) -> Callable:
    """`fn` run by each device on its own part of the arguments, sharded by logical axes.

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
    """A full copy of the array on every device."""
    return NamedSharding(self.mesh, PartitionSpec())

  def batch_sharding(self, ndim: int) -> NamedSharding:
    """Rows of a batch over the mesh axes of their rule; other dimensions are not sharded."""
    axes = tuple(a for a in axes_of('batch', self.rules) if self.mesh.shape[a] > 1)
    return NamedSharding(self.mesh, PartitionSpec(axes or None, *(None,) * (ndim - 1)))

  @property
  def batch_parts(self) -> int:
    """The number of parts that a batch is sharded into."""
    return num_parts('batch', self.mesh.shape, self.rules)

  def check_rows(self, settings) -> None:
    """Raises FieldError if the mesh does not divide `settings.batch_size`."""
    if settings.batch_size % self.batch_parts:
      axes = ' x '.join(axes_of('batch', self.rules))
      raise FieldError(settings, 'batch_size',
                       f'not divisible by the mesh: {axes} is {self.batch_parts}')

  def put_batch(self, batch: dict[str, np.ndarray]) -> dict[str, jax.Array]:
    """This process's rows of a batch -> global arrays on the mesh."""
    put = lambda x: jax.make_array_from_process_local_data(self.batch_sharding(x.ndim), x)
    return {name: put(x) for name, x in batch.items()}

  def put_whole(self, batch: dict[str, np.ndarray]) -> dict[str, jax.Array]:
    """A batch that every process has whole -> global arrays on the mesh."""
    put = lambda x: jax.make_array_from_callback(
        x.shape, self.batch_sharding(x.ndim), lambda part: x[part])
    return {name: put(x) for name, x in batch.items()}

  def param_shardings(self, network: Network) -> dict:
    """Nested dict of NamedShardings, like the parameters of the network."""
    return jax.tree.map(lambda x, axes: self.sharding(axes, x.shape), network.shapes,
                        network.logical_axes)
