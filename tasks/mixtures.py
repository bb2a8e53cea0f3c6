"""Mixtures made from gin, of registered tasks and of a user's own files.

Only `Mixture.register` loads TensorFlow, so that gin can read this file anywhere.
"""

from collections.abc import Sequence
import dataclasses
import hashlib
from typing import Any

from t5x_lite.errors import UserError

_RATES = ('equal', 'proportional')


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mixture:
  """A seqio mixture: each example is drawn from one of the tasks, by their rates.

  Attributes:
    tasks: names of registered tasks or mixtures, and tasks.files.FileTasks.
    rates: a number for each task, of which only the ratios count; 'equal'; or 'proportional' to
      min(examples, cap) ** (1 / temperature), as T5 has it.
    cap, temperature: of 'proportional'; see tasks/rates.py.
  """

  tasks: Sequence[Any]
  rates: str | Sequence[float] = 'proportional'
  cap: float = 2 ** 19
  temperature: float = 1.0

  label = 'mixture'   # its name for people, as a FileTask has one

  def __post_init__(self):
    if not isinstance(self.tasks, list | tuple) or not self.tasks:
      raise UserError(f'Mixture.tasks must be tasks in brackets, got {self.tasks!r}')
    for task in self.tasks:
      if not isinstance(task, str) and not hasattr(task, 'register'):
        raise UserError(f'Mixture.tasks: {task!r} is neither the name of a task nor a FileTask')
    if isinstance(self.rates, str):
      if self.rates not in _RATES:
        raise UserError(f'Mixture.rates must be {" or ".join(map(repr, _RATES))} or a number for '
                        f'each task, got {self.rates!r}')
      return
    numbers = isinstance(self.rates, list | tuple) and all(
        isinstance(r, int | float) and not isinstance(r, bool) and r >= 0 for r in self.rates)
    if not numbers or len(self.rates) != len(self.tasks) or not sum(self.rates):
      raise UserError(f'Mixture.rates must be {len(self.tasks)} numbers, one for each task, at '
                      f'least 0 and not all 0, got {self.rates!r}')

  def register(self) -> str:
    """Registers the mixture and its FileTasks; returns its name, which its parts and rates fix.

    Raises:
      UserError: as FileTask.register; no task is registered under one of the names; tasks of
        other features than the first; or a task is there twice.
    """
    import seqio

    from tasks import rates, registry

    names = [task if isinstance(task, str) else task.register() for task in self.tasks]
    first = registry.lookup(names[0])
    for name in names:
      features = set(registry.lookup(name).output_features)
      if features != set(first.output_features):
        raise UserError(f'Mixture.tasks: {name!r} has the features {", ".join(sorted(features))}, '
                        f'and {names[0]!r} has {", ".join(sorted(first.output_features))}: choose '
                        'one objective for all')
      if names.count(name) > 1:
        raise UserError(f'Mixture.tasks: {name!r} is there twice: raise its rate instead')
    kind = self.rates
    if kind == 'equal':
      values = [rates.equal] * len(names)
    elif kind == 'proportional':
      values = [rates.proportional(cap=self.cap, temperature=self.temperature)] * len(names)
    else:
      values = [float(r) for r in self.rates]
    facts = repr((names, kind, self.cap, self.temperature))
    name = f'mixture_{hashlib.sha256(facts.encode()).hexdigest()[:12]}'
    if name not in seqio.MixtureRegistry.names():
      parts = [(n, v) for n, v in zip(names, values) if v]   # seqio has no rate of 0
      seqio.MixtureRegistry.add(name, parts)
    return name
