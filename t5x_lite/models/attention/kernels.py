"""softmax(q·k) v, computed in several ways behind one signature.

Each kernel takes q [batch, heads, length, head_dim], k and v [batch, kv heads, key length,
head_dim] and a Scores, and returns [batch, heads, length, head_dim] in the dtype of q. Query head n
reads key-value head n // (heads / kv heads). Shape letters: see layers.py.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp

from t5x_lite.models import layers
from t5x_lite.models.attention.masks import Mask, Place
from t5x_lite.models.positions import Bias

MASKED = -1e10   # finite, so that a row with nothing to see gives no NaN
ROWS = 64        # queries of a slice of `rows`
BLOCK = 512      # queries and keys of a block of `blockwise`


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Scores:
  """What makes scores out of q·k, and what is dropped of their softmax."""
  mask: Mask
  bias: Bias | None = None
  key: jax.Array | None = None     # draws dropout; None for none
  scale: float = dataclasses.field(metadata={'static': True})
  softcap: float | None = dataclasses.field(default=None, metadata={'static': True})
  dropout_rate: float = dataclasses.field(default=0.0, metadata={'static': True})

  def __call__(self, q_BNLH: jax.Array, k_BKSH: jax.Array, q_from: Place = 0, k_from: Place = 0
               ) -> jax.Array:
    """Float32 scores [batch, heads, length, key length] of a block that begins at these places."""
    (B, N, L, H), (_, K, S, _) = q_BNLH.shape, k_BKSH.shape
    # The queries of a group one after the other: plain products of matrices.
    s_BNLS = jnp.einsum('bkmh,bksh->bkms', q_BNLH.reshape(B, K, N // K * L, H), k_BKSH,
                        preferred_element_type=jnp.float32).reshape(B, N, L, S)
    s_BNLS = layers.softcap(s_BNLS * self.scale, self.softcap)
    if self.bias is not None:
      query_L = self.mask.q_start + q_from + jnp.arange(L)
      s_BNLS = s_BNLS + self.bias.block(query_L, k_from + jnp.arange(S))[None, :, :, :]
    seen_B1LS = self.mask.block(q_from, L, k_from, S)
    return jnp.where(seen_B1LS, s_BNLS, MASKED)

  def keep(self, shape: tuple[int, ...], *place: Place) -> jax.Array | None:
    """What dropout multiplies the probabilities of a block with: 0 or 1 / (1 - rate)."""
    if self.key is None or not self.dropout_rate:
      return None
    key = functools.reduce(jax.random.fold_in, place, self.key)
    return jax.random.bernoulli(key, 1 - self.dropout_rate, shape) / (1 - self.dropout_rate)


def _mix(p_BNLS: jax.Array, v_BKSH: jax.Array) -> jax.Array:
  """Values summed by probabilities, [batch, heads, length, head_dim] float32."""
  (B, N, L, S), (_, K, _, H) = p_BNLS.shape, v_BKSH.shape
  y_BKMH = jnp.einsum('bkms,bksh->bkmh', p_BNLS.reshape(B, K, N // K * L, S).astype(v_BKSH.dtype),
                      v_BKSH, preferred_element_type=jnp.float32)
  return y_BKMH.reshape(B, N, L, H)


def reference(q_BNLH: jax.Array, k_BKSH: jax.Array, v_BKSH: jax.Array, scores: Scores,
              q_from: int = 0, k_from: int = 0) -> jax.Array:
  """The formula, with the softmax in float32."""
  p_BNLS = jax.nn.softmax(scores(q_BNLH, k_BKSH, q_from, k_from), axis=-1)
  keep = scores.keep(p_BNLS.shape, q_from)
  return _mix(p_BNLS if keep is None else p_BNLS * keep, v_BKSH).astype(q_BNLH.dtype)


def rows(q_BNLH: jax.Array, k_BKSH: jax.Array, v_BKSH: jax.Array, scores: Scores) -> jax.Array:
  """`reference` for a few queries at a time, without the keys that the mask hides from all."""
  length, num_keys = q_BNLH.shape[2], k_BKSH.shape[2]

  def some(q_from):
    q = q_BNLH[:, :, q_from:q_from + ROWS]
    first, last = scores.mask.key_range(q_from, q.shape[2], num_keys)
    return reference(q, k_BKSH[:, :, first:last], v_BKSH[:, :, first:last], scores, q_from, first)

  return jnp.concatenate([some(q_from) for q_from in range(0, length, ROWS)], axis=2)


def blockwise(q_BNLH: jax.Array, k_BKSH: jax.Array, v_BKSH: jax.Array, scores: Scores,
              block: int = BLOCK) -> jax.Array:
  """Memory that grows linearly with length, on any backend, forwards and backwards.

  An online softmax over blocks of keys for each block of queries (Milakov & Gimelshein 2018, Rabe &
  Staats 2021); the backward pass recomputes the probabilities from the log-sum-exp of each row
  (FlashAttention, Dao et al. 2022, algorithm 4). Blocks that the mask hides whole are skipped.
  """
  length, num_keys = q_BNLH.shape[2], k_BKSH.shape[2]
  q_block, k_block = min(block, length), min(block, num_keys)
  q_size, k_size = (-(-n // b) * b for n, b in ((length, q_block), (num_keys, k_block)))
  pad = lambda x, size: jnp.pad(x, ((0, 0), (0, 0), (0, size - x.shape[2]), (0, 0)))
  scores = dataclasses.replace(scores, mask=scores.mask.padded(q_size, k_size, length, num_keys))
  y_BNLH = _blockwise(q_block, k_block, pad(q_BNLH, q_size), pad(k_BKSH, k_size),
                      pad(v_BKSH, k_size), scores)
  return y_BNLH[:, :, :length]


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _blockwise(q_block, k_block, q_BNLH, k_BKSH, v_BKSH, scores):
  return _blockwise_forward(q_block, k_block, q_BNLH, k_BKSH, v_BKSH, scores)[0]


def _slice(x_BNLH: jax.Array, start: Place, size: int) -> jax.Array:
  return jax.lax.dynamic_slice_in_dim(x_BNLH, start, size, axis=2)


def _add(x_BNLH: jax.Array, start: Place, part: jax.Array) -> jax.Array:
  new = _slice(x_BNLH, start, part.shape[2]) + part
  return jax.lax.dynamic_update_slice_in_dim(x_BNLH, new, start, axis=2)


def _key_blocks(mask: Mask, q_from: Place, q_block: int, k_block: int, num_keys: int):
  first, last = mask.key_range(q_from, q_block, num_keys)
  return first // k_block, -(-last // k_block)


def _blockwise_forward(q_block, k_block, q_BNLH, k_BKSH, v_BKSH, scores):
  """The output and, for the backward pass, the log-sum-exp of each row of scores."""
  (B, N, L, H), S = q_BNLH.shape, k_BKSH.shape[2]

  def one(i):
    q_from = i * q_block
    q = _slice(q_BNLH, q_from, q_block)

    def add_keys(j, carry):
      y, highest, total = carry
      k_from = j * k_block
      s = scores(q, _slice(k_BKSH, k_from, k_block), q_from, k_from)
      new = jnp.maximum(highest, s.max(-1))
      p, shrink = jnp.exp(s - new[..., None]), jnp.exp(highest - new)
      total = total * shrink + p.sum(-1)
      keep = scores.keep(p.shape, i, j)
      p = p if keep is None else p * keep
      y = y * shrink[..., None] + _mix(p, _slice(v_BKSH, k_from, k_block))
      return y, new, total

    start = (jnp.zeros((B, N, q_block, H)), jnp.full((B, N, q_block), -jnp.inf),
             jnp.zeros((B, N, q_block)))
    y, highest, total = jax.lax.fori_loop(
        *_key_blocks(scores.mask, q_from, q_block, k_block, S), add_keys, start)
    return (y / total[..., None]).astype(q.dtype), highest + jnp.log(total)

  y, log_sum = jax.lax.map(one, jnp.arange(L // q_block))
  join = lambda x: jnp.moveaxis(x, 0, 2).reshape(B, N, L, *x.shape[4:])
  y_BNLH, log_sum_BNL = join(y), join(log_sum)
  return y_BNLH, (q_BNLH, k_BKSH, v_BKSH, scores, y_BNLH, log_sum_BNL)


def _blockwise_backward(q_block, k_block, residuals, dy_BNLH):
  q_BNLH, k_BKSH, v_BKSH, scores, y_BNLH, log_sum_BNL = residuals
  (B, N, L, H), S = q_BNLH.shape, k_BKSH.shape[2]
  f32 = jnp.float32
  delta_BNL = (dy_BNLH.astype(f32) * y_BNLH.astype(f32)).sum(-1)

  def one(carry, i):
    q_from = i * q_block
    q, dy = _slice(q_BNLH, q_from, q_block), _slice(dy_BNLH, q_from, q_block).astype(f32)
    log_sum, delta = (_slice(x, q_from, q_block)[..., None] for x in (log_sum_BNL, delta_BNL))

    def add_keys(j, carry):
      dq, dk, dv, dbias = carry
      k_from = j * k_block
      k, v = (_slice(x, k_from, k_block) for x in (k_BKSH, v_BKSH))
      make = lambda q, k, bias: dataclasses.replace(scores, bias=bias)(q, k, q_from, k_from)
      s, scores_gradient = jax.vjp(make, q, k, scores.bias)
      p = jnp.exp(s - log_sum)
      keep = scores.keep(p.shape, i, j)
      dropped = p if keep is None else p * keep
      dp, dv_block = jax.vjp(_mix, dropped, v)[1](dy)
      ds = p * ((dp if keep is None else dp * keep) - delta)
      dq_block, dk_block, dbias_block = scores_gradient(ds)
      return (dq + dq_block, _add(dk, k_from, dk_block.astype(f32)),
              _add(dv, k_from, dv_block.astype(f32)), jax.tree.map(jnp.add, dbias, dbias_block))

    dk, dv, dbias = carry
    dq, *carry = jax.lax.fori_loop(*_key_blocks(scores.mask, q_from, q_block, k_block, S), add_keys,
                                   (jnp.zeros(q.shape, f32), dk, dv, dbias))
    return tuple(carry), dq

  zeros = lambda x: jnp.zeros(x.shape, f32)
  start = zeros(k_BKSH), zeros(v_BKSH), jax.tree.map(zeros, scores.bias)
  (dk, dv, dbias), dq = jax.lax.scan(one, start, jnp.arange(L // q_block))
  dq = jnp.moveaxis(dq, 0, 2).reshape(B, N, L, H)
  nothing = jax.tree.map(lambda x: None, dataclasses.replace(scores, bias=None))
  return (dq.astype(q_BNLH.dtype), dk.astype(k_BKSH.dtype), dv.astype(v_BKSH.dtype),
          dataclasses.replace(nothing, bias=dbias))


_blockwise.defvjp(_blockwise_forward, _blockwise_backward)
