"""A mixture of experts in place of the MLP (Shazeer et al. 2017; Fedus et al. 2021, Switch).

Shape letters: see layers.py; C slots of an expert, X choices (the experts_per_token) of a token.
"""

import math

from flax import nnx
import jax
import jax.numpy as jnp

from t5x_lite.models import layers, weights
from t5x_lite.models.config import ModelConfig


class ExpertMLP(nnx.Module):
  """MLPs of which a router chooses a few for each token, weighted by its softmax.

  The weights of the chosen are scaled to a sum of 1 (Mixtral), unless one is chosen, whose weight
  carries the router's gradient (Switch). Without config.expert_capacity no token is dropped: tokens
  are sorted by expert and multiplied by `jax.lax.ragged_dot`. With it an expert takes, of each row,
  the first ceil(capacity * length * choices / experts) tokens that chose it, excluding padding;
  the others skip the experts.
  """

  def __init__(self, config: ModelConfig, out_std: float | None, shard: layers.Shard):
    self.config, self.shard = config, shard
    E, D, F = config.num_experts, config.embed_dim, config.mlp_dim
    std = config.init_std or D ** -0.5
    self.router = layers.param((D, E), ('embed', 'experts'), std, num_in=1)
    up = lambda: layers.param((E, D, F), ('experts', 'embed', 'mlp'), std, num_in=1)
    self.gate = up() if config.gated_mlp else None
    self.up = up()
    self.down = layers.param((E, F, D), ('experts', 'mlp', 'embed'), out_std or F ** -0.5,
                             num_in=1)

  def __call__(self, x_BLD: jax.Array, valid_BL: jax.Array | None
               ) -> tuple[jax.Array, dict[str, jax.Array]]:
    """[batch, length, embed] -> the same, and the router's losses summed over valid tokens.

    `load_balance` is E * sum over experts of (share of choices) * (mean probability), taken in each
    row and counted once a token: 1 where the load is even (Switch, equation 4). `router_z` is
    log(Z)^2 of the router's logits (ST-MoE, equation 5).
    """
    config = self.config
    X = config.experts_per_token
    logits_BLE = x_BLD.astype(jnp.float32) @ weights.value(self.router.get_value())
    prob_BLE = jax.nn.softmax(logits_BLE)
    weight_BLX, expert_BLX = jax.lax.top_k(prob_BLE, X)
    if X > 1:
      weight_BLX = weight_BLX / weight_BLX.sum(-1, keepdims=True)
    leaf = lambda p: None if p is None else weights.cast(p.get_value(), x_BLD.dtype)
    kernels = {'gate': leaf(self.gate), 'up': leaf(self.up), 'down': leaf(self.down)}
    if config.expert_capacity is None:
      rows, kernel = ('batch', 'length', None), ()   # each device has all experts
      run = self.shard.shard_map(
          self._dropless, (rows, rows, rows, {n: k if k is None else kernel
                                              for n, k in kernels.items()}), rows)
    else:
      run = self._with_capacity
      if valid_BL is not None:   # padding has no expert
        expert_BLX = jnp.where(valid_BL[..., None], expert_BLX, config.num_experts)
    y_BLD = run(x_BLD, expert_BLX, weight_BLX, kernels)
    return y_BLD, self._losses(logits_BLE, prob_BLE, expert_BLX, valid_BL)

  def _mlp(self, x, kernels, product):
    times = lambda x, kernel: weights.product(x, kernel, product)
    h = times(x, kernels['up'])
    act = layers.ACTIVATIONS[self.config.activation]
    h = act(h) if kernels['gate'] is None else act(times(x, kernels['gate'])) * h
    return times(h, kernels['down'])

  def _dropless(self, x_BLD, expert_BLX, weight_BLX, kernels):
    B, L, D = x_BLD.shape
    E, X = self.config.num_experts, self.config.experts_per_token
    expert_C = expert_BLX.reshape(-1)
    order_C = jnp.argsort(expert_C)   # stable; C = B L X
    sizes_E = jnp.bincount(expert_C, length=E).astype(jnp.int32)
    x_CD = x_BLD.reshape(-1, D)[order_C // X]
    y_CD = self._mlp(x_CD, kernels, lambda x, kernel: jax.lax.ragged_dot(x, kernel, sizes_E))
    y_CD = jnp.zeros_like(y_CD).at[order_C].set(y_CD, unique_indices=True)
    weight_BLX1 = weight_BLX[..., None].astype(x_BLD.dtype)
    return (y_CD.reshape(B, L, X, D) * weight_BLX1).sum(2)

  def _with_capacity(self, x_BLD, expert_BLX, weight_BLX, kernels):
    B, L, D = x_BLD.shape
    E, X = self.config.num_experts, self.config.experts_per_token
    C = min(L * X, math.ceil(self.config.expert_capacity * L * X / E))

    def row(x_LD, expert_LX, weight_LX):
      expert = expert_LX.T.reshape(-1)   # first choices come before second ones
      token = jnp.tile(jnp.arange(L), X)
      chosen = jax.nn.one_hot(expert, E, dtype=jnp.int32)
      slot = (jnp.cumsum(chosen, 0) * chosen).sum(-1) - 1
      kept = (slot >= 0) & (slot < C)   # the slot of a token without expert is -1
      slot_index = jnp.where(kept, expert * C + slot, E * C)   # one past the end: dropped
      x_ECD = jnp.zeros((E * C, D), x_LD.dtype).at[slot_index].set(x_LD[token], mode='drop')
      return x_ECD.reshape(E, C, D), slot_index, token, weight_LX.T.reshape(-1)

    x_BECD, slot_index, token, weight = jax.vmap(row)(x_BLD, expert_BLX, weight_BLX)
    x_BECD = self.shard(x_BECD, 'batch', 'experts', None, 'embed')
    product = lambda x, kernel: jnp.einsum('beci,eio->beco', x, kernel)
    y_BECD = self._mlp(x_BECD, kernels, product)

    def back(y_ECD, slot_index, token, weight):
      y = y_ECD.reshape(E * C, D).at[slot_index].get(mode='fill', fill_value=0)
      y = y * weight[:, None].astype(y.dtype)
      return jnp.zeros((L, D), y.dtype).at[token].add(y)

    return jax.vmap(back)(y_BECD, slot_index, token, weight)

  def _losses(self, logits_BLE, prob_BLE, expert_BLX, valid_BL):
    E, X = self.config.num_experts, self.config.experts_per_token
    B, L, _ = logits_BLE.shape
    valid_BL = jnp.ones((B, L)) if valid_BL is None else valid_BL.astype(jnp.float32)
    count_B = jnp.maximum(valid_BL.sum(-1), 1)
    chosen_BLE = jax.nn.one_hot(expert_BLX, E).sum(2) / X
    mean = lambda x_BLE: (x_BLE * valid_BL[..., None]).sum(1) / count_B[:, None]
    balance_B = E * (mean(chosen_BLE) * mean(prob_BLE)).sum(-1)
    z_BL = jnp.square(jax.nn.logsumexp(logits_BLE, axis=-1))
    return {'load_balance': (balance_B * valid_BL.sum(-1)).sum(),
            'router_z': (z_BL * valid_BL).sum()}
