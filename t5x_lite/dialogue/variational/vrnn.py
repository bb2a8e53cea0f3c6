"""A variational RNN of dialogues with categorical latents: states that explain what is said.

Of Chung et al. (2015) with the latents of Shi et al. (2019): the user's turns and the system's have
states of their own, drawn by Gumbel-softmax, and a turn is decoded to its bag of words.

Shape letters: B dialogues, E exchanges, S speakers (user, system), V words, K states, H hidden.
"""

from collections.abc import Sequence
import dataclasses
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from t5x_lite.core.dataclass_checks import Count, NonNegative, Positive, Seed, check_types
from t5x_lite.dialogue.variational import latents
from t5x_lite.dialogue.variational.fitting import fit_params

Params = dict[str, Any]


@dataclasses.dataclass(frozen=True, kw_only=True)
class VrnnConfig:
  """What is fitted, and how."""
  user_states: Count = 10
  system_states: Count = 10
  hidden: Count = 32                       # of the recurrent state
  # What the prior of a state reads: the state before, whose matrix is then the automaton, or all.
  prior: Literal['state', 'history'] = 'state'
  decoder: Literal['state', 'history'] = 'state'   # what the words are decoded from
  temperature: Positive[float] = 1.0       # of Gumbel-softmax
  hard: bool = False                       # straight-through: states are drawn one-hot
  annealing: NonNegative[int] = 500        # steps over which the KL divergence's weight rises to 1
  # Shi et al.'s KL(mean of posteriors || mean of priors), against collapse; else that of each turn.
  batch_prior: bool = False
  steps: Count = 1500
  batch_size: Count = 32                   # dialogues
  learning_rate: Positive[float] = 0.01
  seed: Seed = 0

  def __post_init__(self):
    check_types(self)


@dataclasses.dataclass(frozen=True)
class FittedVrnn:
  """What was learnt.

  Attributes:
    history: {'elbo' | 'kl' | 'reconstruction' | 'information': float32 [steps]}, nats a turn; `kl`
      is that of each turn, whatever was minimised.
  """
  config: VrnnConfig
  params: Params
  history: dict[str, np.ndarray]

  def posteriors(self, counts_BESV: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities of the states of the user's turns and of the system's, each [B, E, K]."""
    found = _run(self.params, self.config, jnp.asarray(counts_BESV, jnp.float32), None)
    return tuple(np.asarray(jax.nn.softmax(logits)) for logits in found['posterior'])

  def states(self, counts_BESV: np.ndarray, lengths_B: np.ndarray) -> list[list[int]]:
    """The likeliest state of each turn of dialogues; see `fit_vrnn`. Those of the system are
    numbered after the user's."""
    found = np.stack([p.argmax(-1) for p in self.posteriors(counts_BESV)], -1)   # [B, E, S]
    found[:, :, 1] += self.config.user_states
    return [row.reshape(-1)[:length].tolist() for row, length in zip(found, lengths_B)]

  def prior_transitions(self) -> np.ndarray:
    """The prior of the next state after each, of all states of both sides, and after START, the
    last row [K + 1, K]; rows sum to 1.

    Raises ValueError where the prior reads the history.
    """
    if self.config.prior != 'state':
      raise ValueError('a prior that reads the history has no transition matrix')
    user, system = self.config.user_states, self.config.system_states
    found = np.zeros((user + system + 1, user + system))
    found[user:, :user] = _prior_after(self.params['user'], np.eye(system + 1, system))
    found[:user, user:] = _prior_after(self.params['system'], np.eye(user))
    return found

  def state_words(self, state: int) -> np.ndarray:
    """The distribution of words of a state, as `states` numbers them [V]; without any history."""
    user = self.config.user_states
    side, k = ('user', state) if state < user else ('system', state - user)
    words = self.params[side]['words']
    return np.asarray(jax.nn.softmax(words['kernel'][k] + words['bias']))


def fit_vrnn(counts_BESV: np.ndarray, lengths_B: np.ndarray, config: VrnnConfig) -> FittedVrnn:
  """Fits dialogues.

  Args:
    counts_BESV: of words, [dialogues, exchanges, 2, words], the user's turn first; see `bag_turns`.
    lengths_B: turns of each dialogue.
  """
  counts = jnp.asarray(counts_BESV, jnp.float32)
  turns = np.arange(counts.shape[1] * 2).reshape(-1, 2)
  rows = {'counts': counts,
          'mask': jnp.asarray(turns[None] < np.asarray(lengths_B)[:, None, None], jnp.float32)}

  def loss(params, batch, key, step):
    found = _run(params, config, batch['counts'], key)
    mask, total = batch['mask'], batch['mask'].sum()
    kl = sum((found['kl'][s] * mask[:, :, s]).sum() for s in range(2)) / total
    reconstruction = sum((found['log_p'][s] * mask[:, :, s]).sum() for s in range(2)) / total
    minimised = kl
    if config.batch_prior:
      minimised = sum(latents.batch_kl(found['posterior'][s], found['prior'][s], mask[:, :, s])
                      for s in range(2)) / total
    weight = latents.kl_weight(step, config.annealing)
    information = sum(latents.categorical_information(
        jax.nn.softmax(found['posterior'][s]), mask[:, :, s]) for s in range(2)) / 2
    return weight * minimised - reconstruction, {
        'elbo': reconstruction - kl, 'kl': kl, 'reconstruction': reconstruction,
        'information': information}

  params, history = fit_params(
      loss, _init(config, counts.shape[-1]), rows, steps=config.steps,
      batch_size=config.batch_size, learning_rate=config.learning_rate, seed=config.seed)
  return FittedVrnn(config, params, jax.tree.map(np.asarray, history))


def bag_turns(dialogues: Sequence[Sequence[Sequence[int]]], words: int
              ) -> tuple[np.ndarray, np.ndarray]:
  """(counts_BESV, lengths_B) of dialogues as turns of ids of words, the user's turn first."""
  longest = max(map(len, dialogues))
  counts = np.zeros((len(dialogues), (longest + 1) // 2 * 2, words), np.float32)
  for b, turns in enumerate(dialogues):
    for t, ids in enumerate(turns):
      np.add.at(counts[b, t], np.asarray(ids, int), 1)
  return (counts.reshape(len(dialogues), -1, 2, words),
          np.asarray([len(turns) for turns in dialogues]))


def _init(config: VrnnConfig, words: int) -> Params:
  keys = iter(jax.random.split(jax.random.key(config.seed), 32))

  def layer(inputs: int, outputs: int) -> Params:
    return {'kernel': jax.random.normal(next(keys), (inputs, outputs)) * inputs ** -0.5,
            'bias': jnp.zeros(outputs)}

  def side(own: int, other: int) -> Params:
    return {'read': layer(words, config.hidden),
            'posterior': layer(2 * config.hidden, own),
            'prior': layer(other if config.prior == 'state' else config.hidden, own),
            'words': layer(own, words), 'word_history': layer(config.hidden, words),
            'state': layer(own, config.hidden),
            'update': layer(3 * config.hidden, 2 * config.hidden)}

  user, system = config.user_states, config.system_states
  return {'user': side(user, system), 'system': side(system, user)}


def _linear(layer: Params, x: jax.Array) -> jax.Array:
  return x @ layer['kernel'] + layer['bias'][None]


def _run(params: Params, config: VrnnConfig, counts_BESV: jax.Array, key: jax.Array | None) -> dict:
  """{name: (of the user's turns, of the system's)}, [B, E, ...]: logits `posterior` and `prior`,
  `kl` and `log_p` of the words; with no key states are weighted by their posteriors."""
  number = counts_BESV.shape[0]

  def turn(side: Params, carry, counts_BV, key):
    h_BH, before_BK = carry
    total_B1 = jnp.maximum(counts_BV.sum(-1, keepdims=True), 1)
    read_BH = jnp.tanh(_linear(side['read'], counts_BV / jnp.sqrt(total_B1)))
    posterior = _linear(side['posterior'], jnp.concatenate([read_BH, h_BH], -1))
    prior = _linear(side['prior'], before_BK if config.prior == 'state' else h_BH)
    z_BK = jax.nn.softmax(posterior) if key is None else latents.draw_categorical(
        key, posterior, config.temperature, config.hard)
    logits_BV = _linear(side['words'], z_BK)
    if config.decoder == 'history':
      logits_BV += _linear(side['word_history'], h_BH)
    log_p = (counts_BV * jax.nn.log_softmax(logits_BV)).sum(-1)
    inputs = jnp.concatenate([h_BH, read_BH, _linear(side['state'], z_BK)], -1)
    gate_BH, new_BH = jnp.split(_linear(side['update'], inputs), 2, axis=-1)
    gate_BH = jax.nn.sigmoid(gate_BH)
    h_BH = gate_BH * h_BH + (1 - gate_BH) * jnp.tanh(new_BH)
    return (h_BH, z_BK), {'posterior': posterior, 'prior': prior, 'log_p': log_p,
                          'kl': latents.categorical_kl(posterior, prior)}

  def exchange(carry, inputs):
    counts_BSV, n = inputs
    keys = [None if key is None else jax.random.fold_in(key, 2 * n + s) for s in range(2)]
    carry, user = turn(params['user'], carry, counts_BSV[:, 0], keys[0])
    carry, system = turn(params['system'], carry, counts_BSV[:, 1], keys[1])
    return carry, {name: (user[name], system[name]) for name in user}

  first = jnp.zeros((number, config.hidden)), jnp.zeros((number, config.system_states))
  _, found = jax.lax.scan(exchange, first, (
      counts_BESV.swapaxes(0, 1), jnp.arange(counts_BESV.shape[1])))
  return jax.tree.map(lambda x: x.swapaxes(0, 1), found)


def _prior_after(side: Params, before: np.ndarray) -> np.ndarray:   # [..., K]; 0 is START's
  return np.asarray(jax.nn.softmax(_linear(side['prior'], jnp.asarray(before, jnp.float32))))
