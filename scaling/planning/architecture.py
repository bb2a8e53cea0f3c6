"""From a number of parameters to a Transformer that can be built, with the proportions of a family.

Widths are multiples of what the hardware likes and the mesh divides. How deep a width wants to be
follows the published ladders: width / depth rises from about 32 at a million parameters by way of
64 at 125 million (GPT-3, table 2.1) to 128 at 7 billion and above, and matters little around there
(Kaplan et al. 2020, figure 5).
"""

import dataclasses
import functools
import math

from t5x_lite.core.errors import UserError
from t5x_lite.cost import accounting
from t5x_lite.models import ModelConfig


def snap(base: ModelConfig, parameters: float, *, multiple: int = 128, tensor: int = 1
         ) -> ModelConfig:
  """`base` with the width and depth whose exact number of parameters is about that.

  Head size, the ratio of MLP to width, queries a key-value head, and the ratio of the two stacks of
  an encoder-decoder are those of `base`, rounded.

  Args:
    base: any config of the family.
    parameters: all of them, embeddings and output layer included.
    multiple: of which widths of the residual stream and of MLPs are multiples.
    tensor: devices that heads and MLP are cut over.

  Raises UserError if not even one layer of the least width is so small.
  """
  wanted = _aspect(parameters)
  stacks = 1 if base.num_decoder_layers is None else 2
  # Heads of a width fill it, in most families; each device of `tensor` has whole key-value heads.
  heads = tensor * (base.num_heads // base.num_kv_heads)
  fills = base.num_heads * base.head_dim == base.embed_dim
  least = math.lcm(multiple, base.head_dim * heads) if fills else multiple
  ideal = (parameters * wanted / 12 / stacks) ** (1 / 3)
  step = least * 2 ** max(0, math.ceil(math.log2(ideal / least / 16)))
  first = max(1, round(ideal / 2 / step))
  shapes = []
  for width in range(first * step, max(first + 1, round(ideal * 1.5 / step)) * step + 1, step):
    rest, layer = _linear(base, width, multiple, tensor)
    middle = max(1, round((parameters - rest) / layer))
    for layers in {middle, max(1, middle - 1), middle + 1}:
      far = math.log((rest + layers * layer) / parameters)
      odd = math.log(width / layers / wanted)
      shapes.append((25 * far ** 2 + odd ** 2, abs(far), width, layers))
  _, far, width, layers = min(shapes)
  found = _deep(base, width, layers, multiple, tensor)
  if far > 0.35:
    raise UserError(f'{parameters:.3g} parameters: the nearest model that can be built has '
                    f'{accounting.parameters(found).total:,} (width {width}, {layers} layers); ask '
                    f'for about that many, or set a smaller multiple than {multiple}')
  return found


def _aspect(parameters: float) -> float:
  """Width / depth that is usual for so many parameters."""
  return min(max(64 * (parameters / 125e6) ** 0.15, 16), 128)


def _shaped(base: ModelConfig, width: int, layers: int, multiple: int, tensor: int, *,
            decoder_layers: int | None, scan: bool) -> ModelConfig:
  groups = base.num_heads // base.num_kv_heads
  kv_heads = tensor * max(1, round(base.num_kv_heads * width / base.embed_dim / tensor))
  unit = math.lcm(multiple, tensor)
  mlp = unit * max(1, round(base.mlp_dim / base.embed_dim * width / unit))
  return dataclasses.replace(
      base, embed_dim=width, num_layers=layers, num_heads=kv_heads * groups, mlp_dim=mlp,
      num_kv_heads=kv_heads, num_decoder_layers=decoder_layers, scan_layers=scan)


def _deep(base: ModelConfig, width: int, layers: int, multiple: int, tensor: int) -> ModelConfig:
  decoder = base.num_decoder_layers and max(
      1, round(layers * base.num_decoder_layers / base.num_layers))
  periods = [n % (base.full_attention_interval or 1) == 0 for n in (layers, decoder or 0)]
  return _shaped(base, width, layers, multiple, tensor, decoder_layers=decoder,
                 scan=base.scan_layers and all(periods))


@functools.lru_cache(maxsize=4096)
def _linear(base: ModelConfig, width: int, multiple: int, tensor: int) -> tuple[int, float]:
  """(parameters besides layers, parameters a layer, with its share of the other stack's)."""
  def count(layers, decoder_layers):
    return accounting.parameters(_shaped(
        base, width, layers, multiple, tensor, decoder_layers=decoder_layers, scan=False)).total

  one = base.num_decoder_layers and 1
  least = count(1, one)
  layer = count(2, one) - least
  if one is None:
    return least - layer, layer
  decoder = count(1, 2) - least
  return least - layer - decoder, layer + decoder * base.num_decoder_layers / base.num_layers
