"""What it takes to tune a model whole, by LoRA, and by LoRA on a quantised base, side by side."""

from collections.abc import Mapping, Sequence
import dataclasses
import math
from typing import Any

from t5x_lite import models
from t5x_lite.adaptation.adaptation import Adaptation, innermost
from t5x_lite.adaptation.lora import Lora
from t5x_lite.adaptation.quantization.quantized import Quantized
from t5x_lite.core import trees
from t5x_lite.core.errors import UserError
from t5x_lite.cost import accounting, memory
from t5x_lite.models import ModelConfig, Network

FULL, LORA, QLORA = 'full', 'LoRA', 'QLoRA'


def ways_to_tune(adaptation: Adaptation | None = None) -> dict[str, Adaptation | None]:
  """{name: adaptation}: with the settings of a run's own where it is of LoRA or Quantized."""
  lora = innermost(adaptation)
  lora = lora if isinstance(lora, Lora) else Lora()
  quantized = adaptation if isinstance(adaptation, Quantized) else Quantized(adaptation=lora)
  return {FULL: None, LORA: lora, QLORA: dataclasses.replace(quantized, adaptation=lora)}


def compare_ways(config: ModelConfig, row_lengths: tuple[int, int], *, mesh: Mapping[str, int],
                 rows: int, adaptation: Adaptation | None = None,
                 ways: Sequence[str] = (FULL, LORA, QLORA), **options: Any
                 ) -> dict[str, dict[str, Any]]:
  """{way: its `trained_parameters`, `bits` held of a parameter of the base, `train_flops_per_token`
  and, in bytes of a device, its `state` (parameters, gradients, moments) and `step`}.

  A way that the model does not allow has a `refused` alone, which says why.

  Args:
    config: of the model.
    row_lengths: tokens of a row that (an encoder, a decoder) reads.
    mesh: sizes of the mesh axes.
    rows: of the global batch.
    adaptation: whose settings are taken.
    ways: which are compared.
    options: others of memory.per_device, such as `optimizer`.
  """
  base, found = models.build_network(config), {}
  adaptations = ways_to_tune(adaptation)
  for way in ways:
    adapted = adaptations[way]
    try:
      network = base if adapted is None else adapted.adapt(base)
      found[way] = _cost(network, row_lengths, mesh, rows, options)
    except UserError as e:
      found[way] = {'refused': str(e)}
  return found


def _cost(network: Network, row_lengths: tuple[int, int], mesh: Mapping[str, int], rows: int,
          options: dict[str, Any]) -> dict[str, Any]:
  config = network.config
  step = memory.per_device(
      config, mesh=mesh, rows=rows, inputs_length=row_lengths[0], targets_length=row_lengths[1],
      network=network, **options)
  sizes = {name: math.prod(x.shape) for name, x in trees.flatten(network.shapes).items()}
  base = sum(n for name, n in sizes.items() if not network.is_added(name))
  held = memory.held_bytes(network)
  added = 4 * sum(n for name, n in sizes.items() if network.is_added(name))
  return {
      'trained_parameters': sum(n for name, n in sizes.items() if network.is_trained(name)),
      'bits': 8 * (held - added) / base,
      'train_flops_per_token': accounting.train_flops(
          config, *row_lengths, network=network) / sum(row_lengths),
      'state': step.parameters + step.gradients + step.optimizer, 'step': step.total}
