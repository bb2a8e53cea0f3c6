"""softmax(q·k) v, computed in several ways behind one signature.

Each kernel takes q [batch, heads, length, head_dim], k and v [batch, kv heads, key length,
head_dim] and an AttentionSpec, and returns [batch, heads, length, head_dim] in the dtype of q.
Query head n reads key-value head n // (heads / kv heads). Shape letters: see layers.py.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp

from t5x_lite.models import layers
from t5x_lite.models.attention.masks import Index, Mask
from t5x_lite.models.positions import Bias

MASK_VALUE = -1e10   # finite, so that a fully masked row gives no NaN
QUERY_CHUNK = 64        # queries of a slice of `query_chunked`
BLOCK = 512      # queries and keys of a block of `blockwise`


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class AttentionSpec:
  """How scores are computed from q·k, and the dropout of their softmax."""
  mask: Mask
  bias: Bias | None = None
  key: jax.Array | None = None     # draws dropout; None for none
  scale: float = dataclasses.field(metadata={'static': True})
  softcap: float | None = dataclasses.field(default=None, metadata={'static': True})
  dropout_rate: float = dataclasses.field(default=0.0, metadata={'static': True})

  def __call__(self, q_BNLH: jax.Array, k_BKSH: jax.Array, q_offset: Index = 0, k_offset: Index = 0
               ) -> jax.Array:
    """Float32 scores [batch, heads, length, key length] of a block that begins at these offsets."""
    (B, N, L, H), (_, K, S, _) = q_BNLH.shape, k_BKSH.shape
    # The queries of a group one after the other: plain products of matrices.
    s_BNLS = jnp.einsum('bkmh,bksh->bkms', q_BNLH.reshape(B, K, N // K * L, H), k_BKSH,
                        preferred_element_type=jnp.float32).reshape(B, N, L, S)
    s_BNLS = layers.softcap(s_BNLS * self.scale, self.softcap)
    if self.bias is not None:
      bias = self.bias.block(*self.mask.positions(q_offset, L, k_offset, S))
      s_BNLS = s_BNLS + (bias if self.mask.cached else bias[None])
    seen_B1LS = self.mask.block(q_offset, L, k_offset, S)
    return jnp.where(seen_B1LS, s_BNLS, MASK_VALUE)

  def keep(self, shape: tuple[int, ...], *offsets: Index) -> jax.Array | None:
    """The factors of dropout on the probabilities of a block: 0 or 1 / (1 - rate)."""
    if self.key is None or not self.dropout_rate:
      return None
    key = functools.reduce(jax.random.fold_in, offsets, self.key)
    return jax.random.bernoulli(key, 1 - self.dropout_rate, shape) / (1 - self.dropout_rate)


def _mix(p_BNLS: jax.Array, v_BKSH: jax.Array) -> jax.Array:
  """Values weighted by probabilities and summed, [batch, heads, length, head_dim] float32."""
  (B, N, L, S), (_, K, _, H) = p_BNLS.shape, v_BKSH.shape
  y_BKMH = jnp.einsum('bkms,bksh->bkmh', p_BNLS.reshape(B, K, N // K * L, S).astype(v_BKSH.dtype),
                      v_BKSH, preferred_element_type=jnp.float32)
  return y_BKMH.reshape(B, N, L, H)


def reference(q_BNLH: jax.Array, k_BKSH: jax.Array, v_BKSH: jax.Array, spec: AttentionSpec,
              q_offset: int = 0, k_offset: int = 0) -> jax.Array:
  """The formula, with the softmax in float32."""
  p_BNLS = jax.nn.softmax(spec(q_BNLH, k_BKSH, q_offset, k_offset), axis=-1)
  keep = spec.keep(p_BNLS.shape, q_offset)
  return _mix(p_BNLS if keep is None else p_BNLS * keep, v_BKSH).astype(q_BNLH.dtype)


def query_chunked(q_BNLH: jax.Array, k_BKSH: jax.Array, v_BKSH: jax.Array, spec: AttentionSpec
                  ) -> jax.Array:
  """`reference` for a few queries at a time, without the keys that the mask hides from all."""
  length, num_keys = q_BNLH.shape[2], k_BKSH.shape[2]

  def some(q_offset):
    q = q_BNLH[:, :, q_offset:q_offset + QUERY_CHUNK]
    first, last = spec.mask.key_range(q_offset, q.shape[2], num_keys)
    return reference(q, k_BKSH[:, :, first:last], v_BKSH[:, :, first:last], spec, q_offset, first)

  return jnp.concatenate([some(q_offset) for q_offset in range(0, length, QUERY_CHUNK)], axis=2)


def blockwise(q_BNLH: jax.Array, k_BKSH: jax.Array, v_BKSH: jax.Array, spec: AttentionSpec,
              block: int = BLOCK) -> jax.Array:
  """Memory that grows linearly with length, on any backend, forwards and backwards.

  An online softmax over blocks of keys for each block of queries (Milakov & Gimelshein 2018, Rabe &
  Staats 2021); the backward pass recomputes the probabilities from the log-sum-exp of each row
  (FlashAttention, Dao et al. 2022, algorithm 4). Fully masked blocks are skipped.
  """
  length, num_keys = q_BNLH.shape[2], k_BKSH.shape[2]
  q_block, k_block = min(block, length), min(block, num_keys)
  q_size, k_size = (-(-n // b) * b for n, b in ((length, q_block), (num_keys, k_block)))
  pad = lambda x, size: jnp.pad(x, ((0, 0), (0, 0), (0, size - x.shape[2]), (0, 0)))
  spec = dataclasses.replace(spec, mask=spec.mask.padded(q_size, k_size, length, num_keys))
  y_BNLH = _blockwise(q_block, k_block, pad(q_BNLH, q_size), pad(k_BKSH, k_size),
                      pad(v_BKSH, k_size), spec)
  return y_BNLH[:, :, :length]


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _blockwise(q_block, k_block, q_BNLH, k_BKSH, v_BKSH, spec):
  return _blockwise_forward(q_block, k_block, q_BNLH, k_BKSH, v_BKSH, spec)[0]


def _slice(x_BNLH: jax.Array, start: Index, size: int) -> jax.Array:
  return jax.lax.dynamic_slice_in_dim(x_BNLH, start, size, axis=2)


def _add(x_BNLH: jax.Array, start: Index, part: jax.Array) -> jax.Array:
  new = _slice(x_BNLH, start, part.shape[2]) + part
  return jax.lax.dynamic_update_slice_in_dim(x_BNLH, new, start, axis=2)


def _key_blocks(mask: Mask, q_offset: Index, q_block: int, k_block: int, num_keys: int):
  first, last = mask.key_range(q_offset, q_block, num_keys)
  return first // k_block, -(-last // k_block)


def _blockwise_forward(q_block, k_block, q_BNLH, k_BKSH, v_BKSH, spec):
  """The output and, for the backward pass, the log-sum-exp of each row of scores."""
  (B, N, L, H), S = q_BNLH.shape, k_BKSH.shape[2]

  def one(i):
    q_offset = i * q_block
    q = _slice(q_BNLH, q_offset, q_block)

    def add_keys(j, carry):
      y, highest, total = carry
      k_offset = j * k_block
      s = spec(q, _slice(k_BKSH, k_offset, k_block), q_offset, k_offset)
      new = jnp.maximum(highest, s.max(-1))
      p, shrink = jnp.exp(s - new[..., None]), jnp.exp(highest - new)
      total = total * shrink + p.sum(-1)
      keep = spec.keep(p.shape, i, j)
      p = p if keep is None else p * keep
      y = y * shrink[..., None] + _mix(p, _slice(v_BKSH, k_offset, k_block))
      return y, new, total

    start = (jnp.zeros((B, N, q_block, H)), jnp.full((B, N, q_block), -jnp.inf),
             jnp.zeros((B, N, q_block)))
    y, highest, total = jax.lax.fori_loop(
        *_key_blocks(spec.mask, q_offset, q_block, k_block, S), add_keys, start)
    return (y / total[..., None]).astype(q.dtype), highest + jnp.log(total)

  y, log_sum = jax.lax.map(one, jnp.arange(L // q_block))
  join = lambda x: jnp.moveaxis(x, 0, 2).reshape(B, N, L, *x.shape[4:])
  y_BNLH, log_sum_BNL = join(y), join(log_sum)
  return y_BNLH, (q_BNLH, k_BKSH, v_BKSH, spec, y_BNLH, log_sum_BNL)


def _blockwise_backward(q_block, k_block, residuals, dy_BNLH):
  q_BNLH, k_BKSH, v_BKSH, spec, y_BNLH, log_sum_BNL = residuals
  (B, N, L, H), S = q_BNLH.shape, k_BKSH.shape[2]
  f32 = jnp.float32
  delta_BNL = (dy_BNLH.astype(f32) * y_BNLH.astype(f32)).sum(-1)

  def one(carry, i):
    q_offset = i * q_block
    q, dy = _slice(q_BNLH, q_offset, q_block), _slice(dy_BNLH, q_offset, q_block).astype(f32)
    log_sum, delta = (_slice(x, q_offset, q_block)[..., None] for x in (log_sum_BNL, delta_BNL))

    def add_keys(j, carry):
      dq, dk, dv, dbias = carry
      k_offset = j * k_block
      k, v = (_slice(x, k_offset, k_block) for x in (k_BKSH, v_BKSH))
      make = lambda q, k, bias: dataclasses.replace(spec, bias=bias)(q, k, q_offset, k_offset)
      s, scores_gradient = jax.vjp(make, q, k, spec.bias)
      p = jnp.exp(s - log_sum)
      keep = spec.keep(p.shape, i, j)
      dropped = p if keep is None else p * keep
      dp, dv_block = jax.vjp(_mix, dropped, v)[1](dy)
      ds = p * ((dp if keep is None else dp * keep) - delta)
      dq_block, dk_block, dbias_block = scores_gradient(ds)
      return (dq + dq_block, _add(dk, k_offset, dk_block.astype(f32)),
              _add(dv, k_offset, dv_block.astype(f32)), jax.tree.map(jnp.add, dbias, dbias_block))

    dk, dv, dbias = carry
    dq, *carry = jax.lax.fori_loop(*_key_blocks(spec.mask, q_offset, q_block, k_block, S), add_keys,
                                   (jnp.zeros(q.shape, f32), dk, dv, dbias))
    return tuple(carry), dq

  zeros = lambda x: jnp.zeros(x.shape, f32)
  start = zeros(k_BKSH), zeros(v_BKSH), jax.tree.map(zeros, spec.bias)
  (dk, dv, dbias), dq = jax.lax.scan(one, start, jnp.arange(L // q_block))
  dq = jnp.moveaxis(dq, 0, 2).reshape(B, N, L, H)
  nothing = jax.tree.map(lambda x: None, dataclasses.replace(spec, bias=None))
  return (dq.astype(q_BNLH.dtype), dk.astype(k_BKSH.dtype), dv.astype(v_BKSH.dtype),
          dataclasses.replace(nothing, bias=dbias))


_blockwise.defvjp(_blockwise_forward, _blockwise_backward)
