"""Dialogues of CamRest676, which are about restaurants in Cambridge."""

from collections.abc import Mapping
from typing import Any

from t5x_lite.dialogue.domains import Domain, Schema, Slot
from t5x_lite.dialogue.schema import Act, Dialogue, Goal, Turn

DOMAIN = 'restaurant'
SCHEMA: Schema = {DOMAIN: Domain({slot: Slot() for slot in (
    'area', 'food', 'pricerange', 'name', 'address', 'phone', 'postcode')})}


def read_dialogue(record: Mapping[str, Any]) -> Dialogue:
  """The dialogue of a record that has `dial` and `goal`.

  A user's `slu` repeats what was said before: acts are what is new in it. `DA` of a system names
  the slots that it asks for.
  """
  turns, before = [], {}
  for exchange in record['dial']:
    said = [(act['act'], *pair) for act in exchange['usr']['slu'] for pair in act['slots']]
    # Two informs and two requests of the corpus have each other's form.
    asked = [value if slot == 'slot' else slot for act, slot, value in said
             if act == 'request' or slot == 'slot']
    state = {slot: value for act, slot, value in said if act == 'inform' and slot != 'slot'}
    acts = [Act('inform', DOMAIN, slot, value) for slot, value in state.items()
            if before.get(slot) != value] + [Act('request', DOMAIN, slot) for slot in asked]
    turns.append(Turn('user', exchange['usr']['transcript'], tuple(acts), state={
        DOMAIN: {slot: (value,) for slot, value in state.items()}} if state else {}))
    turns.append(Turn('system', exchange['sys']['sent'], tuple(
        Act('request', DOMAIN, slot) for slot in exchange['sys']['DA'] if isinstance(slot, str))))
    before = state
  goal = record['goal']
  return Dialogue(id=str(record['dialogue_id']), turns=tuple(turns), domains=(DOMAIN,), goals={
      DOMAIN: Goal(dict(goal['constraints']), tuple(goal['request-slots']))},
                  message=goal['text'])
