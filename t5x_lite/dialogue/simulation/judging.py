"""What a dialogue has told its user, and what of the goal is missing."""

from collections.abc import Mapping, Sequence
import dataclasses

from t5x_lite.dialogue.schema import Act, Dialogue
from t5x_lite.dialogue.simulation.database import DONT_CARE, REFERENCE, Database
from t5x_lite.dialogue.simulation.goals import Wish


@dataclasses.dataclass
class Heard:
  """What the system has told of a domain.

  Attributes:
    name: of the last offer; None: nothing is offered.
    told: {slot: value} since that offer.
    nothing: whether the last search found nothing.
    books: whether the user has asked for a booking since that offer.
  """
  name: str | None = None
  told: dict[str, str] = dataclasses.field(default_factory=dict)
  nothing: bool = False
  books: bool = False

  def hear(self, act: Act) -> None:
    """Takes in an act of the system."""
    if act.intent == 'nothing':
      self.name, self.told, self.nothing, self.books = None, {}, True, False
    elif act.intent == 'offer':
      self.nothing = False
      if act.value != self.name:
        self.name, self.told, self.books = act.value, {}, False
    elif act.intent == 'inform' or act.intent == 'booked' and self.books:
      if self.name is not None:
        self.told[act.slot] = act.value


def heard_in(dialogue: Dialogue, domains: Sequence[str]) -> dict[str, Heard]:
  """What the acts of a dialogue come to, in each domain."""
  found = {domain: Heard() for domain in domains}
  for turn in dialogue.turns:
    for act in turn.acts:
      if act.domain not in found:
        continue
      if turn.speaker == 'system':
        found[act.domain].hear(act)
      elif act.intent == 'book':
        found[act.domain].books = True
  return found


def failures(wishes: Sequence[Wish], heard: Mapping[str, Heard], database: Database) -> list[str]:
  """Why wishes are not fulfilled; of one that nothing can fulfil it is enough to be told so."""
  return [f'{reason} ({wish.domain})' for wish in wishes
          for reason in _failures(wish, heard[wish.domain], database)]


def _failures(wish: Wish, heard: Heard, database: Database) -> list[str]:
  domain = database[wish.domain]
  if not domain.query(wish.final.inform):
    return [] if heard.nothing else ['not told that there is none']
  entity = domain.by_name.get(heard.name)
  if entity is None:
    return ['no offer']
  wrong = [slot for slot, value in wish.final.inform.items()
           if value not in (DONT_CARE, entity[slot])]
  if wrong:
    return [f'offer of another {slot}' for slot in wrong]
  asked = [*wish.final.request, *[REFERENCE] * bool(wish.final.book)]
  return ['not booked' if slot == REFERENCE else f'{slot} not told' for slot in asked
          if slot not in heard.told] + [
              f'wrong {slot}' for slot in wish.final.request
              if slot in heard.told and heard.told[slot] != entity[slot]]
