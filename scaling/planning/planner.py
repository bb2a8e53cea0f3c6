"""From a budget to a run: the prediction of one law, rounded to a model, with its layout.

FLOPs are counted in two ways. A law's C is 6 N D, with N as the law counts it. A run's FLOPs are
`t5x_lite.cost.accounting.train_flops`, with attention and without the input embedding. The tokens
of a plan spend the budget by the second count; for a target loss, the tokens are those of the law,
and the second count gives their cost.
"""

import dataclasses
import math

from scaling.laws import hyperparameters, intervals
from scaling.laws.intervals import Interval
from scaling.laws.laws import Law, ParametricLaw
from scaling.planning import architecture, layout, predictions
from scaling.planning.budget import Budget, solve_budget
from scaling.planning.layout import Layout
from scaling.planning.predictions import Prediction
from scaling.planning.request import LAW, PRESETS, Request
from t5x_lite.core.errors import UserError
from t5x_lite.cost import accounting, hardware
from t5x_lite.models import ModelConfig

DAYS = 30         # within which the default number of chips finishes
_MIN_STEPS = 50   # of a run on more devices than its batch needs


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
  """A run that can be launched, and its expected results.

  Attributes:
    budget: with chips and hours of the run.
    predictions: of all laws; `prediction` is that of `law`, which the plan follows.
    config: the model.
    total_parameters, parameters: all, and those that the law counts.
    tokens: of training: steps x rows x tokens of a row.
    flops, flops_6nd: of training, exact (all of attention counted), and 6 N D as the law counts.
    loss, loss_interval: expected of this N and D; None if the law has no loss.
    rounding_loss: loss of this N less that of the optimum, at equal 6 N D.
    chip_hours, dollars, kwh: of training; None if price or power is not known.
    compute_overhead: factor of the optimal N -> multiple of the FLOPs for the same loss; None
      without a parametric law.
    warnings: one line each.
  """
  request: Request
  budget: Budget
  predictions: tuple[Prediction, ...]
  prediction: Prediction
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
  rounding_loss: float | None
  steps: int
  warmup_steps: int
  learning_rate: float
  layout: Layout
  chip_hours: float
  dollars: float | None
  kwh: float | None
  compute_overhead: dict[float, float] | None
  warnings: tuple[str, ...]


def predict_request(request: Request) -> tuple[Budget, dict[str, Law], list[Prediction]]:
  """The budget, the laws, and the prediction of each; UserError if the request is infeasible."""
  chip = hardware.find_chip(request.hardware, hardware.load_catalogue(request.prices))
  budget = solve_budget(chip, **{name: getattr(request, name) for name in (
      'flops', 'loss', 'dollars', 'kwh', 'chips', 'hours', 'deadline', 'mfu', 'pue')})
  known = predictions.load_laws(request.fit)
  return budget, known, predictions.predict_all(budget, known, request.constraints)


def make_plan(request: Request) -> Plan:
  """The plan of a request; UserError, with a cure, if it is infeasible."""
  budget, known, found = predict_request(request)
  name = request.law or ('fit' if request.fit else LAW)
  best = predictions.select_prediction(name, found, known, budget, request.constraints)
  law = known[name]
  lengths = request.lengths
  to_train = 6 * best.parameters * best.tokens    # less than the budget if that includes serving
  if request.constraints.served_tokens:
    budget = dataclasses.replace(budget, hours=None)
  config, counted, tokens, placed, budget = _build_run(request, law, best, budget, lengths)
  per_row = accounting.train_flops(config, *lengths)
  row_tokens = sum(lengths)
  steps = max(1, round(tokens / row_tokens / placed.rows))
  trained = steps * placed.rows * row_tokens
  flops = float(steps * placed.rows * per_row)
  sizes = accounting.parameters(config)
  rule = _recipe(request, sizes, trained, flops)
  recommended = rule.batch_tokens / row_tokens
  if steps < _MIN_STEPS and placed.rows > 1.5 * recommended:
    raise UserError(
        f'{budget.chips:,} x {budget.chip.title} are too many: a row for each leaves {steps} steps '
        f'of {placed.rows:,} rows, where {request.recipe} recommends {recommended:.0f} rows: give '
        'fewer --chips or more time')
  warm = hyperparameters.warmup_tokens(counted, trained)
  loss_of = lambda n, d: request.constraints.loss(law.form, n, d)
  loss_interval = intervals.bootstrap_intervals(law, lambda form: (
      request.constraints.loss(form, counted, trained),))
  return Plan(
      request=request, budget=budget, predictions=tuple(found), prediction=best, law=law,
      config=config, lengths=lengths, total_parameters=sizes.total, parameters=counted,
      tokens=trained, flops=flops, flops_6nd=6.0 * counted * trained,
      loss=loss_of(counted, trained),
      loss_interval=loss_interval and loss_interval[0],
      rounding_loss=(None if best.loss is None
                     else loss_of(counted, to_train / 6 / counted) - best.loss),
      steps=steps, warmup_steps=max(1, round(warm / placed.rows / row_tokens)),
      learning_rate=float(f'{rule.learning_rate:.3g}'), layout=placed,
      chip_hours=budget.chip_hours(flops), dollars=budget.dollars(flops), kwh=budget.kwh(flops),
      compute_overhead=(law.form.compute_overheads(best.flops)
                        if isinstance(law.form, ParametricLaw) else None),
      warnings=tuple(_warnings(law, best, budget, request, rule, placed, trained)))


def base_config(request: Request) -> ModelConfig:
  """The family's config with the request's vocabulary and length, in bfloat16."""
  from t5x_lite.experiment import gin_config
  preset = PRESETS[request.family]
  config = gin_config.load_described([preset.config], preset.bindings).model
  inputs, targets = request.lengths
  length = inputs + targets if config.family == 'decoder_only' else max(inputs, targets)
  return dataclasses.replace(
      config, dtype='bfloat16', vocab_size=request.vocab_size or config.vocab_size,
      max_length=None if config.max_length is None else length)


def count_parameters(config: ModelConfig, counted: str, lengths: tuple[int, int]) -> float:
  """N of a model as a law counts it; `counted` as in `Law`. Only active experts count."""
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


def _build_run(request: Request, law: Law, best: Prediction, budget: Budget,
               lengths: tuple[int, int]
               ) -> tuple[ModelConfig, float, float, Layout, Budget]:
  """(config, its N, tokens, layout, budget with its chips) of a prediction.

  Raises UserError if the model fits on no number of chips.
  """
  base = base_config(request)
  for tensor in layout.TENSOR:
    config = _config_for_count(base, law.counted, best.parameters, request, lengths, tensor)
    counted = count_parameters(config, law.counted, lengths)
    per_token = accounting.train_flops(config, *lengths) / sum(lengths)
    if request.loss is None:
      tokens = 6 * best.parameters * best.tokens / per_token
    else:
      tokens = request.constraints.tokens_for(law.form, counted, request.loss, best.tokens)
    budget = budget.with_flops(per_token * tokens)
    rule = _recipe(request, accounting.parameters(config), tokens, budget.flops)
    rows = rule.batch_tokens / sum(lengths)
    find = lambda chips: layout.find_layout(config, budget.chip, chips, rows, lengths, tensor)
    if budget.chips is not None:
      placed, chips = find(budget.chips), budget.chips
    else:
      min_chips = budget.chip_hours(budget.flops) / (24 * DAYS)
      placed, chips = next(((found, n) for n in layout.chips_to_try(min_chips)
                            if (found := find(n))), (None, None))
    if placed is not None:
      hours = budget.chip_hours(budget.flops) / chips
      return (dataclasses.replace(config, remat=placed.remat), counted, tokens, placed,
              dataclasses.replace(budget, chips=chips, hours=hours))
  raise UserError(_too_large(config, budget, rows, lengths))


def _config_for_count(base: ModelConfig, counted: str, parameters: float, request: Request,
                      lengths: tuple[int, int], tensor: int) -> ModelConfig:
  """The config whose N, as the law counts it, is about `parameters`."""
  build = lambda n: architecture.config_for_size(base, n, multiple=request.multiple, tensor=tensor)
  config = build(parameters)
  for _ in range(0 if counted == 'all' else 4):   # what is not counted depends on the width
    ratio = accounting.parameters(config).total / count_parameters(config, counted, lengths)
    config = build(parameters * ratio)
  maximum = request.constraints.max_parameters
  for step in range(1, 40):   # the nearest may be above the limit
    if maximum is None or count_parameters(config, counted, lengths) <= maximum:
      return config
    config = build(parameters * 0.98 ** step)
  raise UserError(f'--max_parameters={maximum:g}: no model with widths of a multiple of '
                  f'{request.multiple} is so small; set a smaller --multiple or --vocab_size')


def _recipe(request: Request, sizes, tokens: float, flops: float) -> hyperparameters.Recipe:
  return hyperparameters.compute_recipe(request.recipe, parameters=sizes.non_embedding,
                                        tokens=tokens, flops=flops)


def _too_large(config: ModelConfig, budget: Budget, rows: float, lengths: tuple[int, int]) -> str:
  chip = budget.chip
  what = f'{accounting.parameters(config).total:,} parameters'
  for chips in layout.chips_to_try((budget.chips or 1) + 1):
    if layout.find_layout(config, chip, chips, rows, lengths):
      return (f'{what} do not fit the memory of {budget.chips} x {chip.title}: give '
              f'--chips={chips}, or --max_parameters')
  return (f'{what} do not fit any number of {chip.title}: choose other --hardware, or give '
          '--max_parameters')


def _warnings(law: Law, best: Prediction, budget: Budget, request: Request,
              rule: hyperparameters.Recipe, placed: Layout, tokens: int):
  if outside := predictions.extrapolation_warning(best.law, best):
    yield outside
  if stale := budget.chip.stale():
    yield stale
  recommended = rule.batch_tokens / sum(request.lengths)
  if placed.rows > 1.5 * recommended:
    yield (f'a row for each device makes batches of {placed.rows} rows, where {request.recipe} '
           f'recommends {recommended:.0f}: fewer chips suffice')
  epochs = tokens / (request.unique_tokens or math.inf)
  if epochs > 4:
    yield (f'{epochs:.1f} epochs of {request.unique_tokens:.3g} unique tokens: beyond 4, repeats '
           'have diminishing value (Muennighoff et al. 2023)')
  if request.unique_tokens and best.loss is not None:
    saturated = request.constraints.min_loss(law.form) + 0.001
    if best.loss < saturated:
      needed = request.constraints.flops_for(law.form, saturated)
      yield (f'{needed:.3g} FLOPs reach this loss to 0.001: more compute on so few unique tokens '
             'does not lower the loss')
  if PRESETS[request.family].lengths[0]:
    yield ('the laws were fitted on decoder-only models and are not validated for the family '
           f'{request.family}')
