"""Bytes of a model's weights in each format that it can be held or exported in."""

import math

import jax

from t5x_lite import models
from t5x_lite.adaptation.quantization.quantized import Quantized
from t5x_lite.core import trees
from t5x_lite.core.dataclass_checks import FieldError
from t5x_lite.core.errors import UserError
from t5x_lite.interop import compressed_tensors, gguf_layout, hf_configs, huggingface
from t5x_lite.models import ModelConfig

CODES = ('int8', 'int4', 'nf4')   # of import --quantize, at its defaults


def weight_bytes(config: ModelConfig) -> dict[str, int]:
  """{'gguf q4_0': bytes} of every format that has the model, to the byte.

  Of files these are the bytes after the header, which holds names, shapes, and in GGUF the
  tokenizer: of safetensors the tensors, of GGUF with the padding between them. `codes` are those of
  a run that was imported with --quantize: in memory, and in a checkpoint before it is compressed.
  """
  network = models.build_network(config)
  held = lambda tree: sum(math.prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves(tree))
  found = {'checkpoint float32': held(network.shapes)}
  for name in CODES:
    try:
      adapted = Quantized(format=name).adapt(network)
    except FieldError:   # blocks of 64 do not divide a kernel
      continue
    found[f'codes {name}'] = sum(
        held(x if (layout := adapted.quantized(path)) is None else layout.struct(x))
        for path, x in trees.flatten(network.shapes).items())
  try:
    model_type = hf_configs.model_type_of(config)
  except UserError:   # no other library has it
    return found
  shapes = huggingface.their_shapes(model_type, config)
  values = sum(map(math.prod, shapes.values()))
  found |= {'huggingface float32': 4 * values, 'huggingface bfloat16': 2 * values}
  for dtype in compressed_tensors.BITS:
    try:
      packing = compressed_tensors.packing_of(config, dtype)
    except UserError:
      continue
    layers = compressed_tensors.linear_layers(model_type, config)
    found[f'compressed-tensors {dtype}'] = sum(
        packing.nbytes(shape) if name in layers else 2 * math.prod(shape)
        for name, shape in shapes.items())
  try:
    for dtype in gguf_layout.BLOCKS:
      found[f'gguf {dtype}'] = gguf_layout.data_bytes(config, dtype)
  except UserError:
    pass
  return found


def as_text(sizes: dict[str, int], parameters: int) -> str:
  """A table of formats: bytes, GB (10^9), and bits of each of so many parameters."""
  rows = [('format', 'bytes', 'GB', 'bits a parameter')]
  rows += [(name, f'{size:,}', f'{size / 1e9:.2f}', f'{8 * size / parameters:.3f}')
           for name, size in sizes.items()]
  widths = [max(map(len, column)) for column in zip(*rows)]
  return '\n'.join('  '.join((row[0].ljust(widths[0]), *(
      cell.rjust(width) for cell, width in zip(row[1:], widths[1:])))) for row in rows)
