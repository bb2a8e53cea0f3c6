"""A user with an agenda (Schatzmann et al. 2007): a goal, a stack of acts to say, patience."""

from collections.abc import Sequence
import dataclasses
import random

from t5x_lite.core.dataclass_checks import Count, Fraction, check_types
from t5x_lite.dialogue.schema import Act
from t5x_lite.dialogue.simulation.database import DONT_CARE, REFERENCE
from t5x_lite.dialogue.simulation.goals import Wish
from t5x_lite.dialogue.simulation.judging import Heard

BYE = Act('bye')


@dataclasses.dataclass(frozen=True, kw_only=True)
class UserConfig:
  """How a user behaves."""
  patience: Count = 3            # turns of the system without any progress, after which it leaves
  more: Fraction = 0.5           # chance that a turn has one act more, and again

  def __post_init__(self):
    check_types(self)


class AgendaUser:
  """Says what its goal needs, one domain after the other, and answers what it is asked.

  Attributes:
    lost_patience: whether it left for that.
  """

  def __init__(self, wishes: Sequence[Wish], config: UserConfig, draw: random.Random):
    self._config, self._draw = config, draw
    self._wishes = list(wishes)
    self._wish: Wish | None = None
    self._agenda: list[Act] = []      # the last is said next
    self._open: dict[str, list[Act]] = {}   # what was asked for and has no answer, by its slot
    self._asked_of: set[str] = set()  # slots that the system has asked for
    self._idle = 0
    self.lost_patience = False

  def reply(self, acts: Sequence[Act]) -> list[Act]:
    """What it says to the system's acts, none at first; ends with BYE."""
    if self._wish is not None:
      self._idle = 0 if self._hear(acts) else self._idle + 1
      if self._idle >= self._config.patience:
        self.lost_patience = True
        return [BYE]
    while self._is_done():
      if not self._wishes:
        return [BYE]
      self._begin(self._wishes.pop(0))
    if not self._agenda:   # what was asked for and not answered is asked again
      self._agenda = [act for acts in self._open.values() for act in acts]
    return self._say()

  def _is_done(self) -> bool:
    return self._wish is None or not self._agenda and not self._open

  def _begin(self, wish: Wish) -> None:
    self._wish, self._changed = wish, wish.first == wish.final
    self._inform = dict(wish.first.inform)
    self._asked_of, self._open = set(), {}
    self._heard = Heard()
    act = lambda intent, slot, value='': Act(intent, wish.domain, slot, value)
    self._asks = {slot: [act('request', slot)] for slot in wish.final.request}
    if wish.final.book:
      self._asks[REFERENCE] = [act('book', slot, x) for slot, x in wish.final.book.items()]
    informs = [act('inform', slot, value) for slot, value in self._inform.items()
               if value != DONT_CARE]
    self._draw.shuffle(informs)
    asked = [act for acts in reversed(self._asks.values()) for act in acts]
    self._agenda = [*asked, *(informs or [act('inform', '')])]

  def _say(self) -> list[Act]:
    """Acts from the top of the agenda: all of a booking, else one or more of a kind."""
    said = [self._agenda.pop()]
    while self._agenda and self._agenda[-1].intent == said[0].intent and (
        said[0].intent == 'book' or self._draw.random() < self._config.more):
      said.append(self._agenda.pop())
    self._open |= {slot: acts for slot, acts in self._asks.items() if acts[0] in said}
    self._heard.books |= REFERENCE in self._open
    return said

  def _hear(self, acts: Sequence[Act]) -> bool:
    """Takes in what the system says; returns whether it is any progress."""
    progress = False
    for act in acts:
      if act.domain in ('', self._wish.domain):
        progress |= getattr(self, f'_on_{act.intent}', lambda act: False)(act)
    return progress

  def _on_request(self, act: Act) -> bool:
    known = self._wish.final.book | self._inform
    self._push(Act('inform', self._wish.domain, act.slot, known.get(act.slot, DONT_CARE)))
    is_new = act.slot not in self._asked_of
    self._asked_of.add(act.slot)
    return is_new

  def _on_offer(self, act: Act) -> bool:
    name, told = self._heard.name, self._heard.told
    self._heard.hear(act)
    is_new = act.value != name
    if is_new:   # what was told was of another
      self._push(*(one for slot in told for one in self._asks.get(slot, ())))
    return self._change() or is_new

  def _on_inform(self, act: Act) -> bool:
    if act.slot in self._inform:   # what is offered is like that
      if self._inform[act.slot] not in (DONT_CARE, act.value):
        self._push(Act('inform', self._wish.domain, act.slot, self._inform[act.slot]))
      return False
    return self._answered(act)

  def _on_booked(self, act: Act) -> bool:
    return self._answered(act)

  def _answered(self, act: Act) -> bool:
    known = {*self._heard.told}
    self._heard.hear(act)
    if act.slot not in self._asks or act.slot not in self._heard.told:
      return False
    self._open.pop(act.slot, None)
    self._agenda = [one for one in self._agenda if one not in self._asks[act.slot]]
    return act.slot not in known

  def _on_nothing(self, act: Act) -> bool:
    self._heard.hear(act)
    if not self._change():
      self._agenda, self._open = [], {}   # gives the domain up
    return True

  def _change(self) -> bool:
    """Says the constraints that have changed, once; returns whether there are any."""
    if self._changed:
      return False
    self._changed = True
    for slot, value in self._wish.final.inform.items():
      if self._inform[slot] != value:
        self._inform[slot] = value
        self._agenda = [one for one in self._agenda if (one.intent, one.slot) != ('inform', slot)]
        self._push(Act('inform', self._wish.domain, slot, value))
    return True

  def _push(self, *acts: Act) -> None:
    """On top of the agenda, and nowhere else in it."""
    self._agenda = [one for one in self._agenda if one not in acts] + [*acts]
