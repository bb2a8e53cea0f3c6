"""Published rules for peak learning rate (of AdamW), batch size (in tokens) and warm-up."""

from typing import NamedTuple

MAX_WARMUP = 0.1   # fraction of a run's tokens
MAX_RATE = 0.02    # above all that these rules give inside the range of their sweeps
# Recipe -> the (min, max) of what its sweeps covered; parameters without embeddings.
RECIPES = {
    'step_law': {'parameters': (59e6, 1.07e9), 'tokens': (2e9, 1e11)},
    'deepseek': {'flops': (1e17, 2e19)},
    'porian': {'parameters': (5e6, 9e8)},
}
_SYMBOLS = {'parameters': 'N', 'tokens': 'D', 'flops': 'C'}


class Recipe(NamedTuple):
  learning_rate: float
  batch_tokens: float


def compute_recipe(name: str, *, parameters: float, tokens: float, flops: float) -> Recipe:
  """Learning rate, at most MAX_RATE, and batch size by the rule of this name, one of RECIPES.

  Args:
    parameters: without embeddings.
    flops: of the whole training run.
  """
  rule = _unbounded(name, parameters, tokens, flops)
  return rule._replace(learning_rate=min(rule.learning_rate, MAX_RATE))


def _unbounded(name: str, parameters: float, tokens: float, flops: float) -> Recipe:
  if name == 'step_law':
    return step_law(parameters, tokens)
  return deepseek(flops) if name == 'deepseek' else porian(parameters)


def list_warnings(name: str, *, parameters: float, tokens: float, flops: float) -> list[str]:
  """A line if a rule is used outside the runs behind it, and one if its rate is bounded."""
  run = {'parameters': parameters, 'tokens': tokens, 'flops': flops}
  outside = []
  for quantity, (low, high) in RECIPES[name].items():
    factor = max(run[quantity] / high, low / run[quantity])
    if factor > 1:
      outside.append(f'{_SYMBOLS[quantity]} = {run[quantity]:.3g} is a factor of {factor:.3g} '
                     f'outside its {low:.3g} to {high:.3g}')
  lines = [f'learning rate and batch size are extrapolated by {name}: {", ".join(outside)}'
           ] if outside else []
  rule = _unbounded(name, parameters, tokens, flops)
  if rule.learning_rate > MAX_RATE:
    lines.append(f'{name} gives a peak rate of {rule.learning_rate:.3g}, above that of all runs '
                 f'behind these rules: {MAX_RATE:g} is planned')
  return lines


def step_law(parameters: float, tokens: float) -> Recipe:
  """Li et al. 2025, "Predictable Scale: Part I, Step Law", arXiv 2503.04715, equation 1.

  N counts no embeddings. As printed; its bootstrap means give 2 % more.
  """
  return Recipe(1.79 * parameters ** -0.713 * tokens ** 0.307, 0.58 * tokens ** 0.571)


def deepseek(flops: float) -> Recipe:
  """DeepSeek-AI 2024, arXiv 2401.02954, equation 1."""
  return Recipe(0.3118 * flops ** -0.125, 0.2920 * flops ** 0.3271)


def porian(parameters: float) -> Recipe:
  """Porian et al. 2024, arXiv 2406.19146, for beta2 of 0.99 and more at small batches.

  OLMo-core takes half of its learning rate.
  """
  scale = parameters / 108e6
  return Recipe(0.0047 * scale ** (-1 / 3), 2048 * 160 * scale ** (2 / 3))


def warmup_tokens(parameters: float, tokens: float) -> float:
  """As many tokens as parameters (Porian et al. 2024, section 3.3), at most MAX_WARMUP of all."""
  return min(parameters, MAX_WARMUP * tokens)
