"""How often a mixture draws from each of its tasks (Raffel et al. 2020, section 3.5.2).

seqio.MixtureRegistry.add takes for each task a number, or a function of the task such as `equal`
or the result of `proportional`. Only the ratios of the rates count.
"""

from collections.abc import Callable

import seqio

from t5x_lite.core.errors import UserError

# The paper's K: no task counts for more examples than this, so that the large ones leave room.
CAP = 2 ** 19


def equal(task: seqio.Task) -> float:
  """Returns 1: every task is drawn from equally often."""
  del task
  return 1.0


def rate(examples: float, *, cap: float = CAP, temperature: float = 1.0) -> float:
  """Returns min(examples, cap) ** (1 / temperature).

  A temperature of 1 mixes in proportion to the numbers of examples; the higher it is, the nearer
  to equal. The paper raises the cap to 2 ** 21 where it sets the temperature, to 2.

  Raises:
    UserError: cap or temperature is not above 0.
  """
  for name, value in (('cap', cap), ('temperature', temperature)):
    if not value > 0:
      raise UserError(f'rates: {name} must be above 0, got {value}')
  return float(min(examples, cap)) ** (1 / temperature)


def proportional(*, cap: float = CAP, temperature: float = 1.0) -> Callable[[seqio.Task], float]:
  """Returns a function from a task to the `rate` of its training examples; 0 if it has none.

  Examples are counted as the source has them, before any preprocessing.

  Raises:
    UserError: cap or temperature is not above 0.
  """
  rate(1, cap=cap, temperature=temperature)  # Refuses bad values now, not when data is read.

  def rate_of(task: seqio.Task) -> float:
    if 'train' not in task.splits:
      return 0.0
    return rate(task.num_input_examples('train'), cap=cap, temperature=temperature)

  return rate_of
