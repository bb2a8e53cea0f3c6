"""Which tensors a GGUF file of a model holds, and in which format: the rules of llama.cpp.

Nothing here needs the package gguf, so that sizes can be told without it.
"""

import dataclasses
import math

from t5x_lite.core.errors import UserError
from t5x_lite.interop import hf_configs, hf_tensors, huggingface
from t5x_lite.models import ModelConfig

# Values of a block, which has one scale in 16 bits, and its bytes.
BLOCKS = {'float32': (1, 4), 'float16': (1, 2), 'q8_0': (32, 34), 'q4_0': (32, 18)}
ALIGNMENT = 32   # bytes, of where each tensor begins
# model_type of transformers -> llama.cpp's architecture, and the one activation that it has there.
ARCHITECTURES = {'llama': ('llama', 'silu'), 'mistral': ('llama', 'silu'), 'gpt2': ('gpt2', 'gelu'),
                 'gemma': ('gemma', 'gelu'), 'gemma2': ('gemma2', 'gelu')}


@dataclasses.dataclass(frozen=True)
class GgufTensor:
  """A tensor of a file: its name in transformers, its shape and format here.

  `transposed` says that it is [inputs, outputs] in transformers, GPT's way; here a row has inputs.
  """
  theirs: str
  shape: tuple[int, ...]
  dtype: str
  transposed: bool = False

  @property
  def nbytes(self) -> int:
    """Of its data, without the padding after it."""
    values, size = BLOCKS[self.dtype]
    return math.prod(self.shape) // values * size

  @property
  def padded(self) -> int:
    """With the padding, which the last one has, too."""
    return -(-self.nbytes // ALIGNMENT) * ALIGNMENT


def model_type_of(config: ModelConfig) -> str:
  """The model_type whose architecture in llama.cpp computes the same; UserError if none does."""
  model_type = hf_configs.model_type_of(config)
  if model_type not in ARCHITECTURES:
    raise UserError(f'A model of the type {model_type!r} is not written as GGUF: '
                    f'{", ".join(ARCHITECTURES)} are')
  architecture, activation = ARCHITECTURES[model_type]
  for name, value in (('activation', activation), ('head', None), *(
      [('attention_scale', config.head_dim ** -0.5)] if model_type != 'gemma2' else []), *(
          [('tied_embeddings', True)] if model_type in ('gemma', 'gemma2') else [])):
    _require(config, architecture, name, value)
  if model_type == 'gemma2':
    _check_gemma2(config)
  return model_type


def _check_gemma2(config: ModelConfig) -> None:
  """llama.cpp knows Gemma 2's scale by its size, and has the window in every second layer."""
  size = config.embed_dim / config.num_heads if config.num_layers == 46 else config.head_dim
  _require(config, 'gemma2', 'attention_scale', size ** -0.5)
  _require(config, 'gemma2', 'full_attention_interval', 2)
  for name in ('attention_softcap', 'logits_softcap'):
    if getattr(config, name) is None:
      _require(config, 'gemma2', name, 'a number')


def _require(config: ModelConfig, architecture: str, name: str, value) -> None:
  got = getattr(config, name)
  same = math.isclose(got, value, rel_tol=1e-6) if isinstance(value, float) and got else (
      got == value)
  if not same:
    raise UserError(f'ModelConfig.{name} = {got!r} cannot be written as GGUF: the architecture '
                    f'{architecture!r} of llama.cpp has {value!r}')


def layout(config: ModelConfig, dtype: str) -> list[GgufTensor]:
  """All tensors of a model but those that follow from its config, in the order of the table.

  llama.cpp's rules: norms, biases and tables of positions stay in float32; a matrix whose rows no
  block divides is in float16. In q4_0 the output layer, or the embedding table that is one, is in
  q8_0: llama-quantize has its q6_K there, and q8_0 where q6_K does not fit.
  """
  model_type = model_type_of(config)
  table, shapes = hf_tensors.table(model_type, config), huggingface.their_shapes(
      model_type, config)
  output = 'embedder/tokens' if config.tied_embeddings else 'embedder/output'
  found = {}
  for tensor in table:
    shape, transposed = shapes[tensor.theirs], tensor.layout == 'conv1d'
    shape = shape[::-1] if transposed else shape
    kind = 'q8_0' if tensor.ours == output and dtype == 'q4_0' else dtype
    if len(shape) == 1 or tensor.ours == 'embedder/positions':
      kind = 'float32'
    elif shape[-1] % BLOCKS[kind][0]:
      kind = 'float16'
    found[tensor.theirs] = GgufTensor(tensor.theirs, shape, kind, transposed)
  return list(found.values())


def data_bytes(config: ModelConfig, dtype: str) -> int:
  """Bytes of a file from its first tensor on: all tensors with their padding."""
  factors = config.head_dim // 2 * 4 if config.rope_scaling is not None else 0
  return -(-factors // ALIGNMENT) * ALIGNMENT + sum(t.padded for t in layout(config, dtype))
