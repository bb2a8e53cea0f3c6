"""Mixtures made from gin, of registered tasks and of a user's own files.

Only `Mixture.register` loads TensorFlow, so that gin can read this file anywhere.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import hashlib
from typing import Annotated, Any

from t5x_lite.core.dataclass_checks import FieldError, Positive, Range

_RATES = ('equal', 'proportional')


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mixture:
  """A seqio mixture: each example is drawn from one of the tasks, by their rates.

  Attributes:
    tasks: names of registered tasks or mixtures, and tasks.files.FileTasks.
    rates: a number for each task, of which only the ratios count; 'equal'; or 'proportional' to
      min(examples, cap) ** (1 / temperature), as T5 has it.
    cap, temperature: of 'proportional'; see tasks/pipeline/rates.py.
    rate_schedule: from which training step on the rates are others, such as {1000: (1.0, 1.0)}.
      Then rates, and these, are of the rows of a batch: a packed row is of one task alone.
  """

  tasks: Sequence[Any]
  rates: str | Sequence[float] = 'proportional'
  cap: Positive[float] = 2 ** 19
  temperature: Annotated[float, Range(min=0.01)] = 1.0
  rate_schedule: Mapping[int, Sequence[float]] | None = None

  label = 'mixture'   # its name for people, as a FileTask has one

  def __post_init__(self):
    if not isinstance(self.tasks, list | tuple) or not self.tasks:
      raise FieldError(self, 'tasks', 'expected tasks in brackets')
    for task in self.tasks:
      if not isinstance(task, str) and not hasattr(task, 'register'):
        raise FieldError(self, 'tasks', f'{task!r} is neither the name of a task nor a FileTask')
    if not isinstance(self.rates, str):
      self._check_numbers('rates', self.rates)
    elif self.rates not in _RATES:
      raise FieldError(self, 'rates', f'expected {" or ".join(map(repr, _RATES))} or a number for '
                       'each task')
    elif self.rate_schedule:
      raise FieldError(self, 'rates', 'rate_schedule needs numbers, one for each task')
    if not isinstance(self.rate_schedule, Mapping | None):
      raise FieldError(self, 'rate_schedule',
                       'expected rates by steps, such as {1000: (1.0, 1.0)}')
    for step, rates in (self.rate_schedule or {}).items():
      if not isinstance(step, int) or step < 1:
        raise FieldError(self, 'rate_schedule', f'steps count from 1 on, got {step!r}')
      self._check_numbers('rate_schedule', rates)

  @property
  def schedule(self) -> list[tuple[int, tuple[float, ...]]]:
    """(first step, rate of each task), in order; empty if the rates stay the same."""
    if not self.rate_schedule:
      return []
    return [(step, tuple(map(float, rates)))
            for step, rates in sorted({0: self.rates, **self.rate_schedule}.items())]

  def register(self) -> str:
    """Registers the mixture and its FileTasks; returns its name, which its parts and rates fix.

    Raises:
      UserError: as FileTask.register; no task is registered under one of the names; tasks of
        other features than the first; a task is listed twice; or, with a rate_schedule, is never
        drawn.
    """
    import seqio

    from tasks.pipeline import rates, registry

    names = [task if isinstance(task, str) else task.register() for task in self.tasks]
    first = registry.lookup(names[0])
    for name in names:
      features = set(registry.lookup(name).output_features)
      if features != set(first.output_features):
        raise FieldError(
            self, 'tasks', f'{name!r} has the features {", ".join(sorted(features))}, and '
            f'{names[0]!r} has {", ".join(sorted(first.output_features))}: choose one objective '
            'for all')
      if names.count(name) > 1:
        raise FieldError(self, 'tasks', f'{name!r} is listed twice: raise its rate instead')
    kind = self.rates
    if self.schedule:
      if {*names} & {*seqio.MixtureRegistry.names()}:
        raise FieldError(self, 'rate_schedule', 'it is for tasks, and one of these is a mixture')
      values = self._ever_drawn(names)
    elif kind == 'equal':
      values = [rates.equal] * len(names)
    elif kind == 'proportional':
      values = [rates.proportional(cap=self.cap, temperature=self.temperature)] * len(names)
    else:
      values = [float(r) for r in self.rates]
    facts = repr((names, kind, self.cap, self.temperature, self.schedule))
    name = f'mixture_{hashlib.sha256(facts.encode()).hexdigest()[:12]}'
    if name not in seqio.MixtureRegistry.names():
      seqio.MixtureRegistry.add(name, [*zip(names, values)])
    return name

  def data_digest(self, split: str) -> str | None:
    """Of the content of the FileTasks among the tasks, in their order; None without one."""
    digests = [None if isinstance(task, str) else task.data_digest(split) for task in self.tasks]
    known = [digest for digest in digests if digest is not None]
    return hashlib.sha256(repr(digests).encode()).hexdigest()[:24] if known else None

  def _ever_drawn(self, names: Sequence[str]) -> list[float]:
    """Rates for seqio, which is to know all tasks; what is drawn goes by the schedule."""
    totals = [sum(column) for column in zip(*(rates for _, rates in self.schedule))]
    if not all(totals):
      raise FieldError(self, 'tasks', f'{names[totals.index(0)]!r} is never drawn: leave it out')
    return totals

  def _check_numbers(self, field: str, rates: Any) -> None:
    numbers = isinstance(rates, list | tuple) and all(
        isinstance(r, int | float) and not isinstance(r, bool) and r >= 0 for r in rates)
    if not numbers or len(rates) != len(self.tasks) or not sum(rates):
      raise FieldError(self, field, f'expected {len(self.tasks)} numbers, one for each task, at '
                       'least 0 and not all 0')
