"""States of dialogues as a finite-state automaton: transitions, pruned and minimised.

K states. Matrices of transitions are [K + 1, K + 1]: row K is START, column K is END.
"""

from collections.abc import Hashable, Sequence
import dataclasses

import numpy as np

Paths = Sequence[Sequence[int]]   # the states of each dialogue, in order


def count_transitions(paths: Paths, k: int) -> np.ndarray:
  """How often each state follows each, with START and END."""
  counts = np.zeros((k + 1, k + 1), np.int64)
  for path in paths:
    np.add.at(counts, ([k, *path], [*path, k]), 1)
  return counts


def probabilities(counts: np.ndarray, smoothing: float = 0.0) -> np.ndarray:
  """Of what follows each state, by additive smoothing; 0 in a row of nothing."""
  smooth = counts + smoothing
  return smooth / np.maximum(smooth.sum(axis=1, keepdims=True), np.finfo(float).tiny)


def with_end(following: np.ndarray, counts: np.ndarray, smoothing: float) -> np.ndarray:
  """Probabilities [K + 1, K] of the state that follows, where one does, with END as counted."""
  end = probabilities(counts, smoothing)[:, -1:]
  return np.hstack([(1 - end) * following, end])


def transition_entropy(counts: np.ndarray) -> float:
  """Bits of what follows, where the state is known."""
  p = probabilities(counts)
  bits = -(p * np.log2(p, where=p > 0, out=np.zeros_like(p))).sum(axis=1)
  return float(bits @ counts.sum(axis=1) / counts.sum())


def marginal_entropy(counts: np.ndarray) -> float:
  """Bits of a state, or END, where nothing is known."""
  p = counts.sum(axis=0) / counts.sum()
  return float(-(p[p > 0] * np.log2(p[p > 0])).sum())


@dataclasses.dataclass(frozen=True)
class Automaton:
  """What is left of the transitions after pruning.

  Attributes:
    counts: those that are no edge are 0.
    blocks: the number of the block of each state, [k]; -1 where it is on no way from START to END.
      States of one block are equal; see `minimise`.
  """
  counts: np.ndarray
  blocks: np.ndarray

  @property
  def edges(self) -> np.ndarray:
    return self.counts > 0

  def tied_counts(self) -> np.ndarray:
    """The counts in which each state has what follows any state of its block."""
    tied = self.counts.copy()
    for block in range(self.blocks.max(initial=-1) + 1):
      members = np.flatnonzero(self.blocks == block)
      tied[members] = self.counts[members].sum(axis=0)
    return tied


def find_automaton(counts: np.ndarray, min_probability: float = 0.05, min_count: int = 2,
                   kinds: Sequence[Hashable] | None = None) -> Automaton:
  """Prunes transitions that are rare, by both thresholds, and minimises what is left.

  `kinds` of the states, such as who speaks, are never merged with each other.
  """
  kept = trim(counts * ((probabilities(counts) >= min_probability) & (counts >= min_count)))
  return Automaton(kept, minimise(kept > 0, kinds))


def trim(counts: np.ndarray) -> np.ndarray:
  """Counts without the states that START does not reach, or that do not reach END."""
  edges, k = counts > 0, len(counts) - 1
  inner = edges[:k, :k]
  alive = _reached(inner, edges[k, :k]) & _reached(inner.T, edges[:k, k])
  alive = np.append(alive, True)   # START and END stay
  return counts * (alive[:, None] & alive[None, :])


def _reached(edges: np.ndarray, first: np.ndarray) -> np.ndarray:
  """The states of `first`, and those that edges lead to from them."""
  found = first
  while (more := found | edges[found].any(axis=0)).sum() > found.sum():
    found = more
  return found


def minimise(edges: np.ndarray, kinds: Sequence[Hashable] | None = None) -> np.ndarray:
  """The block of each state, [k], after which the same sequences of states may follow to END.

  The automaton reads the states of a dialogue: an edge to a state is labelled by that state, so
  that it is deterministic. Blocks are the states of the minimal deterministic automaton, by Moore's
  refinement: first by whether END may follow (and by kind), then, until nothing changes, by which
  states follow and their blocks. Blocks are numbered by their first state; a state without edges is
  in none: -1.
  """
  k = len(edges) - 1
  alive = np.flatnonzero(edges[:k].any(axis=1))
  kinds = [None] * k if kinds is None else kinds
  blocks = _numbered({i: (bool(edges[i, k]), kinds[i]) for i in alive})
  while True:
    refined = _numbered({i: (blocks[i], *((j, blocks[j]) for j in alive if edges[i, j]))
                         for i in alive})
    if refined == blocks:
      return np.array([blocks.get(i, -1) for i in range(k)], int)
    blocks = refined


def _numbered(keys: dict[int, Hashable]) -> dict[int, int]:
  """Each key as a number, in order of appearance."""
  numbers = {key: number for number, key in enumerate(dict.fromkeys(keys.values()))}
  return {i: numbers[key] for i, key in keys.items()}
