"""A plan as text: the run, the table of laws, and the compute overhead of a wrong N."""

from collections.abc import Sequence

from scaling.laws.experts import dense_flops
from scaling.planning import money_text, predictions, search
from scaling.planning.amounts import (
  UNITS,
  format_amount,
  format_columns,
  format_hours,
  format_interval,
)
from scaling.planning.budget import Budget
from scaling.planning.planner import Plan
from scaling.planning.predictions import Prediction
from scaling.planning.request import EXPERTS_LAW
from t5x_lite.cost import accounting


def format_plan(plan: Plan) -> str:
  """The plan, without the gin file: the run first, then the laws that it is chosen from."""
  lines = [*hardware_lines(plan.budget), *(f'warning: {line}' for line in plan.warnings), '',
           f'Plan by {plan.prediction.law}',
           *(f'  {name:<10} {text}' for name, text in run_rows(plan)), '',
           *format_table(plan.predictions, plan.budget.loss is not None), '',
           *list_notes(plan)]
  return '\n'.join([*lines, *_overhead_lines(plan)])


def hardware_lines(budget: Budget) -> list[str]:
  """The assumed speed and price of the hardware, with the date of the price."""
  chip = budget.chip
  price = 'no price known' if chip.price is None else (
      f'${chip.price:g} an hour on {chip.price_date} ({chip.price_source})')
  source = f' ({budget.source})' if budget.source else ''
  return [f'{chip.title}: {chip.flops / 1e12:.4g} TFLOP/s of dense {chip.dtype} at an MFU of '
          f'{budget.mfu:.3g}{source}, {chip.memory / 1e9:.3g} GB, {price}']


def table_cells(found: Sequence[Prediction], target: bool) -> list[dict[str, str]]:
  """Heading -> cell for each law; {'law', 'reason'} for one without a prediction.

  N and D are in one unit each, which their heading names. FLOPs are there for a target loss.
  """
  sizes = [prediction.parameters for prediction in found if prediction.parameters is not None]
  tokens = [prediction.tokens for prediction in found if prediction.parameters is not None]
  in_n, in_d = _unit(sizes), _unit(tokens)
  rows = []
  for prediction in found:
    if prediction.parameters is None:
      rows.append({'law': prediction.law, 'reason': prediction.reason})
      continue
    cells = {
        'law': prediction.law,
        'FLOPs': format_interval(prediction.flops, prediction.flops_interval,
                                 lambda x: f'{x:.2e}'),
        f'N ({UNITS[in_n]})': format_interval(
            prediction.parameters, prediction.parameters_interval, lambda x: _in_unit(x, in_n)),
        f'D ({UNITS[in_d]})': _in_unit(prediction.tokens, in_d),
        'D/N': format_interval(prediction.tokens / prediction.parameters,
                               prediction.ratio_interval, lambda x: f'{x:.1f}'),
        'loss': '-' if prediction.loss is None else format_interval(
            prediction.loss, prediction.loss_interval, lambda x: f'{x:.3f}'),
        'extrapolation': format_extrapolation(prediction.extrapolation)}
    rows.append({name: cell for name, cell in cells.items() if target or name != 'FLOPs'})
  return rows


def _unit(values: Sequence[float]) -> float:
  """The unit in which the middle one of these numbers is 1 to 1000."""
  middle = sorted(values)[len(values) // 2] if values else 1e9
  return next((unit for unit in UNITS if middle >= 0.9995 * unit), min(UNITS))


def _in_unit(value: float, unit: float) -> str:
  """Three digits, or all before the point."""
  value /= unit
  return f'{value:,.0f}' if value >= 99.95 else f'{value:#.3g}'


def format_table(found: Sequence[Prediction], target: bool) -> list[str]:
  """A line for each law, under its headings."""
  rows = table_cells(found, target)
  names = next((list(row) for row in rows if 'reason' not in row), ['law'])
  lines = format_columns([names, *([row['law'], *(row.get(name, '') for name in names[1:])]
                                   for row in rows)])
  wide = max(len(row['law']) for row in rows) + 2
  return [lines[0], *(f'{row["law"]:<{wide}}- ({row["reason"]})' if 'reason' in row else line
                      for row, line in zip(rows, lines[1:]))]


def list_notes(plan: Plan) -> list[str]:
  """The spread over laws, the meaning of intervals, and deviating counts of N."""
  known = predictions.load_laws(plan.request.fit, plan.request.mixture)
  found = [prediction for prediction in plan.predictions if prediction.parameters is not None]
  sizes = sorted(prediction.parameters for prediction in found)
  ratios = sorted(prediction.tokens / prediction.parameters for prediction in found)
  lines = []
  if len(sizes) > 1:
    lines.append(f'Over laws: N {format_amount(sizes[0])} to {format_amount(sizes[-1])}, a factor '
                 f'of {sizes[-1] / sizes[0]:.2g}; D/N {ratios[0]:.3g} to {ratios[-1]:.3g}. Losses '
                 'are of different corpora and tokenizers.')
  if plan.prediction.law == EXPERTS_LAW and plan.prediction.loss is not None:
    dense = dense_flops(plan.prediction.loss)
    lines.append(f'Without experts, {dense:.3g} FLOPs reach the loss of {EXPERTS_LAW}, '
                 f'{dense / plan.prediction.flops:.3g} times as many.')
  lines += [f'Interval of {prediction.law}: {known[prediction.law].interval}.'
            for prediction in found if prediction.parameters_interval]
  if plan.rounding_loss is None:
    lines.append(f'{plan.prediction.law} has no loss of N and D to minimise at the exact cost of a '
                 'token: N is its own for C = 6 N D, and the tokens spend the budget.')
  lines += [f'{name} counts {known[name].counts}.' for name in known
            if known[name].counted != 'all']
  return lines


def _overhead_lines(plan: Plan) -> list[str]:
  """What a wrong N costs under the plan's constraints, and what each constraint costs."""
  if plan.compute_overhead is None:
    return []
  constraints = plan.request.constraints
  show = lambda cost: ('is above --max_parameters' if cost is None
                       else f'{cost:.3g}' if cost < 1e6 else 'never')
  costs = ', '.join(f'{factor:g} N {show(cost)}'
                    for factor, cost in plan.compute_overhead.items() if factor != 1)
  under = ' under these constraints' if constraints else ''
  serving = ', serving included' if constraints.served_tokens else ''
  lines = ['', f'Compute overhead of a wrong N ({plan.prediction.law}){under}, as a multiple of '
           f'the FLOPs for the same loss{serving}: {costs}.']
  total = plan.flops / (1 - plan.serving_share)
  for name, (needed, loss) in plan.prices.items():
    gain = '' if plan.loss is None else f', and this budget reaches {loss:.3f}'
    lines.append(f'--{name} costs a factor of {max(total / needed, 1):.3g}: without it, '
                 f'{needed:.3g} FLOPs reach this loss{gain}.')
  if plan.trained_alone is not None:
    n, both = plan.trained_alone
    lines.append(f'--served_tokens favours {format_amount(plan.optimum[0])} over the '
                 f'{format_amount(n)} parameters that reach this loss with the least training: to '
                 f'train and serve these costs {max(both / total, 1):.3g} times as much.')
  return lines


def run_rows(plan: Plan) -> list[tuple[str, str]]:
  """(what, its value) for each line of the planned run."""
  config, placed, budget = plan.config, plan.layout, plan.budget
  decoder = f' + {config.num_decoder_layers}' if config.num_decoder_layers else ''
  active, of_which, mlp = plan.total_parameters, '', f'MLP {config.mlp_dim}'
  if config.num_experts is not None:
    active = accounting.parameters(config).active
    of_which = f', {active:,} of them active for a token'
    mlp = f'{config.num_experts} experts of {config.mlp_dim}, {config.experts_per_token} active'
  mesh = ' x '.join(f'{axis} {size}' for axis, size in placed.mesh.items())
  rounding = ('' if plan.rounding_loss is None
              else f'; rounding N costs {plan.rounding_loss:.1e} nats'
              if plan.rounding_loss > 1e-9 else '; rounding N costs nothing')
  loss = (f'not that of {plan.prediction.law}: {plan.loss_reason}' if plan.loss_reason
          else 'not predicted by the law' if plan.loss is None
          else format_interval(plan.loss, plan.loss_interval, lambda x: f'{x:.3f}'))
  batch = placed.rows * sum(plan.lengths)
  default = budget.deadline is None and plan.request.hours is None and plan.request.chips is None
  reason = ('' if not default else f', the fewest that finish in {search.DAYS} days'
            if budget.hours <= 24 * search.DAYS * 1.01
            else ', as many as a sensible batch keeps busy')
  recompute = {'none': 'nothing recomputed', 'full': 'blocks recomputed'}.get(
      placed.remat, f'remat {placed.remat}')
  rows = [
      ('model', f'{plan.request.family}, {plan.total_parameters:,} parameters{of_which}: width '
       f'{config.embed_dim}, layers {config.num_layers}{decoder}, heads {config.num_heads} of '
       f'{config.head_dim}, {mlp}, vocabulary {config.vocab_size}{rounding}'),
      ('tokens', f'{format_amount(plan.tokens)}: {plan.steps:,} steps of {placed.rows:,} rows '
       f'({format_amount(batch)} tokens), {plan.tokens / active:.3g} '
       + ('an active parameter' if of_which else 'a parameter')),
      ('AdamW', f'peak rate {plan.learning_rate:g} ({plan.request.recipe}), '
       f'{plan.warmup_steps:,} steps of warm-up, half a cosine to 0'),
      ('loss', loss),
      ('FLOPs', f'{plan.flops:.3g} with all of attention, of which 6 N D {plan.flops_6nd:.3g}'),
      ('mesh', f'{mesh}: {budget.chips} x {budget.chip.title}{reason}; microbatches '
       f'{placed.microbatches}, {recompute}'),
      ('memory', f'{placed.memory.total / 1e9:.3g} of {budget.chip.device_memory / 1e9:.3g} GB '
       'of a device'),
      ('time', f'{format_hours(plan.chip_hours / budget.chips)} at an MFU of {budget.mfu:.3g}'
       + money_text.format_bill(budget, plan.chip_hours, plan.request.carbon))]
  if plan.utilisation is not None:
    rows.append(('range', money_text.format_range(budget, plan.chip_hours_range, plan.utilisation)))
  if plan.request.served_tokens is not None:
    bought = plan.request.dollars is not None or plan.request.kwh is not None
    unit = 'chip-hours' if bought and plan.serving is not None else 'FLOPs'
    rows.append(('serving', f'{plan.serving_flops:.3g} FLOPs, {plan.serving_share:.0%} of the '
                 f'{unit} of training and serving'))
    if plan.serving is not None:
      both = plan.chip_hours + plan.request.served_tokens * plan.serving.hours
      rows.append(('', f'training and serving: {both:,.0f} chip-hours'
                   + money_text.format_bill(budget, both, plan.request.carbon)))
      rows += [('', line) for line in money_text.serving_lines(
          plan.serving, budget, plan.request.served_tokens)]
  return rows


def format_extrapolation(factor: float | None) -> str:
  """The factor by which a budget is outside the runs of a law; '?' if they are not known."""
  return '?' if factor is None else 'no' if factor <= 1 else f'{factor:.3g} times'
