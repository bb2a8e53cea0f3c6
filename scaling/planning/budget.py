"""Conversion of a compute budget between FLOPs, chips and hours, money, energy and a deadline.

    FLOPs = chips x hours x 3600 x peak x MFU
    dollars = chips x hours x price;    kWh = chips x hours x watts x PUE / 1000

MFU is the model FLOPs utilisation: the model's FLOPs, without recomputation, over the peak of dense
products in the dtype of training.
"""

from collections.abc import Iterator
import dataclasses
import math

from t5x_lite.core.errors import UserError
from t5x_lite.cost.hardware import Chip

MFU = 0.4          # of well-tuned runs that recompute nothing: Llama 3 0.38 to 0.43
# The MFU of a run that recomputes its blocks, over that of one that does not: 3 passes of 4 count.
RECOMPUTED = 0.75
PUE = 1.1          # power of the data centre over that of the chips (LLaMA, LaMDA)
CARBON = 0.385     # kg of CO2 equivalents a kWh: the average of the United States (LLaMA)
# Upper limits, far above any real budget.
_MAX = {'flops': 1e30, 'chips': 1e7, 'dollars': 1e15, 'kwh': 1e15}
TOLERANCE = 0.01   # relative difference up to which two quantities agree
MAX_CHIPS = 2 ** 20


@dataclasses.dataclass(frozen=True, kw_only=True)
class Budget:
  """A budget on a kind of chip. What is neither given nor implied is None.

  Attributes:
    mfu: of the run; `measured` if the user gave it, else it falls with recomputation.
    source: whose MFU it is; '' for the default or the user's.
    flops: model FLOPs of training; None if only a target loss is given.
    chips, hours: number and time; both None if they are free.
    deadline: maximum hours.
    loss: the target.
  """
  chip: Chip
  mfu: float = MFU
  measured: bool = False
  source: str = ''
  pue: float = PUE
  flops: float | None = None
  chips: int | None = None
  hours: float | None = None
  deadline: float | None = None
  loss: float | None = None

  @property
  def rate(self) -> float:
    """Model FLOPs of a chip in an hour."""
    return 3600 * self.chip.flops * self.mfu

  def chip_hours(self, flops: float) -> float:
    return flops / self.rate

  def dollars(self, flops: float) -> float | None:
    """The cost of these FLOPs; None without a price."""
    return None if self.chip.price is None else self.chip_hours(flops) * self.chip.price

  def kwh(self, flops: float) -> float | None:
    """The energy of these FLOPs; None if the chip's power is not known."""
    if self.chip.power is None:
      return None
    return self.chip_hours(flops) * self.chip.power * self.pue / 1000

  def with_remat(self, remat) -> 'Budget':
    """The budget at the MFU of this ModelConfig.remat, unless the MFU was measured."""
    if self.measured or remat != 'full':
      return self
    return dataclasses.replace(self, mfu=self.mfu * RECOMPUTED)

  def with_flops(self, flops: float) -> 'Budget':
    """The budget with these FLOPs, and the chips or hours that follow.

    Raises UserError if the deadline or the hours are too short for them.
    """
    return _divided(dataclasses.replace(self, flops=flops))


def solve_budget(chip: Chip, *, flops: float | None = None, chips: int | None = None,
                 hours: float | None = None, dollars: float | None = None,
                 kwh: float | None = None, deadline: float | None = None,
                 loss: float | None = None, mfu: float | None = None, pue: float = PUE,
                 recomputed: bool = False, divide: bool = True, own_mfu: float = MFU,
                 source: str = '') -> Budget:
  """The budget of one of FLOPs, money, energy, chips x hours, or a target loss.

  Chips alone, hours alone, or a deadline divide one of the others, unless `divide` is False.
  `mfu` is measured; without one, it is `own_mfu`, of the `source`, or less if blocks are
  `recomputed`.

  Raises UserError, with a cure, if the quantities are too few, contradictory or infeasible.
  """
  given = {'flops': flops, 'chips': chips, 'hours': hours, 'dollars': dollars, 'kwh': kwh,
           'deadline': deadline, 'loss': loss}
  for name, value in given.items():
    if value is not None and not 0 < value < math.inf:
      raise UserError(f'--{name}={value:g}: give a number above 0')
  for name, maximum in _MAX.items():
    if given[name] is not None and given[name] > maximum:
      raise UserError(f'--{name}={given[name]:g}: above the limit of {maximum:g}: give less')
  if mfu is not None and not 0.001 <= mfu <= 1:
    raise UserError(f'--mfu={mfu:g}: give a fraction of the peak from 0.001 to 1; {MFU} is usual')
  if pue < 1:
    raise UserError(f'--pue={pue:g}: a data centre draws no less than its chips: give 1 or more')
  budget = Budget(chip=chip, mfu=mfu or own_mfu, measured=mfu is not None, source=source, pue=pue,
                  chips=chips, hours=hours, deadline=deadline, loss=loss)
  budget = budget.with_remat('full' if recomputed else 'none')
  _check_deadline(budget)
  equivalents = _flop_equivalents(budget, flops, dollars, kwh)
  names = list(equivalents)
  for name in names[1:]:
    if abs(equivalents[name] / equivalents[names[0]] - 1) > TOLERANCE:
      raise UserError(_contradiction(budget, names[0], equivalents[names[0]], name,
                                     equivalents[name]))
  if equivalents and loss is not None:
    raise UserError(f'--loss={loss:g} and {names[0]} both set the budget: give one of them, and '
                    '--deadline or --chips with a loss')
  if equivalents and equivalents[names[0]] > _MAX['flops']:
    raise UserError(f'{names[0]}: {equivalents[names[0]]:.3g} FLOPs, above the limit of '
                    f'{_MAX["flops"]:g}: give less')
  if equivalents:
    solved = dataclasses.replace(budget, flops=equivalents[names[0]])
    return _divided(solved) if divide else solved
  if loss is None:
    raise UserError('no budget is given: pass --flops, --loss, --dollars or --kwh, or --chips with '
                    '--hours')
  return budget


def _flop_equivalents(budget: Budget, flops, dollars, kwh) -> dict[str, float]:
  """Flag -> its FLOPs, for each flag that sets the budget."""
  chip, equivalents = budget.chip, {}
  if flops is not None:
    equivalents[f'--flops={flops:.4g}'] = flops
  if dollars is not None:
    if chip.price is None:
      raise UserError(f'--dollars: the price of {chip.title} is not known; pass --price=DOLLARS '
                      f'an hour, or --prices=FILE with [{chip.name}] price and price_date')
    equivalents[f'--dollars={dollars:g}'] = dollars / chip.price * budget.rate
  if kwh is not None:
    if chip.power is None:
      raise UserError(f'--kwh: the power of {chip.title} is not known; pass --prices=FILE with '
                      f'[{chip.name}] power')
    equivalents[f'--kwh={kwh:g}'] = 1000 * kwh / (chip.power * budget.pue) * budget.rate
  hours = budget.hours
  if hours is None and not equivalents and budget.loss is None:
    hours = budget.deadline
  if budget.chips is not None and hours is not None:
    if budget.loss is None or budget.hours is not None:
      flag = f'--chips={budget.chips} for {hours:g} hours'
      equivalents[flag] = budget.chips * hours * budget.rate
  return equivalents


def _check_deadline(budget: Budget) -> None:
  if budget.hours and budget.deadline and budget.hours > budget.deadline * (1 + TOLERANCE):
    raise UserError(f'--hours={budget.hours:g} is past --deadline={budget.deadline:g}: give '
                    f'--hours={budget.deadline:g}, or --deadline={budget.hours:g}')


def _contradiction(budget: Budget, one: str, first: float, other: str, second: float) -> str:
  cure = 'give one of them'
  if other.startswith('--chips'):
    hours = budget.hours or budget.deadline
    chips = round_up_chips(budget.chip, first / hours / budget.rate)
    cure += (f', or --hours={first / budget.chips / budget.rate:.4g}, or --chips={chips} with '
             f'--deadline={hours:g} in place of --hours')
  return (f'{one} and {other} contradict each other: {first:.3g} and {second:.3g} FLOPs on '
          f'{budget.chip.title} at an MFU of {budget.mfu:g}; {cure}')


def _divided(budget: Budget) -> Budget:
  """The budget with chips from hours or a deadline, or hours from chips."""
  total = budget.chip_hours(budget.flops)
  limit = budget.hours or budget.deadline
  if budget.chips is None and limit is None:
    return budget
  flag = f'--{"hours" if budget.hours else "deadline"}'
  if budget.chips is None:
    chips = round_up_chips(budget.chip, total / limit)
    if chips * limit < total * (1 - 1e-9):
      raise UserError(f'{budget.flops:.3g} FLOPs take {chips:,} x {budget.chip.title}, which is '
                      f'the limit, {total / chips:.4g} hours, not {limit:g}: give '
                      f'{flag}={total / chips * 1.001:.4g}')
    return dataclasses.replace(budget, chips=chips, hours=total / chips)
  hours = total / budget.chips
  if limit is not None and hours > limit * (1 + TOLERANCE):
    raise UserError(
        f'{budget.flops:.3g} FLOPs take {budget.chips} x {budget.chip.title} {hours:.4g} hours, '
        f'not {limit:g}: give --chips={round_up_chips(budget.chip, total / limit)}, or '
        f'{flag}={hours * 1.0001:.4g}')
  return dataclasses.replace(budget, hours=hours)


def chip_counts(chip: Chip, min_chips: float = 1) -> Iterator[int]:
  """The numbers of chips that one can have and a mesh divides, from `min_chips` to a million.

  GPUs: part of a node, then 1, 2, 3, 4, 6, 8, 12 ... nodes. TPUs: powers of two, as slices are.
  """
  counts = {*chip.part_node}
  for factor in (1,) if chip.platform == 'tpu' else (1, 3):
    nodes = factor
    while nodes * chip.node <= MAX_CHIPS:
      counts.add(nodes * chip.node)
      nodes *= 2
  return (n for n in sorted(counts) if n >= min_chips * (1 - 1e-9))


def round_up_chips(chip: Chip, min_chips: float) -> int:
  """The fewest of `chip_counts`, or the most if these are too few."""
  return next(chip_counts(chip, min_chips), None) or max(chip_counts(chip))
