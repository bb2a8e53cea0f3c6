"""Dialogues of the schema as the files that predictions are scored by."""

from collections.abc import Mapping, Sequence
import json
import pathlib
from typing import Any

from t5x_lite.core.files import write_text
from t5x_lite.dialogue.schema import Dialogue, Goal, Turn
from t5x_lite.dialogue.scoring.database import DOMAINS
from t5x_lite.dialogue.scoring.normalisation import tag_of
from t5x_lite.dialogue.texts import turn_text

REFERENCE = 'reference'   # the slot of a booking


def write_reference(folder: pathlib.Path, dialogues: Sequence[Dialogue],
                    entries: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
  """Writes goals, bookings, gold states, delexicalised references and a database.

  Args:
    folder: of the files.
    dialogues: with goals, acts, states and spans.
    entries: of the database, {domain: rows}, each with an `id`.
  """
  named = {name_of(one): one for one in dialogues}
  write = lambda name, value: write_text(folder / name, json.dumps(value, ensure_ascii=False))
  write('goals.json', {name: {domain: _wanted(goal) for domain, goal in one.goals.items()}
                       for name, one in named.items()})
  write('booked_domains.json', {name: _booked(one.turns) for name, one in named.items()})
  write('gold_states.json', {name: [
      {domain: {slot: values[0] for slot, values in slots.items()}
       for domain, slots in (before.state or {}).items()}
      for before, turn in zip(one.turns, one.turns[1:]) if turn.speaker == 'system']
                             for name, one in named.items()})
  write('references.json', responses_of(dialogues))
  for domain in DOMAINS:
    write(f'database/{domain}_db.json', [dict(row) for row in entries.get(domain, ())])


def name_of(dialogue: Dialogue) -> str:
  """As the public evaluator names a dialogue: in lower case and without .json."""
  return dialogue.id.lower().removesuffix('.json')


def responses_of(dialogues: Sequence[Dialogue]) -> dict[str, list[str]]:
  """{dialogue: the delexicalised text of each turn of the system}."""
  return {name_of(one): [turn_text(turn, delexicalised=True) for turn in one.turns
                         if turn.speaker == 'system'] for one in dialogues}


def _wanted(goal: Goal) -> dict[str, Any]:
  tags = [tag_of(slot) for slot in goal.request] + ['REFERENCE'] * bool(goal.book)
  return {'informable': dict(goal.inform), 'requestable': tags}


def _booked(turns: Sequence[Turn]) -> list[list[str]]:
  """The domains that have given a reference by then, of each turn of the system."""
  found, booked = [], {}
  for turn in turns:
    if turn.speaker == 'system':
      booked |= dict.fromkeys(act.domain for act in turn.acts if act.slot == REFERENCE)
      found.append([*booked])
  return found
