"""The restaurant dialogues of MultiWOZ 2.1, validation and test."""

import json
import os
import pathlib
import zipfile

from t5x_lite.dialogue.schema import Act, Dialogue, Turn

FOLDER = pathlib.Path(os.environ.get('T5X_LITE_TEST_DATA', '/nonexistent')) / 'multiwoz21'


def restaurants() -> list[Dialogue]:
  """Those whose goal, which also has its 'topic', is about restaurants alone."""
  found = []
  for part in ('val', 'test'):
    with zipfile.ZipFile(FOLDER / f'{part}.json.zip') as archive:
      dialogues = json.loads(archive.read(archive.namelist()[0]))
    for name, dialogue in dialogues.items():
      about = {domain for domain, goal in dialogue['goal'].items()
               if isinstance(goal, dict) and goal and domain != 'topic'}
      if about == {'restaurant'}:
        found.append(Dialogue(name, tuple(_turn(i, t) for i, t in enumerate(dialogue['log']))))
  return found


def _turn(index: int, turn: dict) -> Turn:
  acts = tuple(Act(intent.lower(), domain.lower(), slot.lower(), value)
               for name, slots in turn['dialog_act'].items()
               for domain, intent in [name.split('-')] for slot, value in slots)
  return Turn('system' if index % 2 else 'user', turn['text'], acts)
