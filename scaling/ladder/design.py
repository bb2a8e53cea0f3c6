"""The default ladder: small runs, chosen for what they tell of a large one and for their cost.

Budgets halve from the largest. At each budget the sizes are equally spaced in log N about the
optimum of that budget, on a grid of sqrt(2) that all budgets share, so that a size returns at other
durations. The runs of a size share one stable phase: the longest keeps checkpoints where the
shorter ones begin to decay, and these branch off there (Hägele et al. 2024), which saves the stable
phases of all but the longest.
"""

from collections.abc import Sequence
import dataclasses
import functools
import math

import numpy as np

from scaling.ladder import information
from scaling.ladder.manifest import Ladder, Run
from scaling.laws.laws import LAWS, ParametricLaw
from scaling.planning import architecture
from t5x_lite.core.errors import UserError
from t5x_lite.cost import accounting
from t5x_lite.models import ModelConfig

DECAY = 0.2          # fraction of a run's steps in which the rate decays to 0
WARMUP = 0.05        # fraction of the shortest run's steps
MIN_STABLE = 10      # steps of the shortest run before its decay
LARGEST = 0.01       # the largest rung, as a fraction of the target
# What a design is to tell of the target, at 95 %: N* to a factor, and the relative loss.
MAX_FACTOR, MAX_LOSS_ERROR = 2.5, 0.03
MIN_SIZES = 3        # models of each budget


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shape:
  """The shape of a ladder.

  Attributes:
    largest: 6 N D of the largest rungs.
    budgets: their number; each is half of the next.
    sizes: models of each budget.
    spread: largest to smallest of them, rounded to the grid.
    seeds: each trunk is repeated with so many.
  """
  largest: float
  budgets: int = 8
  sizes: int = 5
  spread: float = 16.0
  seeds: int = 1

  def __post_init__(self):
    if self.sizes < MIN_SIZES or self.budgets < 2:
      raise UserError(f'{self.sizes} sizes and {self.budgets} budgets: a law of five constants '
                      'needs at least 3 sizes and 2 budgets')
    if self.seeds < 1:
      raise UserError(f'--seeds={self.seeds}: give 1 or more')
    if not 1 < self.spread < math.inf:
      raise UserError(f'--spread={self.spread:g}: give the largest over the smallest size of a '
                      'budget, e.g. 16')

  def cells(self, law: ParametricLaw) -> list[tuple[int, float]]:
    """(size on the grid, FLOPs) of each run; size i has `grid_size(law, i)` parameters."""
    spacing = max(1, round(2 * math.log2(self.spread) / (self.sizes - 1)))
    first = -(spacing * (self.sizes - 1) // 2)
    found = []
    for i in range(self.budgets):
      flops = self.largest / 2 ** i
      shift = round(2 * math.log2(law.optimum(flops)[0] / law.optimum(self.largest)[0]))
      found += [(shift + first + spacing * j, flops) for j in range(self.sizes)]
    return found

  def grid_size(self, law: ParametricLaw, index: int) -> float:
    """N of a size: steps of sqrt(2) from the optimum of the largest budget."""
    return law.optimum(self.largest)[0] * 2 ** (index / 2)


def make_ladder(gin_files: Sequence[str], bindings: Sequence[str], *, target_flops: float,
                largest: float | None = None, multiple: int = 128, depth: int | None = None,
                law: ParametricLaw | None = None, tokens_per_parameter: float = 20.0,
                noise: float = information.OWN_NOISE, **shape) -> Ladder:
  """The ladder of a target and a base experiment of gin files and bindings; see `design_runs`.

  Args:
    largest: None: a hundredth of the target.
    depth: layers of every model; None: by the usual aspect ratio.
    law: estimate of the law; None: `nominal_law` of `tokens_per_parameter`.
    noise: of log loss, for the expected precision.
    shape: fields of Shape.
  """
  from importlib.metadata import version
  import platform

  from t5x_lite import __version__
  from t5x_lite.experiment import gin_config

  if not 0 < target_flops < math.inf:
    raise UserError(f'--target={target_flops:g}: give FLOPs, e.g. 1e21')
  for name, value in (('multiple', multiple), ('layers', depth)):
    if value is not None and value < 1:
      raise UserError(f'--{name}={value}: give 1 or more')
  if not 0 < noise < 1:
    raise UserError(f'--noise={noise:g}: give a fraction of the loss, e.g. 0.003')
  largest = LARGEST * target_flops if largest is None else largest
  if not 0 < largest < target_flops:
    raise UserError(f'--largest={largest:.3g}: give less than the target of {target_flops:.3g} '
                    'FLOPs, e.g. a hundredth')
  experiment, _ = gin_config.load_experiment(gin_files, [*bindings, "MODEL_DIR=''"])
  law = law or nominal_law(largest, tokens_per_parameter)
  ladder = Ladder(
      target_flops=target_flops, gin_files=tuple(gin_files), bindings=tuple(bindings),
      optimizer=type(experiment.optimizer).__name__, multiple=multiple,
      depth=depth, tokens_per_step=tokens_per_step(experiment),
      runs=design_runs(experiment, Shape(largest=largest, **shape), law, multiple, depth),
      versions={'python': platform.python_version(), 'jax': version('jax'),
                't5x_lite': __version__},
      assumed_law=dataclasses.asdict(law), noise=noise,
      seed_name=_seed_name(gin_files, bindings, experiment.seed))
  check_design(ladder)
  return ladder


def _seed_name(gin_files: Sequence[str], bindings: Sequence[str], seed: int) -> str:
  """The macro SEED if the experiment uses it, otherwise its field."""
  from t5x_lite.experiment import gin_config

  try:
    other, _ = gin_config.load_experiment(
        gin_files, [*bindings, f'SEED={seed + 1}', "MODEL_DIR=''"])
  except UserError:   # SEED is set and used nowhere
    return 'experiment.Experiment.seed'
  return 'SEED' if other.seed == seed + 1 else 'experiment.Experiment.seed'


def nominal_law(flops: float, tokens_per_parameter: float) -> ParametricLaw:
  """The law of Besiroglu et al. 2024 with the B that makes this D / N optimal at this budget."""
  if not 0 < tokens_per_parameter < math.inf:
    raise UserError(f'--tokens_per_parameter={tokens_per_parameter:g}: give D / N of the optimum, '
                    'e.g. 20')
  law = LAWS['besiroglu'].form
  n = math.sqrt(flops / 6 / tokens_per_parameter)
  d = tokens_per_parameter * n
  b = law.alpha * law.a * n ** -law.alpha * d ** law.beta / law.beta
  return dataclasses.replace(law, b=b)


def design_runs(experiment, shape: Shape, law: ParametricLaw, multiple: int,
                depth: int | None = None) -> tuple[Run, ...]:
  """The runs of a shape, trunks before their branches.

  Sizes of which the widths allow only one model are one. The learning rate follows N ** (-1/3) from
  that of the base experiment (Porian et al. 2024).

  Raises UserError if a budget has fewer than three models, or if a run has too few steps to warm up
  and decay.
  """
  models = _models(experiment, shape, law, multiple, depth)
  if isinstance(models, str):
    raise UserError(models + _cure(experiment, shape, law, multiple, depth))
  runs = []
  for seed in range(experiment.seed, experiment.seed + shape.seeds):
    for config, budgets in models:
      runs += _runs_of(experiment, config, budgets, seed)
  return tuple(runs)


def _models(experiment, shape: Shape, law: ParametricLaw, multiple: int, depth: int | None
            ) -> list[tuple[ModelConfig, list[float]]] | str:
  """The models, smallest first, each with its budgets, largest first; or why there are too few."""
  cells, found = shape.cells(law), {}
  for index in sorted({index for index, _ in cells}):
    wanted = shape.grid_size(law, index)
    try:
      config = architecture.config_for_size(experiment.model, wanted, multiple=multiple,
                                            depth=depth)
    except UserError:
      return f'no model of {wanted:.3g} parameters has widths that are multiples of {multiple}: '
    budgets = found.setdefault(count_parameters(config), (config, set()))[1]
    budgets |= {flops for i, flops in cells if i == index}
  for flops in {flops for _, flops in cells}:
    count = sum(flops in budgets for _, budgets in found.values())
    if count < MIN_SIZES:
      return (f'at {flops:.3g} FLOPs there are only {count} models whose widths are multiples of '
              f'{multiple}: ')
  return [(config, sorted(budgets, reverse=True)) for _, (config, budgets) in sorted(found.items())]


def _cure(experiment, shape: Shape, law: ParametricLaw, multiple: int, depth: int | None) -> str:
  """A change of settings with which there are enough models, if a simple one is enough."""
  works = lambda other, unit=multiple: isinstance(
      _models(experiment, other, law, unit, depth), list)
  unit = multiple
  while unit % 2 == 0 and unit > 8:
    unit //= 2
    if works(shape, unit):
      return f'set --multiple={unit}'
  for budgets in range(shape.budgets - 1, 2, -1):
    if works(dataclasses.replace(shape, budgets=budgets)):
      return f'set --budgets={budgets}'
  for factor in (4, 16, 64):
    if works(dataclasses.replace(shape, largest=factor * shape.largest)):
      return f'set --largest={factor * shape.largest:.3g}, with a larger target'
  return 'use a base experiment with a smaller vocabulary or smaller heads, or a larger --largest'


def _runs_of(experiment, config, budgets: Sequence[float], seed: int) -> list[Run]:
  """The runs of one size and seed, the longest first; the others branch off it."""
  per_step = tokens_per_step(experiment)
  parameters = count_parameters(config)
  shortest = min(budgets) / 6 / parameters / per_step
  stable = round((1 - DECAY) * shortest)     # each duration decays from a multiple of it
  if WARMUP * shortest < 1 or stable < MIN_STABLE:
    raise UserError(f'{parameters:,} parameters: the shortest run would have {shortest:.0f} steps '
                    f'of {per_step:,} tokens; raise --largest, lower --budgets, or use a smaller '
                    'batch')
  found = []
  for flops in budgets:
    factor = round(flops / min(budgets))
    steps = factor * stable + round(factor * DECAY * shortest)
    name = run_name(parameters, steps * per_step) + (
        '' if seed == experiment.seed else f'_s{seed}')
    found.append(make_run(
        experiment, config, name, steps, warmup=round(WARMUP * shortest),
        decay=steps - factor * stable, checkpoint_every=stable, seed=seed,
        branches_off=(found[0].name, factor * stable) if found else None))
  return found


def make_run(experiment, config, name: str, steps: int, *, warmup: int, decay: int,
             checkpoint_every: int, seed: int, branches_off: tuple[str, int] | None = None) -> Run:
  """A run of `config` on the base experiment's data, with its learning rate scaled to the size."""
  parameters = count_parameters(config)
  base = count_parameters(experiment.model)
  rate = peak_rate(experiment) * (base / parameters) ** (1 / 3)
  tokens = steps * tokens_per_step(experiment)
  row = _row_flops(config, experiment.row_lengths)
  shape = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)
           if getattr(config, field.name) != getattr(experiment.model, field.name)}
  return Run(name=name, shape=shape, parameters=parameters, tokens=tokens, steps=steps,
             flops=6.0 * parameters * tokens,
             exact_flops=row * experiment.data.batch_size * steps,
             learning_rate=float(f'{rate:.4g}'), warmup_steps=warmup, decay_steps=decay,
             checkpoint_every=checkpoint_every, branches_off=branches_off, seed=seed)


def base_experiment(ladder: Ladder):
  """The experiment that the runs of a ladder vary."""
  from t5x_lite.experiment import gin_config

  return gin_config.load_experiment(ladder.gin_files, [*ladder.bindings, "MODEL_DIR=''"])[0]


def config_of(ladder: Ladder, experiment, parameters: float) -> ModelConfig:
  """The model of about so many parameters; UserError if none is near that size."""
  return architecture.config_for_size(experiment.model, parameters, multiple=ladder.multiple,
                                      depth=ladder.depth)


@functools.cache
def count_parameters(config: ModelConfig) -> int:
  """All parameters of a model."""
  return accounting.parameters(config).total


@functools.cache
def _row_flops(config: ModelConfig, lengths: tuple[int, ...]) -> float:
  return float(accounting.train_flops(config, *lengths, causal=True))


def tokens_per_step(experiment) -> int:
  """Positions of a batch, of both stacks."""
  return experiment.data.batch_size * sum(experiment.row_lengths)


def peak_rate(experiment) -> float:
  """The peak rate of the base experiment's schedule; UserError if it has none."""
  schedule = experiment.optimizer.learning_rate
  rate = getattr(schedule, 'peak', None) or getattr(schedule, 'rate', None)
  if rate is None:
    raise UserError(f'{type(schedule).__name__} has no peak rate: use WSD, WarmupCosine or '
                    'Constant in the base experiment')
  return rate


def run_name(parameters: int, tokens: int) -> str:
  """'n1204224_d2211840': the exact figures, so that names are unique."""
  return f'n{parameters}_d{tokens}'


def expected(ladder: Ladder) -> information.Precision:
  """What the ladder is expected to tell of its target."""
  columns = np.array([(run.parameters, run.tokens) for run in ladder.runs], float).T
  return information.expected_precision(
      ParametricLaw(**ladder.assumed_law), *columns, [run.trunk for run in ladder.runs],
      ladder.target_flops, ladder.noise)


def check_design(ladder: Ladder) -> None:
  """Raises UserError for a ladder that cannot tell, or that costs more than its target."""
  if ladder.flops >= ladder.target_flops:
    raise UserError(f'the ladder costs {ladder.flops / ladder.target_flops:.0%} of the target that '
                    'it predicts: lower --largest, --sizes or --seeds, or train the target')
  told = expected(ladder)
  if told.size_factor > MAX_FACTOR or told.loss > MAX_LOSS_ERROR:
    raise UserError(
        f'with noise of {100 * ladder.noise:.2g} % these {len(ladder.runs)} runs are expected to '
        f'tell the optimal N of the target to a factor of {told.size_factor:.3g} and its loss to '
        f'{100 * told.loss:.2g} % ({MAX_FACTOR:g} and {100 * MAX_LOSS_ERROR:g} % are the most): '
        'raise --budgets, --sizes, --spread or --largest, or pass --noise if yours is lower')


def format_expected(ladder: Ladder) -> str:
  """The expected precision, and what it assumes, as text."""
  told = expected(ladder)
  law = ', '.join(f'{name} {value:.4g}' for name, value in ladder.assumed_law.items())
  return (f'Expected, at {told.level:.0%}: the optimal N of the target to a factor of '
          f'{told.size_factor:.3g}, its loss to {100 * told.loss:.2g} %\n'
          f'  if L = E + A / N^alpha + B / D^beta holds, near {law},\n'
          f'  with noise of {100 * ladder.noise:.2g} %, independent or shared by trunk')
