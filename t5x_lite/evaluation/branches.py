"""Continuations of a context in the context's own row: branches that see it and themselves.

One forward pass reads a context once for all of its continuations, without a cache that each of
them would have to have a copy of.

Shape letters: N continuations, L tokens of one, V vocabulary.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from t5x_lite.inference.generate import left_pad, padded_length
from t5x_lite.models import ModelConfig, Network
from t5x_lite.models.attention.masks import TRUNK


def can_branch(config: ModelConfig, platform: str) -> bool:
  """Whether a model reads branches as it reads texts.

  Not where attention knows tokens by their place in a row, not by their position, nor where tokens
  compete for experts. On accelerators a cache is kept instead: kernels that have no matrix of
  scores do not take branches.
  """
  return (platform == 'cpu' and config.family == 'decoder_only' and not config.prefix_lm
          and config.position_embedding not in ('relative', 'alibi')
          and config.sliding_window is None and config.num_experts is None)


def lay_out(contexts: Sequence[np.ndarray], continuations: Sequence[Sequence[int]],
            row_of: np.ndarray) -> dict[str, np.ndarray]:
  """A batch of `score_branches`.

  Args:
    contexts: ids of each, at least one.
    continuations: ids of each, at least one.
    row_of: the index of the context of each, int32, and of empty rows that follow.
  """
  branches = [[] for _ in contexts]
  for n, row in enumerate(row_of[:len(continuations)]):
    branches[row].append(n)
  targets, _ = pad_targets(continuations, len(row_of))
  used = max(sum(len(continuations[n]) - 1 for n in own) for own in branches)
  # What is compiled depends on the whole length of a row alone.
  start = padded_length(max(map(len, contexts)) + used, 32) - used
  tokens, valid = left_pad([np.zeros(start, np.int32), *contexts], 0, multiple=1)
  extend = lambda x: np.pad(x[1:].astype(np.int32), ((0, 0), (0, used)))
  tokens, segments, positions = map(extend, (
      tokens, valid * TRUNK, np.maximum(valid.cumsum(1) - 1, 0)))
  place = np.full(targets.shape, start - 1, np.int32)   # of what each target is predicted from
  for row, own in enumerate(branches):
    done = start
    for branch, n in enumerate(own, TRUNK + 1):
      ids = continuations[n][:-1]
      at = done + np.arange(len(ids))
      tokens[row, at], segments[row, at] = ids, branch
      positions[row, at] = len(contexts[row]) + np.arange(len(ids))
      place[n, 1:1 + len(ids)] = at
      done += len(ids)
  return {'decoder_input_tokens': tokens, 'decoder_segment_ids': segments,
          'decoder_positions': positions, 'row_of': row_of, 'place': place, 'targets': targets}


def pad_targets(continuations: Sequence[Sequence[int]], num_rows: int
                ) -> tuple[np.ndarray, np.ndarray]:
  """(ids [N, L] int32, which of them are scored, bool) of a length of few; N is `num_rows`."""
  size = max(map(len, continuations))
  length = 1 if size == 1 else 1 + max(16, 2 ** (size - 2).bit_length())
  targets = np.zeros((num_rows, length), np.int32)
  scored = np.zeros((num_rows, length), bool)
  for n, ids in enumerate(continuations):
    targets[n, :len(ids)], scored[n, :len(ids)] = ids, True
  return targets, scored


def score_branches(network: Network, params: Any, batch: dict[str, jax.Array]
                   ) -> tuple[jax.Array, jax.Array]:
  """(log p of each token, whether it is the likeliest), [N, L], of a batch of `lay_out`."""
  features = {name: x for name, x in batch.items() if name.startswith('decoder_')}
  outputs = network.bind(params).outputs(features, trunk=True)
  return of_targets(outputs.head(outputs.hidden[batch['row_of'][:, None], batch['place']]),
                    batch['targets'])


def of_targets(logits_NLV: jax.Array, targets_NL: jax.Array) -> tuple[jax.Array, jax.Array]:
  """(log-likelihood of each token in nats, float32; whether it is the likeliest), [N, L]."""
  logits_NLV = logits_NLV.astype(jnp.float32)
  target_NL = jnp.take_along_axis(logits_NLV, targets_NL[..., None], -1)[..., 0]
  best_NL = logits_NLV.argmax(-1) == targets_NL
  return target_NL - jax.nn.logsumexp(logits_NLV, -1), best_NL
