"""Names of states by what their utterances say."""

from collections import Counter
from collections.abc import Sequence
import math
import re

import numpy as np

from t5x_lite.dialogue.structure.features import TOKEN


def frequent_texts(texts: Sequence[str], distances: np.ndarray, states: np.ndarray, k: int
                   ) -> list[str]:
  """The most frequent text of each state; of equally frequent ones, that nearest to the centre.

  Args:
    texts: with numbers and codes masked, or each phone number is a text of its own.
    distances: of each text to the centre of its state, [n].
  """
  found = []
  for state in range(k):
    members = np.flatnonzero(states == state)
    counts = Counter(_plain(texts[i]) for i in members)
    best = min(members, key=lambda i: (-counts[_plain(texts[i])], distances[i]), default=None)
    found.append('' if best is None else texts[best])
  return found


def class_tfidf(texts: Sequence[str], states: np.ndarray, k: int) -> list[dict[str, float]]:
  """{word: c-TF-IDF} of each state, the highest first.

  tf · log(1 + A / f): tf counts a word in the texts of the state, f in those of all, and A is the
  mean number of words of a state.
  """
  counts = [Counter() for _ in range(k)]
  for text, state in zip(texts, states, strict=True):
    counts[state].update(re.findall(TOKEN, text.lower()))
  total = sum(counts, Counter())
  average = total.total() / k
  weights = [{word: n * math.log(1 + average / total[word]) for word, n in one.items()}
             for one in counts]
  return [dict(sorted(one.items(), key=lambda item: (-item[1], item[0]))) for one in weights]


def _plain(text: str) -> str:
  """As texts are compared: without case, spaces and marks."""
  return ' '.join(re.findall(r'\[\w+\]|\w+', text.lower()))
