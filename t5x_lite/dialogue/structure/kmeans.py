"""k-means in JAX: k-means++, and many restarts at once.

S starts, N points, K clusters, D dimensions, T trials of k-means++. K is the room that is compiled
for, of which the first k are used: one compilation serves all k of a range.
"""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np

from t5x_lite.core.errors import UserError

_EXACT = jax.lax.Precision.HIGHEST   # accelerators multiply in bfloat16 otherwise


@dataclasses.dataclass(frozen=True)
class Clusters:
  """The best of several starts.

  Attributes:
    centers: [k, d].
    labels: the nearest centre of each point, [n].
    inertia: sum of the squared distances to it.
    inertias: of each start, [s].
  """
  centers: np.ndarray
  labels: np.ndarray
  inertia: float
  inertias: np.ndarray


def kmeans(points: np.ndarray, k: int, starts: int = 20, iterations: int = 300, seed: int = 0,
           room: int | None = None) -> Clusters:
  """Clusters points, [n, d]; `room` is the largest k that is asked for, k if None.

  Raises UserError where fewer than k points differ.
  """
  distinct = len(np.unique(points, axis=0))
  if distinct < k:
    raise UserError(f'k = {k} clusters of {distinct} different points: choose k at most {distinct}')
  keys_S = jax.random.split(jax.random.key(seed), starts)
  mean_D = points.mean(axis=0)
  x_ND = jnp.asarray(points - mean_D[None, :], jnp.float32)   # near 0, where float32 is finest
  centers_SKD = plus_plus(keys_S, x_ND, k, room or k)
  return from_starts(points, np.asarray(centers_SKD) + mean_D[None, None, :], iterations, k)


def from_starts(points: np.ndarray, centers: np.ndarray, iterations: int = 300,
                k: int | None = None) -> Clusters:
  """Lloyd's iterations until no label changes, from the first k of centres, [s, room, d]."""
  k = k or centers.shape[1]
  mean_D = points.mean(axis=0)
  x_ND = jnp.asarray(points - mean_D[None, :], jnp.float32)
  starts_SKD = jnp.asarray(centers - mean_D[None, None, :], jnp.float32)
  centers_SKD, labels_SN, inertias_S = map(np.asarray, _lloyd(x_ND, starts_SKD, k, iterations))
  best = int(inertias_S.argmin())
  return Clusters(centers=centers_SKD[best, :k] + mean_D[None, :], labels=labels_SN[best],
                  inertia=float(inertias_S[best]), inertias=inertias_S)


def nearest(points: np.ndarray, centers: np.ndarray) -> np.ndarray:
  """The nearest centre of each point, [n]."""
  return squared_distances(points, centers).argmin(axis=1)


def squared_distances(points: np.ndarray, centers: np.ndarray) -> np.ndarray:
  """Of each point to each centre, [n, k], in float64."""
  x_ND, c_KD = np.asarray(points, np.float64), np.asarray(centers, np.float64)
  squares_NK = (x_ND ** 2).sum(axis=1)[:, None] + (c_KD ** 2).sum(axis=1)[None, :]
  return np.maximum(squares_NK - 2 * x_ND @ c_KD.T, 0)


@functools.partial(jax.jit, static_argnames='room')
@functools.partial(jax.vmap, in_axes=(0, None, None, None))
def plus_plus(key: jax.Array, x_ND: jax.Array, k: int, room: int) -> jax.Array:
  """Centres [s, room, d] by greedy k-means++: of a few points drawn by distance, the best."""
  trials = 2 + int(math.log(room))
  first_key, key = jax.random.split(key)
  first_D = x_ND[jax.random.randint(first_key, (), 0, len(x_ND))]
  centers_KD = jnp.zeros((room, x_ND.shape[1]), x_ND.dtype).at[0].set(first_D)

  def add(i, carry):
    centers_KD, nearest_N = carry
    drawn_T = jax.random.categorical(jax.random.fold_in(key, i), jnp.log(nearest_N),
                                     shape=(trials,))
    nearest_TN = jnp.minimum(_squares(x_ND[drawn_T], x_ND), nearest_N[None, :])
    best = nearest_TN.sum(axis=1).argmin()
    return centers_KD.at[i].set(x_ND[drawn_T[best]]), nearest_TN[best]

  nearest_N = _squares(first_D[None, :], x_ND)[0]
  return jax.lax.fori_loop(1, k, add, (centers_KD, nearest_N))[0]


def _squares(a_MD: jax.Array, b_ND: jax.Array) -> jax.Array:
  """Squared distances [m, n]."""
  products_MN = jnp.matmul(a_MD, b_ND.T, precision=_EXACT)
  return jnp.maximum((a_MD ** 2).sum(axis=1)[:, None] + (b_ND ** 2).sum(axis=1)[None, :]
                     - 2 * products_MN, 0)


@jax.jit
def _lloyd(x_ND: jax.Array, starts_SKD: jax.Array, k: int, iterations: int):
  """(centers [s, room, d], labels [s, n], inertias [s]) of all starts."""
  used_K = jnp.arange(starts_SKD.shape[1]) < k

  def assign(centers_KD):
    squares_NK = jnp.where(used_K[None, :], _squares(x_ND, centers_KD), jnp.inf)
    return squares_NK.argmin(axis=1), squares_NK.min(axis=1)

  def one(centers_KD):
    def step(carry):
      centers_KD, labels_N, nearest_N, _, i = carry
      centers_KD = _means(x_ND, _fill_empty(labels_N, nearest_N, used_K), centers_KD)
      new_N, nearest_N = assign(centers_KD)
      return centers_KD, new_N, nearest_N, jnp.any(new_N != labels_N), i + 1

    going = lambda carry: carry[3] & (carry[4] < iterations)
    start = (centers_KD, *assign(centers_KD), jnp.array(True), 0)
    centers_KD, labels_N, *_ = jax.lax.while_loop(going, step, start)
    # Of differences: the sum of squares above loses digits where a point is at its centre.
    return centers_KD, labels_N, ((x_ND - centers_KD[labels_N]) ** 2).sum()

  return jax.vmap(one)(starts_SKD)


def _fill_empty(labels_N: jax.Array, nearest_N: jax.Array, used_K: jax.Array) -> jax.Array:
  """Labels in which each empty cluster has a point: those farthest from their centres."""
  room = len(used_K)
  empty_K = used_K & (jnp.bincount(labels_N, length=room) == 0)
  farthest_K = jax.lax.top_k(nearest_N, room)[1]
  from_K = jnp.where(empty_K, farthest_K[jnp.cumsum(empty_K) - 1], len(labels_N))
  return labels_N.at[from_K].set(jnp.arange(room, dtype=labels_N.dtype), mode='drop')


def _means(x_ND: jax.Array, labels_N: jax.Array, centers_KD: jax.Array) -> jax.Array:
  """The mean of each cluster; where it lost its only point to an empty one, its centre stays."""
  of_NK = jax.nn.one_hot(labels_N, len(centers_KD), dtype=x_ND.dtype)
  sizes_K = of_NK.sum(axis=0)
  sums_KD = jnp.matmul(of_NK.T, x_ND, precision=_EXACT)
  return jnp.where((sizes_K > 0)[:, None], sums_KD / jnp.maximum(sizes_K, 1)[:, None], centers_KD)
