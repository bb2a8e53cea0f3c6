"""What models are to be better than: the most frequent response, and that of the nearest turns."""

from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np

from t5x_lite.core.errors import UserError
from t5x_lite.dialogue.schema import Dialogue, Turn
from t5x_lite.dialogue.structure.features import fit_tfidf

# Turns, of which the user's is the last, to what is said next.
Respond = Callable[[Sequence[Sequence[Turn]]], list[str]]
_CONTEXT = 3      # turns by which others are found
_CHUNK = 1024     # that are compared at once


def asked_and_answered(dialogues: Sequence[Dialogue]) -> list[tuple[tuple[Turn, ...], Turn]]:
  """(the turns before, the system's turn) of all dialogues, in their order."""
  return [(one.turns[:i], turn) for one in dialogues for i, turn in enumerate(one.turns)
          if turn.speaker == 'system']


def fit_most_frequent(dialogues: Sequence[Dialogue], text: Callable[[Turn], str]) -> Respond:
  """Says what is said most often in `dialogues`; `text` is what a turn says."""
  (best, _), = Counter(text(turn) for _, turn in _learned(dialogues)).most_common(1)
  return lambda asked: [best] * len(asked)


def fit_nearest(dialogues: Sequence[Dialogue], text: Callable[[Turn], str]) -> Respond:
  """Says what was said in `dialogues` after the most similar turns, by TF-IDF of the last three."""
  learned = _learned(dialogues)
  join = lambda turns: '\n'.join(f'{turn.speaker} {text(turn)}' for turn in turns[-_CONTEXT:])
  contexts = [join(turns) for turns, _ in learned]
  encode = fit_tfidf(contexts)
  known = encode(contexts)

  def respond(asked):
    found = encode([join(turns) for turns in asked])
    nearest = np.concatenate([(found[start:start + _CHUNK] @ known.T).argmax(1)
                              for start in range(0, len(found), _CHUNK)])
    return [text(learned[i][1]) for i in nearest]

  return respond


def _learned(dialogues: Sequence[Dialogue]):
  if not (found := asked_and_answered(dialogues)):
    raise UserError('the dialogues to learn from have no turn of a system: give others')
  return found
