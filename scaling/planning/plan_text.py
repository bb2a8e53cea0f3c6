"""A plan for people: the table over laws, what being wrong costs, and the run."""

from scaling.laws.intervals import Interval
from scaling.laws.laws import Law
from scaling.planning import planner, predictions
from scaling.planning.budget import Budget
from scaling.planning.planner import Plan
from scaling.planning.predictions import Answer

# Heading -> width in the table.
_COLUMNS = {'law': 22, 'FLOPs': 32, 'N': 23, 'D': 8, 'D/N': 20, 'loss': 22, 'outside its runs': 0}


def text(plan: Plan) -> str:
  """All of it, without the gin file."""
  known = predictions.laws(plan.request.fit)
  lines = [*hardware_lines(plan.budget), *(f'warning: {line}' for line in plan.warnings), '',
           *table(plan.answers, plan.budget.loss is not None), '', *_notes(plan.answers, known), '']
  return '\n'.join([*lines, *_wrong(plan), *_run(plan)])


def hardware_lines(budget: Budget) -> list[str]:
  """What the hardware is taken to do and cost, and of when its price is."""
  chip = budget.chip
  price = 'no price known' if chip.price is None else (
      f'${chip.price:g} an hour on {chip.price_date} ({chip.price_source})')
  return [f'{chip.title}: {chip.flops / 1e12:.4g} TFLOP/s dense at an MFU of {budget.mfu:g}, '
          f'{chip.memory / 1e9:.3g} GB, {price}']


def headings(target: bool) -> list[str]:
  """Of the table over laws; FLOPs only where a loss is the target."""
  return [name for name in _COLUMNS if target or name != 'FLOPs']


def cells(answer: Answer) -> dict[str, str]:
  """Heading -> what stands under it in the row of a law that answers."""
  return {
      'law': answer.law,
      'FLOPs': with_interval(answer.flops, answer.flops_interval, lambda x: f'{x:.2e}'),
      'N': with_interval(answer.parameters, answer.parameters_interval, amount),
      'D': amount(answer.tokens),
      'D/N': with_interval(answer.tokens / answer.parameters, answer.ratio_interval,
                           lambda x: f'{x:.1f}'),
      'loss': '-' if answer.loss is None else with_interval(
          answer.loss, answer.loss_interval, lambda x: f'{x:.3f}'),
      'outside its runs': outside(answer.beyond)}


def table(found: tuple[Answer, ...], target: bool) -> list[str]:
  """A line for each law, under `headings`."""
  names = headings(target)
  lines = [''.join(f'{name:<{_COLUMNS[name]}}' for name in names)]
  for answer in found:
    if answer.parameters is None:
      lines.append(f'{answer.law:<22}- ({answer.reason})')
      continue
    row = cells(answer)
    lines.append(''.join(f'{row[name]:<{_COLUMNS[name]}}' for name in names))
  return [line.rstrip() for line in lines]


def _notes(found: tuple[Answer, ...], known: dict[str, Law]) -> list[str]:
  """The spread over laws, what the intervals are, and who counts N otherwise."""
  sizes = sorted(answer.parameters for answer in found if answer.parameters is not None)
  ratios = sorted(answer.tokens / answer.parameters for answer in found
                  if answer.parameters is not None)
  lines = []
  if len(sizes) > 1:
    lines.append(f'Over laws: N {amount(sizes[0])} to {amount(sizes[-1])}, a factor of '
                 f'{sizes[-1] / sizes[0]:.2g}; D/N {ratios[0]:.3g} to {ratios[-1]:.3g}. Losses are '
                 'of different texts and tokenizers.')
  said = [answer.law for answer in found if answer.parameters_interval]
  lines += [f'Interval of {name}: {known[name].interval}.' for name in said]
  lines += [f'{name} counts {known[name].counts}.' for name in known
            if known[name].counted != 'all']
  return lines


def _wrong(plan: Plan) -> list[str]:
  if plan.prices is None:
    return []
  costs = ', '.join(f'{factor:g} N {cost:.3g}' if cost < 1e6 else f'{factor:g} N never'
                    for factor, cost in plan.prices.items() if factor != 1)
  return [f'Being wrong about N ({plan.answer.law}): times the FLOPs for the same loss: {costs}.',
          '']


def _run(plan: Plan) -> list[str]:
  """The run that is planned."""
  config, placed, budget = plan.config, plan.layout, plan.budget
  decoder = f' + {config.num_decoder_layers}' if config.num_decoder_layers else ''
  mesh = ' x '.join(f'{axis} {size}' for axis, size in placed.mesh.items())
  snapping = '' if plan.snapping is None else f'; snapping costs {plan.snapping:.1e} nats'
  loss = 'the law does not say' if plan.loss is None else with_interval(
      plan.loss, plan.loss_interval, lambda x: f'{x:.3f}')
  batch = placed.rows * sum(plan.lengths)
  cost = '' if plan.dollars is None else f', {money(plan.dollars)}'
  energy = '' if plan.kwh is None else f', {plan.kwh:,.0f} kWh'
  unasked = budget.deadline is None and plan.request.hours is None and plan.request.chips is None
  chosen = f', the least power of two that is done in {planner.DAYS} days' if unasked else ''
  recompute = {'none': 'nothing recomputed', 'full': 'blocks recomputed'}.get(
      placed.remat, f'remat {placed.remat}')
  return [
      f'Plan by {plan.answer.law}',
      f'  model      {plan.request.family}, {plan.total_parameters:,} parameters: width '
      f'{config.embed_dim}, layers {config.num_layers}{decoder}, heads {config.num_heads} of '
      f'{config.head_dim}, MLP {config.mlp_dim}, vocabulary {config.vocab_size}{snapping}',
      f'  tokens     {amount(plan.tokens)}: {plan.steps:,} steps of {placed.rows} rows '
      f'({amount(batch)} tokens), {plan.tokens / plan.total_parameters:.3g} a parameter',
      f'  AdamW      peak rate {plan.learning_rate:g} ({plan.request.recipe}), '
      f'{plan.warmup_steps:,} steps of warm-up, half a cosine to 0',
      f'  loss       {loss}',
      f'  FLOPs      {plan.flops:.3g} with all of attention; 6 N D {plan.flops_6nd:.3g}',
      f'  mesh       {mesh}: {budget.chips} x {budget.chip.title}{chosen}; microbatches '
      f'{placed.microbatches}, {recompute}',
      f'  memory     {placed.memory.total / 1e9:.3g} of {budget.chip.device_memory / 1e9:.3g} GB '
      'of a device',
      f'  time       {hours(plan.chip_hours / budget.chips)}{cost}{energy}']


def outside(beyond: float | None) -> str:
  """How far a budget lies outside the runs of a law; '?' where they are not known."""
  return '?' if beyond is None else 'no' if beyond <= 1 else f'{beyond:.3g} times'


def amount(value: float) -> str:
  """A number of parameters or tokens: '1.41T', '70.2B', '400M'."""
  for size, letter in ((1e12, 'T'), (1e9, 'B'), (1e6, 'M')):
    if value >= 0.9995 * size:
      return f'{value / size:.{3 if value < 999.5 * size else 5}g}{letter}'
  return f'{value:,.0f}'


def hours(value: float) -> str:
  """'2.1 hours', or days where there are more than two."""
  return f'{value:.3g} hours' if value <= 48 else f'{value / 24:.3g} days'


def money(value: float) -> str:
  """'$1,192,641', or with cents below 100 dollars."""
  return f'${value:,.0f}' if value >= 100 else f'${value:.2f}'


def with_interval(value: float, interval: Interval | None, show) -> str:
  """'72B (49B–116B)'."""
  return show(value) + ('' if interval is None else f' ({show(interval[0])}–{show(interval[1])})')
