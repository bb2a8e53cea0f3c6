"""What dialogues may be about: domains, their slots, and the values of these."""

from collections.abc import Iterable, Iterator, Mapping
import dataclasses

from t5x_lite.dialogue.schema import Dialogue


@dataclasses.dataclass(frozen=True)
class Slot:
  """Attributes:
    values: that it may have; empty: any, which a text says and a span marks.
  """
  description: str = ''
  values: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Domain:
  slots: Mapping[str, Slot]
  description: str = ''


Schema = Mapping[str, Domain]


def used_slots(dialogue: Dialogue) -> Iterator[tuple[int | None, str, str]]:
  """(turn, domain, slot) of all goals, spans and states; of a goal the turn is None."""
  for domain, goal in dialogue.goals.items():
    yield from ((None, domain, slot) for slot in (*goal.inform, *goal.request, *goal.book))
  for number, turn in enumerate(dialogue.turns):
    yield from ((number, span.domain, span.slot) for span in turn.spans)
    yield from ((number, domain, slot) for domain, slots in (turn.state or {}).items()
                for slot in slots)


def derive_schema(dialogues: Iterable[Dialogue]) -> Schema:
  """The domains and slots that dialogues use, by name; their values are left open."""
  found = {}
  for dialogue in dialogues:
    for domain in (*dialogue.domains, *dialogue.goals):
      found.setdefault(domain, set())
    for _, domain, slot in used_slots(dialogue):
      found.setdefault(domain, set()).add(slot)
  return {domain: Domain({slot: Slot() for slot in sorted(found[domain])})
          for domain in sorted(found)}
