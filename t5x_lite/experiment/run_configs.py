"""The config.gin of a run means its own folder, wherever that was when it was written."""

from collections.abc import Sequence
import dataclasses
import pathlib
from typing import Any


def is_run_config(path: pathlib.Path) -> bool:
  """Whether a gin file is the config.gin of a run."""
  beside = [path.parent / name for name in ('checkpoints', 'metrics.jsonl')]
  return path.name == 'config.gin' and any(other.exists() for other in beside)


def relocate(statements: Sequence[Any], here: Any) -> list[Any]:
  """The statements of a run's config.gin, with `here` for its MODEL_DIR.

  Paths in the folder that was MODEL_DIR are in this one now.
  """
  is_dir = lambda s: s.macro == 'MODEL_DIR' or s.field == 'model_dir' and (
      s.selector.split('.')[-1] == 'Experiment')
  written = [s.value for s in statements if is_dir(s) and isinstance(s.value, str)]
  moved = []
  for s in statements:
    value = here.value if is_dir(s) and isinstance(s.value, str) else s.value
    for folder in written:
      value = _moved(value, folder.rstrip('/'), here.value)
    moved.append(dataclasses.replace(s, value=value))
  return [*moved, here]


def _moved(value: Any, old: str, new: str) -> Any:
  """Text that is a path in `old`, or in brackets, as one in `new`."""
  if isinstance(value, (list, tuple)):
    return type(value)(_moved(part, old, new) for part in value)
  if isinstance(value, str) and old and value.startswith(f'{old}/'):
    return f'{new}{value[len(old):]}'
  return value
