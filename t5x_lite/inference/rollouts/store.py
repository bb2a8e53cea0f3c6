"""The rollouts of a run on disk: tensors to resume from, and records that a person reads."""

import json
from typing import Any

import numpy as np

from t5x_lite.core.errors import UserError
from t5x_lite.core.files import atomic_file, whole_lines, write_text
from t5x_lite.training.run_folder import RunFolder


class RolloutStore:
  """`rollouts.jsonl` and `rollouts/N.npz` in the folder of a run.

  A run that resumes within a rollout goes on with its tensors, as the parameters that drew it are
  gone; one that resumes between two draws the next anew.
  """

  def __init__(self, folder: RunFolder, next_number: int, writes: bool = True):
    """Drops the records of rollouts from `next_number` on, which recur; of several processes one
    writes."""
    self._records, self._tensors = folder.rollouts, folder.rollout_tensors
    self._writes = writes
    if writes and self._records.exists():
      lines, _ = whole_lines(self._records)
      kept = [line for line in lines if json.loads(line)['rollout'] < next_number]
      if len(kept) < len(lines):
        write_text(self._records, ''.join(line.decode() + '\n' for line in kept))

  def save(self, number: int, arrays: dict[str, np.ndarray], records: list[dict[str, Any]],
           keep_from: int) -> None:
    """Writes a rollout, and drops the tensors of those before `keep_from`."""
    if not self._writes:
      return
    self._records.parent.mkdir(parents=True, exist_ok=True)
    with open(self._records, 'a') as file:
      file.writelines(json.dumps(record, ensure_ascii=False) + '\n' for record in records)
    with atomic_file(self._tensors / f'{number}.npz') as file:
      np.savez(file, **arrays)
    for path in self._tensors.glob('*.npz'):
      if path.stem.isdigit() and int(path.stem) < keep_from:
        path.unlink(missing_ok=True)

  def load(self, number: int) -> dict[str, np.ndarray]:
    """The tensors of a rollout; raises UserError if they are not there, or damaged."""
    path = self._tensors / f'{number}.npz'
    try:
      with np.load(path, allow_pickle=False) as arrays:
        return dict(arrays)
    except FileNotFoundError:
      raise UserError(f'{path} is missing, and the checkpoint is within that rollout: put it back, '
                      'or start from an earlier checkpoint, between two rollouts') from None
    except (OSError, ValueError, EOFError) as error:
      raise UserError(f'{path} is damaged ({error}): put back a good copy, or start from an '
                      'earlier checkpoint, between two rollouts') from error
