"""Belief states against gold ones: joint goal accuracy, and slots found, wrong and missed."""

from collections.abc import Mapping
from typing import NamedTuple

from t5x_lite.dialogue.scoring.normalisation import similarity

SIMILAR = 95   # above this partial ratio, in percent, two values are one

State = Mapping[str, Mapping[str, str]]


class StateMatch(NamedTuple):
  """Of a turn: whether the whole state is right, by fuzzy values and by equal ones; slots."""
  joint: bool
  strict: bool
  right: int
  predicted: int
  gold: int


def match_state(predicted: State, gold: State) -> StateMatch:
  """Slots of normalised states; the value of one in both is right if it is similar."""
  ours, theirs = ({(domain, slot): value for domain, slots in state.items()
                   for slot, value in slots.items()} for state in (predicted, gold))
  right = sum(similarity(ours[slot], theirs[slot]) > SIMILAR for slot in ours.keys() & theirs)
  return StateMatch(right == len(ours) == len(theirs), ours == theirs, right, len(ours),
                    len(theirs))
