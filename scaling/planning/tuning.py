"""What a chip can tune: a model whole, by LoRA and by QLoRA, and the largest of its family."""

import dataclasses
from typing import Any

from scaling.planning.amounts import format_amount
from scaling.planning.architecture import SizeError, config_for_size
from t5x_lite.cost import accounting, summary, tuning
from t5x_lite.models import ModelConfig

_PROBES = 8      # models that are tried for each way
_CLOSE = 0.97    # a share of the memory from which a model is as large as it gets


def compare(config: ModelConfig, lengths: tuple[int, int], chip, optimizer) -> dict[str, Any]:
  """{way: the fields of cost.tuning.compare_ways and `largest`, (parameters, bytes) of the largest
  model of the family, or None} for steps of one row on one device, which recompute all activations.

  `optimizer` is as of memory.per_device.
  """
  options = dict(mesh={}, rows=1, optimizer=optimizer, platform=chip.platform)
  config = dataclasses.replace(config, remat='full', dtype=chip.dtype)
  found = tuning.compare_ways(config, lengths, **options)
  for way, cost in found.items():
    if 'refused' not in cost:
      cost['largest'] = _largest(config, lengths, way, cost['step'], chip.device_memory, options)
  return found


def _largest(base: ModelConfig, lengths: tuple[int, int], way: str, step: int, limit: float,
             options: dict[str, Any]) -> tuple[int, int] | None:
  """(parameters, bytes of a step) of the largest model like `base` that fits; None if none does.

  A step's bytes grow nearly as the parameters: each probe scales the last one.
  """
  best, size = None, accounting.parameters(base).total * limit / step
  for _ in range(_PROBES):
    try:
      config = config_for_size(base, size)
    except SizeError as e:
      config = e.nearest
    cost = tuning.compare_ways(config, lengths, ways=(way,), **options)[way]
    if 'refused' in cost:
      return best
    count, step = accounting.parameters(config).total, cost['step']
    if step <= limit and (best is None or count > best[0]):
      best = count, step
      if step >= _CLOSE * limit:
        break
    size = min(size, count) * limit / step * 0.99
  return best


def format_tuning(found: dict[str, Any], chip) -> list[str]:
  """The lines that the command prints."""
  lines = [f'Tuning on one device of {chip.device_memory / 1e9:.3g} GB, a row at a time, all '
           'activations recomputed', *summary.tuning_lines(found)]
  largest = ['-' if way.get('largest') is None else format_amount(way['largest'][0])
             for way in found.values()]
  return [*lines, summary.table_row('parameters of the largest that fits', *largest)]
