"""Inform and Success: are the offered venues right, and is all told that was asked for?"""

from collections.abc import Mapping, Sequence
import re

from t5x_lite.dialogue.scoring.database import Database

TAGS = {'postcode': 'POST', 'id': 'TRAINID'}
VENUES = ('restaurant', 'hotel', 'attraction')
SLOTS = {'arriveby': 'arrive', 'leaveat': 'leave'}


def tags_of(response: str) -> set[str]:
  """NAME, PHONE, … of the slots in brackets in a delexicalised response."""
  names = (tag.lower().rsplit('_', 1)[-1] for tag in re.findall(r'\[([\w ]+)\]', response))
  return {TAGS.get(name, name.upper()) for name in names}


def active_domains(turns: Sequence[Mapping]) -> list[list[str]]:
  """Of each turn: as predicted, or else the domains whose state changed last."""
  found, before = [], {}
  for turn in turns:
    changed = [domain for domain, slots in turn['state'].items() if slots != before.get(domain, {})]
    found.append(turn.get('active_domains', changed or (found[-1] if found else [])))
    before = turn['state']
  return found


def inform_and_success(
    turns: Sequence[Mapping], goal: Mapping, booked: Sequence[Sequence[str]], database: Database
) -> tuple[dict[str, bool], dict[str, bool]]:
  """{domain or 'total': whether met}, of Inform and Success; none of Success without Inform."""
  offered, told = {domain: frozenset() for domain in goal}, {domain: set() for domain in goal}
  for turn, active, bookings in zip(turns, active_domains(turns), booked, strict=True):
    tags = tags_of(turn['response'])
    for domain in goal:
      if domain not in active:
        continue
      if domain in VENUES and 'NAME' in tags or domain == 'train' and 'TRAINID' in tags:
        found = database.query(domain, _slots(turn['state'].get(domain, {})))
        if not offered[domain] or not offered[domain] <= found:
          offered[domain] = found
      told[domain] |= tags & {'PHONE', 'ADDRESS', 'POST', 'TRAINID'}
      if 'REFERENCE' in tags and domain in bookings:
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


def _slots(state: Mapping[str, str]) -> dict[str, str]:
  plain = {slot.replace(' ', ''): value.lower() for slot, value in state.items()}
  return {SLOTS.get(slot, slot): value for slot, value in plain.items()}
