"""A process that reads data for another one; its head imports nothing that prints."""

from typing import Any

from tasks.pipeline.imports import import_seqio


def set_up_worker(data: Any) -> None:
  """Imports seqio quietly, and what the task of `data`, a DataConfig, needs."""
  import_seqio()
  from tasks.pipeline.provider import get_task
  get_task(data)
