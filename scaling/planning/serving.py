"""What a served token costs: the prompt at once, then a token at a time from a cache.

The prompt (prefill) is limited by arithmetic, at the MFU of training. A generated token (decode)
reads all weights and the caches of its batch, and is limited by the memory's bandwidth, or by
arithmetic in large batches. Weights and caches are in the dtype of training.
"""

import dataclasses

from scaling.planning.budget import Budget, chip_counts
from t5x_lite.cost import accounting, memory
from t5x_lite.models import ModelConfig

MEMORY_FRACTION = 0.9   # of the memory, for weights and caches
BANDWIDTH_FRACTION = 0.6   # of the bandwidth, that decoding reaches (from memory: 0.5 to 0.7)
MAX_ROWS = 512          # requests at a time; larger batches make each wait


@dataclasses.dataclass(frozen=True, kw_only=True)
class Serving:
  """A server for requests of `prompt` and `generated` tokens.

  Attributes:
    chips: up to a node, or as few as hold the weights and a cache: those that generate cheapest.
    rows: requests at a time: as many caches as fit.
    cache_bytes: of a request when it ends.
    seconds: between two tokens of a request.
    prompt_hours, generated_hours: chip-hours of a token.
    limit: what decoding waits for: 'bandwidth' or 'arithmetic'.
  """
  prompt: int
  generated: int
  chips: int
  rows: int
  cache_bytes: int
  seconds: float
  prompt_hours: float
  generated_hours: float
  limit: str

  @property
  def hours(self) -> float:
    """Chip-hours of a token, of the prompt or generated, on average."""
    return ((self.prompt * self.prompt_hours + self.generated * self.generated_hours)
            / (self.prompt + self.generated))


def estimate_serving(config: ModelConfig, budget: Budget, prompt: int, generated: int
                     ) -> Serving | None:
  """The server of a model; None for an encoder, without the chip's bandwidth, or if nothing fits.

  An encoder-decoder encodes the prompt and decodes the rest.
  """
  chip = budget.chip
  if config.family == 'encoder_only' or chip.bandwidth is None:
    return None
  inputs, length = ((prompt, generated) if config.family == 'encoder_decoder'
                    else (0, prompt + generated))
  size = 2 if config.dtype == 'bfloat16' else 4
  weights = size * accounting.parameters(config).total
  cache = memory.cache_bytes(config, 1, length, inputs)
  held = lambda chips: MEMORY_FRACTION * chip.memory * chips - weights
  # Tokens of a prompt are the positions before the generated ones, in the forward pass of a row.
  if inputs:
    whole, first = (accounting.forward_flops(config, prompt, n, causal=True)
                    for n in (generated, 1))
  else:
    whole, first = (accounting.forward_flops(config, 0, n, causal=True)
                    for n in (length, prompt))
  filled = (prompt + generated / 2) / (prompt + generated)

  def serve(chips: int) -> Serving:
    rows = min(int(held(chips) // cache), MAX_ROWS)
    by_bandwidth = (weights + rows * cache * filled) / (
        chip.bandwidth * BANDWIDTH_FRACTION * chips)
    speed = chip.flops * budget.mfu * chips
    by_arithmetic = rows * (whole - first) / generated / speed
    seconds = max(by_bandwidth, by_arithmetic)
    return Serving(
        prompt=prompt, generated=generated, chips=chips, rows=rows, cache_bytes=cache,
        seconds=seconds, prompt_hours=first / prompt / speed * chips / 3600,
        generated_hours=seconds / rows * chips / 3600,
        limit='bandwidth' if by_bandwidth >= by_arithmetic else 'arithmetic')

  fitting = [n for n in chip_counts(chip) if held(n) >= cache]
  servers = [serve(n) for n in fitting if n <= max(chip.node, fitting[0])]
  return min(servers, key=lambda server: server.generated_hours, default=None)
