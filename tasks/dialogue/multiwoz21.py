"""Dialogues of MultiWOZ 2.0, 2.1, 2.3 and 2.4: turns with `metadata`, acts and spans of tokens."""

from collections.abc import Mapping
import re
from typing import Any

from t5x_lite.dialogue.schema import Act, Dialogue, Goal, Span, State, Turn
from tasks.dialogue.multiwoz_names import slot_name

_NONE = ('', 'not mentioned', 'none')
_DONT_CARE = ('dontcare', "don't care", "do n't care", 'dont care', "do nt care")
_NEAR = 30   # characters that tokens are out of place, at most


def read_dialogue(record: Mapping[str, Any]) -> Dialogue:
  """The dialogue of a record that has `goal` and `log`, and its `id` without .json.

  `metadata` of a system's turn is the state after the user's turn before it, and is put there.
  """
  log = record['log']
  turns = tuple(_turn(number, entry, log[number + 1:number + 2])
                for number, entry in enumerate(log))
  wanted = {domain: found for domain, found in record['goal'].items()
            if isinstance(found, Mapping) and domain != 'topic' and found}
  goals = {domain: _goal(domain, found) for domain, found in wanted.items()}
  message = record['goal'].get('message', '')
  message = message if isinstance(message, str) else ' '.join(message)
  return Dialogue(id=record['id'].removesuffix('.json'), turns=turns, domains=tuple(goals),
                  goals=goals, message=re.sub('<[^>]*>', '', message))


def _turn(number: int, entry: Mapping[str, Any], following: list[Mapping[str, Any]]) -> Turn:
  text, user = entry['text'], number % 2 == 0
  acts = entry.get('dialog_act') or {}
  acts = acts if isinstance(acts, Mapping) else {}   # a text where there is no annotation
  state = following[0].get('metadata') if user and following else None
  return Turn(
      speaker='user' if user else 'system', text=text,
      acts=tuple(act_of(name, slot, value)
                 for name, slots in acts.items() for slot, value in slots),
      spans=tuple(_span(text, *span) for span in entry.get('span_info') or ()),
      state=_state(state) if state else None)


def act_of(name: str, slot: str, value: Any) -> Act:
  """The act of a name such as Hotel-Inform, also of 2.2, and a slot with its value."""
  domain, _, intent = name.lower().partition('-')
  slot = slot_name(domain, slot)
  return Act(intent=intent, domain='' if domain == 'general' else domain, slot=slot,
             value='' if value in ('?', 'none') else str(value))


def _span(text: str, name: str, slot: str, value: str, first: int, last: int) -> Span:
  """Of tokens, both ends included; of characters without a full stop behind the value.

  In files as they were first published the tokens are those of a text that was tokenised
  afterwards: where a value is not in its tokens, it is where it stands near them. Tokens that the
  text does not have are beyond its end.
  """
  domain = name.lower().partition('-')[0]
  tokens = [match.span() for match in re.finditer(r'\S+', text)]
  start, end = len(text), len(text) + 1
  if 0 <= first <= last < len(tokens):
    start, end = tokens[first][0], tokens[last][1]
    before, match, after = text[start:end].lower().partition(value.lower())
    if match and not re.search(r'\w', before + after):
      start, end = start + len(before), end - len(after)
  if value.lower() not in text[start:end].lower():
    near = [match.span() for match in re.finditer(
        rf'(?<!\w){re.escape(value)}(?!\w)', text, re.IGNORECASE)
        if abs(match.start() - start) <= _NEAR]
    start, end = min(near, key=lambda place: abs(place[0] - start), default=(start, end))
  return Span(start, end, domain, slot_name(domain, slot))


def alternatives(value: Any) -> tuple[str, ...]:
  """The values that an annotation accepts; none of those by which it says that there is none."""
  if value in _NONE:   # nearly all are, of all slots of all domains
    return ()
  values = value if isinstance(value, list) else re.split(r'[|<>]', str(value))
  values = [str(one).strip() for one in values]
  return tuple(dict.fromkeys(
      'dontcare' if one.lower() in _DONT_CARE else one for one in values if one not in _NONE))


def _state(metadata: Mapping[str, Any]) -> State:
  found = {}
  for domain, parts in metadata.items():
    slots = [*parts.get('semi', {}).items(), *parts.get('book', {}).items()]
    slots = {slot_name(domain, slot): values for slot, value in slots
             if slot != 'booked' and (values := alternatives(value))}
    if slots:
      found[domain] = slots
  return found


def _goal(domain: str, found: Mapping[str, Any]) -> Goal:
  named = lambda part: {slot_name(domain, slot): str(value) for slot, value in part.items()
                        if not isinstance(value, bool)}
  return Goal(inform=named(found.get('info', {})), book=named(found.get('book', {})),
              request=tuple(slot_name(domain, slot) for slot in found.get('reqt', ())))
