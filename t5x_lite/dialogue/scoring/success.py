"""Inform and Success: are the offered venues right, and is all told that was asked for?"""

from collections.abc import Mapping, Sequence
import dataclasses

from t5x_lite.dialogue.scoring.database import Database

VENUES = ('restaurant', 'hotel', 'attraction')
TOLD = ('PHONE', 'ADDRESS', 'POST', 'TRAINID')   # tags that count wherever the domain is active


@dataclasses.dataclass(frozen=True)
class PredictedTurn:
  """What a system answers, normalised.

  Attributes:
    response: delexicalised.
    state: {domain: {slot: value}} that it believes in.
    active: the domains that it talks about.
  """
  response: str
  state: Mapping[str, Mapping[str, str]]
  active: tuple[str, ...]


def active_domains(states: Sequence[Mapping[str, Mapping[str, str]]]) -> list[list[str]]:
  """The domain that each turn is about, or none, where it is not predicted: that of new values.

  Of several with new values it is the one before, if among them, else the one of most slots. A turn
  without new values stays; where the turn before had several, it goes to the first other of them.
  """
  found, current, others, before = [], None, [], {}
  for state in states:
    changed = [domain for domain, slots in state.items()
               if slots.items() - before.get(domain, {}).items()]
    if changed and current not in changed:
      current = max(changed, key=lambda domain: len(state[domain]))
    elif not changed:
      waiting = [domain for domain in others if domain in state and domain != current]
      current = waiting[0] if len(others) > 1 and waiting else current
    found.append([current] if current else [])
    others, before = changed, state
  return found


def inform_and_success(
    turns: Sequence[PredictedTurn], goal: Mapping, booked: Sequence[Sequence[str]],
    database: Database
) -> tuple[dict[str, bool], dict[str, bool]]:
  """{domain or 'total': whether met}, of Inform and Success; none of Success without Inform."""
  offered, told = {domain: frozenset() for domain in goal}, {domain: set() for domain in goal}
  for turn, bookings in zip(turns, booked, strict=True):
    response, state = turn.response, turn.state
    for domain in goal:
      if domain not in turn.active:
        continue
      if (domain in VENUES and 'NAME' in response or
          domain == 'train' and 'TRAINID' in response):
        found = database.query(domain, state[domain]) if domain in state else frozenset()
        if not offered[domain] or not offered[domain] <= found:
          offered[domain] = found
      told[domain].update(tag for tag in TOLD if tag in response)
      if 'REFERENCE' in response and domain in bookings:
        told[domain].add('REFERENCE')
  inform = {}
  for domain, wanted in goal.items():
    matches = (domain not in (*VENUES, 'train') or 'name' in wanted['informable'] or
               domain == 'train' and not offered[domain] and 'TRAINID' not in wanted['requestable'])
    inform[domain] = matches or bool(offered[domain]) and (
        offered[domain] <= database.query(domain, wanted['informable']))
  inform['total'] = all(inform.values())
  if not inform['total']:
    return inform, {}
  success = {domain: set(wanted['requestable']) <= told[domain] for domain, wanted in goal.items()}
  return inform, success | {'total': all(success.values())}
