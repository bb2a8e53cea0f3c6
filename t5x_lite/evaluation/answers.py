"""Answers that a model gave before, from which an evaluation that was cut off goes on."""

from collections.abc import Iterator, Sequence
import hashlib
import json
import pathlib
from typing import Any

import numpy as np

from t5x_lite.core.console import note
from t5x_lite.core.errors import UserError
from t5x_lite.core.files import whole_lines
from t5x_lite.evaluation.likelihood import Found, Request, Scored

_FLUSH = 256   # answers that are written at a time


class AnswerLog:
  """A JSONL file of answers, each under a digest of the model and of what it was asked.

  Lines are only added. A last line that was cut off is left out, and said.
  """

  def __init__(self, path: pathlib.Path, model: str):
    """Reads the file, if there is one.

    Args:
      path: of the file.
      model: identifies the model, its parameters and how it reads.
    """
    self.path, self._model = path, model
    self._known: dict[str, Any] = {}
    self._new: list[str] = []
    if path.is_file():
      lines, cut = whole_lines(path, mend=True)
      if cut:
        note(f'{path}: its last line was cut off, and is computed again')
      self._read(lines)

  def _read(self, lines: Sequence[bytes]) -> None:
    for number, line in enumerate(lines, 1):
      try:
        key, *value = json.loads(line)
        self._known[key] = value
      except (ValueError, TypeError) as error:
        raise UserError(f'{self.path}:{number} is no line of answers: delete the file, which only '
                        'saves time') from error

  def key(self, *asked: Any) -> str:
    """Of something that the model is asked."""
    return hashlib.sha256(json.dumps([self._model, *asked]).encode()).hexdigest()[:32]

  def get(self, key: str) -> list[Any] | None:
    """The answer of a key, None if there is none yet."""
    return self._known.get(key)

  def add(self, key: str, *value: Any) -> None:
    """An answer, which is in the file after `flush`, or with many others before."""
    self._known[key] = [*value]
    self._new.append(json.dumps([key, *value]))
    if len(self._new) >= _FLUSH:
      self.flush()

  def flush(self) -> None:
    """Writes what was added."""
    if self._new:
      self.path.parent.mkdir(parents=True, exist_ok=True)
      with open(self.path, 'a', encoding='utf-8') as file:
        file.write(''.join(f'{line}\n' for line in self._new))
    self._new = []


def answered(found: Any, requests: Sequence[Request], log: AnswerLog) -> Found:
  """As `found(requests)`, but of those that `log` has none; the new ones are added to it."""
  keys = [log.key(*([int(i) for i in ids] for ids in request)) for request in requests]
  missing = []
  for i, key in enumerate(keys):
    if (known := log.get(key)) is None:
      missing.append(i)
    else:
      yield i, Scored(np.asarray(known[0], np.float32), known[1])
  yield from _add(found([requests[i] for i in missing]), missing, keys, log)


def _add(found: Found, missing: Sequence[int], keys: Sequence[str], log: AnswerLog
         ) -> Iterator[tuple[int, Scored]]:
  try:
    for n, scored in found:
      log.add(keys[missing[n]], [float(x) for x in scored.logprobs], scored.greedy)
      yield missing[n], scored
  finally:
    log.flush()
