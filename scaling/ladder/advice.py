"""The advice of `t5x-lite scaling suggest`: from finished runs to the next ones."""

from collections.abc import Sequence
import dataclasses
import functools
import math
import pathlib

from scipy import stats

from scaling.fitting import diagnostics, parametric
from scaling.fitting.runs import Runs, read_csv
from scaling.ladder import design, information, launch, manifest, registry, suggest
from scaling.ladder.manifest import Ladder, Run
from scaling.ladder.suggest import Candidate
from t5x_lite.core.errors import UserError

SPAN = 128     # at most, from the smallest to the largest budget of suggested runs
_MIN_NOISE = 1e-6   # of a run: a fit without residuals would make its runs tell everything
_NEAR = 0.9    # of the smallest N and D that were trained: the law may not hold below


@dataclasses.dataclass(frozen=True)
class Recipe:
  """A setting of which runs are finished: its table, its fit, and its ladder if it has one.

  Attributes:
    runs: finished, without outliers.
    planned: runs of the ladder that are not finished.
    notes: a line for what is left out.
  """
  path: pathlib.Path
  runs: Runs
  fit: parametric.Fit
  ladder: Ladder | None = None
  planned: tuple[Run, ...] = ()
  notes: tuple[str, ...] = ()

  @property
  def target(self) -> float | None:
    return self.ladder and self.ladder.target_flops

  @functools.cached_property
  def noise(self) -> information.Noise:
    """The noise that the fit estimates of the runs' log loss."""
    shared, own = self.fit.noise_model.estimate
    return information.Noise(max(own, _MIN_NOISE), shared)


def read_recipe(path: pathlib.Path) -> Recipe:
  """The recipe of a ladder's folder or a CSV file; UserError if its runs identify no law.

  Runs without a loss, and `diagnostics.outliers`, are left out and named.
  """
  ladder, planned, notes = None, (), []
  if path.is_dir():
    ladder = manifest.read_ladder(path)
    outcomes = [(run, launch.read_outcome(path, run)) for run in ladder.runs]
    planned = tuple(run for run, outcome in outcomes if outcome == launch.Outcome())
    failed = [run.name for run, outcome in outcomes if outcome.problem]
    notes += [f'{path}: {name} has no loss: left out' for name in failed]
    if planned:
      notes.append(f'{path}: {len(planned)} runs are not finished: taken as planned')
    if len(planned) + len(failed) == len(ladder.runs):
      raise UserError(f'{path}: no run is finished: t5x-lite scaling ladder run --folder={path}')
    table = launch.write_results(ladder, path, [*failed, *(run.name for run in planned)])
  runs = read_csv(path if ladder is None else table)
  try:
    _, fit, outliers = diagnostics.fit_kept(runs)
  except UserError as e:
    raise UserError(f'{path}: {e}') from e
  notes += [f'{path}: {outlier.name} is an outlier: left out' for outlier in outliers]
  return Recipe(path, fit.runs, fit, ladder, planned, tuple(notes))


@dataclasses.dataclass(frozen=True)
class Advice:
  """The runs to train next.

  Attributes:
    quantity: 'loss', 'size' or 'difference'.
    target: FLOPs.
    level: of the intervals.
    noise: of each recipe.
    before: half width of the interval now, of a log.
    runs: of which recipe, with the half width after each.
  """
  quantity: str
  target: float
  level: float
  noise: list[information.Noise]
  before: float
  runs: list[dict]


def advise(recipes: Sequence[Recipe], quantity: str, target: float, *, budget: float | None = None,
           error: float = 0.0, count: int = 10, largest: float | None = None,
           level: float = 0.95) -> Advice:
  """The runs that narrow a quantity at the target most for their FLOPs; see `suggest_runs`.

  Args:
    budget: FLOPs; None: a quarter of those of the finished runs.
    error: half width of the interval at which no more runs are needed.
    largest: FLOPs of one run; None: those of the largest, or a hundredth of the target.
  """
  trained = max(float(recipe.runs.flops.max()) for recipe in recipes)
  if not trained <= target < math.inf:
    raise UserError(f'--target={target:.3g}: give at least the FLOPs of the largest run, '
                    f'{trained:.3g}')
  if largest is not None and largest > target:
    raise UserError(f'--largest={largest:.3g}: a run of more FLOPs than the target of {target:.3g} '
                    'tells it by itself; give less')
  if budget is None:
    budget = sum(float(recipe.runs.flops.sum()) for recipe in recipes) / 4
  known, grids, free = [], [], 0
  for recipe in recipes:
    law, runs = recipe.fit.law, recipe.runs
    gradient = (information.size_gradient(law, target) if quantity == 'size'
                else information.loss_gradient(law, *law.optimum(target)))
    if quantity == 'difference':   # in nats
      gradient = gradient * law.loss(*law.optimum(target))
    planned = [(run.parameters, run.tokens) for run in recipe.planned]
    done = [*zip(runs.parameters, runs.tokens), *planned]
    known.append(suggest.Knowledge(law, recipe.noise, gradient, *zip(*done)))
    most = largest or max(float(runs.flops.max()), target / 100)
    taken = {(round(math.log(n), 1), round(math.log(d), 1))
             for n, d in done}
    least = min(most, max(most / SPAN, float(runs.flops.min())))
    grids.append([run for run in _buildable(recipe, suggest.candidate_grid(law, least, most))
                  if (round(math.log(run.parameters), 1), round(math.log(run.tokens), 1))
                  not in taken and run.parameters >= _NEAR * runs.parameters.min()
                  and run.tokens >= _NEAR * runs.tokens.min()])
    free += len(runs) - 5
  quantile = float(stats.t.isf((1 - level) / 2, free))
  before = quantile * math.sqrt(sum(each.variance() for each in known))
  chosen = suggest.suggest_runs(known, grids, budget, error=error / quantile, count=count)
  return Advice(quantity, target, level, [recipe.noise for recipe in recipes], before, [
      {'recipe': s.recipe, 'parameters': s.run.parameters, 'tokens': s.run.tokens,
       'flops': s.run.flops, 'after': quantile * s.error} for s in chosen])


def _buildable(recipe: Recipe, grid: list[Candidate]) -> list[Candidate]:
  """The candidates with the sizes of models of the ladder's experiment, each once."""
  if recipe.ladder is None:
    return grid
  experiment, sizes, found = design.base_experiment(recipe.ladder), {}, {}
  for run in grid:
    if run.parameters not in sizes:
      try:
        sizes[run.parameters] = design.count_parameters(
            design.config_of(recipe.ladder, experiment, run.parameters))
      except UserError:   # no model is near that size
        sizes[run.parameters] = None
    if count := sizes[run.parameters]:
      found.setdefault((count, round(math.log(run.flops), 3)),
                       Candidate(count, run.flops / 6 / count))
  return list(found.values())


def format_advice(advice: Advice) -> str:
  """The advice as text."""
  named = {'loss': 'loss of the optimal model', 'size': 'optimal N',
           'difference': 'difference of the losses of the two recipes'}[advice.quantity]
  show = {'loss': lambda x: f'to {100 * x:.3g} %', 'size': lambda x: f'x / {math.exp(x):.3g}',
          'difference': lambda x: f'± {x:.3g} nats'}[advice.quantity]
  noise = '; '.join(f'{100 * each.own:.2g} % a run and {100 * each.shared:.2g} % shared by a size'
                    for each in advice.noise)
  lines = [f'At {advice.target:.3g} FLOPs the {named} is known {show(advice.before)} '
           f'({advice.level:.0%}), with noise of {noise}']
  if not advice.runs:
    return '\n'.join([*lines, 'No run is suggested: it is known well enough, or no run fits into '
                      'the budget'])
  lines.append(f'{"recipe":>6}{"N":>12}{"D":>12}{"D/N":>9}{"FLOPs":>11}  then known')
  lines += [f'{run["recipe"] + 1:>6}{run["parameters"]:>12.4g}{run["tokens"]:>12.4g}'
            f'{run["tokens"] / run["parameters"]:>9.3g}{run["flops"]:>11.3g}  {show(run["after"])}'
            for run in advice.runs]
  total = sum(run['flops'] for run in advice.runs)
  return '\n'.join([*lines, f'Total: {total:.3g} FLOPs, {total / advice.target:.2%} of the target. '
                    'This holds if the law does; train them, and ask again'])


def add_runs(recipe: Recipe, advice: Advice, index: int) -> list[Run]:
  """Adds the suggested runs of a recipe to its ladder: manifest and gin files; returns them.

  Each starts from scratch, with the model of the ladder's experiment that is next to its size.

  Raises UserError without a ladder, and once a target of the ladder has begun.
  """
  from t5x_lite.training.run_folder import RunFolder

  ladder, folder = recipe.ladder, recipe.path
  if ladder is None:
    raise UserError(f'--add: {folder} is no folder of a ladder: train the runs yourself and add '
                    'their lines')
  for prediction in registry.read_predictions(folder):
    name = prediction['target']['name']
    if RunFolder(manifest.run_folder(folder, name)).read_metrics():
      raise UserError(f'--add: {name} of {folder} has begun, so that its prediction stands: design '
                      'another ladder')
  experiment, added = design.base_experiment(ladder), {}
  for wanted in (run for run in advice.runs if run['recipe'] == index):
    config = design.config_of(ladder, experiment, wanted['parameters'])
    count = design.count_parameters(config)
    steps = round(wanted['flops'] / 6 / count / ladder.tokens_per_step)
    decay, warmup = round(design.DECAY * steps), round(design.WARMUP * steps)
    if steps - decay < design.MIN_STABLE or warmup < 1:
      raise UserError(f'--add: {count:,} parameters would be trained for {steps} steps of '
                      f'{ladder.tokens_per_step:,} tokens: use a larger --largest')
    name = design.run_name(count, steps * ladder.tokens_per_step)
    added[name] = design.make_run(experiment, config, name, steps, warmup=warmup, decay=decay,
                                  checkpoint_every=max(1, steps // 4), seed=experiment.seed)
  known = {run.name for run in ladder.runs}
  new = [run for name, run in added.items() if name not in known]
  manifest.write_gin_files(ladder, new, folder)
  manifest.save_ladder(dataclasses.replace(ladder, runs=(*ladder.runs, *new)), folder)
  return new
