"""Suites beside the training that they judge: bound in gin as Experiment.eval."""

from collections.abc import Callable, Sequence
import dataclasses
import pathlib
import time
from typing import Any

import numpy as np

from t5x_lite.core.dataclass_checks import Count, FieldError, Length, Step, check_types
from t5x_lite.data.source import Source
from t5x_lite.evaluation.suites import core
from t5x_lite.evaluation.suites.scoring import answer_items, summarize
from t5x_lite.evaluation.suites.task import Item, Task
from t5x_lite.evaluation.suites.tasks import choose_tasks
from t5x_lite.evaluation.text_model import TextModel
from t5x_lite.models import Network
from t5x_lite.parallel.partitioner import Partitioner


@dataclasses.dataclass(frozen=True, kw_only=True)
class SuiteEval:
  """Evaluation of a run on tasks of suites, each time on the same documents."""
  tasks: Sequence[str]                # such as ('arc_easy', 'hellaswag')
  data: str                           # the folder of their files
  shots: Step | None = None           # solved examples; None: as each task is published
  num_examples: Count | None = 200    # documents of a task, drawn by the run's seed; None: all
  batch_size: Count = 32              # texts at a time
  max_length: Length | None = None    # tokens that are read; None: as many as the run trains on
  also: Any = None                    # another evaluation, such as @evaluator.EvalConfig()
  step: Step | None = None            # the checkpoint `t5x-lite eval` reads; None: the newest

  def __post_init__(self):
    check_types(self)
    if isinstance(self.tasks, str) or not self.tasks:
      raise FieldError(self, 'tasks', "expected names of tasks, such as ('arc_easy',)")
    self._chosen()
    if self.also is not None and not hasattr(self.also, 'make'):
      raise FieldError(self, 'also', f'{self.also!r} is no evaluation')

  def make(self, network: Network, partitioner: Partitioner, data: Source, seed: int, *,
           required: bool = False) -> Callable[[Any, int], dict[str, float]]:
    """The evaluator: {'task/metric': value}, and of the suites `suites/seconds` and
    `suites/share`, of the time since it was made; with 'core' among the tasks
    `suites/core_mean`, the mean of the centred accuracies of those that have files.

    Raises UserError for files that are missing or have another layout.
    """
    partitioner.check_rows(self)
    other = self.also and self.also.make(network, partitioner, data, seed)
    chosen = self._chosen()
    if 'core' in self.tasks:
      chosen = core.keep_present(chosen, pathlib.Path(self.data))
    asked = [(task, self._items(task, seed)) for task in chosen]
    begun, spent, model = time.monotonic(), 0.0, None

    def evaluate(params: Any, step: int) -> dict[str, float]:
      nonlocal spent, model
      start = time.monotonic()
      model = model.with_params(params) if model else TextModel(
          network, params, partitioner, data, batch_size=self.batch_size,
          max_length=self.max_length)
      found = {}
      for task, items in asked:
        metrics, _ = summarize(task, answer_items(task, items, model))
        found |= {f'{task.name}/{name}': metric.value for name, metric in metrics.items()}
      if 'core' in self.tasks:
        found['suites/core_mean'] = float(np.mean([
            found[f'{task.name}/centred'] for task, _ in asked if task.name in core.TASKS]))
      now = time.monotonic()
      spent += now - start
      found |= {'suites/seconds': now - start, 'suites/share': spent / (now - begun)}
      return (other(params, step) if other else {}) | found

    return evaluate

  def _chosen(self) -> list[Task]:
    return choose_tasks(self.tasks, lambda rule: FieldError(self, 'tasks', rule))

  def _items(self, task: Task, seed: int) -> list[Item]:
    """The items of a task; of more than are asked for, some drawn once."""
    shots = task.shots if self.shots is None or task.shots_split is None else self.shots
    items = task.read_items(pathlib.Path(self.data), shots)
    if self.num_examples is None or len(items) <= self.num_examples:
      return items
    chosen = np.random.default_rng(seed).choice(len(items), self.num_examples, replace=False)
    return [items[i] for i in sorted(chosen)]
