"""Models as GGUF files, which llama.cpp and what is built on it read.

The names are those of the package gguf. A matrix is [outputs, inputs]. The rotary pairs of LLaMA's
queries and keys are neighbouring elements there, and halves of a head in transformers.
"""

import dataclasses
import pathlib

import numpy as np

from t5x_lite.core.errors import UserError
from t5x_lite.core.files import atomic_file, check_writable
from t5x_lite.interop import gguf_layout, huggingface
from t5x_lite.interop.gguf_tokenizer import Vocabulary
from t5x_lite.models import ModelConfig
from t5x_lite.models.positions import rope_frequencies

_FILE_TYPES = {'float32': 'ALL_F32', 'float16': 'MOSTLY_F16', 'q8_0': 'MOSTLY_Q8_0',
               'q4_0': 'MOSTLY_Q4_0'}
_TYPES = {'float32': 'F32', 'float16': 'F16', 'q8_0': 'Q8_0', 'q4_0': 'Q4_0'}
_FREQUENCIES = 'rope_freqs.weight'
_DEFAULT_LENGTH = 2048   # as in an exported config.json


@dataclasses.dataclass(frozen=True)
class Prompting:
  """How llama.cpp begins and ends a text.

  Attributes:
    bos, eos, pad: ids; None for one that there is none of.
    eot: another id that ends an answer.
    add_bos, add_eos: whether a text begins and ends so.
    chat_template: in Jinja.
  """
  bos: int | None = None
  eos: int | None = None
  pad: int | None = None
  eot: int | None = None
  add_bos: bool = False
  add_eos: bool = False
  chat_template: str | None = None


def save_gguf(path: pathlib.Path, config: ModelConfig, params, vocabulary: Vocabulary,
              prompting: Prompting, dtype: str) -> list[str]:
  """Writes a file of all that llama.cpp needs; returns lines for the user.

  A tensor is converted after the one before it is written. The file appears when it is complete.

  Args:
    path: must not exist.
    config: of a model that llama.cpp has.
    params: its parameters.
    vocabulary: with a token for each row of the embedding table.
    prompting: how a text begins and ends.
    dtype: float32, float16, q8_0 or q4_0.

  Raises:
    UserError: the file exists, llama.cpp has no such model, or gguf is not installed.
  """
  check_target(path)
  gguf = _gguf()
  model_type = gguf_layout.model_type_of(config)
  architecture, _ = gguf_layout.ARCHITECTURES[model_type]
  tensors = {t.theirs: t for t in gguf_layout.layout(config, dtype)}
  names = gguf.get_tensor_name_map(
      getattr(gguf.MODEL_ARCH, architecture.upper()), config.num_layers)
  with atomic_file(path) as file:
    writer = gguf.GGUFWriter(file.name, architecture)   # which opens the file itself
    try:
      notes = _add_metadata(gguf, writer, config, dtype, path.stem)
      _add_tokenizer(gguf, writer, vocabulary, prompting)
      factors = _frequency_factors(config)
      if factors is not None:
        writer.add_tensor_info(_FREQUENCIES, factors.shape, factors.dtype, factors.nbytes)
      for name, t in tensors.items():
        kind = getattr(gguf.GGMLQuantizationType, _TYPES[t.dtype])
        writer.add_tensor_info(
            names.get_name(name, ('.weight', '.bias')), gguf.quant_shape_to_byte_shape(
                t.shape, kind) if '_' in t.dtype else t.shape,
            np.dtype(np.uint8 if '_' in t.dtype else t.dtype), t.nbytes, kind)
      writer.write_header_to_file()
      writer.write_kv_data_to_file()
      writer.write_ti_data_to_file()
      if factors is not None:
        writer.write_tensor_data(factors)
      for name, array in huggingface.their_tensors(model_type, config, params):
        writer.write_tensor_data(_converted(gguf, model_type, config, tensors[name], array))
    finally:
      writer.close()
  wide = [t.theirs for t in tensors.values() if len(t.shape) == 2 and t.dtype == 'float16' != dtype]
  if wide:
    notes.append(f'{len(wide)} matrices, such as {wide[0]}, are in float16: {dtype} has blocks of '
                 f'{gguf_layout.BLOCKS[dtype][0]}, which do not divide their rows')
  return [*notes, *vocabulary.notes]


def check_target(path: pathlib.Path) -> None:
  """Raises UserError now if a file cannot be written there, or not as GGUF."""
  if path.exists():
    raise UserError(f'{path} exists and is not overwritten: name another file')
  _gguf()
  check_writable(path)


def _gguf():
  try:
    import gguf
  except ImportError:
    raise UserError("GGUF files need gguf: pip install -e '.[gguf]'") from None
  return gguf


def _converted(gguf, model_type: str, config: ModelConfig, tensor: gguf_layout.GgufTensor,
               array: np.ndarray) -> np.ndarray:
  """A tensor of transformers as it is written."""
  array = array.T if tensor.transposed else array
  heads = {'q_proj': config.num_heads, 'k_proj': config.num_kv_heads}
  part = tensor.theirs.split('.')[-2]
  if part in heads and gguf_layout.ARCHITECTURES[model_type][0] == 'llama':
    array = pairs_of_halves(array, heads[part])
  if config.norm_unit_offset and part.endswith('norm'):
    array = array + 1
  kind = getattr(gguf.GGMLQuantizationType, _TYPES[tensor.dtype])
  return gguf.quants.quantize(np.ascontiguousarray(array, np.float32), kind)


def pairs_of_halves(array: np.ndarray, heads: int) -> np.ndarray:
  """Rows whose rotary pairs are halves of a head -> neighbours: llama.cpp's order of q and k."""
  halves = array.reshape(heads, 2, -1, *array.shape[1:])
  return halves.swapaxes(1, 2).reshape(array.shape)


def _frequency_factors(config: ModelConfig) -> np.ndarray | None:
  """By how much each rotary frequency is divided, [head_dim / 2]: Llama 3's scaling as a tensor."""
  if config.rope_scaling is None:
    return None
  plain, scaled = (rope_frequencies(config.head_dim, config.rope_theta, scaling)
                   for scaling in (None, config.rope_scaling))
  return (plain / scaled).astype(np.float32)


def _add_metadata(gguf, writer, config: ModelConfig, dtype: str, name: str) -> list[str]:
  """Writes the architecture; returns lines for the user."""
  length, window, notes = config.max_length or _DEFAULT_LENGTH, config.sliding_window, []
  if writer.arch == 'llama' and window is not None and length > window:
    length = window   # up to which all of a text is within it
    notes.append(f'The context is {window} tokens, the window of the model: llama.cpp has none in '
                 'this architecture')
  writer.add_name(name)
  writer.add_file_type(getattr(gguf.LlamaFileType, _FILE_TYPES[dtype]))
  if '_' in dtype:
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
  writer.add_vocab_size(config.vocab_size)
  writer.add_context_length(length)
  writer.add_embedding_length(config.embed_dim)
  writer.add_block_count(config.num_layers)
  writer.add_feed_forward_length(config.mlp_dim)
  writer.add_head_count(config.num_heads)
  if writer.arch == 'gpt2':
    writer.add_layer_norm_eps(config.norm_epsilon)
    return notes
  writer.add_head_count_kv(config.num_kv_heads)
  writer.add_key_length(config.head_dim)
  writer.add_value_length(config.head_dim)
  writer.add_rope_dimension_count(config.head_dim)
  writer.add_rope_freq_base(config.rope_theta)
  writer.add_layer_norm_rms_eps(config.norm_epsilon)
  if writer.arch == 'gemma2':
    writer.add_sliding_window(window)
    writer.add_attn_logit_softcapping(config.attention_softcap)
    writer.add_final_logit_softcapping(config.logits_softcap)
  return notes


def _add_tokenizer(gguf, writer, vocabulary: Vocabulary, prompting: Prompting) -> None:
  writer.add_tokenizer_model('no_vocab' if vocabulary.model == 'none' else vocabulary.model)
  if vocabulary.model != 'none':
    writer.add_tokenizer_pre(vocabulary.pre)
    writer.add_token_list(vocabulary.tokens)
    writer.add_token_types(vocabulary.types)
    writer.add_token_scores(vocabulary.scores)
    writer.add_token_merges(vocabulary.merges)
    if vocabulary.model != 'gpt2':
      writer.add_add_space_prefix(vocabulary.space)
      writer.add_remove_extra_whitespaces(vocabulary.trim)
    if vocabulary.model == 't5' and vocabulary.charsmap:
      writer.add_precompiled_charsmap(vocabulary.charsmap)
    if gguf.TokenType.UNKNOWN in vocabulary.types:
      writer.add_unk_token_id(vocabulary.types.index(gguf.TokenType.UNKNOWN))
  for name in ('bos', 'eos', 'pad', 'eot'):
    if (i := getattr(prompting, name)) is not None:
      getattr(writer, f'add_{name}_token_id')(i)
  writer.add_add_bos_token(prompting.add_bos)
  writer.add_add_eos_token(prompting.add_eos)
  if prompting.chat_template:
    writer.add_chat_template(prompting.chat_template)
