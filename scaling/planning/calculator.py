"""The cost of training a given model, and the loss that laws predict for it."""

import dataclasses
import math

from scaling.laws import intervals
from scaling.laws.experts import Mixture
from scaling.laws.intervals import Interval
from scaling.laws.laws import Law, ParametricLaw
from scaling.planning import predictions
from scaling.planning.budget import Budget
from scaling.planning.goodput import Range, utilisation_range
from scaling.planning.sizing import count_parameters
from t5x_lite.core.errors import UserError
from t5x_lite.cost import accounting, memory
from t5x_lite.models import ModelConfig
from t5x_lite.parallel.mesh import MESH_AXES, indivisible


@dataclasses.dataclass(frozen=True, kw_only=True)
class Expected:
  """A law's prediction for a model and its tokens; None is what the law does not predict.

  Attributes:
    parameters: N as the law counts it.
    loss, loss_interval: expected; None if the law has none, or `loss_reason` says why it is not
      that of this model.
    ratio: N over the optimal N for 6 N D.
    compute_overhead: 6 N D over the minimum FLOPs with that loss, of parametric laws.
    extrapolation: the factor by which 6 N D is outside the runs of the law.
  """
  parameters: float
  ratio: float
  loss: float | None
  loss_interval: Interval | None
  loss_reason: str
  compute_overhead: float | None
  extrapolation: float | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Training:
  """A model, its tokens, and their cost.

  Attributes:
    per_token: convention -> training FLOPs a token: '6N' (all parameters), 'exact' (products of
      matrices, all of attention, no input embedding), 'causal' (only unmasked attention).
    flops: those of all tokens, likewise; time and cost follow from 'exact'.
    utilisation, chip_hours_range: as of a Plan.
    expected: law -> its prediction.
  """
  config: ModelConfig
  lengths: tuple[int, int]
  parameters: 'accounting.Parameters'
  tokens: float
  per_token: dict[str, float]
  flops: dict[str, float]
  budget: Budget
  chip_hours: float
  dollars: float | None
  kwh: float | None
  utilisation: Range | None
  chip_hours_range: tuple[float, float] | None
  expected: dict[str, Expected]


def row_lengths(experiment, length: int | None, named: bool) -> tuple[tuple[int, int], str]:
  """((inputs, targets) of a row, what they are) of an experiment, or of a model that is named.

  A model whose RoPE was stretched after pre-training is counted at the length before.
  """
  config, (inputs, targets) = experiment.model, experiment.row_lengths
  stretched = getattr(config.rope_scaling, 'original_length', None)
  if length is not None:
    what = '--length'
  elif named and stretched and stretched < max(inputs, targets):
    length, what = stretched, (f'before RoPE is stretched to its {config.max_length:,}; '
                               '--length sets another')
  else:
    what = f'{"the model" if named else "the experiment"}\'s; --length sets another'
  if length is not None:
    if length < 1 or config.max_length is not None and length > config.max_length:
      most = '' if config.max_length is None else f' to {config.max_length:,}, its max_length'
      raise UserError(f'--length={length}: give 1{most or " or more"}')
    # The targets of an encoder-decoder keep their proportion.
    inputs, targets = ((length, round(length * targets / inputs)) if inputs else (0, length))
  size = f'{inputs:,} + {targets:,}' if inputs and targets else f'{inputs + targets:,}'
  return (inputs, targets), f'{size} tokens ({what})'


def mixture_of(config: ModelConfig) -> Mixture | None:
  """The experts of a model; None without."""
  if config.num_experts is None:
    return None
  return Mixture(config.num_experts, config.experts_per_token)


def per_token(config: ModelConfig, lengths: tuple[int, int]) -> dict[str, float]:
  """Training FLOPs a token by each convention; lengths are (inputs, targets) of a row."""
  size = sum(lengths)
  return {'6N': 6.0 * accounting.parameters(config).active,
          'exact': accounting.train_flops(config, *lengths) / size,
          'causal': accounting.train_flops(config, *lengths, causal=True) / size}


def estimate_training(config: ModelConfig, lengths: tuple[int, int], budget: Budget,
                      known: dict[str, Law], tokens: float | None = None) -> Training:
  """The cost of training on `tokens`, or on those that spend the budget.

  Raises UserError if neither is given, or if the tokens exceed the budget.
  """
  each = per_token(config, lengths)
  if tokens is None:
    if budget.flops is None:
      raise UserError('how many tokens? Give --tokens, --flops, --dollars, --kwh, or --chips with '
                      '--hours')
    tokens = budget.flops / each['exact']
  budget = dataclasses.replace(budget, loss=None).with_flops(tokens * each['exact'])
  flops = {name: tokens * value for name, value in each.items()}
  sizes, hours = accounting.parameters(config), budget.chip_hours(flops['exact'])
  like = None if budget.measured else utilisation_range(
      sizes.active, budget.chip.name, config.remat == 'full')
  return Training(
      config=config, lengths=lengths, parameters=sizes, tokens=tokens,
      per_token=each, flops=flops, budget=budget, chip_hours=hours, utilisation=like,
      chip_hours_range=like and like.around(hours, flops['exact'], budget.chip),
      dollars=budget.dollars(flops['exact']), kwh=budget.kwh(flops['exact']),
      expected={name: _expected(law, config, count_parameters(config, law.counted, lengths),
                                tokens) for name, law in known.items()})


def _expected(law: Law, config: ModelConfig, parameters: float, tokens: float) -> Expected:
  flops = 6 * parameters * tokens
  loss = law.form.loss(parameters, tokens) if hasattr(law.form, 'loss') else None
  # Optima of other forms do not minimise their loss.
  min_flops = law.form.flops_for(loss) if isinstance(law.form, ParametricLaw) else None
  of_loss = None if loss is None else intervals.bootstrap_intervals(
      law, lambda form: (form.loss(parameters, tokens),))
  reason = predictions.why_not_comparable(law, config.family == 'decoder_only', config.vocab_size)
  if not reason and loss is not None and loss >= (
      most := math.log(law.vocabulary or config.vocab_size)):
    reason = f'above the ln V = {most:.3g} of a uniform guess'
  if loss is None:
    reason = ''
  return Expected(
      parameters=parameters, ratio=parameters / law.form.optimum(flops)[0],
      loss=None if reason else loss, loss_interval=None if reason else of_loss and of_loss[0],
      loss_reason=reason,
      compute_overhead=None if min_flops is None else flops / min_flops,
      extrapolation=None if law.fitted is None else law.extrapolation(flops))


def estimate_memory(config: ModelConfig, budget: Budget, rows: int, lengths: tuple[int, int],
                    microbatches: int = 1, optimizer=None) -> dict[str, memory.Memory]:
  """Mesh ('fsdp 8') -> memory of a device, for the chips of the budget (default: one)."""
  devices = (budget.chips or 1) * budget.chip.devices
  found = {}
  for tensor in (1, 2, 4, 8):
    for axis in ('data', 'fsdp'):
      parts = devices // tensor
      if devices % tensor or tensor > 1 and (parts == 1) == (axis == 'fsdp'):
        continue
      mesh = {'tensor': tensor, axis: parts}
      if any(indivisible(config, mesh)):
        continue
      cut = [f'{axis} {mesh[axis]}' for axis in MESH_AXES if mesh.get(axis, 1) > 1]
      name = ' x '.join(cut) or 'one device'
      if name not in found:
        found[name] = memory.per_device(
            config, mesh=mesh, rows=max(rows, parts * microbatches), inputs_length=lengths[0],
            targets_length=lengths[1], microbatches=microbatches, optimizer=optimizer,
            platform=budget.chip.platform)
  return found
