"""The future-token test: a changed token changes no log-probability that may not see it.

An architecture that reads ahead has losses that are too good, and evaluations that are worth
nothing. So each token of a packed batch is changed in turn, under random parameters, and the
log-probabilities of all tokens of the vocabulary are compared where the token is in the future, or
in another example of the row. Shape letters: B batch, L length, S length of the encoder's, V vocab.
"""

from collections.abc import Callable, Mapping
import dataclasses
from typing import NamedTuple

import jax
import numpy as np

from t5x_lite.core.errors import UserError
from t5x_lite.models import ModelConfig, Network, build_network

LENGTH = 16        # tokens of a row of `make_batch`
TOLERANCE = 1e-6   # nats; what is not seen leaves the same program the same numbers
_SEGMENTS = ((7, 6), (16,))   # tokens of the examples of each row
_PREFIX = 3                   # of each example of a prefix language model

Batch = Mapping[str, np.ndarray]


class Leak(NamedTuple):
  """A log-probability that a token changes which it may not see.

  Attributes:
    row: of the batch.
    side: 'decoder' or 'encoder', of the changed token.
    changed: the index of the changed token in the row.
    read: the index of the input token whose prediction, that of the next token, changes.
    nats: by how much, the most over the vocabulary; nan where it is no number.
  """
  row: int
  side: str
  changed: int
  read: int
  nats: float

  def __str__(self) -> str:
    return (f'row {self.row}: {self.side} token {self.changed} changes the prediction after '
            f'decoder token {self.read} by {self.nats:.2g} nats')


class Causality(NamedTuple):
  """The leaks; how many tokens were changed, and how many of them something did see."""
  leaks: tuple[Leak, ...]
  num_changed: int
  num_seen: int

  @property
  def holds(self) -> bool:
    """Whether nothing leaks, and the test could have seen it: what reads nothing passes no test."""
    return not self.leaks and self.num_seen > 0


def check_causality(log_probs: Callable[[Batch], np.ndarray], batch: Batch, vocab_size: int,
                    tolerance: float = TOLERANCE) -> Causality:
  """Changes each token of a batch that is in no prefix, those of all rows at an index together.

  Args:
    log_probs: batch -> [batch, decoder length, vocab], of each next token, in nats.
    batch: `decoder_input_tokens` and `decoder_segment_ids` [batch, length], and what else the
      network reads; of an encoder `encoder_input_tokens` and `encoder_segment_ids`, too.
      `decoder_causal_attention` is 1 on prefixes, whose tokens see each other both ways.
    vocab_size: changed tokens are from 2 to this.
    tolerance: a difference of more nats is a leak.
  """
  base_BLV = np.asarray(log_probs(batch))
  segments_BL = np.asarray(batch['decoder_segment_ids'])
  index_L = np.arange(segments_BL.shape[1])
  leaks, num_changed, num_seen = [], 0, 0
  for side in ('decoder', 'encoder'):
    if f'{side}_input_tokens' not in batch:
      continue
    tokens, segments = batch[f'{side}_input_tokens'], np.asarray(batch[f'{side}_segment_ids'])
    free = segments > 0
    if side == 'decoder' and 'decoder_causal_attention' in batch:
      free &= np.asarray(batch['decoder_causal_attention']) == 0
    for t in range(tokens.shape[1]):
      new = np.array(tokens)
      new[:, t] = np.where(free[:, t], 2 + (new[:, t] - 1) % (vocab_size - 2), new[:, t])
      got_BLV = np.asarray(log_probs({**batch, f'{side}_input_tokens': new}))
      nats_BL = np.abs(got_BLV - base_BLV).max(-1)
      may_see_BL = free[:, t, None] & (segments_BL == segments[:, t, None])
      if side == 'decoder':
        may_see_BL &= index_L[None] >= t
      wrong_BL = ~(nats_BL <= tolerance) & ~may_see_BL & (segments_BL > 0)   # nan is wrong
      leaks += [Leak(int(row), side, t, int(i), float(nats_BL[row, i]))
                for row, i in np.argwhere(wrong_BL)]
      num_changed += int(free[:, t].sum())
      num_seen += int((may_see_BL & (nats_BL > tolerance)).any(1).sum())
  return Causality(tuple(leaks), num_changed, num_seen)


def check_network(network: Network, params: dict | None = None, seed: int = 0) -> Causality:
  """That of a network, on the packed batch of `make_batch`; random parameters unless given.

  Raises UserError for an encoder-only model, whose every token sees all.
  """
  config = network.config
  if config.family == 'encoder_only':
    raise UserError('an encoder-only model has no future tokens: each token sees all others')
  params = network.init(jax.random.key(seed)) if params is None else params
  program = jax.jit(lambda params, batch: jax.nn.log_softmax(network.bind(params)(batch)))
  return check_causality(lambda batch: program(params, batch), make_batch(config, seed),
                         config.vocab_size)


def check_config(config: ModelConfig, seed: int = 0) -> Causality:
  """As `check_network`, of the architecture of a config at the sizes of `shrink_config`."""
  return check_network(build_network(shrink_config(config)), None, seed)


def make_batch(config: ModelConfig, seed: int = 0) -> dict[str, np.ndarray]:
  """Random tokens of two rows of LENGTH: two examples and padding, and one without.

  An encoder has fewer tokens for each example; a prefix language model a prefix in each.
  """
  rng = np.random.default_rng(seed)
  sizes = {'decoder': _SEGMENTS}
  if config.family == 'encoder_decoder':
    sizes['encoder'] = tuple(tuple(n - 2 for n in row) for row in _SEGMENTS)
  batch = {}
  for side, rows in sizes.items():
    shape = len(rows), LENGTH
    segments, positions = np.zeros(shape, np.int32), np.zeros(shape, np.int32)
    for r, row in enumerate(rows):
      for segment, (end, n) in enumerate(zip(np.cumsum(row), row), 1):
        segments[r, end - n:end], positions[r, end - n:end] = segment, np.arange(n)
    tokens = np.where(segments > 0, rng.integers(2, config.vocab_size, shape), 0)
    batch |= {f'{side}_input_tokens': tokens.astype(np.int32), f'{side}_segment_ids': segments,
              f'{side}_positions': positions}
  if config.prefix_lm:
    inside = (batch['decoder_positions'] < _PREFIX) & (batch['decoder_segment_ids'] > 0)
    batch['decoder_causal_attention'] = inside.astype(np.int32)
  return batch


def shrink_config(config: ModelConfig) -> ModelConfig:
  """The same architecture at sizes that compile and run in a second.

  Kept are all choices of layers, masks and positions; windows are so short that rows of LENGTH go
  beyond them. Weights are so large that what attention reads shows in the output.
  """
  groups = config.num_heads // config.num_kv_heads
  layers = min(config.num_layers, config.full_attention_interval or 2)
  experts = config.num_experts and min(config.num_experts, 4)
  return dataclasses.replace(
      config, vocab_size=64, embed_dim=32, num_layers=layers, num_heads=4, mlp_dim=32, head_dim=8,
      num_decoder_layers=config.num_decoder_layers and min(config.num_decoder_layers, 2),
      num_kv_heads=4 if groups == 1 else 1 if config.num_kv_heads == 1 else 2,
      max_length=config.max_length and LENGTH, attention_scale=min(config.attention_scale, 1.0),
      sliding_window=config.sliding_window and min(config.sliding_window, 5),
      num_experts=experts, experts_per_token=min(config.experts_per_token, experts or 2),
      init_std=config.init_std and 0.2, dtype='float32', scan_layers=True, remat='none')
