"""From a budget to a run: the prediction of one law, rounded to a model, with its layout.

FLOPs are counted in two ways. A law's C is 6 N D, with N as the law counts it. A run's FLOPs are
`t5x_lite.cost.accounting.train_flops`, with attention and without the input embedding. Where the
law has a loss, N and D of a plan minimise it at equal FLOPs by the second count; other laws give
the N of their own count, and the tokens spend the budget.
"""

from collections.abc import Sequence
import dataclasses
import functools
import math

from scaling.laws import hyperparameters, intervals
from scaling.laws.intervals import Interval
from scaling.laws.laws import Law, ParametricLaw
from scaling.planning import own_runs, predictions, search, sizing
from scaling.planning.architecture import SizeError
from scaling.planning.budget import Budget, solve_budget
from scaling.planning.constraints import Constraints, Cost, six_n
from scaling.planning.goodput import Range, utilisation_range
from scaling.planning.layout import Layout
from scaling.planning.predictions import Prediction
from scaling.planning.refusals import infeasible, too_small
from scaling.planning.request import LAW, PRESETS, Request
from scaling.planning.search import Found, Sized
from scaling.planning.serving import Serving
from t5x_lite.core.errors import UserError
from t5x_lite.cost import accounting, hardware
from t5x_lite.models import ModelConfig

_MIN_STEPS = 50   # of a run on more devices than its batch needs


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
  """A run that can be launched, and its expected results.

  Attributes:
    budget: with chips and hours of the run, and its MFU.
    predictions: of all laws; `prediction` is that of `law`, which the plan follows.
    config: the model.
    total_parameters, parameters: all, and those that the law counts.
    optimum: (N, D) of the lowest loss at the run's FLOPs, as the law counts N.
    tokens: of training: steps x rows x tokens of a row.
    flops, flops_6nd: of training, exact (all of attention counted), and 6 N D as the law counts.
    loss, loss_interval: expected of this N and D; None if the law has no loss, or `loss_reason`
      says why it is not that of this model.
    rounding_loss: loss of this N less that of the optimum, at equal FLOPs.
    chip_hours, dollars, kwh: of training; None if price or power is not known.
    utilisation, chip_hours_range: those of published runs like it, and (fewest, most) chip-hours;
      None if the MFU was measured.
    compute_overhead: factor of the optimal N -> multiple of the FLOPs for the same loss, under the
      constraints; None without a parametric law, or above the largest model.
    prices: constraint -> (FLOPs for the same loss without it, loss without it).
    trained_alone: (N that reaches this loss with the least training, FLOPs of it with serving), as
      a law counts N; None if no tokens are served.
    serving_flops, serving: of the served tokens, and the server; None if none are served.
    serving_share: their fraction of the budget: of its chip-hours if it is money or energy, else of
      its FLOPs.
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
  optimum: tuple[float, float]
  tokens: int
  flops: float
  flops_6nd: float
  loss: float | None
  loss_interval: Interval | None
  loss_reason: str
  rounding_loss: float | None
  steps: int
  warmup_steps: int
  learning_rate: float
  layout: Layout
  chip_hours: float
  dollars: float | None
  kwh: float | None
  utilisation: Range | None
  chip_hours_range: tuple[float, float] | None
  compute_overhead: dict[float, float | None] | None
  prices: dict[str, tuple[float, float]]
  trained_alone: tuple[float, float] | None
  serving_flops: float
  serving_share: float
  serving: Serving | None
  warnings: tuple[str, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Goal:
  """What a plan is built for: the optimum of its law at the exact cost of a token."""
  request: Request
  budget: Budget
  law: Law
  best: Prediction
  cost: Cost
  flops: float
  optimum: tuple[float, float]
  constraints: Constraints


def predict_request(request: Request, recomputed: bool = False
                    ) -> tuple[Budget, dict[str, Law], list[Prediction]]:
  """The budget, the laws, and the prediction of each; UserError if the request is infeasible."""
  return _predict(request, recomputed)[:3]


def _predict(request: Request, recomputed: bool
             ) -> tuple[Budget, dict[str, Law], list[Prediction], Constraints]:
  """`predict_request`, and the constraints with the price of serving."""
  chip = hardware.find_chip(request.hardware, hardware.load_catalogue(request.prices))
  given = {name: getattr(request, name) for name in (
      'flops', 'loss', 'dollars', 'kwh', 'chips', 'hours', 'deadline', 'mfu', 'pue')}
  # How many chips it takes, and whether they are in time, the layout tells.
  solve = functools.partial(solve_budget, chip.with_price(request.price), recomputed=recomputed,
                            divide=False, **given)
  known = predictions.load_laws(request.fit, request.mixture)
  budget = solve()
  if request.runs:
    found = predictions.predict_all(budget, known, request.constraints)
    best = predictions.select_prediction(request.law_name, found, known, budget,
                                         request.constraints)
    own = own_runs.nearest_run(request.runs, chip.name, best.parameters)
    budget = solve(own_mfu=own.mfu, source=own.describe())
  constraints = sizing.constraints_of(request, budget)
  return budget, known, predictions.predict_all(budget, known, constraints), constraints


def make_plan(request: Request) -> Plan:
  """The plan of a request; UserError, with a cure, if it is infeasible."""
  buys = request.flops is None and request.loss is None   # the MFU decides what the budget buys
  try:
    plan = _plan(request, False, ('none', 'full'))
    if buys and request.mfu is None and plan.layout.remat == 'full':
      plan = _plan(request, True, ('full',))
  except (SizeError, predictions.TooSmallError) as e:
    raise UserError(too_small(str(e), request, _can_build)) from e
  return plan


def _plan(request: Request, recomputed: bool, remats: Sequence) -> Plan:
  budget, known, found, constraints = _predict(request, recomputed)
  name = request.law_name
  best = predictions.select_prediction(name, found, known, budget, constraints)
  law = known[name]
  base = sizing.base_config(request, budget.chip.dtype)
  reason = predictions.why_not_comparable(law, base.family == 'decoder_only', base.vocab_size)
  if request.loss is not None and reason:
    raise UserError(_not_comparable(request, law, base, known, reason))
  predictions.check_loss(name, law, best, base.vocab_size)
  goal = _goal(request, budget, law, best, base, constraints)
  run = _find(goal, base, recomputed, remats)
  return _finish(goal, run, tuple(found), reason)


def _can_build(request: Request) -> bool:
  """Whether there is a model for a request, on any chips."""
  try:
    budget, known, found, constraints = _predict(request, True)
    name = request.law_name
    best = predictions.select_prediction(name, found, known, budget, constraints)
    base = sizing.base_config(request, budget.chip.dtype)
    predictions.check_loss(name, known[name], best, base.vocab_size)
    _sized(_goal(request, budget, known[name], best, base, constraints), base, 1)
  except UserError:
    return False
  return True


def _goal(request: Request, budget: Budget, law: Law, best: Prediction, base: ModelConfig,
          constraints: Constraints) -> _Goal:
  """The optimum at the exact cost of a token; the law's own if it is not parametric."""
  if not isinstance(law.form, ParametricLaw):
    return _Goal(request=request, budget=budget, law=law, best=best, cost=six_n, flops=best.flops,
                 optimum=(best.parameters, best.tokens), constraints=constraints)
  flops, optimum, cost = best.flops, (best.parameters, best.tokens), six_n
  for _ in range(3):   # the curve of the cost is exact around the optimum
    around = optimum[0]
    cost = sizing.token_cost(base, law.counted, around, request)
    if request.loss is not None:
      flops = constraints.flops_for(law.form, request.loss, cost)
    optimum = constraints.optimum(law.form, flops, cost)
    if abs(math.log(optimum[0] / around)) < 1:
      break
  return _Goal(request=request, budget=budget, law=law, best=best, cost=cost, flops=flops,
               optimum=optimum, constraints=constraints)


def _sized(goal: _Goal, base: ModelConfig, tensor: int) -> Sized | None:
  """The model for this tensor parallelism; None if only others can be built."""
  request, lengths, (parameters, wanted) = goal.request, goal.request.lengths, goal.optimum
  try:
    config = sizing.config_for_count(base, goal.law.counted, parameters, request, tensor)
  except UserError:
    if tensor == 1:
      raise
    return None
  counted = sizing.count_parameters(config, goal.law.counted, lengths)
  each = sizing.token_flops(config, lengths)
  if request.loss is not None:
    tokens = request.constraints.tokens_for(goal.law.form, counted, request.loss, wanted)
  else:
    tokens = (goal.flops - sizing.served_flops(
        goal.constraints, config, goal.budget, request, each)) / each
  if not 0 < tokens < math.inf:
    return None
  rule = hyperparameters.compute_recipe(
      request.recipe, parameters=_without_embedding(config), tokens=tokens,
      flops=each * tokens)
  return Sized(config=config, counted=counted, tokens=tokens, flops=each * tokens,
               rows=rule.batch_tokens / sum(lengths))


def _without_embedding(config: ModelConfig) -> int:
  """Active parameters without embeddings, which recipes are of."""
  sizes = accounting.parameters(config)
  return sizes.active - sizes.embedding


def _find(goal: _Goal, base: ModelConfig, recomputed: bool, remats: Sequence) -> Found:
  """The model on its chips; UserError, with a cure that was tried, if there are none."""
  request, budget = goal.request, goal.budget
  sized = functools.cache(lambda tensor: _sized(goal, base, tensor))
  # A second pass is at the MFU of recomputation already.
  budget = dataclasses.replace(budget, measured=budget.measured or recomputed)
  work = any(getattr(request, name) is not None for name in ('flops', 'dollars', 'kwh', 'loss'))
  limit = request.hours or request.deadline
  if request.chips is not None and not work:
    limit = None   # chips and hours are the budget
  find = lambda **other: search.find_run(sized, budget, request.lengths, **{
      'chips': request.chips, 'limit': limit, 'remats': remats, **other})
  run, fastest = find()
  if run is None:
    raise UserError(infeasible(
        request, budget, limit, sized(1), fastest, find,
        functools.partial(_find_smaller, goal, base, recomputed, remats),
        functools.partial(_find_fewer, request, recomputed, remats)))
  rows, row_tokens = run.layout.rows, sum(request.lengths)
  steps = round(run.sized.tokens / row_tokens / rows)
  if steps < _MIN_STEPS and rows > search.SENSIBLE * run.sized.rows:
    raise UserError(
        f'{run.budget.chips:,} x {budget.chip.title} are too many: a row for each leaves {steps} '
        f'steps of {rows:,} rows, where {request.recipe} recommends {run.sized.rows:.0f} rows: '
        f'give --chips={find(chips=None, limit=None)[0].budget.chips}')
  return run


def _find_smaller(goal: _Goal, base: ModelConfig, recomputed: bool, remats: Sequence,
                  max_parameters: float) -> Found | None:
  """The run of a model of at most so many parameters, however long it takes; None if none fits."""
  if goal.request.experts is not None:
    return None
  request = dataclasses.replace(goal.request, max_parameters=max_parameters)
  best = goal.best
  if goal.cost is six_n:
    best = dataclasses.replace(best, parameters=max_parameters,
                               tokens=best.parameters * best.tokens / max_parameters)
  budget = dataclasses.replace(goal.budget, measured=goal.budget.measured or recomputed)
  try:
    smaller = _goal(request, budget, goal.law, best, base, dataclasses.replace(
        goal.constraints, max_parameters=max_parameters))
    found = search.find_run(functools.cache(lambda tensor: _sized(smaller, base, tensor)), budget,
                            request.lengths, chips=request.chips, limit=None, remats=remats)
  except UserError:
    return None
  return found[0]


def _find_fewer(request: Request, recomputed: bool, remats: Sequence, experts: int,
                chips: int | None) -> Found | None:
  """The run of a model with so many experts, however long it takes; None if there is none."""
  try:
    request = dataclasses.replace(request, experts=experts)
    budget, known, found, constraints = _predict(request, recomputed)
    best = predictions.select_prediction(request.law_name, found, known, budget, constraints)
    base = sizing.base_config(request, budget.chip.dtype)
    goal = _goal(request, budget, known[request.law_name], best, base, constraints)
    budget = dataclasses.replace(budget, measured=budget.measured or recomputed)
    return search.find_run(functools.cache(lambda tensor: _sized(goal, base, tensor)), budget,
                           request.lengths, chips=chips, limit=None, remats=remats)[0]
  except UserError:
    return None


def _finish(goal: _Goal, run: Found, found: tuple[Prediction, ...], reason: str) -> Plan:
  request, law, best, constraints = goal.request, goal.law, goal.best, goal.constraints
  config = dataclasses.replace(run.sized.config, remat=run.layout.remat)
  placed, budget, lengths, counted = run.layout, run.budget, request.lengths, run.sized.counted
  row_tokens, per_row = sum(lengths), accounting.train_flops(config, *lengths)
  # Rounded down, so that a budget is not exceeded.
  steps = max(1, int(run.sized.tokens / row_tokens / placed.rows * (1 + 1e-12)))
  trained = steps * placed.rows * row_tokens
  flops = float(steps * placed.rows * per_row)
  sizes = accounting.parameters(config)
  of_run = dict(parameters=_without_embedding(config), tokens=trained, flops=flops)
  rule = hyperparameters.compute_recipe(request.recipe, **of_run)
  recommended = rule.batch_tokens / row_tokens
  loss_of = lambda n, d: constraints.loss(law.form, n, d)
  interval = None if reason else intervals.bootstrap_intervals(
      law, lambda form: (constraints.loss(form, counted, trained),))
  parametric = isinstance(law.form, ParametricLaw)
  serving = (request.served_tokens or 0) * per_row / row_tokens / 3
  hours = budget.chip_hours(flops)
  like = None if request.mfu is not None else utilisation_range(
      sizes.active, budget.chip.name, placed.remat == 'full')
  served = sizing.served_flops(constraints, config, goal.budget, request, per_row / row_tokens)
  equal = (goal.flops - served) / per_row * row_tokens   # tokens of this N at the same FLOPs
  return Plan(
      request=request, budget=budget, predictions=found, prediction=best, law=law,
      config=config, lengths=lengths, total_parameters=sizes.total, parameters=counted,
      optimum=goal.optimum, tokens=trained, flops=flops, flops_6nd=6.0 * counted * trained,
      loss=None if reason else loss_of(counted, trained), loss_reason=reason,
      loss_interval=interval and interval[0],
      rounding_loss=(max(loss_of(counted, equal) - loss_of(*goal.optimum), 0.0)
                     if parametric else None),
      steps=steps, warmup_steps=max(1, round(
          hyperparameters.warmup_tokens(counted, trained) / placed.rows / row_tokens)),
      learning_rate=float(f'{rule.learning_rate:.3g}'), layout=placed,
      chip_hours=hours, dollars=budget.dollars(flops), kwh=budget.kwh(flops),
      utilisation=like, chip_hours_range=like and like.around(hours, flops, budget.chip),
      compute_overhead=(constraints.compute_overheads(law.form, goal.flops, goal.cost)
                        if parametric else None),
      prices=constraints.prices(law.form, goal.flops, goal.cost) if parametric else {},
      trained_alone=(constraints.trained_alone(law.form, goal.flops, goal.cost)
                     if parametric and request.served_tokens is not None else None),
      serving_flops=serving, serving_share=served / (served + flops),
      serving=(None if request.served_tokens is None
               else sizing.server_of(config, budget, request)),
      warnings=tuple(_warnings(goal, budget, recommended, placed, trained, of_run, per_row)))


def _not_comparable(request: Request, law: Law, base: ModelConfig, known: dict[str, Law],
                    reason: str) -> str:
  """Why a target loss of a law says nothing of a model, and the laws or flags that do."""
  cures = ['--fit=FOLDER, a law of runs like yours']
  if base.family == 'decoder_only':
    cures.append(f'--vocab_size={law.vocabulary}')
    if able := [name for name, other in known.items()
                if request.constraints.has_loss(other.form)
                and not predictions.why_not_comparable(other, True, base.vocab_size)]:
      cures.append(f'--law={able[0]}')
  else:
    cures.append('--flops in place of --loss')
  return (f'--loss={request.loss:g}: not the loss of this model: {reason}: give '
          + ', or '.join(cures))


def _warnings(goal: _Goal, budget: Budget, recommended: float, placed: Layout, tokens: int,
              of_run: dict, per_row: int):
  request, law, best = goal.request, goal.law, goal.best
  if outside := predictions.extrapolation_warning(best.law, best):
    yield outside
  yield from (f'{best.law}: {line}' for line in law.warnings)
  yield from hyperparameters.list_warnings(request.recipe, **of_run)
  if request.mixture is not None:
    lower = request.mixture.expansion ** -0.25
    yield (f'{request.recipe}, and the hours of published runs, are of models without experts: for '
           f'{request.mixture.expansion:.3g} times as many parameters in experts as are active, '
           f'Ludziejewski et al. 2025 lower the rate by a factor of {lower:.2g}')
  if stale := budget.chip.stale():
    yield stale
  if placed.rows > search.SENSIBLE * recommended:
    yield (f'a row for each device makes batches of {placed.rows:,} rows, where {request.recipe} '
           f'recommends {recommended:.0f}: the last of them are of little use')
  uncounted = per_row / sum(request.lengths) / 6 / of_run['parameters']
  if goal.cost is six_n and not 0.8 < uncounted < 1.25:
    yield (f'{best.law} has no loss, and allocates 6 N D: a token of this model costs '
           f'{uncounted:.2g} times 6 N without embeddings; --law={LAW} minimises its loss at the '
           'exact cost')
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
  if (request.served_tokens is not None and goal.constraints.serving is None
      and (request.dollars is not None or request.kwh is not None)):
    yield (f'what serving takes on {budget.chip.title} is not known: its share of the budget is by '
           'FLOPs')
  if budget.chip.dtype == 'float32':
    yield f'{budget.chip.title} has no bfloat16: activations, and its peak, are those of float32'
