"""`t5x-lite scaling budget`: the cost of a given model."""

import argparse
import dataclasses
import json

from scaling.commands import plan as plan_command
from t5x_lite.core.errors import UserError

EXAMPLE = 't5x-lite scaling budget llama_7b --tokens=1e12 --hardware=a100_80 --chips=2048'
_BAR = 40   # characters of a device's memory
_PIECES = {'parameters': 'P', 'gradients': 'G', 'optimizer': 'O', 'activations': 'A',
           'at work': 'W'}


def add_flags(parser: argparse.ArgumentParser) -> None:
  from scaling.planning.amounts import parse_amount, parse_count
  parser.add_argument('model', nargs='?', help='a name in configs/models, e.g. llama_7b')
  parser.add_argument('--gin_file', action='append', default=[], metavar='FILE',
                      help='gin file of a model or an experiment; may be repeated')
  parser.add_argument('--tokens', type=parse_amount, help="training tokens; default: the "
                      "experiment's, or those that spend the budget")
  parser.add_argument('--rows', type=parse_count, help="batch size in rows; default: the "
                      "experiment's, or one for each device")
  parser.add_argument('--microbatches', type=parse_count,
                      help="microbatches of a step; default: the experiment's, or 1")
  plan_command.add_budget_flags(parser)
  parser.add_argument('--fit', metavar='FOLDER',
                      help='your own law, from scaling fit --output=FOLDER')
  parser.add_argument('--json', action='store_true', help='print JSON')


def run(args: argparse.Namespace) -> int:
  from scaling.planning import calculator, predictions
  experiment = _experiment(args)
  launched = experiment.train.steps > 1
  lengths, rows = experiment.row_lengths, args.rows or experiment.data.batch_size
  tokens = args.tokens
  if tokens is None and launched and not (args.flops or args.dollars or args.kwh):
    tokens = float(experiment.train.steps * rows * sum(lengths))
  found = calculator.estimate_training(experiment.model, lengths, _budget(args, tokens),
                                       predictions.load_laws(args.fit), tokens)
  held = calculator.estimate_memory(experiment.model, found.budget, rows, lengths,
                                    args.microbatches or experiment.train.microbatches,
                                    experiment.optimizer)
  if args.json:
    print(json.dumps(plan_command.plain({**vars(found), 'memory': held}), indent=2))
  else:
    print('\n'.join(_lines(found, held)))
  return 0


def _experiment(args):
  """The experiment of the gin files, or of the named model."""
  from t5x_lite.experiment import gin_config
  if bool(args.model) == bool(args.gin_file):
    raise UserError('which model? Give a name in configs/models, e.g. llama_7b, or --gin_file=FILE')
  for name in ('tokens', 'rows', 'microbatches'):
    value = getattr(args, name)
    if value is not None and not 0 < value < float('inf'):
      raise UserError(f'--{name}={value:g}: give a number above 0')
  return gin_config.load_described(
      args.gin_file or [f'models/{args.model}.gin', 'hardware/accelerator.gin'])


def _budget(args, tokens: float | None):
  """The budget; with tokens given, chips and hours only divide it."""
  from scaling.planning import budget
  from t5x_lite.cost import hardware
  chip = hardware.find_chip(args.hardware, hardware.load_catalogue(args.prices))
  chip = chip.with_price(args.price)
  names = ('flops', 'dollars', 'kwh', 'chips', 'hours', 'deadline', 'mfu', 'pue')
  given = {name: getattr(args, name) for name in names}
  if tokens is None:
    if not any(given[name] for name in ('flops', 'dollars', 'kwh')) and not (
        given['chips'] and (given['hours'] or given['deadline'])):
      raise UserError('how many tokens? Give --tokens, --flops, --dollars, --kwh, or --chips with '
                      '--hours')
    return budget.solve_budget(chip, **given)
  if others := [name for name in ('flops', 'dollars', 'kwh') if given[name] is not None]:
    raise UserError(f'--tokens and --{others[0]} both set the budget: give one of them')
  # The FLOPs of the tokens are not known yet; a placeholder loss leaves them open.
  found = budget.solve_budget(chip, loss=1.0, deadline=given['hours'] or given['deadline'],
                              **{name: given[name] for name in ('chips', 'mfu', 'pue')})
  return dataclasses.replace(found, hours=given['hours'])


def _lines(found, held) -> list[str]:
  from scaling.planning import plan_text
  from scaling.planning.amounts import format_amount, format_hours, format_money
  budget = found.budget
  counts = found.parameters
  active = f', {counts.active:,} active for a token' if counts.active != counts.total else ''
  lines = [*plan_text.hardware_lines(budget)]
  if stale := budget.chip.stale():
    lines.append(f'warning: {stale}')
  lines += ['', f'{counts.total:,} parameters ({counts.embedding:,} in embeddings{active}), '
            f'{format_amount(found.tokens)} tokens, {found.tokens / counts.total:.3g} a parameter',
            '',
            f'{"training FLOPs":<44}{"a token":>12}{"in all":>12}']
  names = {'6N': '6 N (all parameters active for a token)',
           'exact': 'exact: matrices, all of attention',
           'causal': 'exact: matrices, unmasked attention only'}
  lines += [f'{names[name]:<44}{value:>12.4g}{found.flops[name]:>12.4g}'
            for name, value in found.per_token.items()]
  where = '' if budget.chips is None else (
      f', {format_hours(budget.hours)} on {budget.chips}')
  cost = '' if found.dollars is None else f', {format_money(found.dollars)}'
  energy = '' if found.kwh is None else f', {found.kwh:,.0f} kWh'
  digits = 0 if found.chip_hours >= 10 else 4
  lines += ['', f'{found.chip_hours:,.{digits}f} chip-hours{where}{cost}{energy}', '']
  return [*lines, *_memory_lines(held, budget.chip), '', *_law_lines(found)]


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
  from scaling.planning import plan_text
  lines = [f'{"law":<22}{"loss":<24}{"N / optimal N":<16}{"FLOPs / min":<16}extrapolation']
  for name, expected in found.expected.items():
    loss = '-' if expected.loss is None else plan_text.format_interval(
        expected.loss, expected.loss_interval, lambda x: f'{x:.3f}')
    overhead = '-' if expected.compute_overhead is None else f'{expected.compute_overhead:.3g}'
    lines.append(f'{name:<22}{loss:<24}{expected.ratio:<16.3g}{overhead:<16}'
                 + plan_text.format_extrapolation(expected.extrapolation))
  return lines
