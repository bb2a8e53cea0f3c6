"""Many fits of L = E + A / N^alpha + B / D^beta at once, in JAX and float64.

A fit minimises the sum of w rho(r) over the runs, with r = log L - log law, the log of the law
taken as log-sum-exp (Hoffmann et al. 2022, appendix D.3). rho is the Huber loss, r^2 / 2 up to
delta and delta (|r| - delta / 2) above, divided by delta^2, so that a tolerance means the same for
every delta; or the absolute value. Steps are Newton's with the exact Hessian, damped after
Levenberg and Marquardt; where the Hessian is not positive, those of reweighted least squares.

S fits, P runs. A point theta is (a, b, e, alpha, beta) with A = exp(a), B = exp(b), E = exp(e).
"""

from concurrent import futures
import functools
import itertools
import os

import jax
import jax.numpy as jnp
import numpy as np

DELTA = 1e-3          # of the Huber loss, as published
# Least absolute deviations is the limit of decreasing deltas, each started at the last optimum.
_DELTAS = tuple(DELTA * 0.25 ** np.arange(1, 14))   # down to 1.5e-11
_KEPT = 128           # minima of the Huber loss from which the deltas decrease
_STEPS, _ROUNDS = 50, 8   # steps of a round, after which converged fits are removed; rounds
_CHUNK = 128          # fits of a batch, whose arrays fit the processor's cache
_TOLERANCE = 1e-13    # relative decrease below which a fit has converged
_MOVE = 3.0           # maximum change of a parameter in a step


def standard_starts() -> np.ndarray:
  """The 4,500 starts [4500, 5] of Hoffmann et al. 2022, appendix D.3."""
  terms, exponents = np.arange(0, 26, 5.0), np.arange(0, 2.1, 0.5)
  return np.array(list(itertools.product(terms, terms, np.arange(-1, 1.1, 0.5), exponents,
                                         exponents)))


def solve(starts: np.ndarray, log_n: np.ndarray, log_d: np.ndarray, log_loss: np.ndarray,
          weights: np.ndarray, loss: str) -> tuple[np.ndarray, np.ndarray]:
  """Local minima from all starts: (theta [S, 5], objective [S]).

  Args:
    starts: [S, 5].
    log_n, log_d: [P].
    log_loss, weights: [P], or [S, P] for separate values of each fit.
    loss: 'huber', or 'lad' for least absolute deviations. The objective is the sum over delta^2,
      or the sum of absolute deviations.
  """
  theta, value = _minimise(starts, log_n, log_d, log_loss, weights, DELTA)
  if loss == 'huber':
    return theta, value
  for delta in _DELTAS:
    theta, _ = _minimise(theta, log_n, log_d, log_loss, weights, delta)
  misses = np.abs(log_loss - log_law(theta, log_n, log_d))
  return theta, (weights * misses).sum(1)


def solve_best(starts: np.ndarray, log_n: np.ndarray, log_d: np.ndarray, log_loss: np.ndarray,
               weights: np.ndarray, loss: str) -> tuple[np.ndarray, float]:
  """The lowest minimum of one fit over all starts: (theta [5], objective)."""
  theta, value = solve(starts, log_n, log_d, log_loss, weights, 'huber')
  if loss == 'lad':
    _, distinct = np.unique(np.round(np.log(value + 1e-300), 6), return_index=True)
    theta, value = solve(theta[distinct[:_KEPT]], log_n, log_d, log_loss, weights, 'lad')
  best = int(np.argmin(value))
  return theta[best], float(value[best])


def log_law(theta: np.ndarray, log_n: np.ndarray, log_d: np.ndarray) -> np.ndarray:
  """log L [S, P] of laws [S, 5]."""
  a, b, e, alpha, beta = (x[:, None] for x in theta.T)
  return np.logaddexp(np.logaddexp(a - alpha * log_n, b - beta * log_d), e)


def jacobian(theta: np.ndarray, log_n: np.ndarray, log_d: np.ndarray) -> np.ndarray:
  """Derivatives [P, 5] of the log of one law."""
  a, b, e, alpha, beta = theta
  law = log_law(theta[None], log_n, log_d)[0]
  of_a, of_b = np.exp(a - alpha * log_n - law), np.exp(b - beta * log_d - law)
  return np.stack([of_a, of_b, np.exp(e - law), -log_n * of_a, -log_d * of_b], 1)


def _minimise(starts, log_n, log_d, log_loss, weights, delta):
  """Minima of the Huber loss: (theta [S, 5], objective [S])."""
  middle_n, middle_d = log_n.mean(), log_d.mean()
  # A and B at the middle of the runs, where they hardly depend on alpha and beta.
  to_middle = np.eye(5)
  to_middle[0, 3], to_middle[1, 4] = -middle_n, -middle_d
  theta, value = starts @ to_middle.T, np.zeros(len(starts))
  damping, done = np.ones(len(starts)), np.zeros(len(starts), bool)

  def run(index):
    filled = np.resize(index, _CHUNK)   # one shape, compiled once
    own = lambda x: x[filled] if x.ndim > 1 else np.broadcast_to(x, (_CHUNK, len(x)))
    with jax.enable_x64(True):          # of this thread alone
      found = _descend(theta[filled], damping[filled], own(log_loss), own(weights),
                       log_n - middle_n, log_d - middle_d, float(delta))
      return [np.asarray(x)[:len(index)] for x in found]

  with futures.ThreadPoolExecutor(os.cpu_count()) as pool:
    for _ in range(_ROUNDS):
      going = np.flatnonzero(~done)
      chunks = [going[i:i + _CHUNK] for i in range(0, len(going), _CHUNK)]
      for index, found in zip(chunks, pool.map(run, chunks)):
        theta[index], value[index], damping[index], done[index] = found
  return theta @ (2 * np.eye(5) - to_middle).T, value


@jax.jit
def _descend(theta, damping, y, w, n, d, delta):
  """Steps from theta [S, 5] to convergence or the end of a round: (theta, loss, damping, done)."""
  evaluate = functools.partial(_derivatives, y=y, w=w, n=n, d=d, delta=delta)
  eye = jnp.eye(5)[None]

  def step(state):
    theta, (f, g, hessian, majorant), damping, _, count = state
    scale = jnp.sqrt(jnp.diagonal(majorant, axis1=1, axis2=2)) + 1e-150
    outer = scale[:, :, None] * scale[:, None, :]
    damped = damping[:, None, None] * eye
    newton = jnp.linalg.cholesky(hessian / outer + damped)   # nan where it is not positive
    bad = ~jnp.isfinite(newton).all((1, 2))[:, None, None]
    quadratic = jnp.where(bad, majorant, hessian)
    factor = jnp.where(bad, jnp.linalg.cholesky(majorant / outer + damped + 1e-9 * eye), newton)
    half = jax.scipy.linalg.solve_triangular(factor, (g / scale)[:, :, None], lower=True)
    move = -jax.scipy.linalg.solve_triangular(factor, half, lower=True, trans=1)[:, :, 0] / scale
    move = move * jnp.minimum(1.0, _MOVE / jnp.abs(move).max(1, keepdims=True))
    trial = theta + move
    new = evaluate(trial)
    promised = -(jnp.einsum('si,si->s', g, move)
                 + 0.5 * jnp.einsum('si,sij,sj->s', move, quadratic, move))
    accept = jnp.isfinite(move).all(1) & (new[0] < f)
    gain = (f - new[0]) / promised
    last = (promised <= _TOLERANCE * f) & (damping < 1.0) | (damping > 1e14) | (f == 0)
    damping = jnp.where(accept & (gain > 0.5), damping / 5,
                        jnp.where(accept & (gain > 0.01), damping, damping * 4))
    choose = lambda a, b: jnp.where(accept.reshape(-1, *[1] * (a.ndim - 1)), a, b)
    return (choose(trial, theta), jax.tree.map(choose, new, (f, g, hessian, majorant)),
            jnp.maximum(damping, 1e-12), state[3] | last, count + 1)

  going = lambda state: ~state[3].all() & (state[4] < _STEPS)
  start = theta, evaluate(theta), damping, jnp.zeros(len(theta), bool), 0
  theta, (f, *_), damping, done, _ = jax.lax.while_loop(going, step, start)
  return theta, f, damping, done


def _derivatives(theta, y, w, n, d, delta):
  """(objective [S], gradient [S, 5], Hessian [S, 5, 5], majorant [S, 5, 5]) at theta [S, 5].

  The majorant is the Hessian of reweighted least squares, which is positive semidefinite.
  """
  a, b, e, alpha, beta = (x[:, None] for x in theta.T)
  n, d = n[None], d[None]
  terms = [a - alpha * n, b - beta * d, jnp.broadcast_to(e, (len(theta), n.size))]
  top = jnp.maximum(jnp.maximum(terms[0], terms[1]), terms[2])
  terms_exp = [jnp.exp(term - top) for term in terms]
  total = sum(terms_exp)
  p_a, p_b, p_e = (term / total for term in terms_exp)   # fraction of each term
  r = y - (top + jnp.log(total))
  size = jnp.abs(r)
  f = (w * jnp.where(size <= delta, 0.5 * r * r, delta * (size - 0.5 * delta))).sum(1)
  slope = w * jnp.clip(r, -delta, delta)
  inside = w * (size <= delta)
  pull = w * jnp.minimum(1.0, delta / jnp.maximum(size, 1e-300))
  jacobian = jnp.stack([p_a, p_b, p_e, -n * p_a, -d * p_b], 1)   # of log law, [S, 5, P]
  gram = lambda by: jnp.einsum('sip,sjp->sij', jacobian * by[:, None], jacobian)
  g = -jnp.einsum('sip,sp->si', jacobian, slope)
  # The second derivatives of log law: of each term's log, less the products of the first.
  of_a = (slope * p_a) @ jnp.concatenate([jnp.ones_like(n), -n, n * n]).T
  of_b = (slope * p_b) @ jnp.concatenate([jnp.ones_like(d), -d, d * d]).T
  curved = jnp.zeros((len(theta), 5, 5)).at[:, 2, 2].set((slope * p_e).sum(1))
  for i, j, sums in ((0, 3, of_a), (1, 4, of_b)):
    curved = curved.at[:, i, i].set(sums[:, 0]).at[:, j, j].set(sums[:, 2])
    curved = curved.at[:, i, j].set(sums[:, 1]).at[:, j, i].set(sums[:, 1])
  scaled = 1 / delta ** 2
  return f * scaled, g * scaled, (gram(inside + slope) - curved) * scaled, gram(pull) * scaled
