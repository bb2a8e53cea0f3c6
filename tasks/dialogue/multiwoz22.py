"""Dialogues of MultiWOZ 2.2: frames of services, and a file apart of both sides' acts and spans."""

from collections.abc import Callable, Mapping
import dataclasses
import functools
import pathlib
from typing import Any

from t5x_lite.core.errors import UserError
from t5x_lite.dialogue.schema import Dialogue, Span
from tasks.dialogue import sgd
from tasks.dialogue.multiwoz21 import act_of
from tasks.dialogue.multiwoz_names import slot_name
from tasks.dialogue.records import read_records

_ACTS = ('dialog_acts.json', 'dialog_acts.json.gz', 'dialog_acts.json.zip')
_LEVELS = 2   # folders above a file in which they are looked for, beside its own


def read_dialogue(record: Mapping[str, Any]) -> Dialogue:
  """With the slots named as those of MultiWOZ 2.1 are."""
  return sgd.read_dialogue(record, slot_name)


def with_acts(source: pathlib.Path) -> Callable[[Dialogue], Dialogue]:
  """Gives a dialogue the acts and spans of the dialog_acts.json by `source`, if there is one.

  They take the place of those of its frames, which are of the user alone.
  """
  above = [source.resolve(), *source.resolve().parents][:1 + _LEVELS]
  path = next((folder / name for folder in above for name in _ACTS if (folder / name).is_file()),
              None)
  if path is None:
    return lambda dialogue: dialogue
  return functools.partial(_annotated, _read(path), path)


def _read(path: pathlib.Path) -> Mapping[str, Any]:
  return {record['id'].removesuffix('.json'): record for record in read_records(path)}


def _annotated(acts: Mapping[str, Any], path: pathlib.Path, dialogue: Dialogue) -> Dialogue:
  try:
    record = acts[dialogue.id]
    found = [record.get(str(i), {}) for i in range(len(dialogue.turns))]
    return dataclasses.replace(dialogue, turns=tuple(
        dataclasses.replace(
            turn, acts=tuple(act_of(name, slot, value) for name, slots in
                             one.get('dialog_act', {}).items() for slot, value in slots),
            spans=tuple(_span(*span) for span in one.get('span_info', ())))
        for turn, one in zip(dialogue.turns, found)))
  except (KeyError, TypeError, ValueError, AttributeError) as error:
    raise UserError(f'{path}: dialogue {dialogue.id!r} has no acts in the form of MultiWOZ 2.2, '
                    f'{type(error).__name__}: {error}: use the file of the same release') from error


def _span(name: str, slot: str, value: str, start: int, end: int) -> Span:
  domain = name.lower().partition('-')[0]
  return Span(int(start), int(end), domain, slot_name(domain, slot))
