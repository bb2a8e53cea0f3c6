"""Published rules for peak learning rate (of AdamW) and batch size (in tokens)."""

from typing import NamedTuple


class Recipe(NamedTuple):
  learning_rate: float
  batch_tokens: float


def step_law(parameters: float, tokens: float) -> Recipe:
  """Li et al. 2025, "Predictable Scale: Part I, Step Law", arXiv 2503.04715, equation 1.

  N counts no embeddings. As printed; the means of its bootstrap give 2 % more.
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
