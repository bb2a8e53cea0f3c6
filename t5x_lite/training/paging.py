"""Optimizer state in the host's memory, which comes to the device a layer at a time.

After the paged optimizer of QLoRA (Dettmers et al. 2023). A device holds the state of one layer, or
of one parameter that is not stacked; each step moves all of it to the device and back.
"""

from collections.abc import Callable
import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax


@dataclasses.dataclass(frozen=True)
class PagedTransformation:
  """A transformation whose state for each parameter is in the host's memory between steps.

  Its state has the structure of `whole`'s. Trajectories are those of `whole` too: bit for bit where
  layers are not stacked, and else up to the rounding of a loop that XLA fuses in another way.

  Attributes:
    whole: the same transformation without pages.
    clip: the first part of `whole`, which sees all gradients at once; None: there is none.
    elementwise: gives the rest of it, for whether a parameter decays.
    decays: gives a tree of bools for parameters.
    memory_kind: of the host's memories, that which a device reads by itself.
  """
  whole: optax.GradientTransformation
  clip: optax.GradientTransformation | None
  elementwise: Callable[[bool], optax.GradientTransformation]
  decays: Callable[[Any], Any]
  memory_kind: str = 'pinned_host'

  def init(self, params):
    return self.whole.init(params)

  def apply(self, grads, state, params, stacked):
    """(new parameters, new state, norm of the updates).

    Args:
      stacked: a tree of bools like `params`: True where axis 0 is that of layers.
    """
    if self.clip is None:
      return self._apply(grads, state, params, stacked)
    grads, clip_state = self.clip.update(grads, state[0])
    params, rest, norm = self._apply(grads, state[1], params, stacked)
    return params, (clip_state, rest), norm

  def _apply(self, grads, state, params, stacked):
    structure = jax.tree.structure(params)
    parts, is_tree = structure.flatten_up_to, lambda x: jax.tree.structure(x) == structure
    updated = []
    for i, (param, grad, decayed, in_layers) in enumerate(zip(
        *map(parts, (params, grads, self.decays(params), stacked)))):
      page = jax.tree.map(lambda x: parts(x)[i] if is_tree(x) else x, state, is_leaf=is_tree)
      update = _update_layers if in_layers else _update
      updated.append(update(self.elementwise(decayed), param, page, grad))
    new, pages, squares = zip(*updated)
    together = lambda old, *new: structure.unflatten(new) if is_tree(old) else new[0]
    return (structure.unflatten(new), jax.tree.map(together, state, *pages, is_leaf=is_tree),
            jnp.sqrt(sum(squares)))


def _move(state, space: jax.memory.Space):
  """The state in this memory, but for its scalars: counts of steps, which no parameter owns."""
  return jax.tree.map(lambda x: jax.device_put(x, space) if x.ndim else x, state)


def _update(transformation, param, state, grad):
  """(new parameter, its new state, sum of the squares of the update)."""
  update, state = transformation.update(grad, _move(state, jax.memory.Space.Device), param)
  return (optax.apply_updates(param, update), _move(state, jax.memory.Space.Host),
          jnp.sum(update ** 2))


def _update_layers(transformation, params, state, grads):
  """As _update, one layer after the other: a loop, or the compiler moves all pages in at once."""
  at = lambda x, i: jax.lax.dynamic_index_in_dim(x, i, keepdims=False)
  put = lambda x, new, i: jax.lax.dynamic_update_index_in_dim(x, new, i, 0)

  def body(i, carry):
    params, held, squares = carry
    page = jax.tree.map(lambda x, before: at(x, i) if x.ndim else before, held, state)
    param, page, square = _update(transformation, at(params, i), page, at(grads, i))
    held = jax.tree.map(lambda x, new: put(x, new, i) if x.ndim else new, held, page)
    return put(params, param, i), held, squares + square

  return jax.lax.fori_loop(0, len(params), body, (params, state, jnp.float32(0)))
