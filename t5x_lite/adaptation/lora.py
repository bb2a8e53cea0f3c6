"""LoRA (Hu et al. 2021) and its kin: a trained A B of low rank beside frozen kernels."""

import dataclasses
import functools
import math
import re
from typing import Any, Literal
import zlib

from flax import nnx
import jax
import jax.numpy as jnp

from t5x_lite.adaptation.lora_leaf import LoraLeaf, fan
from t5x_lite.adaptation.partial import check_expressions, trained_whole
from t5x_lite.core.dataclass_checks import (
  Count,
  FieldError,
  Fraction,
  Positive,
  check_types,
  nearest,
)
from t5x_lite.core.errors import UserError
from t5x_lite.models import Network, weights
from t5x_lite.models.initialization import name_and_layer

WORDS = {   # of `targets`: which kernels they stand for
    'attention': r'blocks/(\d+/)?(attention|cross)/(query|key|value|out)/kernel',
    'mlp': r'blocks/(\d+/)?mlp/(gate|up|down)(/kernel)?$',
    'embeddings': r'^embedder/tokens$',
}
WORDS['all_linear'] = f'{WORDS["attention"]}|{WORDS["mlp"]}'
A, B, NORM = '_lora_a', '_lora_b', '_dora_norm'   # of a parameter's name, after its kernel's
A0, B0 = '_pissa_a', '_pissa_b'   # what A and B began as, which is taken off the kernel


@dataclasses.dataclass(frozen=True, kw_only=True)
class Lora:
  """Trains A B of a low rank beside kernels W, as W + scale A B; all else is frozen."""
  # 'attention', 'mlp', 'all_linear', 'embeddings', or regular expressions, searched for in the
  # paths of kernels, such as 'attention/(query|value)'.
  targets: tuple[str, ...] = ('all_linear',)
  rank: Count = 8                    # of A B: numbers that pass between them
  alpha: Positive[float] = 16.0     # the scale is alpha / rank
  dropout: Fraction = 0.0           # of the adapter's inputs, in blocks
  rank_stabilized: bool = False     # the scale is alpha / sqrt(rank) (Kalajdzievski 2023)
  dora: bool = False                # the norms of outputs are trained too (Liu et al. 2024)
  # zero: A is drawn and B is 0. pissa: A B is the part of W of the largest singular values, which
  # is taken off it (Meng et al. 2024).
  start: Literal['zero', 'pissa'] = 'zero'
  trained: str | None = None        # what else is trained, whole: as Partial.trained

  def __post_init__(self):
    check_types(self)
    check_expressions(self, 'targets', 'trained')
    if not self.targets:
      raise FieldError(self, 'targets', 'names no kernel')
    if self.dora and self.start != 'zero':
      raise FieldError(self, 'start', 'not supported with Lora.dora')

  @property
  def scale(self) -> float:
    """Of A B."""
    return self.alpha / (math.sqrt(self.rank) if self.rank_stabilized else self.rank)

  def adapt(self, network: Network) -> Network:
    """The network with A and B beside its kernels, which alone are trained.

    Raises FieldError for a target that matches no kernel, a rank above the smaller dimension of a
    kernel, and options that a kernel does not have.
    """
    variables = dict(nnx.to_flat_state(network.abstract))
    kernels = self._kernels(variables)
    for path in kernels:
      variables |= self._added(path, variables[path])
    names = lambda *ends: {f'{"/".join(map(str, path))}{e}' for path in kernels for e in ends}
    added, kept = names(A, B, NORM), names(A0, B0)
    extra = trained_whole(self, variables) - kept

    def assemble(params, key):
      return network.assemble(_nested(self._joined(params, kernels, key)), key)

    return dataclasses.replace(
        network, abstract=nnx.from_flat_state(variables), assemble=assemble,
        is_trained=lambda path: path in added or path in extra,
        is_added=lambda path: path in added | kept or network.is_added(path),
        is_kept=lambda path: path in kept or network.is_kept(path),
        begin=functools.partial(self._principal, kernels) if self.start == 'pissa' else (
            network.begin),
        has_dropout=network.has_dropout or self.dropout > 0)

  def merge(self, network: Network, params: dict) -> dict:
    """The parameters of the base, a nested dict, with the adapters of `params` added in float32."""
    joined = nnx.traversals.flatten_mapping(network.assemble(params, None))
    variables = dict(nnx.to_flat_state(network.abstract))

    def plain(path, leaf):
      if not isinstance(leaf, LoraLeaf):
        return leaf
      if weights.is_structured(leaf.innermost):
        raise UserError(f'{"/".join(map(str, path))} is quantised: adding an adapter to its codes '
                        'would round the adapter away; merge into the base it was quantised from')
      stacked = len(leaf.shape) > len(variables[path].axes)
      return jax.vmap(LoraLeaf.value)(leaf) if stacked else leaf.value()

    return _nested({path: plain(path, leaf) for path, leaf in joined.items()})

  def _kernels(self, variables) -> dict[tuple, Any]:
    """{path: abstract parameter} of what the targets match."""
    names = {'/'.join(map(str, path)): path for path, v in variables.items()
             if getattr(v, 'num_in', 0) and not path[-1].endswith((A, B))}
    found = {}
    for target in self.targets:
      pattern = WORDS.get(target, target)
      matched = [path for name, path in names.items() if re.search(pattern, name)]
      if not matched:
        raise FieldError(self, 'targets', f'{target!r} matches no kernel of this model; '
                         + nearest(target, [*WORDS, *names]))
      found |= {path: variables[path] for path in matched}
    for path, variable in found.items():
      self._check('/'.join(map(str, path)), variable)
    return found

  def _check(self, name: str, variable) -> None:
    experts, shape = _kernel_shape(variable)
    rows, columns = fan(shape, variable.num_in)
    if self.rank > min(rows, columns):
      raise FieldError(self, 'rank', f'above the smaller dimension of {name}, which is {rows} x '
                       f'{columns}: choose at most {min(rows, columns)}, or leave it out of '
                       'Lora.targets')
    if experts and self.dropout:
      raise FieldError(self, 'dropout', f'not supported for kernels of experts ({name}): set it to '
                       '0, or leave them out of Lora.targets')
    if self.dora and (experts or name == 'embedder/tokens'):
      raise FieldError(self, 'dora', f'not supported for {name}: leave it out of Lora.targets')

  def _added(self, path: tuple, variable) -> dict[tuple, nnx.Param]:
    """{path: abstract parameter} of a kernel's adapter, of its layers if they are stacked."""
    experts, shape = _kernel_shape(variable)
    layers = variable.get_value().shape[:variable.get_value().ndim - len(variable.axes)]
    n, rows = variable.num_in, fan(shape, variable.num_in)[0]
    first = tuple(variable.axes[:len(experts)])
    in_axes, out_axes = variable.axes[len(experts):][:n], variable.axes[len(experts):][n:]

    def param(shape, axes, std, **more):
      x = jax.ShapeDtypeStruct((*layers, *experts, *shape), jnp.float32)
      return nnx.Param(x, axes=(*first, *axes), std=std, mean=0.0, num_in=0, **more)

    table = path[-1] == 'tokens'   # a row of A for each token: all begin as 0, as in PEFT
    a = param((*shape[:n], self.rank), (*in_axes, None),
              0.0 if table else (3 * rows) ** -0.5, distribution='uniform')
    b = param((self.rank, *shape[n:]), (None, *out_axes), 1.0 if table else 0.0)
    added = {A: a, B: b}
    if self.dora:
      added[NORM] = param(shape[n:], tuple('norm' if x == 'embed' else x for x in out_axes), 0.0)
    if self.start == 'pissa':   # all have the values of `_principal`
      added |= {end: param(x.get_value().shape[len(layers) + len(experts):], x.axes[len(experts):],
                           0.0) for end, x in ((A, a), (B, b), (A0, a), (B0, b))}
    return {(*path[:-1], f'{path[-1]}{end}'): x for end, x in added.items()}

  def _joined(self, params: dict, kernels: dict[tuple, Any], key) -> dict[tuple, Any]:
    """{path: leaf} of the parameters, with those of each adapter in the leaf of its kernel."""
    flat = nnx.traversals.flatten_mapping(params)
    for path, variable in kernels.items():
      take = lambda end, path=path: flat.pop((*path[:-1], f'{path[-1]}{end}'), None)
      a, b, norm = take(A), take(B), take(NORM)
      if self.start == 'pissa':
        flat[path] = LoraLeaf(flat[path], take(A0), take(B0), None, None, -self.scale, 0.0)
      own = _key(key, path, variable) if self.dropout and 'blocks' in path else None
      flat[path] = LoraLeaf(flat[path], a, b, norm, own, self.scale, self.dropout)
    return flat


  def _principal(self, kernels: dict[tuple, Any], base: dict[str, Any]) -> dict[str, jax.Array]:
    """{path: value} of A and B, and of what they begin as: scale A B is the part of each kernel of
    its largest singular values, as U S^(1/2) and S^(1/2) V."""
    values = {}
    for path, variable in kernels.items():
      name = '/'.join(map(str, path))
      kernel = base[name]
      if weights.is_structured(kernel):
        raise FieldError(self, 'start', 'not supported on a quantised base: it would be taken off '
                         f'the codes of {name}')
      experts, shape = _kernel_shape(variable)
      lead = kernel.shape[:kernel.ndim - len(shape)]
      a, b = jax.lax.map(functools.partial(_factors, rank=self.rank, scale=self.scale),
                         kernel.reshape(-1, *fan(shape, variable.num_in)))
      a = a.reshape(*lead, *shape[:variable.num_in], self.rank)
      b = b.reshape(*lead, self.rank, *shape[variable.num_in:])
      values |= {name + A: a, name + A0: a, name + B: b, name + B0: b}
    return values


def _factors(w: jax.Array, rank: int, scale: float) -> tuple[jax.Array, jax.Array]:
  """(A [in, rank], B [rank, out]) of the part of a matrix of its largest singular values."""
  u, s, v = jnp.linalg.svd(w, full_matrices=False)
  root = jnp.sqrt(s[:rank] / scale)
  return u[:, :rank] * root[None, :], root[:, None] * v[:rank]


def _kernel_shape(variable) -> tuple[tuple[int, ...], tuple[int, ...]]:
  """((number of experts) or (), the shape of one kernel of one layer)."""
  shape = variable.get_value().shape
  shape = shape[len(shape) - len(variable.axes):]
  number = 1 if variable.axes[0] == 'experts' else 0
  return shape[:number], shape[number:]


def _key(key: jax.Array | None, path: tuple, variable) -> jax.Array | None:
  """The key of a kernel's dropout, one for each of its layers: the same stacked or not."""
  if key is None:
    return None
  name, layer = name_and_layer(path)
  key = jax.random.fold_in(key, zlib.crc32(name.encode()))
  shape = variable.get_value().shape
  if len(shape) == len(variable.axes):
    return jax.random.fold_in(key, layer or 0)
  return jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(shape[0]))


def _nested(flat: dict[tuple, Any]) -> dict:
  return nnx.traversals.unflatten_mapping(flat)
