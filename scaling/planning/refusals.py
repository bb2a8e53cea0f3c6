"""What a plan that cannot be made names as its cure; each cure was tried."""

from collections.abc import Callable
import dataclasses
import math

from scaling.planning.budget import Budget
from scaling.planning.request import Request
from scaling.planning.search import Found, Sized
from t5x_lite.cost import accounting

_SCALES = tuple(2.0 ** n for n in range(1, 60))   # of a budget that is too small


def infeasible(request: Request, budget: Budget, limit: float | None, sized: Sized | None,
               fastest: Found | None, find: Callable, smaller: Callable[[float], Found | None],
               fewer: Callable[[int, int | None], Found | None]) -> str:
  """Why no run was found: it does not fit the chips, or is not in time.

  `find` searches with other chips or limit, `smaller` with at most so many parameters, and
  `fewer` with so many experts and chips, both without a limit.
  """
  chip = budget.chip
  flag = 'hours' if request.hours is not None else 'deadline'
  model = ('the model' if sized is None
           else f'{accounting.parameters(sized.config).total:,} parameters')
  if fastest is not None:
    hours = fastest.budget.hours
    cures = []
    if request.chips is not None:
      what = (f'{fastest.sized.flops:.3g} FLOPs take {request.chips} x {chip.title} '
              f'{hours:.4g} hours')
      if (other := find(chips=None)[0]) is not None:
        cures.append(f'--chips={other.budget.chips}')
    else:
      what = (f'{fastest.sized.flops:.3g} FLOPs take at least {hours:.4g} hours, on '
              f'{fastest.budget.chips:,} x {chip.title}, as more would need larger batches than '
              f'{fastest.layout.rows:,} rows')
    cures.append(f'--{flag}={_up(hours)}')
    return f'{what}, not {limit:g}: give {", or ".join(cures)}'
  late = lambda other: '' if limit is None or other.budget.hours <= limit else (
      f' and --{flag}={_up(other.budget.hours)}')
  where = f'{request.chips} x {chip.title}' if request.chips else f'any number of {chip.title}'
  if request.chips is not None:
    for other in (find(chips=None)[0], *find(chips=None, limit=None)):
      if other is not None:
        return (f'{model} do not fit the memory of {where}: give --chips={other.budget.chips}'
                + late(other))
  if request.experts is not None:
    counts = [count for count in (request.experts // 2 ** n for n in range(1, 12))
              if count > request.mixture.top_k]
    for chips in dict.fromkeys((request.chips, None)):
      for count in counts:
        if (other := fewer(count, chips)) is not None:
          more = '' if chips == request.chips else f' and --chips={other.budget.chips}'
          return f'{model} do not fit {where}: give --experts={count}{more}{late(other)}'
  number = sized.counted if sized is not None else request.max_parameters or 1e15
  for value in (float(f'{number / 4 ** n:.2g}') for n in range(1, 10)):
    if (other := smaller(value)) is not None:
      return f'{model} do not fit {where}: give --max_parameters={value:g}{late(other)}'
  return f'{model} do not fit {where}: choose other --hardware'


def _up(value: float) -> str:
  """Four digits, rounded up."""
  digits = 3 - math.floor(math.log10(value))
  return f'{math.ceil(value * 10 ** digits) / 10 ** digits:g}'


def too_small(message: str, request: Request, can_build: Callable[[Request], bool]) -> str:
  """A budget that is too small for any model: the flags with which there is one."""
  cures = []
  if request.loss is not None:
    for loss in (request.loss * 0.97 ** n for n in range(1, 60)):
      if can_build(dataclasses.replace(request, loss=float(f'{loss:.4g}'))):
        cures.append(f'--loss={loss:.4g}')
        break
  else:
    name = next(name for name in ('flops', 'dollars', 'kwh', 'hours', 'deadline')
                if getattr(request, name) is not None)
    for scale in _SCALES:
      value = float(f'{getattr(request, name) * scale:.3g}')
      if can_build(dataclasses.replace(request, **{name: value})):
        cures.append(f'--{name}={value:g}')
        break
  if request.max_parameters is not None:
    for scale in _SCALES:
      value = float(f'{request.max_parameters * scale:.3g}')
      if can_build(dataclasses.replace(request, max_parameters=value)):
        cures.append(f'--max_parameters={value:g}')
        break
  for name, values in (('multiple', (64, 32, 16, 8)), ('vocab_size', (8192, 1024, 384))):
    now = getattr(request, name)
    for value in values:
      if (now is None or value < now) and can_build(
          dataclasses.replace(request, **{name: value})):
        cures.append(f'--{name}={value}')
        break
  message = message.removesuffix(': ask for about that many') if cures else message
  return message + (f': give {", or ".join(cures)}' if cures else '')
