"""The tasks that people wrote: what a model sees examples of."""

from collections.abc import Mapping
import dataclasses
import json
from typing import Any

from t5x_lite.data.files import index
from t5x_lite.data.files.templates import BadExample, listed


@dataclasses.dataclass(frozen=True)
class Task:
  """An instruction with instances.

  Attributes:
    instruction: what to do.
    instances: (input, output) of each; the input may be ''.
    is_classification: whether the outputs are of a few classes.
  """
  instruction: str
  instances: tuple[tuple[str, str], ...]
  is_classification: bool

  @staticmethod
  def from_row(row: Mapping[str, Any]) -> 'Task':
    """Of a row of the public seed_tasks.jsonl. Raises BadExample for another."""
    missing = [name for name in ('instruction', 'instances', 'is_classification')
               if name not in row]
    if missing:
      raise BadExample(f'a seed task has instruction, instances and is_classification; '
                       f'{listed(missing)} is missing among {listed(row) or "none"}')
    if not isinstance(row['instruction'], str) or not row['instruction'].strip():
      raise BadExample("field 'instruction' must be a text")
    if not isinstance(row['is_classification'], bool):
      raise BadExample("field 'is_classification' must be true or false")
    instances = row['instances']
    if not isinstance(instances, list) or not instances:
      raise BadExample("field 'instances' must be a list of objects with input and output")
    found = []
    for number, instance in enumerate(instances, 1):
      pair = [instance.get(name, '' if name == 'input' else None) for name in ('input', 'output')
              ] if isinstance(instance, Mapping) else [None]
      if not all(isinstance(text, str) for text in pair) or not pair[1].strip():
        raise BadExample(f'instance {number} must have an input and an output that are texts')
      found.append(tuple(pair))
    return Task(row['instruction'], tuple(found), row['is_classification'])


@dataclasses.dataclass(frozen=True)
class _Check:
  """A row as JSON, in place of a Template of the index."""

  def __call__(self, row: Mapping[str, Any]) -> str:
    return json.dumps(dataclasses.asdict(Task.from_row(row)))


def read_seed_tasks(pattern: str) -> list[Task]:
  """The tasks of files in any format that a FileTask reads.

  Raises UserError naming file and line.
  """
  rows = index.index_files(pattern, {'task': _Check()}, '--seed_tasks')
  found = (json.loads(rows[i]['task']) for i in range(len(rows)))
  return [Task(row['instruction'], tuple(map(tuple, row['instances'])), row['is_classification'])
          for row in found]
