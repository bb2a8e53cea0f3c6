"""A plan as text: the table of laws, the compute overhead of a wrong N, and the run."""

from scaling.laws.intervals import Interval
from scaling.laws.laws import Law
from scaling.planning import planner, predictions
from scaling.planning.budget import Budget
from scaling.planning.planner import Plan
from scaling.planning.predictions import Prediction

# Heading -> width in the table.
_COLUMNS = {'law': 22, 'FLOPs': 32, 'N': 23, 'D': 8, 'D/N': 20, 'loss': 22, 'extrapolation': 0}


def format_plan(plan: Plan) -> str:
  """The plan, without the gin file."""
  known = predictions.load_laws(plan.request.fit)
  lines = [*hardware_lines(plan.budget), *(f'warning: {line}' for line in plan.warnings), '',
           *format_table(plan.predictions, plan.budget.loss is not None), '',
           *_notes(plan.predictions, known), '']
  return '\n'.join([*lines, *_overhead_lines(plan), *_run(plan)])


def hardware_lines(budget: Budget) -> list[str]:
  """The assumed speed and price of the hardware, with the date of the price."""
  chip = budget.chip
  price = 'no price known' if chip.price is None else (
      f'${chip.price:g} an hour on {chip.price_date} ({chip.price_source})')
  return [f'{chip.title}: {chip.flops / 1e12:.4g} TFLOP/s dense at an MFU of {budget.mfu:g}, '
          f'{chip.memory / 1e9:.3g} GB, {price}']


def headings(target: bool) -> list[str]:
  """The columns of the table of laws; FLOPs only for a target loss."""
  return [name for name in _COLUMNS if target or name != 'FLOPs']


def format_cells(prediction: Prediction) -> dict[str, str]:
  """Heading -> cell, in the row of a law with a prediction."""
  return {
      'law': prediction.law,
      'FLOPs': format_interval(prediction.flops, prediction.flops_interval, lambda x: f'{x:.2e}'),
      'N': format_interval(prediction.parameters, prediction.parameters_interval, format_amount),
      'D': format_amount(prediction.tokens),
      'D/N': format_interval(prediction.tokens / prediction.parameters, prediction.ratio_interval,
                           lambda x: f'{x:.1f}'),
      'loss': '-' if prediction.loss is None else format_interval(
          prediction.loss, prediction.loss_interval, lambda x: f'{x:.3f}'),
      'extrapolation': format_extrapolation(prediction.extrapolation)}


def format_table(found: tuple[Prediction, ...], target: bool) -> list[str]:
  """A line for each law, under `headings`."""
  names = headings(target)
  lines = [''.join(f'{name:<{_COLUMNS[name]}}' for name in names)]
  for prediction in found:
    if prediction.parameters is None:
      lines.append(f'{prediction.law:<22}- ({prediction.reason})')
      continue
    row = format_cells(prediction)
    lines.append(''.join(f'{row[name]:<{_COLUMNS[name]}}' for name in names))
  return [line.rstrip() for line in lines]


def _notes(found: tuple[Prediction, ...], known: dict[str, Law]) -> list[str]:
  """The spread over laws, the meaning of intervals, and deviating counts of N."""
  found = [prediction for prediction in found if prediction.parameters is not None]
  sizes = sorted(prediction.parameters for prediction in found)
  ratios = sorted(prediction.tokens / prediction.parameters for prediction in found)
  lines = []
  if len(sizes) > 1:
    lines.append(f'Over laws: N {format_amount(sizes[0])} to {format_amount(sizes[-1])}, a factor '
                 f'of {sizes[-1] / sizes[0]:.2g}; D/N {ratios[0]:.3g} to {ratios[-1]:.3g}. Losses '
                 'are of different corpora and tokenizers.')
  lines += [f'Interval of {prediction.law}: {known[prediction.law].interval}.'
            for prediction in found if prediction.parameters_interval]
  lines += [f'{name} counts {known[name].counts}.' for name in known
            if known[name].counted != 'all']
  return lines


def _overhead_lines(plan: Plan) -> list[str]:
  if plan.compute_overhead is None:
    return []
  costs = ', '.join(f'{factor:g} N {cost:.3g}' if cost < 1e6 else f'{factor:g} N never'
                    for factor, cost in plan.compute_overhead.items() if factor != 1)
  return [f'Compute overhead of a wrong N ({plan.prediction.law}), as a multiple of the FLOPs for '
          f'the same loss: {costs}.', '']


def _run(plan: Plan) -> list[str]:
  """The planned run."""
  config, placed, budget = plan.config, plan.layout, plan.budget
  decoder = f' + {config.num_decoder_layers}' if config.num_decoder_layers else ''
  mesh = ' x '.join(f'{axis} {size}' for axis, size in placed.mesh.items())
  rounding = ('' if plan.rounding_loss is None
              else f'; rounding N costs {plan.rounding_loss:.1e} nats')
  loss = 'not predicted by the law' if plan.loss is None else format_interval(
      plan.loss, plan.loss_interval, lambda x: f'{x:.3f}')
  batch = placed.rows * sum(plan.lengths)
  cost = '' if plan.dollars is None else f', {format_money(plan.dollars)}'
  energy = '' if plan.kwh is None else f', {plan.kwh:,.0f} kWh'
  default = budget.deadline is None and plan.request.hours is None and plan.request.chips is None
  reason = f', the smallest power of two that finishes in {planner.DAYS} days' if default else ''
  recompute = {'none': 'nothing recomputed', 'full': 'blocks recomputed'}.get(
      placed.remat, f'remat {placed.remat}')
  return [
      f'Plan by {plan.prediction.law}',
      f'  model      {plan.request.family}, {plan.total_parameters:,} parameters: width '
      f'{config.embed_dim}, layers {config.num_layers}{decoder}, heads {config.num_heads} of '
      f'{config.head_dim}, MLP {config.mlp_dim}, vocabulary {config.vocab_size}{rounding}',
      f'  tokens     {format_amount(plan.tokens)}: {plan.steps:,} steps of {placed.rows} rows '
      f'({format_amount(batch)} tokens), {plan.tokens / plan.total_parameters:.3g} a parameter',
      f'  AdamW      peak rate {plan.learning_rate:g} ({plan.request.recipe}), '
      f'{plan.warmup_steps:,} steps of warm-up, half a cosine to 0',
      f'  loss       {loss}',
      f'  FLOPs      {plan.flops:.3g} with all of attention; 6 N D {plan.flops_6nd:.3g}',
      f'  mesh       {mesh}: {budget.chips} x {budget.chip.title}{reason}; microbatches '
      f'{placed.microbatches}, {recompute}',
      f'  memory     {placed.memory.total / 1e9:.3g} of {budget.chip.device_memory / 1e9:.3g} GB '
      'of a device',
      f'  time       {format_hours(plan.chip_hours / budget.chips)}{cost}{energy}']


def format_extrapolation(factor: float | None) -> str:
  """The factor by which a budget is outside the runs of a law; '?' if they are not known."""
  return '?' if factor is None else 'no' if factor <= 1 else f'{factor:.3g} times'


def format_amount(value: float) -> str:
  """A number of parameters or tokens: '1.41T', '70.2B', '400M'."""
  for size, letter in ((1e12, 'T'), (1e9, 'B'), (1e6, 'M')):
    if value >= 0.9995 * size:
      return f'{value / size:.{3 if value < 999.5 * size else 5}g}{letter}'
  return f'{value:,.0f}'


def format_hours(value: float) -> str:
  """'2.1 hours', or days above two days."""
  return f'{value:.3g} hours' if value <= 48 else f'{value / 24:.3g} days'


def format_money(value: float) -> str:
  """'$1,192,641', or with cents below 100 dollars."""
  return f'${value:,.0f}' if value >= 100 else f'${value:.2f}'


def format_interval(value: float, interval: Interval | None, show) -> str:
  """'72B (49B–116B)'."""
  return show(value) + ('' if interval is None else f' ({show(interval[0])}–{show(interval[1])})')
