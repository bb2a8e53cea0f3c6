"""The Source of preference learning: groups of responses to one prompt, from a seqio task.

Loads no TensorFlow, so that gin can read this file anywhere; stream.py, which does, is imported
when data is read.
"""

from collections.abc import Iterator
import dataclasses
from typing import Annotated, Any

from t5x_lite.core.dataclass_checks import Count, FieldError, Length, ModuleName, Path, Range
from t5x_lite.data.features import Batch
from t5x_lite.models import ModelConfig
from tasks.pipeline.closing import closed_at_exit
from tasks.pipeline.imports import import_seqio
from tasks.pipeline.seqio_data import TaskSource


@dataclasses.dataclass(frozen=True, kw_only=True)
class PreferenceData(TaskSource):
  """Comparisons of responses as a source of batches, in which a row is a group.

  Groups of more responses than K are cut to the best, the worst and those evenly ranked between;
  smaller ones are padded. A task of single responses, the thumbs of KTO, has each prompt twice:
  with its own response, and with that of the next group of the batch, which has no score.
  """

  task: Any                          # a PreferenceTask, or the name of a seqio task of its features
  inputs_length: Length              # longest prompt, in tokens
  targets_length: Length             # longest response, its end token included
  batch_size: Count                  # groups of a global batch
  responses: Annotated[int, Range(min=2)] = 2   # K of a group
  task_module: ModuleName = 'tasks.datasets.stdlib'   # its import registers `task`
  split: str = 'train'               # of the task
  vocabulary: Path | None = None     # a SentencePiece .model, tokenizer.json or rank file
  data_dir: Path | None = None       # where TFDS keeps data; None: TFDS's own default

  def __post_init__(self):
    self.check_task()
    if getattr(self.task, 'schedule', []):
      raise FieldError(self, 'task', 'is a Mixture with a rate_schedule, which is of rows: leave '
                       'that out')

  def batches(self, model: ModelConfig, *, seed: int, start: int = 0,
              shard: tuple[int, int] = (0, 1)) -> Iterator[Batch]:
    """See Source, of groups, as groups.batch_groups has them; `start` counts groups.

    Raises UserError if the task is unknown, no task of comparisons, does not fit the model, or is
    empty.
    """
    return closed_at_exit(_stream().batches(self, model, seed=seed, start=start, shard=shard))

  def groups(self, model: ModelConfig, split: str) -> Iterator[Batch]:
    """All groups of a split once, in the order of the task, in batches of `batch_size`.

    What the last one lacks is padding, whose scores are NaN. Raises UserError as `batches`.
    """
    return closed_at_exit(_stream().groups(self, model, split))

  def examples(self, split: str, limit: int | None = None, seed: int = 0
               ) -> Iterator[dict[str, Any]]:
    """See Source; of prompts, whose `targets` are the best response, or the only one."""
    return closed_at_exit(_stream().examples(self, split, limit, seed))


def _stream():
  """The module that reads data, which imports seqio."""
  import_seqio()
  from tasks.preferences import stream
  return stream
