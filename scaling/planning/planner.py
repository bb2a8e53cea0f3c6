"""From a budget to a run: the answer of one law, made a model that can be built, and laid out.

FLOPs are counted twice. A law's C is 6 N D of what it calls N. What a run does is
`t5x_lite.cost.accounting.train_flops`, with attention and without the input embedding. The tokens
of a plan are those on which the budget is spent by that count; where a loss is asked for, they are
what the law asks for, and the count says what they cost.
"""

import dataclasses
import math

from scaling.laws import hyperparameters, intervals
from scaling.laws.intervals import Interval
from scaling.laws.laws import Additive, Law
from scaling.planning import architecture, layout, predictions
from scaling.planning.budget import Budget, solve
from scaling.planning.layout import Layout
from scaling.planning.predictions import Answer
from scaling.planning.request import FAMILIES, LAW, Request
from t5x_lite.core.errors import UserError
from t5x_lite.cost import accounting, hardware
from t5x_lite.models import ModelConfig

DAYS = 30           # in which the fewest chips that are taken unasked finish
_LEAST_STEPS = 50   # what has fewer, for its many devices, is no training


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
  """A run that can be launched, and what to expect of it.

  Attributes:
    budget: with chips and hours of the run.
    answers: of all laws; `answer` is the one that was followed.
    law: that law.
    config: the model.
    total_parameters, parameters: all of them, and those that the law counts.
    tokens: that are trained on: steps x rows x tokens of a row.
    flops, flops_6nd: of training, exact (all of attention counted), and 6 N D as the law counts.
    loss, loss_interval: expected of this N and D; None if the law does not say.
    snapping: loss of the N that can be built less that of the optimum, at equal 6 N D.
    chip_hours, dollars, kwh: of training; None where price or power is not known.
    prices: factor of the optimal N -> times the FLOPs for the same loss; None likewise.
    warnings: one line each.
  """
  request: Request
  budget: Budget
  answers: tuple[Answer, ...]
  answer: Answer
  law: Law
  config: ModelConfig
  lengths: tuple[int, int]
  total_parameters: int
  parameters: float
  tokens: int
  flops: float
  flops_6nd: float
  loss: float | None
  loss_interval: Interval | None
  snapping: float | None
  steps: int
  warmup_steps: int
  learning_rate: float
  layout: Layout
  chip_hours: float
  dollars: float | None
  kwh: float | None
  prices: dict[float, float] | None
  warnings: tuple[str, ...]


def answer(request: Request) -> tuple[Budget, dict[str, Law], list[Answer]]:
  """The budget, the laws, and what each of them answers; UserError if it cannot be met."""
  chip = hardware.find(request.hardware, hardware.load(request.prices))
  budget = solve(chip, **{name: getattr(request, name) for name in (
      'flops', 'loss', 'dollars', 'kwh', 'chips', 'hours', 'deadline', 'mfu', 'pue')})
  known = predictions.laws(request.fit)
  return budget, known, predictions.answers(budget, known, request.constraints)


def make(request: Request) -> Plan:
  """The plan; UserError, naming what would do, for a request that cannot be met."""
  budget, known, found = answer(request)
  name = request.law or ('fit' if request.fit else LAW)
  best = predictions.chosen(name, found, known, budget, request.constraints)
  law = known[name]
  lengths = request.lengths
  to_train = 6 * best.parameters * best.tokens    # less than the budget if that pays for serving
  if request.constraints.served_tokens:
    budget = dataclasses.replace(budget, hours=None)
  config, counted, tokens, placed, budget = _built(request, law, best, budget, lengths)
  per_row = accounting.train_flops(config, *lengths)
  row_tokens = sum(lengths)
  steps = max(1, round(tokens / row_tokens / placed.rows))
  trained = steps * placed.rows * row_tokens
  flops = float(steps * placed.rows * per_row)
  whole = accounting.parameters(config)
  rule = _recipe(request, whole, trained, flops)
  asked = rule.batch_tokens / row_tokens
  if steps < _LEAST_STEPS and placed.rows > 1.5 * asked:
    raise UserError(
        f'{budget.chips:,} x {budget.chip.title} are too many: a row for each leaves {steps} steps '
        f'of {placed.rows:,} rows, where {request.recipe} asks for {asked:.0f} rows: give fewer '
        '--chips or more time')
  warm = hyperparameters.warmup_tokens(counted, trained)
  loss_of = lambda n, d: request.constraints.loss(law.form, n, d)
  loss_interval = intervals.of_draws(law, lambda form: (
      request.constraints.loss(form, counted, trained),))
  return Plan(
      request=request, budget=budget, answers=tuple(found), answer=best, law=law, config=config,
      lengths=lengths, total_parameters=whole.total, parameters=counted, tokens=trained,
      flops=flops, flops_6nd=6.0 * counted * trained, loss=loss_of(counted, trained),
      loss_interval=loss_interval and loss_interval[0],
      snapping=None if best.loss is None else loss_of(counted, to_train / 6 / counted) - best.loss,
      steps=steps, warmup_steps=max(1, round(warm / placed.rows / row_tokens)),
      learning_rate=float(f'{rule.learning_rate:.3g}'), layout=placed,
      chip_hours=budget.chip_hours(flops), dollars=budget.dollars(flops), kwh=budget.kwh(flops),
      prices=law.form.prices(best.flops) if isinstance(law.form, Additive) else None,
      warnings=tuple(_warnings(law, best, budget, request, rule, placed, trained)))


def base_config(request: Request) -> ModelConfig:
  """The family's config with the request's vocabulary and length, in bfloat16."""
  from t5x_lite.experiment import gin_config
  family = FAMILIES[request.family]
  config = gin_config.load_described([family.config], family.bindings).model
  inputs, targets = request.lengths
  length = inputs + targets if config.family == 'decoder_only' else max(inputs, targets)
  return dataclasses.replace(
      config, dtype='bfloat16', vocab_size=request.vocab_size or config.vocab_size,
      max_length=None if config.max_length is None else length)


def count(config: ModelConfig, counted: str, lengths: tuple[int, int]) -> float:
  """N of a model as a law counts it; `counted` as of `Law`. Experts count if a token meets them."""
  whole = accounting.parameters(config)
  table = config.vocab_size * config.embed_dim
  if counted == 'no_embedding':
    return whole.active - whole.embedding
  if counted == 'no_input_embedding':   # the output layer counts, tied or not
    return whole.active - (0 if config.tied_embeddings else table)
  if counted == 'flops':
    head = 6 * table * (sum(lengths) if config.family != 'encoder_decoder' else lengths[1])
    return (accounting.train_flops(config, *lengths) - head) / 6 / sum(lengths)
  return whole.active


def _built(request: Request, law: Law, best: Answer, budget: Budget, lengths: tuple[int, int]
           ) -> tuple[ModelConfig, float, float, Layout, Budget]:
  """(config, its N, tokens, layout, budget with its chips) of an answer.

  Raises UserError if no number of chips tried holds the model in time.
  """
  base = base_config(request)
  for tensor in layout.TENSOR:
    config = _snapped(base, law.counted, best.parameters, request, lengths, tensor)
    counted = count(config, law.counted, lengths)
    per_token = accounting.train_flops(config, *lengths) / sum(lengths)
    if request.loss is None:
      tokens = 6 * best.parameters * best.tokens / per_token
    else:
      tokens = request.constraints.tokens_for(law.form, counted, request.loss, best.tokens)
    budget = budget.spent(per_token * tokens)
    rule = _recipe(request, accounting.parameters(config), tokens, budget.flops)
    rows = rule.batch_tokens / sum(lengths)
    place = lambda chips: layout.find(config, budget.chip, chips, rows, lengths, tensor)
    if budget.chips is not None:
      placed, chips = place(budget.chips), budget.chips
    else:
      least = budget.chip_hours(budget.flops) / (24 * DAYS)
      placed, chips = next(((found, n) for n in layout.chips_to_try(least) if (found := place(n))),
                           (None, None))
    if placed is not None:
      hours = budget.chip_hours(budget.flops) / chips
      return (dataclasses.replace(config, remat=placed.remat), counted, tokens, placed,
              dataclasses.replace(budget, chips=chips, hours=hours))
  raise UserError(_too_large(config, budget, rows, lengths))


def _snapped(base: ModelConfig, counted: str, parameters: float, request: Request,
             lengths: tuple[int, int], tensor: int) -> ModelConfig:
  """The buildable config whose N, as the law counts it, is about `parameters`."""
  config = architecture.snap(base, parameters, multiple=request.multiple, tensor=tensor)
  for _ in range(0 if counted == 'all' else 4):   # what is not counted depends on the width
    ratio = accounting.parameters(config).total / count(config, counted, lengths)
    config = architecture.snap(base, parameters * ratio, multiple=request.multiple, tensor=tensor)
  most = request.constraints.max_parameters
  for step in range(1, 40):   # the nearest may lie above a limit
    if most is None or count(config, counted, lengths) <= most:
      return config
    config = architecture.snap(base, parameters * 0.98 ** step, multiple=request.multiple,
                               tensor=tensor)
  raise UserError(f'--max_parameters={most:g}: no model with widths of a multiple of '
                  f'{request.multiple} is so small; set a smaller --multiple or --vocab_size')


def _recipe(request: Request, whole, tokens: float, flops: float) -> hyperparameters.Recipe:
  return hyperparameters.recipe(request.recipe, parameters=whole.total - whole.embedding,
                                tokens=tokens, flops=flops)


def _too_large(config: ModelConfig, budget: Budget, rows: float, lengths: tuple[int, int]) -> str:
  chip = budget.chip
  what = f'{accounting.parameters(config).total:,} parameters'
  for chips in layout.chips_to_try((budget.chips or 1) + 1):
    if layout.find(config, chip, chips, rows, lengths):
      return (f'{what} do not fit the memory of {budget.chips} x {chip.title}: give '
              f'--chips={chips}, or --max_parameters')
  return f'{what} fit no number of {chip.title}: name other --hardware, or give --max_parameters'


def _warnings(law: Law, best: Answer, budget: Budget, request: Request,
              rule: hyperparameters.Recipe, placed: Layout, tokens: int):
  if beyond := predictions.warning(best.law, best):
    yield beyond
  if stale := budget.chip.stale():
    yield stale
  asked = rule.batch_tokens / sum(request.lengths)
  if placed.rows > 1.5 * asked:
    yield (f'a row for each device makes batches of {placed.rows} rows where {request.recipe} asks '
           f'for {asked:.0f}: fewer chips would train as well')
  epochs = tokens / (request.unique_tokens or math.inf)
  if epochs > 4:
    yield (f'{epochs:.1f} epochs of {request.unique_tokens:.3g} unique tokens: beyond 4, repeats '
           'are worth less and less (Muennighoff et al. 2023)')
  if request.unique_tokens and best.loss is not None:
    enough = request.constraints.least_loss(law.form) + 0.001
    if best.loss < enough:
      needed = request.constraints.flops_for(law.form, enough)
      yield (f'{needed:.3g} FLOPs reach this loss to 0.001: more compute on so few unique tokens '
             'buys nothing')
  if FAMILIES[request.family].lengths[0]:
    yield ('the laws were fitted on decoder-only models: what they say of the family '
           f'{request.family} is a guess')
