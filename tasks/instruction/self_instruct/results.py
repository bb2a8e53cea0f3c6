"""The folder that generated tasks are written to, round by round, so that it can be resumed."""

import collections
from collections.abc import Mapping, Sequence
import json
import pathlib
from typing import Any

from t5x_lite.core.errors import UserError
from t5x_lite.core.files import write_text

TASKS, REFUSED, PROGRESS = 'tasks.jsonl', 'refused.jsonl', 'progress.json'
INSTANCES = 'instances.jsonl'   # of all tasks: instruction, input and output, as Alpaca has them
Row = dict[str, Any]


class Results:
  """Tasks, what was refused, and how many rounds are complete.

  A round is complete once `progress.json` says so; lines of a later one, which a stop cut short,
  are dropped when the folder is opened again, and the round is drawn again as it was.

  Attributes:
    rounds: complete ones.
    tasks: rows of the schema self_instruct, with their round.
    refused: rows with round, stage ('instructions' or 'instances'), text and why.
  """

  def __init__(self, folder: pathlib.Path, settings: Mapping[str, Any]):
    """Raises UserError for a folder of other settings, or one whose files are damaged."""
    self.folder, self._settings = folder, dict(settings)
    self.rounds, self.tasks, self.refused = 0, [], []
    progress = folder / PROGRESS
    if not progress.exists():
      others = [name for name in (TASKS, REFUSED) if (folder / name).exists()]
      if others:
        raise UserError(f'{folder} has {others[0]} and no {PROGRESS}: name another folder')
      return
    found = _parse(progress.read_text(encoding='utf-8'), progress)
    for name, value in self._settings.items():
      if found.get('settings', {}).get(name) != value:
        raise UserError(f'{folder} was begun with {name} {found.get("settings", {}).get(name)!r}, '
                        f'and now it is {value!r}: name another folder')
    self.rounds = found['rounds']
    self.tasks, self.refused = self._read(TASKS), self._read(REFUSED)

  @property
  def tasks_file(self) -> pathlib.Path:
    """That ConversationTask reads; FileTask reads INSTANCES, which is made of it."""
    return self.folder / TASKS

  def add_round(self, tasks: Sequence[Row], refused: Sequence[Row]) -> None:
    """Writes what a round gave."""
    self.folder.mkdir(parents=True, exist_ok=True)
    for name, all_rows, rows in ((TASKS, self.tasks, tasks), (REFUSED, self.refused, refused)):
      all_rows += [row | {'round': self.rounds} for row in rows]
      self._write(name, all_rows)
    self._write(INSTANCES, [{'instruction': task['instruction'], **instance}
                            for task in self.tasks for instance in task['instances']])
    self.rounds += 1
    write_text(self.folder / PROGRESS, json.dumps(
        {'rounds': self.rounds, 'tasks': len(self.tasks), 'refused': self.counts(),
         'settings': self._settings}, indent=2, ensure_ascii=False) + '\n')

  def counts(self) -> dict[str, int]:
    """{why: how many were refused}, the most frequent first."""
    return dict(collections.Counter(row['why'] for row in self.refused).most_common())

  def _write(self, name: str, rows: Sequence[Row]) -> None:
    text = ''.join(json.dumps(row, ensure_ascii=False) + '\n' for row in rows)
    write_text(self.folder / name, text)

  def _read(self, name: str) -> list[Row]:
    path = self.folder / name
    rows = [_parse(line, f'{path}:{number}') for number, line in enumerate(
        path.read_text(encoding='utf-8').splitlines(), 1)]
    return [row for row in rows if row['round'] < self.rounds]


def _parse(text: str, where: object) -> Row:
  try:
    found = json.loads(text)
  except ValueError as error:
    raise UserError(f'{where}: is damaged: {error}; name another folder') from error
  return found
