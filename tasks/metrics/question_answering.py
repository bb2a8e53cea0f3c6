"""Metrics of questions with several right answers, or several answers to judge.

Shares are percentages, on the 0-100 scale; nan where there is nothing to divide by.
"""

import collections
from collections.abc import Mapping, Sequence
import re
import string

from tasks import metrics


def squad(targets: Sequence[Sequence[str]], predictions: Sequence[str]) -> Mapping[str, float]:
  """Returns exact match and F1 of words, as SQuAD's own script (Rajpurkar et al. 2016) has them.

  Both are the best over the right answers of a question, averaged over questions. Case,
  punctuation, the words a, an and the, and spacing do not count.
  """
  exact, f1 = [], []
  for answers, prediction in zip(targets, predictions, strict=True):
    answers, prediction = [_normal(a) for a in answers], _normal(prediction)
    exact.append(prediction in answers)
    f1.append(max((_word_f1(answer, prediction) for answer in answers), default=0.0))
  return {'em': metrics.percent(exact), 'f1': metrics.percent(f1)}


def record(targets: Sequence[tuple], predictions: Sequence[str]) -> Mapping[str, float]:
  """Returns `squad` of (group, answers) targets over the first example of each group.

  A query of ReCoRD stands in the data once for each of its right answers.
  """
  first = {}
  for (group, answers), prediction in zip(targets, predictions, strict=True):
    first.setdefault(group, (answers, prediction))
  return squad([answers for answers, _ in first.values()], [p for _, p in first.values()])


def multirc(targets: Sequence[tuple], predictions: Sequence[int]) -> Mapping[str, float]:
  """Returns MultiRC's figures (Khashabi et al. 2018) of (group, label) targets.

  'f1' is F1a, over all answers; 'exact_match' the percentage of questions, which are the groups,
  with every answer judged right.
  """
  right = collections.defaultdict(list)
  for (group, label), prediction in zip(targets, predictions, strict=True):
    right[group].append(label == prediction)
  return {
      **metrics.f1([label for _, label in targets], predictions),
      'exact_match': metrics.percent([all(answers) for answers in right.values()]),
  }


def _normal(text: str) -> str:
  text = ''.join(c for c in text.lower() if c not in string.punctuation)
  return ' '.join(re.sub(r'\b(a|an|the)\b', ' ', text).split())


def _word_f1(target: str, prediction: str) -> float:
  target, prediction = target.split(), prediction.split()
  shared = sum((collections.Counter(target) & collections.Counter(prediction)).values())
  return 2.0 * shared / (len(target) + len(prediction)) if shared else 0.0
