"""Systems that a user talks to: by rules, by chance, and what all have in common."""

from collections.abc import Mapping, Sequence
import dataclasses
import random
from typing import Protocol
import zlib

from t5x_lite.core.dataclass_checks import Fraction, check_types
from t5x_lite.dialogue.schema import Act, Dialogue, Turn
from t5x_lite.dialogue.simulation.database import NAME, REFERENCE, Database, Domain, Entity
from t5x_lite.dialogue.simulation.language import Language

FEW = 5   # results, of which one is offered without a question more


class System(Protocol):
  """Answers dialogues whose last turn is the user's."""

  def reply(self, dialogues: Sequence[Dialogue]) -> list[Turn]:
    """A turn for each; one without acts is understood from its text."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Faults:
  """Planted mistakes, so that a system's quality is known."""
  never_gives: tuple[str, ...] = ()   # slots that it does not answer
  wrong: Fraction = 0.0               # share of answers that are those of another entity

  def __post_init__(self):
    check_types(self)


@dataclasses.dataclass
class Tracked:
  """What a dialogue has come to in a domain.

  Attributes:
    inform, booking: {slot: value} that the user has given.
    asked: slots that the system has asked for.
    open: slots that the user asks for, not yet answered; REFERENCE: to be booked.
    offered: the name of the last offer.
  """
  inform: dict[str, str] = dataclasses.field(default_factory=dict)
  booking: dict[str, str] = dataclasses.field(default_factory=dict)
  asked: set[str] = dataclasses.field(default_factory=set)
  open: dict[str, None] = dataclasses.field(default_factory=dict)
  offered: str | None = None


class RuleSystem:
  """Tracks the state, asks where there are many results, offers one, answers, books."""

  def __init__(self, database: Database, faults: Faults, seed: int):
    self._database, self._faults, self._seed = database, faults, seed
    self._language = Language(database)

  def reply(self, dialogues: Sequence[Dialogue]) -> list[Turn]:
    """See System; reads the acts of the turns."""
    return [self._reply(dialogue) for dialogue in dialogues]

  def _reply(self, dialogue: Dialogue) -> Turn:
    draw = random.Random(zlib.crc32(f'{self._seed} {dialogue.id} {len(dialogue.turns)}'.encode()))
    acts, results = self._acts(dialogue, draw)
    return dataclasses.replace(self._language.say('system', acts, draw), results=results)

  def _acts(self, dialogue: Dialogue, draw: random.Random
            ) -> tuple[list[Act], Mapping[str, int] | None]:
    name, states = track(dialogue, self._database)
    if any(act.intent == 'bye' for act in dialogue.turns[-1].acts):
      return [Act('bye')], None
    if name is None:
      return [Act('more')], None
    domain, state = self._database[name], states[name]
    found = domain.query(state.inform)
    results = {name: len(found)}
    if not found:
      return [Act('nothing', name)], results
    acts = []
    entity = next((one for one in found if one[NAME] == state.offered), None)
    if entity is None:
      question = self._question(domain, state, len(found))
      if question is not None:
        return [question], results
      entity = found[0]
      acts = [Act('offer', name, NAME, entity[NAME]), *(
          Act('inform', name, slot, entity[slot]) for slot in sorted(state.inform))]
    acts += self._answers(domain, state, entity, draw)
    return acts or [Act('more')], results

  def _question(self, domain: Domain, state: Tracked, results: int) -> Act | None:
    """A constraint to ask for where there are many results."""
    left = [slot for slot in domain.informable
            if slot not in state.inform and slot not in state.asked]
    return Act('request', domain.name, left[0]) if left and results > FEW else None

  def _answers(self, domain: Domain, state: Tracked, entity: Entity, draw: random.Random
               ) -> list[Act]:
    acts = []
    for slot in state.open:
      if slot == REFERENCE or slot in self._faults.never_gives:
        continue
      other = draw.choice(domain.entities) if draw.random() < self._faults.wrong else entity
      acts.append(Act('inform', domain.name, slot, other[slot]))
    if REFERENCE in state.open and REFERENCE not in self._faults.never_gives:
      missing = [slot for slot in domain.booking if slot not in state.booking]
      acts.append(Act('request', domain.name, missing[0]) if missing else Act(
          'booked', domain.name, REFERENCE, f'{draw.randrange(16 ** 6):06x}'))
    return acts


class RandomSystem:
  """Says anything that a system can say."""

  def __init__(self, database: Database, seed: int):
    self._database, self._language, self._seed = database, Language(database), seed

  def reply(self, dialogues: Sequence[Dialogue]) -> list[Turn]:
    """See System."""
    turns = []
    for dialogue in dialogues:
      draw = random.Random(f'{self._seed} {dialogue.id} {len(dialogue.turns)}')
      domain = self._database[draw.choice(sorted(self._database))]
      entity = draw.choice(domain.entities)
      slot = draw.choice(domain.requestable)
      turns.append(self._language.say('system', [draw.choice([
          Act('request', domain.name, draw.choice(sorted(domain.informable))),
          Act('offer', domain.name, NAME, entity[NAME]),
          Act('inform', domain.name, slot, entity[slot]), Act('nothing', domain.name),
          Act('booked', domain.name, REFERENCE, f'{draw.randrange(16 ** 6):06x}'), Act('more')])],
          draw))
    return turns


def track(dialogue: Dialogue, database: Database) -> tuple[str | None, dict[str, Tracked]]:
  """(the domain that the user is at, {domain: Tracked}) of the acts of all turns."""
  states = {name: Tracked() for name in database}
  current = None
  for turn in dialogue.turns:
    for act in turn.acts:
      if act.domain not in database:
        continue
      state = states[act.domain]
      if turn.speaker == 'user':
        current = act.domain
        _hear_user(act, state, database[act.domain])
      elif act.intent == 'request':
        state.asked.add(act.slot)
      elif act.intent == 'offer':
        state.offered = act.value
      elif act.intent in ('inform', 'booked'):
        state.open.pop(act.slot, None)
  return current, states


def _hear_user(act: Act, state: Tracked, domain: Domain) -> None:
  if act.intent == 'request':
    state.open[act.slot] = None
  if act.intent == 'book':
    state.open[REFERENCE] = None
  if act.intent in ('book', 'inform') and act.slot in domain.booking:
    state.booking[act.slot] = act.value
  elif act.intent == 'inform' and act.slot in domain.informable:
    state.inform[act.slot] = act.value
