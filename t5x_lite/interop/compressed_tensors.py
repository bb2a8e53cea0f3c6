"""Linear layers in 4 or 8 bits as the library compressed-tensors packs them, for vLLM.

A weight [outputs, inputs] is held as integers with one scale for a group of neighbouring inputs, or
for all inputs of an output: symmetric, weights alone ("W4A16", "W8A16"; format pack-quantized).
"""

from collections.abc import Iterator
import dataclasses
from typing import Any

import jax.numpy as jnp
import numpy as np

from t5x_lite.core.errors import UserError
from t5x_lite.interop import hf_configs, hf_tensors, huggingface
from t5x_lite.models import ModelConfig

BITS = {'int4': 4, 'int8': 8}
GROUPS = (128, 64, 32)   # of inputs, that vLLM's kernels know
# What is read in 16 bits: scales, and all that is not packed.
DTYPE = 'bfloat16'
# Those whose linear layers are torch's Linear and that vLLM serves.
MODEL_TYPES = ('llama', 'mistral', 'gemma', 'gemma2')


@dataclasses.dataclass(frozen=True)
class Packing:
  """How the linear layers of a model are held.

  Attributes:
    bits: 4 or 8.
    group: inputs with one scale; None: all of an output.
  """
  bits: int
  group: int | None

  @property
  def config(self) -> dict[str, Any]:
    """quantization_config of config.json."""
    weights = {'num_bits': self.bits, 'type': 'int', 'symmetric': True, 'dynamic': False,
               'strategy': 'channel' if self.group is None else 'group', 'group_size': self.group}
    return {'quant_method': 'compressed-tensors', 'format': 'pack-quantized',
            'quantization_status': 'compressed', 'ignore': ['lm_head'],
            'config_groups': {'group_0': {'targets': ['Linear'], 'weights': weights,
                                          'input_activations': None, 'output_activations': None}}}

  def pack(self, name: str, weight: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """The three tensors that stand for a weight [outputs, inputs] of this name."""
    rows, columns = weight.shape
    half = 2 ** (self.bits - 1)
    grouped = weight.astype(np.float32).reshape(rows, -1, self.group or columns)
    # The range has one step more below zero, and its middle is where the library has it.
    scale = np.abs(grouped).max(-1, keepdims=True) / np.float32(half - 0.5)
    scale = scale.astype(jnp.bfloat16).astype(np.float32)
    codes = np.where(scale > 0, np.round(grouped / np.where(scale > 0, scale, 1)), 0)
    codes = np.clip(codes, -half, half - 1).reshape(rows, columns)
    yield f'{name}_packed', packed(codes.astype(np.int64) + half, self.bits)
    yield f'{name}_scale', scale[..., 0].astype(jnp.bfloat16)
    yield f'{name}_shape', np.asarray(weight.shape, np.int64)

  def nbytes(self, shape: tuple[int, int]) -> int:
    """Of the three tensors of a weight [outputs, inputs]."""
    rows, columns = shape
    words = -(-columns // (32 // self.bits))
    return rows * (4 * words + 2 * (columns // (self.group or columns))) + 2 * 8


def packed(codes: np.ndarray, bits: int) -> np.ndarray:
  """Codes [rows, columns] of `bits` bits, from 0, as int32 words: the first is in the lowest bits.

  A row is filled up with zeros to whole words.
  """
  number = 32 // bits
  padded = np.pad(codes, ((0, 0), (0, -codes.shape[1] % number))).astype(np.uint32)
  shifted = padded.reshape(len(codes), -1, number) << (bits * np.arange(number, dtype=np.uint32))
  return np.bitwise_or.reduce(shifted, -1).view(np.int32)


def packing_of(config: ModelConfig, dtype: str) -> Packing:
  """How a model is packed: int4 in the largest group that divides all inputs, int8 by output.

  Raises UserError for a model that vLLM does not read so, or whose inputs no group divides.
  """
  model_type = hf_configs.model_type_of(config)
  if model_type not in MODEL_TYPES:
    raise UserError(f'A model of the type {model_type!r} is not written as compressed-tensors: '
                    f'{", ".join(MODEL_TYPES)} are')
  if dtype == 'int8':
    return Packing(8, None)
  shapes = huggingface.their_shapes(model_type, config)
  inputs = {shapes[name][1] for name in linear_layers(model_type, config)}
  group = next((g for g in GROUPS if not any(n % g for n in inputs)), None)
  if group is None:
    raise UserError(f'int4 needs groups of {", ".join(map(str, GROUPS))} inputs, and the linear '
                    f'layers have {", ".join(map(str, sorted(inputs)))}: export it as int8')
  return Packing(BITS[dtype], group)


def linear_layers(model_type: str, config: ModelConfig) -> set[str]:
  """Names of the weights that are packed: of all linear layers but the output layer."""
  output = hf_tensors.ties(model_type).output
  return {t.theirs for t in hf_tensors.table(model_type, config)
          if t.layout == 'dense' and t.ours.endswith('/kernel') and t.theirs != output}
