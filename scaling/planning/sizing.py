"""From N as a law counts it to a config of a family, and what a token of it costs."""

import dataclasses
import math

import numpy as np

from scaling.planning import architecture
from scaling.planning.budget import Budget
from scaling.planning.constraints import Constraints, Cost, six_n
from scaling.planning.request import PRESETS, Request
from scaling.planning.serving import Serving, estimate_serving
from t5x_lite.core.errors import UserError
from t5x_lite.cost import accounting
from t5x_lite.models import ModelConfig

_GRID = tuple(2.0 ** x for x in range(-4, 5))   # around a size, at which models are counted
_SERVED = tuple(np.geomspace(1e7, 1e12, 21))    # sizes at which serving is priced


def base_config(request: Request, dtype: str = 'bfloat16') -> ModelConfig:
  """The family's config with the request's vocabulary and length."""
  from t5x_lite.experiment import gin_config
  preset = PRESETS[request.family]
  config = gin_config.load_described([preset.config], preset.bindings).model
  inputs, targets = request.lengths
  length = inputs + targets if config.family == 'decoder_only' else max(inputs, targets)
  experts = {} if request.mixture is None else dict(
      num_experts=request.mixture.experts, experts_per_token=request.mixture.top_k,
      mlp_dim=max(1, config.mlp_dim // request.mixture.granularity))
  return dataclasses.replace(
      config, dtype=dtype, vocab_size=request.vocab_size or config.vocab_size,
      max_length=None if config.max_length is None else length, **experts)


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


def token_flops(config: ModelConfig, lengths: tuple[int, int]) -> float:
  """Training FLOPs a token of a row, all of attention counted."""
  return accounting.train_flops(config, *lengths) / sum(lengths)


def config_for_count(base: ModelConfig, counted: str, parameters: float, request: Request,
                     tensor: int = 1) -> ModelConfig:
  """The config whose N, as the law counts it, is about `parameters`, and at most --max_parameters.

  Raises SizeError if there is none.
  """
  build = lambda n: architecture.config_for_size(
      base, n, multiple=request.multiple, tensor=tensor, active=True)
  config = build(parameters)
  for _ in range(0 if counted == 'all' else 4):   # what is not counted depends on the width
    ratio = (accounting.parameters(config).active
             / count_parameters(config, counted, request.lengths))
    config = build(parameters * ratio)
  maximum = request.constraints.max_parameters
  if maximum is None:
    return config
  total = accounting.parameters(config).total
  try:
    for step in range(40):   # the nearest may be above the limit
      if count_parameters(config, counted, request.lengths) <= maximum:
        return config
      config = build(total * 0.98 ** (step + 1))
  except architecture.SizeError as e:
    config = e.nearest
  least = math.ceil(count_parameters(config, counted, request.lengths))
  raise UserError(f'--max_parameters={maximum:g}: no model of the family {request.family} with '
                  f'{base.vocab_size:,} tokens and widths of a multiple of {request.multiple} is '
                  f'so small: give --max_parameters={least}')


def token_cost(base: ModelConfig, counted: str, around: float, request: Request) -> Cost:
  """N as the law counts it -> training FLOPs a token of the family's model of that size.

  A smooth curve through the exact counts of models of a sixteenth to sixteen times `around`:
  matrices and all of attention at the request's length, no input embedding.
  """
  sizes, costs = [], []
  for factor in _GRID:
    try:
      config = architecture.config_for_size(
          base, around * factor, multiple=request.multiple, active=True)
    except UserError:   # no model is so small, or so deep
      continue
    n = count_parameters(config, counted, request.lengths)
    sizes.append(math.log(n))
    costs.append(math.log(token_flops(config, request.lengths) / 6 / n))
  if len(sizes) < 4:
    return six_n
  low, high = min(sizes), max(sizes)
  curve = np.polynomial.Polynomial.fit(sizes, costs, 2 if len(sizes) < 6 else 3)

  def cost(n: float) -> float:
    return 6 * n * math.exp(curve(min(max(math.log(n), low), high)))

  return cost


def server_of(config: ModelConfig, budget: Budget, request: Request) -> Serving | None:
  """The server of the requests that a plan names, half a row of prompt and of answer by default."""
  half = max(sum(request.lengths) // 2, 1)
  return estimate_serving(config, budget, request.prompt or half, request.generated or half)


def constraints_of(request: Request, budget: Budget) -> Constraints:
  """The constraints of a request, of which a budget in money or energy counts served hours.

  A generated token takes the hours that its server needs, mostly to read memory, which are more
  than a third of those of a token of training. A budget in FLOPs counts FLOPs.
  """
  constraints = request.constraints
  if request.served_tokens is None or request.dollars is None and request.kwh is None:
    return constraints
  base, sizes, flops = base_config(request, budget.chip.dtype), [], []
  for n in _SERVED:
    try:
      config = architecture.config_for_size(base, n, multiple=request.multiple, active=True)
    except UserError:   # no model is so small, or so large
      continue
    if server := server_of(config, budget, request):
      sizes.append(math.log(accounting.parameters(config).active))
      flops.append(math.log(server.hours * budget.rate))
  if len(sizes) < 2:
    return constraints

  def serving(n: float) -> float:
    x = math.log(n)   # beyond the curve, in proportion
    return math.exp(float(np.interp(x, sizes, flops)) + x - min(max(x, sizes[0]), sizes[-1]))

  return dataclasses.replace(constraints, serving=serving)


def served_flops(constraints: Constraints, config: ModelConfig, budget: Budget, request: Request,
                 each: float) -> float:
  """What the served tokens of this very model cost, in FLOPs of training; `each` is of a token."""
  server = None if constraints.serving is None else server_of(config, budget, request)
  return (request.served_tokens or 0) * (
      each / 3 if server is None else server.hours * budget.rate)
