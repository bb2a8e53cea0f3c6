"""Published rules for peak learning rate (of AdamW), batch size (in tokens) and warm-up."""

from typing import NamedTuple

RECIPES = ('step_law', 'deepseek', 'porian')
MAX_WARMUP = 0.1   # fraction of a run's tokens


class Recipe(NamedTuple):
  learning_rate: float
  batch_tokens: float


def compute_recipe(name: str, *, parameters: float, tokens: float, flops: float) -> Recipe:
  """Learning rate and batch size by the rule of this name, one of RECIPES.

  Args:
    parameters: without the input embedding.
    flops: of the whole training run.
  """
  if name == 'step_law':
    return step_law(parameters, tokens)
  return deepseek(flops) if name == 'deepseek' else porian(parameters)


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
