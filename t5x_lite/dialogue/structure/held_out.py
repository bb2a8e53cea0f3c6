"""How well an automaton holds on dialogues that it was not made of."""

import numpy as np
from scipy.special import xlogy

from t5x_lite.dialogue.structure import automaton as automata
from t5x_lite.dialogue.structure.automaton import Automaton, Paths


def coverage(automaton: Automaton, paths: Paths) -> float:
  """Share of the transitions, with START and END, that are edges of the automaton."""
  counts = automata.count_transitions(paths, len(automaton.blocks))
  return float(counts[automaton.edges].sum() / counts.sum())


def perplexities(counts: np.ndarray, automaton: Automaton, paths: Paths, smoothing: float = 0.1,
                 prior: np.ndarray | None = None) -> dict[str, float]:
  """Perplexity a state, END included, of what held-out dialogues do.

  Smoothing is additive, the same for all: what was pruned is improbable, not impossible.

  Returns:
    {'automaton': by its edges, where states of one block share what follows,
     'bigram': by all transitions, 'unigram': by the frequency of the states alone,
     'uniform': k + 1, and 'prior', a model's own, where there is one}.
  """
  seen = automata.count_transitions(paths, len(counts) - 1)
  models = {'automaton': automata.probabilities(automaton.tied_counts(), smoothing),
            'bigram': automata.probabilities(counts, smoothing),
            'unigram': np.broadcast_to(
                automata.probabilities(counts.sum(axis=0, keepdims=True), smoothing), counts.shape),
            'uniform': np.full(counts.shape, 1 / len(counts))}
  if prior is not None:
    models['prior'] = prior
  return {name: float(np.exp(-xlogy(seen, p).sum() / seen.sum()))
          for name, p in models.items()}
