"""What training and serving a given model costs, of the flags of `scaling budget`, and as text."""

import argparse
import dataclasses
from typing import Any

from scaling.planning import budget as budgets
from scaling.planning import calculator, money_text, own_runs, plan_text, predictions, tuning
from scaling.planning.amounts import format_amount, format_columns, format_hours, format_interval
from scaling.planning.serving import estimate_serving
from t5x_lite.core.errors import UserError
from t5x_lite.cost import accounting, hardware

_BAR = 40   # characters of a device's memory
_PIECES = {'parameters': 'P', 'gradients': 'G', 'optimizer': 'O', 'activations': 'A',
           'at work': 'W'}


@dataclasses.dataclass(frozen=True)
class Estimate:
  """What is printed: training, the length it is counted at, memory by mesh, serving, tuning."""
  training: Any
  counted_at: str
  memory: Any
  serving: Any
  tuning: Any = None


def estimate(args: argparse.Namespace) -> Estimate:
  """The estimate of the flags of `scaling budget`; UserError if they do not make one."""
  experiment = _experiment(args)
  launched = experiment.train.steps > 1
  rows = args.rows or experiment.data.batch_size
  lengths, counted_at = calculator.row_lengths(experiment, args.length, named=bool(args.model))
  tokens = args.tokens
  if tokens is None and launched and not (args.flops or args.dollars or args.kwh):
    tokens = float(experiment.train.steps * rows * sum(lengths))
  model = experiment.model
  budget = _budget(args, tokens, model.remat, accounting.parameters(model).active)
  if args.model:
    model = dataclasses.replace(model, dtype=budget.chip.dtype)
  found = calculator.estimate_training(model, lengths, budget, predictions.load_laws(
      args.fit, calculator.mixture_of(model)), tokens)
  held = calculator.estimate_memory(model, found.budget, rows, lengths,
                                    args.microbatches or experiment.train.microbatches,
                                    experiment.optimizer)
  half = max(sum(lengths) // 2, 1)
  serving = estimate_serving(model, found.budget, args.prompt or half, args.generated or half)
  tuned = tuning.compare(model, lengths, found.budget.chip, experiment.optimizer) if (
      args.tune) else None
  return Estimate(found, counted_at, held, serving, tuned)


def _experiment(args):
  """The experiment of the gin files, or of the named model."""
  from t5x_lite.experiment import gin_config
  if bool(args.model) == bool(args.gin_file):
    raise UserError('which model? Give a name in configs/models, e.g. llama_7b, or --gin_file=FILE')
  for name in ('tokens', 'rows', 'microbatches', 'price', 'served_tokens', 'prompt',
               'generated'):
    value = getattr(args, name)
    if value is not None and not 0 < value < float('inf'):
      raise UserError(f'--{name}={value:g}: give a number above 0')
  return gin_config.load_described(
      args.gin_file or [f'models/{args.model}.gin', 'hardware/accelerator.gin'])


def _budget(args, tokens: float | None, remat, parameters: int):
  """The budget; with tokens given, chips and hours only divide it."""
  chip = hardware.find_chip(args.hardware, hardware.load_catalogue(args.prices))
  chip = chip.with_price(args.price)
  names = ('flops', 'dollars', 'kwh', 'chips', 'hours', 'deadline', 'mfu', 'pue')
  given = {name: getattr(args, name) for name in names}
  if args.runs and args.mfu is not None:
    raise UserError(f'--mfu={args.mfu:g} and --runs both set the MFU: give one of them')
  own = args.runs and own_runs.nearest_run(args.runs, chip.name, parameters)
  of_own = {'own_mfu': own.mfu, 'source': own.describe()} if own else {}
  if tokens is None:
    if not any(given[name] for name in ('flops', 'dollars', 'kwh')) and not (
        given['chips'] and (given['hours'] or given['deadline'])):
      raise UserError('how many tokens? Give --tokens, --flops, --dollars, --kwh, or --chips with '
                      '--hours')
    return budgets.solve_budget(chip, recomputed=remat == 'full', **given, **of_own)
  if others := [name for name in ('flops', 'dollars', 'kwh') if given[name] is not None]:
    raise UserError(f'--tokens and --{others[0]} both set the budget: give one of them')
  # The FLOPs of the tokens are not known yet; a placeholder loss leaves them open.
  found = budgets.solve_budget(chip, loss=1.0, deadline=given['hours'] or given['deadline'],
                              recomputed=remat == 'full', **of_own,
                              **{name: given[name] for name in ('chips', 'mfu', 'pue')})
  return dataclasses.replace(found, hours=given['hours'])


def format_estimate(args: argparse.Namespace, estimate: Estimate) -> list[str]:
  """The lines that the command prints."""
  found, serving = estimate.training, estimate.serving
  budget = found.budget
  counts = found.parameters
  active = f', {counts.active:,} active for a token' if counts.active != counts.total else ''
  lines = [*plan_text.hardware_lines(budget)]
  if stale := budget.chip.stale():
    lines.append(f'warning: {stale}')
  if found.config.dtype == 'bfloat16' != budget.chip.dtype:
    lines.append(f'warning: {budget.chip.title} has no bfloat16, which this experiment sets: it '
                 "computes in float32; set ModelConfig.dtype = 'float32'")
  lines += ['', f'{counts.total:,} parameters ({counts.embedding:,} in embeddings{active}), '
            f'{format_amount(found.tokens)} tokens, {found.tokens / counts.total:.3g} a parameter',
            f'Rows of {estimate.counted_at}.', '',
            f'{"training FLOPs":<44}{"a token":>12}{"in all":>12}']
  names = {'6N': '6 N (all parameters active for a token)',
           'exact': 'exact: matrices, all of attention',
           'causal': 'exact: matrices, unmasked attention only'}
  lines += [f'{names[name]:<44}{value:>12.4g}{found.flops[name]:>12.4g}'
            for name, value in found.per_token.items()]
  where = '' if budget.chips is None else (
      f', {format_hours(budget.hours)} on {budget.chips}')
  digits = 0 if found.chip_hours >= 10 else 4
  bill = money_text.format_bill(budget, found.chip_hours, args.carbon)
  lines += ['', f'{found.chip_hours:,.{digits}f} chip-hours{where}{bill}']
  if found.utilisation is not None:
    lines.append('Range: ' + money_text.format_range(budget, found.chip_hours_range,
                                                     found.utilisation))
  if serving is not None:
    about = money_text.serving_lines(serving, budget, args.served_tokens)
    lines += ['Serving: ' + about[0], *(f'  {line}' for line in about[1:])]
  lines.append('')
  lines += _memory_lines(estimate.memory, budget.chip)
  if estimate.tuning is not None:
    lines += ['', *tuning.format_tuning(estimate.tuning, budget.chip)]
  return [*lines, '', *_law_lines(found)]


def _memory_lines(held, chip) -> list[str]:
  """A bar for each mesh, in proportion to a device's memory."""
  lines = [f'Memory of a device, of {chip.device_memory / 1e9:.3g} GB']
  for name, needs in held.items():
    bar = ''.join(letter * round(_BAR * needs.parts[piece] / chip.device_memory)
                  for piece, letter in _PIECES.items())
    over = '' if needs.total <= chip.device_memory else '  does not fit'
    shown = bar if len(bar) <= _BAR else f'{bar[:_BAR]}>'
    lines.append(f'  {name:<22}|{shown:<{_BAR}}| {needs.total / 1e9:.3g} GB{over}')
  return [*lines, '  ' + ', '.join(f'{letter} {piece}' for piece, letter in _PIECES.items())]


def _law_lines(found) -> list[str]:
  rows, reasons = [['law', 'loss', 'N / optimal N', 'FLOPs / min', 'extrapolation']], {}
  for name, expected in found.expected.items():
    loss = '-' if expected.loss is None else format_interval(
        expected.loss, expected.loss_interval, lambda x: f'{x:.3f}')
    overhead = '-' if expected.compute_overhead is None else f'{expected.compute_overhead:.3g}'
    rows.append([name, loss, f'{expected.ratio:.3g}', overhead,
                 plan_text.format_extrapolation(expected.extrapolation)])
    if expected.loss_reason:
      reasons.setdefault(expected.loss_reason, []).append(name)
  return format_columns(rows) + [
      f'No loss of {", ".join(names)}: {reason}.' for reason, names in reasons.items()]
