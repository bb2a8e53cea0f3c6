"""Dialogues of frames and services: Schema-Guided Dialogue, and MultiWOZ 2.2 in the same form."""

from collections.abc import Callable, Mapping
from typing import Any

from t5x_lite.dialogue.domains import Domain, Schema, Slot
from t5x_lite.dialogue.schema import Act, Dialogue, Span, Turn

Name = Callable[[str, str], str]   # (domain, slot) -> the slot's name


def read_dialogue(record: Mapping[str, Any], name: Name = lambda domain, slot: slot) -> Dialogue:
  """The dialogue of a record that has `dialogue_id`, `services` and `turns`.

  A user's turn repeats the state of the services that it is about, and others keep theirs.
  """
  turns, state = [], {}
  for entry in record['turns']:
    user = entry['speaker'].upper() == 'USER'
    spans, acts, results = [], [], {}
    for frame in entry['frames']:
      domain = frame['service']
      acts += [act for action in frame.get('actions', ()) for act in _acts(domain, action, name)]
      # Slots of 2.2 that are copied from others have no place in the text.
      spans += [Span(slot['start'], slot['exclusive_end'], domain, name(domain, slot['slot']))
                for slot in frame.get('slots', ()) if 'start' in slot]
      if 'service_results' in frame:
        results[domain] = len(frame['service_results'])
      if user and 'state' in frame:
        slots = {name(domain, slot): tuple(values)
                 for slot, values in frame['state']['slot_values'].items() if values}
        state = {key: value for key, value in state.items() if key != domain} | (
            {domain: slots} if slots else {})
    turns.append(Turn('user' if user else 'system', entry['utterance'], tuple(acts), tuple(spans),
                      state if user else None, results or None))
  return Dialogue(id=record['dialogue_id'].removesuffix('.json'), turns=tuple(turns),
                  domains=tuple(record['services']))


def read_schema(services: list[Mapping[str, Any]], name: Name = lambda domain, slot: slot
                ) -> Schema:
  """The domains of a file of services, such as schema.json."""
  return {service['service_name']: Domain(
      {name(service['service_name'], slot['name']): Slot(
          slot.get('description', ''),
          tuple(slot.get('possible_values', ())) if slot['is_categorical'] else ())
       for slot in service['slots']}, service.get('description', '')) for service in services}


def _acts(domain: str, action: Mapping[str, Any], name: Name) -> list[Act]:
  slot = name(domain, action['slot']) if action['slot'] else ''
  make = lambda value: Act(action['act'].lower(), domain, slot, value)
  return [make(value) for value in action['values'] or ('',)]
