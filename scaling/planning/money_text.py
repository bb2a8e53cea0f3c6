"""Time, money and carbon of a run as text, with the range of published runs, and of serving."""

from scaling.planning.amounts import format_amount, format_hours, format_money
from scaling.planning.budget import Budget
from scaling.planning.goodput import Range
from scaling.planning.serving import Serving


def format_bill(budget: Budget, chip_hours: float, carbon: float) -> str:
  """', $1,192,641, 311,300 kWh, 120 t of CO2': what is known of it."""
  parts = [] if budget.chip.price is None else [format_money(chip_hours * budget.chip.price)]
  if budget.chip.power is not None:
    kwh = chip_hours * budget.chip.power * budget.pue / 1000
    tonnes = kwh * carbon / 1000
    parts.append(f'{kwh:,.0f} kWh' if kwh >= 10 else f'{kwh:.2g} kWh')
    parts.append(f'{tonnes:,.3g} t of CO2 at {carbon:g} kg a kWh' if tonnes >= 1
                 else f'{1000 * tonnes:.3g} kg of CO2 at {carbon:g} kg a kWh')
  return ''.join(f', {part}' for part in parts)


def format_range(budget: Budget, hours: tuple[float, float], found: Range) -> str:
  """The range of chip-hours of published runs, as time on the chips and as money."""
  low, high = hours
  show = lambda x: format_hours(x / budget.chips) if budget.chips else f'{x:,.0f} chip-hours'
  money = '' if budget.chip.price is None else (
      f', {format_money(low * budget.chip.price)} to {format_money(high * budget.chip.price)}')
  return (f'{show(low)} to {show(high)}{money}: at {found.low:.2f} to {found.high:.2f} of the '
          f'peak, restarts included, as {len(found.runs)} published runs of such sizes and chips '
          f'({found.runs[0]}, {found.runs[1]}, ...)')


def serving_lines(serving: Serving, budget: Budget, served: float | None) -> list[str]:
  """A served token, and all of them."""
  price = budget.chip.price
  each = lambda hours: (f'{format_money(1e6 * hours * price)} a million' if price is not None
                        else f'{1e6 * hours:.3g} chip-hours a million')
  lines = [f'{each(serving.prompt_hours)} tokens of prompts of {serving.prompt:,}, '
           f'{each(serving.generated_hours)} generated of {serving.generated:,}',
           f'on {serving.chips} x {budget.chip.title}: {serving.rows} requests at a time, '
           f'{serving.rows * serving.cache_bytes / 1e9:.3g} GB of caches, '
           f'{1000 * serving.seconds:.3g} ms a token, limited by {serving.limit}']
  if served is not None:
    hours = served * serving.hours
    bill = f'{format_money(hours * price)}, ' if price is not None else ''
    lines.insert(0, f'{format_amount(served)} tokens: {bill}{hours:,.0f} chip-hours')
  return lines
