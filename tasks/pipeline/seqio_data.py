"""The seqio source: a task or mixture by name, at which lengths, how many rows a step.

Loads no TensorFlow, so that gin can read this file anywhere; stream.py, which does, is imported
when data is read.
"""

from collections.abc import Iterator, Sequence
import dataclasses
import re
from typing import Any

from t5x_lite.core.dataclass_checks import (
  Count,
  FieldError,
  Length,
  ModuleName,
  Path,
  check_types,
  nearest,
)
from t5x_lite.data.features import Batch
from t5x_lite.data.source import Chat, Source, Tokenizer
from t5x_lite.models import ModelConfig
import tasks.files  # noqa: F401, whose formats infer reads for every run on such data
from tasks.pipeline.closing import closed_at_exit
from tasks.pipeline.imports import import_seqio

PACKING = ('best_fit', 'greedy', 'none')   # greedy is seqio's own


class TaskSource(Source):
  """What sources over a seqio task or mixture share, whatever they make of its examples.

  A frozen dataclass that is one has the fields `task`, `targets_length`, `inputs_length`,
  `batch_size`, `task_module`, `split`, `vocabulary` and `data_dir`, as DataConfig has them.
  """

  def check_task(self) -> None:
    """Raises FieldError for fields of other types, or a task that cannot be registered."""
    check_types(self)
    if not isinstance(self.task, str) and not hasattr(self.task, 'register'):
      raise FieldError(self, 'task', 'expected the name of a seqio task or mixture, or a FileTask')

  @property
  def lengths(self) -> dict[str, int]:
    """Length of each task feature, as seqio takes them."""
    lengths = {'inputs': self.inputs_length, 'targets': self.targets_length}
    return {name: length for name, length in lengths.items() if length is not None}

  @property
  def name(self) -> str:
    """Name of the task or mixture, for people: a FileTask's own name is a hash of its content."""
    return self.task if isinstance(self.task, str) else self.task.label

  def display_name(self, name: str) -> str:
    """A task's name, for people: less the hashes of files and of another vocabulary than its own,
    so that it is the same in every run."""
    if self.vocabulary is not None:
      name = name.rsplit('__', 1)[0]
    return re.sub(r'_[0-9a-f]{12}$', '', name)

  def splits(self) -> list[str]:
    """See Source."""
    return _stream().splits(self)

  def tokenizer(self, feature: str = 'inputs') -> Tokenizer:
    """See Source."""
    return _stream().tokenizer(self, feature)

  def chat(self, template: str | None = None) -> Chat | None:
    """See Source; raises UserError as tasks.instruction.named_templates.load_template."""
    return _stream().chat(self, template)

  def fingerprint(self) -> str:
    """See Source; of the vocabulary of the task's text."""
    return _stream().fingerprint(self)

  def data_digest(self) -> str | None:
    """See Source; of the files of FileTasks, alone or in a Mixture."""
    return None if isinstance(self.task, str) else self.task.data_digest(self.split)


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataConfig(TaskSource):
  """A seqio task or mixture as a source of batches."""
  task: Any                          # name of a seqio task or mixture; or a FileTask or Mixture
  targets_length: Length             # longest targets, in tokens
  inputs_length: Length | None = None   # longest inputs; None: the task has only targets
  batch_size: Count                  # rows of a global batch
  task_module: ModuleName = 'tasks.datasets.stdlib'   # its import registers `task`
  split: str = 'train'               # of the task
  packing: str = 'best_fit'          # of several examples in a row: one of PACKING
  vocabulary: Path | None = None     # a SentencePiece .model, tokenizer.json or rank file
  data_dir: Path | None = None       # where TFDS keeps data; None: TFDS's own default
  cache_dir: Path | None = None      # of t5x-lite data cache; None: tokenise while training

  def __post_init__(self):
    self.check_task()
    if self.packing not in PACKING:
      raise FieldError(self, 'packing', f'{self.packing!r}; {nearest(self.packing, PACKING)}')

  @property
  def rate_schedule(self) -> list[tuple[int, tuple[float, ...]]]:
    """(first step, rates) of a tasks.pipeline.mixtures.Mixture whose rates change; else none."""
    return getattr(self.task, 'schedule', [])

  @property
  def labels(self) -> Sequence[str]:
    """See Source; of the targets of a classification."""
    return _stream().labels(self)

  @property
  def num_texts(self) -> int:
    """See Source."""
    return _stream().num_texts(self)

  def batches(self, model: ModelConfig, *, seed: int, start: int = 0,
              shard: tuple[int, int] = (0, 1)) -> Iterator[Batch]:
    """See Source; raises UserError if the task is unknown, does not fit the model, or is empty."""
    return closed_at_exit(
        _stream().batches(self, model, seed=seed, start=start, shard=shard))

  def examples(self, split: str, limit: int | None = None, seed: int = 0
               ) -> Iterator[dict[str, Any]]:
    """See Source; raises UserError for a task without inputs."""
    return closed_at_exit(_stream().examples(self, split, limit, seed))

  def data_digest(self) -> str | None:
    """See Source; of the files of FileTasks, alone or in a Mixture, and of the cache."""
    parts = [super().data_digest()]
    if self.cache_dir is not None:
      parts.append(_stream().cache_digest(self))
    parts = [part for part in parts if part is not None]
    return '-'.join(parts) or None


def _stream():
  """The module that reads data, which imports seqio."""
  import_seqio()
  from tasks.pipeline import stream
  return stream
