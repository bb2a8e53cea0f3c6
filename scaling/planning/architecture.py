"""From a number of parameters to the config of a Transformer with the proportions of a family.

Widths are multiples that suit the hardware and that the mesh divides. The aspect ratio follows
published model families: width / depth rises from about 32 at a million parameters through 64 at
125 million (GPT-3, table 2.1) to 128 at 7 billion and above; the loss is flat around it (Kaplan et
al. 2020, figure 5).
"""

import dataclasses
import functools
import math

from t5x_lite.core.errors import UserError
from t5x_lite.cost import accounting
from t5x_lite.models import ModelConfig

_MAX_FAR = 0.35   # log of the number of parameters over the one that is asked for


class SizeError(UserError):
  """No model has about so many parameters; `nearest` is the config of the nearest one."""

  def __init__(self, nearest: ModelConfig, message: str):
    super().__init__(message)
    self.nearest = nearest


def config_for_size(base: ModelConfig, parameters: float, *, multiple: int = 128, tensor: int = 1,
                    depth: int | None = None, active: bool = False) -> ModelConfig:
  """`base` with the width and depth whose exact number of parameters is close to `parameters`.

  Head size, the ratio of MLP to width, queries a key-value head, and the ratio of the two stacks of
  an encoder-decoder are those of `base`, rounded.

  Args:
    base: any config of the family.
    parameters: total, embeddings and output layer included.
    multiple: of which widths of the residual stream and of MLPs are multiples.
    tensor: devices over which heads and MLP are sharded.
    depth: number of layers; None: by the usual aspect ratio.
    active: whether `parameters` are those active for a token, where there are experts.

  Raises SizeError if one layer of the minimum width is too large.
  """
  wanted = _aspect(parameters)
  stacks = 1 if base.num_decoder_layers is None else 2
  # In most families the heads fill the width; each device of `tensor` has whole key-value heads.
  heads = tensor * (base.num_heads // base.num_kv_heads)
  fills = base.num_heads * base.head_dim == base.embed_dim
  min_width = math.lcm(multiple, base.head_dim * heads) if fills else multiple
  ideal = (parameters * wanted / 12 / stacks) ** (1 / 3) if depth is None else math.sqrt(
      parameters / 12 / stacks / depth)
  step = min_width * 2 ** max(0, math.ceil(math.log2(ideal / min_width / 16)))
  first = max(1, round(ideal / (2 if depth is None else 8) / step))
  shapes = []
  for width in range(first * step, max(first + 1, round(ideal * 1.5 / step)) * step + 1, step):
    rest, layer = _linear(base, width, multiple, tensor, active)
    middle = max(1, round((parameters - rest) / layer))
    for layers in {middle, max(1, middle - 1), middle + 1} if depth is None else {depth}:
      far = math.log((rest + layers * layer) / parameters)
      odd = math.log(width / layers / wanted) if depth is None else 0.0
      shapes.append((25 * far ** 2 + odd ** 2, abs(far), width, layers))
  _, far, width, layers = min(shapes)
  found = _deep(base, width, layers, multiple, tensor)
  if far > _MAX_FAR:
    raise SizeError(found, f'{parameters:.3g} parameters: the nearest model has '
                    f'{_count(found, active):,} (width {width}, {layers} layers, '
                    f'widths of a multiple of {multiple}, {base.vocab_size:,} tokens): ask for '
                    'about that many')
  return found


def _count(config: ModelConfig, active: bool) -> int:
  sizes = accounting.parameters(config)
  return sizes.active if active else sizes.total


def _aspect(parameters: float) -> float:
  """The usual width / depth of a model of this size."""
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
def _linear(base: ModelConfig, width: int, multiple: int, tensor: int, active: bool
            ) -> tuple[int, float]:
  """(parameters outside layers, parameters a layer, with those of the other stack pro rata)."""
  def count(layers, decoder_layers):
    return _count(_shaped(base, width, layers, multiple, tensor, decoder_layers=decoder_layers,
                          scan=False), active)

  one = base.num_decoder_layers and 1
  one_layer = count(1, one)
  layer = count(2, one) - one_layer
  if one is None:
    return one_layer - layer, layer
  decoder = count(1, 2) - one_layer
  return one_layer - layer - decoder, layer + decoder * base.num_decoder_layers / base.num_layers
