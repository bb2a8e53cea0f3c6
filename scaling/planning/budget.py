"""What a budget is worth: FLOPs, chips and hours, money, energy and a deadline, each from another.

    FLOPs = chips x hours x 3600 x peak x MFU
    dollars = chips x hours x price;    kWh = chips x hours x watts x PUE / 1000

MFU is the model FLOPs utilisation: FLOPs that the model needs, recomputation not counted, over the
peak of dense bfloat16.
"""

import dataclasses
import math
import re

from t5x_lite.core.errors import UserError
from t5x_lite.cost.hardware import Chip

MFU = 0.4          # what well-tuned runs reach: PaLM 0.46, Llama 3 0.38 to 0.43, Gopher 0.33
PUE = 1.1          # power of the data centre over that of the chips (LLaMA, LaMDA)
# Far above what there is: beyond it the search for a plan has no meaning.
_MOST = {'flops': 1e32, 'chips': 1e7, 'dollars': 1e15, 'kwh': 1e15}
_AGREE = 0.01      # two ways to say one thing may differ by so much


@dataclasses.dataclass(frozen=True, kw_only=True)
class Budget:
  """A budget on a kind of chip. What was not given, nor follows, is None.

  Attributes:
    flops: model FLOPs of training; None if a target loss is all that is known.
    chips, hours: how many for how long; both None if they are free to be chosen.
    deadline: hours that must suffice.
    loss: the target.
  """
  chip: Chip
  mfu: float = MFU
  pue: float = PUE
  flops: float | None = None
  chips: int | None = None
  hours: float | None = None
  deadline: float | None = None
  loss: float | None = None

  @property
  def rate(self) -> float:
    """Model FLOPs that a chip gets done in an hour."""
    return 3600 * self.chip.flops * self.mfu

  def chip_hours(self, flops: float) -> float:
    return flops / self.rate

  def dollars(self, flops: float) -> float | None:
    """What so many FLOPs cost; None without a price."""
    return None if self.chip.price is None else self.chip_hours(flops) * self.chip.price

  def kwh(self, flops: float) -> float | None:
    """The energy of so many FLOPs; None where the chip's power is not known."""
    if self.chip.power is None:
      return None
    return self.chip_hours(flops) * self.chip.power * self.pue / 1000

  def spent(self, flops: float) -> 'Budget':
    """The budget with its FLOPs known (of a target loss), and the chips or hours that follow.

    Raises UserError if the deadline, or the hours, are too short for them.
    """
    return _divided(dataclasses.replace(self, flops=flops))


def solve(chip: Chip, *, flops: float | None = None, chips: int | None = None,
          hours: float | None = None, dollars: float | None = None, kwh: float | None = None,
          deadline: float | None = None, loss: float | None = None, mfu: float = MFU,
          pue: float = PUE) -> Budget:
  """The budget of any of these that suffice: one of FLOPs, money, energy, chips x hours, a loss.

  Chips and hours without the other, and a deadline, divide what one of the others says.

  Raises UserError, naming what would do, if they do not suffice, contradict one another, or cannot
  be met.
  """
  given = {'flops': flops, 'chips': chips, 'hours': hours, 'dollars': dollars, 'kwh': kwh,
           'deadline': deadline, 'loss': loss}
  for name, value in given.items():
    if value is not None and not 0 < value < math.inf:
      raise UserError(f'--{name}={value:g}: give a number above 0')
  for name, most in _MOST.items():
    if given[name] is not None and given[name] > most:
      raise UserError(f'--{name}={given[name]:g}: nobody has more than {most:g}; give less')
  if not 0.001 <= mfu <= 1:
    raise UserError(f'--mfu={mfu:g}: give a share of the peak from 0.001 to 1; {MFU} is usual')
  if pue < 1:
    raise UserError(f'--pue={pue:g}: the whole draws no less than its chips; give 1 or more')
  budget = Budget(chip=chip, mfu=mfu, pue=pue, chips=chips, hours=hours, deadline=deadline,
                  loss=loss)
  _check_deadline(budget)
  worth = _worth(budget, flops, dollars, kwh)
  names = list(worth)
  for name in names[1:]:
    if abs(worth[name] / worth[names[0]] - 1) > _AGREE:
      raise UserError(_contradiction(budget, names[0], worth[names[0]], name, worth[name]))
  if worth and loss is not None:
    raise UserError(f'--loss={loss:g} and {names[0]} both say how much is spent: give one of them, '
                    'and --deadline or --chips beside a loss')
  if worth:
    return _divided(dataclasses.replace(budget, flops=worth[names[0]]))
  if loss is None:
    raise UserError('not enough is given: pass --flops, --loss, --dollars or --kwh, or --chips '
                    'with --hours')
  return budget


def _worth(budget: Budget, flops, dollars, kwh) -> dict[str, float]:
  """What is said -> the FLOPs it is worth, for all that say how much is spent."""
  chip, worth = budget.chip, {}
  if flops is not None:
    worth[f'--flops={flops:.4g}'] = flops
  if dollars is not None:
    if chip.price is None:
      raise UserError(f'--dollars: no price of {chip.title} is known; pass --prices=FILE with '
                      f'[{chip.name}] price and price_date')
    worth[f'--dollars={dollars:g}'] = dollars / chip.price * budget.rate
  if kwh is not None:
    if chip.power is None:
      raise UserError(f'--kwh: the power of {chip.title} is not known; pass --prices=FILE with '
                      f'[{chip.name}] power')
    worth[f'--kwh={kwh:g}'] = 1000 * kwh / (chip.power * budget.pue) * budget.rate
  hours = budget.hours
  if hours is None and not worth and budget.loss is None:
    hours = budget.deadline    # all the time there is
  if budget.chips is not None and hours is not None:
    if budget.loss is None or budget.hours is not None:
      worth[f'--chips={budget.chips} for {hours:g} hours'] = budget.chips * hours * budget.rate
  return worth


def _check_deadline(budget: Budget) -> None:
  if budget.hours and budget.deadline and budget.hours > budget.deadline * (1 + _AGREE):
    raise UserError(f'--hours={budget.hours:g} is past --deadline={budget.deadline:g}: give fewer '
                    'hours and more chips')


def _contradiction(budget: Budget, one: str, first: float, other: str, second: float) -> str:
  cure = 'give one of them'
  if other.startswith('--chips'):
    hours = budget.hours or budget.deadline
    cure += (f', or --hours={first / budget.chips / budget.rate:.4g}, or '
             f'--chips={math.ceil(first / hours / budget.rate)}')
  return (f'{one} and {other} contradict each other: {first:.3g} and {second:.3g} FLOPs on '
          f'{budget.chip.title} at an MFU of {budget.mfu:g}; {cure}')


def _divided(budget: Budget) -> Budget:
  """Chips from hours or a deadline, hours from chips."""
  total = budget.chip_hours(budget.flops)
  limit = budget.hours or budget.deadline
  if budget.chips is None and limit is None:
    return budget
  if budget.chips is None:
    chips = math.ceil(total / limit * (1 - 1e-9))
    return dataclasses.replace(budget, chips=chips, hours=total / chips)
  hours = total / budget.chips
  if limit is not None and hours > limit * (1 + _AGREE):
    raise UserError(
        f'{budget.flops:.3g} FLOPs take {budget.chips} x {budget.chip.title} {hours:.4g} hours, '
        f'not {limit:g}: give --chips={math.ceil(total / limit)}, or --deadline={hours:.4g}, or '
        f'--flops={budget.chips * limit * budget.rate:.3g}')
  return dataclasses.replace(budget, hours=hours)


def duration(text: str) -> float:
  """Hours of '36', '36h', '90m' or '2d', as argparse takes a type."""
  match = re.fullmatch(r'(\d+\.?\d*(?:e[+-]?\d+)?)\s*([mhd]?)', text.strip())
  if not match:
    raise UserError(f'{text!r}: expected hours, or a number with m, h or d, e.g. 36, 90m or 2d')
  return float(match[1]) * {'m': 1 / 60, 'h': 1, '': 1, 'd': 24}[match[2]]
