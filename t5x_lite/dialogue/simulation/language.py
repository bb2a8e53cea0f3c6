"""Dialogue acts as English and back: a sentence an act, in several ways, and what a text says.

A sentence names its domain, or, in a system's, follows the user's, so that what `Language.say` has
written `understand` reads without fail; of other texts it reads what has the same words.
"""

from collections.abc import Iterator, Sequence
import functools
import random
import re

from t5x_lite.dialogue.schema import Act, Dialogue, Span, Speaker, Turn
from t5x_lite.dialogue.simulation.database import (
    DONT_CARE,
    NAME,
    REFERENCE,
    Database,
    values_of,
)

# {} is the value. What tells a user's constraint or detail of a booking.
_PARTS = {
    'area': ('in the {}',), 'food': ('with {} food', 'that serves {} food'),
    'pricerange': ('with {} prices', 'that is {}'), 'stars': ('with {} stars',),
    'people': ('for {} people',), 'day': ('on {}',), 'time': ('at {}',), 'stay': ('for {} nights',),
}
_YES_NO = {'parking': {'yes': ('with parking',), 'no': ('without parking',)}}
_USER = {   # {D} is the domain, {S} the slots, {P} the parts
    'inform': ('I am looking for a {D} {P}.', 'I need a {D} {P}.', 'I want a {D} {P}, please.'),
    'dont_care': ('I do not care about the {S} of the {D}.', 'For the {D} any {S} will do.'),
    'request': ('What is the {S} of the {D}?', 'Can you give me the {S} of the {D}?'),
    'book': ('Please book the {D} {P}.', 'Can you book the {D} {P}?'),
    'bye': ('Thank you, goodbye.', 'That is all, bye.'),
}
_SYSTEM = {   # by intent and slot, or by intent
    ('request', 'food'): ('What food would you like?', 'Which kind of food do you want?'),
    ('request', 'area'): ('Which area would you like?', 'In what area should it be?'),
    ('request', 'pricerange'): ('Which pricerange would you like?', 'In what pricerange?'),
    ('request', 'stars'): ('How many stars should it have?',),
    ('request', 'parking'): ('Do you need parking?',),
    ('request', 'people'): ('For how many people?', 'How many people will come?'),
    ('request', 'day'): ('On which day?',),
    ('request', 'time'): ('At what time?',),
    ('request', 'stay'): ('How many nights will you stay?',),
    ('inform', 'area'): ('It is in the {}.',),
    ('inform', 'food'): ('It serves {} food.',),
    ('inform', 'pricerange'): ('Its prices are {}.',),
    ('inform', 'stars'): ('It has {} stars.',),
    ('inform', 'parking'): ('Parking: {}.',),
    ('inform', 'phone'): ('The phone number is {}.', 'You can call {}.'),
    ('inform', 'address'): ('The address is {}.', 'You find it at {}.'),
    ('inform', 'postcode'): ('The postcode is {}.', 'Its postcode is {}.'),
    'offer': ('How about {}?', 'I recommend {}.', 'There is {}.'),
    'booked': ('It is booked, the reference is {}.', 'Booked: your reference is {}.'),
    'nothing': ('I am sorry, there is no such {D}.', 'I have found no such {D}.'),
    'more': ('Is there anything else?', 'What else can I do for you?'),
    'bye': ('Goodbye.', 'Have a nice day, goodbye.'),
}


class Language:
  """Says and understands acts of the domains of a database."""

  def __init__(self, database: Database):
    self._database = database
    self._domains = '|'.join(map(re.escape, database))
    values = {}
    for slots in values_of(database).values():
      for slot, found in slots.items():
        values.setdefault(slot, set()).update(found)
    values[REFERENCE] = None
    self._values = {slot: '[0-9a-f]{6}' if found is None else '|'.join(
        map(re.escape, sorted(found, key=len, reverse=True))) for slot, found in values.items()}
    self._domain_of = {entity[NAME]: name for name, domain in database.items()
                       for entity in domain.entities}

  def say(self, speaker: Speaker, acts: Sequence[Act], draw: random.Random) -> Turn:
    """A turn with a text of the acts, and spans of their values."""
    text, spans = '', []
    for sentence in (self._user if speaker == 'user' else self._system)(acts, draw):
      text += ' ' if text else ''
      for piece in sentence:
        piece, act = piece if isinstance(piece, tuple) else (piece, None)
        if act is not None:
          spans.append(Span(len(text), len(text) + len(piece), act.domain, act.slot))
        text += piece
    return Turn(speaker, text[:1].upper() + text[1:], tuple(acts), tuple(spans))

  def understand(self, speaker: Speaker, text: str, before: Dialogue | None = None) -> list[Act]:
    """The acts of a text, in its order; `before` says which domain a system's sentence is of."""
    current = _last_domain(before)
    found = []
    for sentence in re.split(r'(?<=[.?!])\s+', text.strip()):
      read = self._read_user if speaker == 'user' else self._read_system
      acts = [*read(sentence, current)]
      current = next((act.domain for act in acts if act.domain), current)
      found += acts
    return found

  def examples(self, speaker: Speaker) -> list[str]:
    """A sentence of each kind, about entities and values that are drawn."""
    draw, acts = random.Random(0), []
    for name, domain in self._database.items():
      entity = draw.choice(domain.entities)
      choices = domain.informable | (domain.booking if speaker == 'system' else {})
      asked, told = ('request', 'inform') if speaker == 'system' else ('inform', 'request')
      acts += [[Act(asked, name, slot, draw.choice(values))] for slot, values in choices.items()]
      acts += [[Act(told, name, slot, entity[slot])] for slot in domain.requestable]
      if speaker == 'system':
        acts += [[Act('offer', name, NAME, entity[NAME])], [Act('nothing', name)],
                 [Act('booked', name, REFERENCE, f'{draw.randrange(16 ** 6):06x}')]]
      else:
        acts += [[Act('inform', name, slot, DONT_CARE)] for slot in choices]
        acts += [[Act('book', name, slot, draw.choice(values))
                  for slot, values in domain.booking.items()]]
    acts += [[Act('more')]] * (speaker == 'system') + [[Act('bye')]]
    return list(dict.fromkeys(self.say(speaker, some, draw).text for some in acts))

  def _user(self, acts: Sequence[Act], draw: random.Random) -> Iterator[list]:
    """Sentences as lists of texts and of (value, act)."""
    groups: dict[tuple[str, str], list[Act]] = {}
    for act in acts:
      kind = 'dont_care' if act.value == DONT_CARE else act.intent
      groups.setdefault((kind, act.domain), []).append(act)
    for (kind, domain), some in groups.items():
      template = draw.choice(_USER[kind]).replace('{D}', domain)
      if kind in ('inform', 'book'):
        parts = [part for act in some if act.slot for part in (' ', *self._part(act, draw))]
        before, after = template.split(' {P}')
        yield [before, *parts, after]
      else:
        yield [template.replace('{S}', ' and the '.join(act.slot for act in some))]

  def _part(self, act: Act, draw: random.Random) -> list:
    if act.slot in _YES_NO:
      return [draw.choice(_YES_NO[act.slot][act.value])]
    before, after = draw.choice(_PARTS[act.slot]).split('{}')
    return [before, (act.value, act), after]

  def _system(self, acts: Sequence[Act], draw: random.Random) -> Iterator[list]:
    for act in acts:
      template = draw.choice(_SYSTEM.get((act.intent, act.slot)) or _SYSTEM[act.intent])
      before, value, after = template.replace('{D}', act.domain).partition('{}')
      yield [before, (act.value, act), after] if value else [before]

  @functools.cached_property
  def _user_parts(self) -> list[tuple[str, str | None, re.Pattern]]:
    """(slot, value or None where the pattern has it, pattern) of parts of sentences."""
    own = [(slot, None, self._pattern(part, slot)) for slot, parts in _PARTS.items()
           for part in parts if slot in self._values]
    return own + [(slot, value, self._pattern(part, slot))
                  for slot, values in _YES_NO.items() for value, parts in values.items()
                  for part in parts if slot in self._values]

  @functools.cached_property
  def _system_patterns(self) -> list[tuple[str, str, re.Pattern]]:
    """(intent, slot, pattern) of sentences."""
    slot_of = {'offer': NAME, 'booked': REFERENCE}
    found = []
    for key, templates in _SYSTEM.items():
      intent, slot = key if isinstance(key, tuple) else (key, slot_of.get(key, ''))
      if not slot or slot in self._values:
        found += [(intent, slot, self._pattern(template.rstrip('.?'), slot))
                  for template in templates]
    return found

  def _pattern(self, template: str, slot: str) -> re.Pattern:
    text = re.escape(template).replace(re.escape('{}'), f'({self._values.get(slot, "")})')
    return re.compile(rf'\b{text.replace(re.escape("{D}"), f"(?:{self._domains})")}\b', re.I)

  def _read_user(self, sentence: str, current: str) -> Iterator[Act]:
    lower = sentence.lower()
    if re.search(r'\b(good)?bye\b', lower):
      yield Act('bye')
      return
    named = re.search(rf'\b(?:{self._domains})\b', lower)
    domain = named[0] if named else current
    if domain not in self._database:
      return
    own = self._database[domain]
    slots = sorted((found.start(), slot) for slot in (*own.informable, *own.booking,
                                                      *own.requestable)
                   if (found := re.search(rf'\b{slot}\b', lower)))
    if re.search(r'\b(do not care|any)\b', lower):
      yield from (Act('inform', domain, slot, DONT_CARE) for _, slot in slots)
      return
    asked = [slot for _, slot in slots if slot in own.requestable]
    if asked or re.search(r'\b(what is|give me)\b', lower):
      yield from (Act('request', domain, slot) for slot in asked)
      return
    intent = 'book' if re.search(r'\bbook\b', lower) else 'inform'
    known = {*own.informable, *own.booking}
    parts = sorted((found.start(), slot, value or found[1].lower())
                   for slot, value, pattern in self._user_parts if slot in known
                   for found in pattern.finditer(sentence))
    if intent == 'inform':   # values alone, of slots that no part has said
      said = {*_YES_NO, *(slot for _, slot, _ in parts)}
      parts += sorted((found.start(), slot, found[0]) for slot, values in own.informable.items()
                      if slot not in said for value in values if not value.isdigit()
                      if (found := re.search(rf'\b{re.escape(value)}\b', lower)))
    yield from (Act(intent, domain, slot, value) for _, slot, value in parts)
    if not parts and named and intent == 'inform':
      yield Act('inform', domain)

  def _read_system(self, sentence: str, current: str) -> Iterator[Act]:
    for intent, slot, pattern in self._system_patterns:
      if not (found := pattern.search(sentence)):
        continue
      value = found[1].lower() if pattern.groups else ''
      if intent in ('bye', 'more'):
        yield Act(intent)
      elif intent == 'offer':
        yield Act(intent, self._domain_of[value], slot, value)
      elif intent == 'nothing':
        yield Act(intent, current)
      else:
        yield Act(intent, current, slot, value)
      return


def _last_domain(dialogue: Dialogue | None) -> str:
  turns: Sequence[Turn] = dialogue.turns if dialogue else ()
  return next((act.domain for turn in reversed(turns) for act in reversed(turn.acts)
               if act.domain), '')
