"""What every task over a user's own files has: splits of indexed files, and a name by content.

Only `register` loads seqio, so that gin can read the files that import this one.
"""

from collections.abc import Callable, Mapping
import hashlib
import sys
from typing import Any

from t5x_lite.core.dataclass_checks import ORIGINS, FieldError
from t5x_lite.data.files.index import FileIndex


def share_of(task: Any) -> float:
  """The share of the training files that is held out; 0 where validation has files, or is none."""
  return task.validation if isinstance(task.validation, float) else 0.0


def check_files(task: Any, *texts: str) -> None:
  """Raises FieldError for a share outside of 0 to 1, or an empty text among the fields `texts`."""
  if isinstance(task.validation, float) and not 0 < task.validation < 1:
    raise FieldError(task, 'validation', 'a share must be between 0 and 1')
  for field in texts:
    if getattr(task, field) == '':
      raise FieldError(task, field, 'must be a non-empty string')


def where(task: Any, field: str) -> str:
  """The setting and where it was made, for errors."""
  return f'{type(task).__name__}.{field}{getattr(task, ORIGINS, {}).get(field, "")}'


def read_splits(task: Any, read: Callable[[str, str], FileIndex], noun: str
                ) -> dict[str, FileIndex]:
  """The checked index of each split of a task with fields `train` and `validation`.

  Args:
    task: the dataclass.
    read: (files, split) -> index, with `share_of(task)` of it held out.
    noun: what the files hold: 'row', 'example'.

  Raises FieldError for a share that leaves a split empty.
  """
  indices, share = {'train': read(task.train, 'train')}, share_of(task)
  if share:
    both = indices['train']
    indices = {'train': both.where(~both.held_out), 'validation': both.where(both.held_out)}
    empty = [split for split, part in indices.items() if not len(part)]
    if empty:
      raise FieldError(task, 'validation', f'a share of {share} of {len(both)} {noun}(s) leaves '
                       f'none for {empty[0]}: choose another, or give files')
  elif task.validation is not None:
    indices['validation'] = read(task.validation, 'validation')
  return indices


def register(label: str, facts: tuple, indices: Mapping[str, FileIndex],
             add: Callable[[str], None]) -> str:
  """The name of the seqio task of these facts and files, which `add` registers if it is new."""
  digest = hashlib.sha256(repr(facts).encode())
  for split, found in indices.items():
    digest.update(split.encode() + found.digest)
  name = f'{label}_{digest.hexdigest()[:12]}'

  import seqio

  if name in seqio.TaskRegistry.names():   # the same content may lie elsewhere by now
    seqio.TaskRegistry.get(name).source.indices = indices
  else:
    add(name)
  return name


def report_skipped(task: Any, split: str, found: FileIndex, noun: str) -> None:
  """Says on stderr what was left out of a split as bad."""
  if found.num_skipped:
    print(f'{type(task).__name__}.{split}: left out {found.num_skipped} bad {noun}(s) beside '
          f'{len(found)} good ones; the first: {found.skipped}', file=sys.stderr)
