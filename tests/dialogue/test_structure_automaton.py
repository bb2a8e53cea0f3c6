"""Transitions, pruning, minimisation and held-out figures by hand and by brute force."""

import itertools
import math

import numpy as np
import pytest

from t5x_lite.dialogue.structure import automaton, held_out

PATHS = [[0, 1], [0, 1], [0, 1], [0, 0, 1], []]


def test_transitions_and_their_entropy_by_hand():
  counts = automaton.count_transitions(PATHS, 2)
  np.testing.assert_array_equal(counts, [[1, 4, 0], [0, 0, 4], [4, 0, 1]])   # last: START, END
  np.testing.assert_allclose(automaton.probabilities(counts, 0.5)[0], [1.5 / 6.5, 4.5 / 6.5,
                                                                      0.5 / 6.5])
  np.testing.assert_array_equal(automaton.probabilities(counts * 0), counts * 0)
  bits = -(0.2 * math.log2(0.2) + 0.8 * math.log2(0.8))
  assert automaton.transition_entropy(counts) == pytest.approx(bits * 10 / 14)
  assert automaton.marginal_entropy(counts) == pytest.approx(
      -sum(p * math.log2(p) for p in (5 / 14, 4 / 14, 5 / 14)))


def test_pruning_is_by_both_thresholds_and_leaves_only_ways_from_start_to_end():
  paths = 20 * [[0, 1]] + 3 * [[0, 2, 1]] + [[0, 3]] + 5 * [[0, 1, 4, 4, 1]]
  counts = automaton.count_transitions(paths, 6)
  found = automaton.find_automaton(counts, min_probability=0.1, min_count=3)
  edges = set(zip(*map(list, np.nonzero(found.counts))))
  assert edges == {(6, 0), (0, 1), (0, 2), (2, 1), (1, 6), (1, 4), (4, 4), (4, 1)}
  assert found.blocks[3] == found.blocks[5] == -1
  # 0 -> 2 goes at 0.15; 2 is then not reached, and goes with its own edge.
  found = automaton.find_automaton(counts, min_probability=0.15, min_count=3)
  assert not found.counts[2].any() and not found.counts[:, 2].any()
  # A state that cannot end goes, and what leads only to it.
  dead = automaton.count_transitions([[0, 1, 2]], 3)
  dead[2, 3] = 0
  assert not automaton.trim(dead).any()


def test_equal_states_are_one_and_share_what_follows():
  # 1 and 2 are followed by 3 or 4, which both end: two blocks, though 3 and 4 stay apart symbols.
  paths = [[0, 1, 3], [0, 1, 4], [0, 2, 3], [0, 2, 4], [0, 2, 4]]
  found = automaton.find_automaton(automaton.count_transitions(paths, 5), 0, 1)
  assert found.blocks.tolist() == [0, 1, 1, 2, 2]
  np.testing.assert_array_equal(found.tied_counts()[1], [0, 0, 0, 2, 3, 0])
  np.testing.assert_array_equal(found.tied_counts()[2], [0, 0, 0, 2, 3, 0])
  np.testing.assert_array_equal(found.tied_counts()[5], found.counts[5])
  kinds = ['user', 'system', 'system', 'user', 'system']
  assert automaton.minimise(found.edges, kinds).tolist() == [0, 1, 1, 2, 3]


def futures(edges, state, length):
  """All sequences up to a length that lead from a state to END."""
  k = len(edges) - 1
  found = {()} if edges[state, k] else set()
  if length:
    found |= {(j, *rest) for j in range(k) if edges[state, j]
              for rest in futures(edges, j, length - 1)}
  return found


@pytest.mark.parametrize('seed', range(8))
def test_states_are_merged_exactly_where_the_same_sequences_may_follow(seed):
  rng = np.random.default_rng(seed)
  k = 5
  edges = rng.random((k + 1, k + 1)) < 0.35
  edges[1] = edges[0]                                  # two that are equal for sure
  edges = automaton.trim(edges.astype(int)) > 0
  blocks = automaton.minimise(edges)
  alive = np.flatnonzero(edges[:k].any(axis=1))
  assert (blocks[alive] >= 0).all() and (np.delete(blocks, alive) == -1).all()
  for i, j in itertools.combinations(alive, 2):        # n states differ within n steps, if at all
    assert (blocks[i] == blocks[j]) == (futures(edges, i, k) == futures(edges, j, k))


def test_coverage_and_perplexity_by_hand():
  counts = automaton.count_transitions([[0, 1]] * 8 + [[1]] * 2, 2)
  found = automaton.find_automaton(counts, min_probability=0.5)
  paths = [[0, 1], [1]]
  assert held_out.coverage(found, paths) == 4 / 5     # START -> 1 was pruned
  got = held_out.perplexities(counts, found, paths, smoothing=1.0)
  # What follows START, 0, 1: of ten, eight and ten; 28 symbols in all are 8, 10 and 10.
  bigram = (9 / 13) * (9 / 11) * (11 / 13) * (3 / 13) * (11 / 13)
  pruned = (9 / 11) * (9 / 11) * (11 / 13) * (1 / 11) * (11 / 13)
  unigram = (9 / 31) * (11 / 31) ** 4
  assert got == pytest.approx({'bigram': bigram ** -0.2, 'automaton': pruned ** -0.2,
                               'unigram': unigram ** -0.2, 'uniform': 3.0})
