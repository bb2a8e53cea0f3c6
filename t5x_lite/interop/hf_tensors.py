"""Names and layouts of Hugging Face's tensors <-> parameters of our models, as tables."""

from collections.abc import Iterable
import dataclasses
import math
import re
from typing import NamedTuple

import numpy as np

from t5x_lite.core.errors import UserError
from t5x_lite.models import ModelConfig


@dataclasses.dataclass(frozen=True)
class Tensor:
  """One parameter of ours, or one layer of it, and its tensor in a Hugging Face checkpoint.

  `layout` is that of their tensor: `same` (the same shape), `dense` (torch's Linear, [out, in]) or
  `conv1d` (GPT's, [in, out]); a bias has one dimension. `part` (i, n) is the i-th of n equal slices
  of its outputs.
  """
  theirs: str
  ours: str
  layer: int | None = None
  layout: str = 'same'
  part: tuple[int, int] = (0, 1)

  def renamed(self, theirs: str) -> 'Tensor':
    """The same with another of their names."""
    return dataclasses.replace(self, theirs=theirs)

  def their_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The exact shape of their tensor for ours, or for the layer of ours that it is."""
    if self.ours.endswith('/bias'):
      return (math.prod(shape) * self.part[1],)
    if self.layout == 'same':
      return shape
    rows = math.prod(shape[:self.num_inputs])
    columns = math.prod(shape[self.num_inputs:]) * self.part[1]
    return (columns, rows) if self.layout == 'dense' else (rows, columns)

  @property
  def num_inputs(self) -> int:
    """The number of the first dimensions of our kernel that are its inputs."""
    return 2 if self.ours.endswith('/out/kernel') else 1

  def to_ours(self, theirs: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Our array of this shape, of theirs of `their_shape`."""
    matrix = theirs.T if self.layout == 'dense' else theirs
    part, parts = self.part
    size = matrix.shape[-1] // parts
    return matrix[..., part * size:(part + 1) * size].reshape(shape)

  def to_theirs(self, ours: np.ndarray) -> np.ndarray:
    """Their array, or our part of it."""
    if self.ours.endswith('/bias'):
      return ours.reshape(-1)
    if self.layout == 'same':
      return ours
    matrix = ours.reshape(math.prod(ours.shape[:self.num_inputs]), -1)
    return matrix.T if self.layout == 'dense' else matrix


def _norm(theirs: str, ours: str, bias: bool) -> list[tuple]:
  rows = [(f'{theirs}.weight', f'{ours}/scale')]
  return rows + [(f'{theirs}.bias', f'{ours}/bias')] if bias else rows


def _linear(theirs: str, ours: str, bias: bool, layout: str = 'dense') -> list[tuple]:
  rows = [(f'{theirs}.weight', f'{ours}/kernel', layout)]
  return rows + [(f'{theirs}.bias', f'{ours}/bias')] if bias else rows


def _gpt_block() -> list[tuple]:
  qkv = [(f'attn.c_attn.{theirs}', f'attention/{ours}/{kind}', layout, (i, 3))
         for i, ours in enumerate(('query', 'key', 'value'))
         for theirs, kind, layout in (('weight', 'kernel', 'conv1d'), ('bias', 'bias', 'same'))]
  return [*_norm('ln_1', 'attention_norm', True), *qkv,
          *_linear('attn.c_proj', 'attention/out', True, 'conv1d'),
          *_norm('ln_2', 'mlp_norm', True), *_linear('mlp.c_fc', 'mlp/up', True, 'conv1d'),
          *_linear('mlp.c_proj', 'mlp/down', True, 'conv1d')]


def _llama_block(norms: dict[str, str], bias: bool) -> list[tuple]:
  linear = {'self_attn.q_proj': 'attention/query', 'self_attn.k_proj': 'attention/key',
            'self_attn.v_proj': 'attention/value', 'self_attn.o_proj': 'attention/out',
            'mlp.gate_proj': 'mlp/gate', 'mlp.up_proj': 'mlp/up', 'mlp.down_proj': 'mlp/down'}
  rows = [row for theirs, ours in norms.items() for row in _norm(theirs, ours, False)]
  return rows + [row for theirs, ours in linear.items() for row in _linear(theirs, ours, bias)]


_LLAMA_NORMS = {'input_layernorm': 'attention_norm', 'post_attention_layernorm': 'mlp_norm'}
_GEMMA2_NORMS = {'input_layernorm': 'attention_norm',
                 'post_attention_layernorm': 'attention_post_norm',
                 'pre_feedforward_layernorm': 'mlp_norm',
                 'post_feedforward_layernorm': 'mlp_post_norm'}


def _t5_block(config: ModelConfig, decoder: bool) -> list[tuple]:
  def attention(layer, theirs, ours):
    rows = _norm(f'layer.{layer}.layer_norm', f'{ours}_norm', False)
    for letter, name in zip('qkvo', ('query', 'key', 'value', 'out')):
      rows += _linear(f'layer.{layer}.{theirs}.{letter}', f'{ours}/{name}', False)
    return rows

  rows = attention(0, 'SelfAttention', 'attention')
  if decoder:
    rows += attention(1, 'EncDecAttention', 'cross')
  mlp = f'layer.{2 if decoder else 1}'
  rows += _norm(f'{mlp}.layer_norm', 'mlp_norm', False)
  names = {'wi_0': 'gate', 'wi_1': 'up', 'wo': 'down'} if config.gated_mlp else {
      'wi': 'up', 'wo': 'down'}
  for theirs, ours in names.items():
    rows += _linear(f'{mlp}.DenseReluDense.{theirs}', f'mlp/{ours}', False)
  return rows


def _bert_block() -> list[tuple]:
  linear = {'attention.self.query': 'attention/query', 'attention.self.key': 'attention/key',
            'attention.self.value': 'attention/value', 'attention.output.dense': 'attention/out',
            'intermediate.dense': 'mlp/up', 'output.dense': 'mlp/down'}
  rows = [row for theirs, ours in linear.items() for row in _linear(theirs, ours, True)]
  return [*rows, *_norm('attention.output.LayerNorm', 'attention_norm', True),
          *_norm('output.LayerNorm', 'mlp_norm', True)]


def _bert_head(config: ModelConfig) -> list[tuple]:
  head, rows = config.head, []
  if head in ('mlm', 'mlm_nsp'):
    rows += [*_linear('cls.predictions.transform.dense', 'mlm_head/transform', True),
             *_norm('cls.predictions.transform.LayerNorm', 'mlm_head/norm', True),
             ('cls.predictions.bias', 'mlm_head/bias')]
  if head in ('mlm_nsp', 'pooler', 'classifier') and config.pooler_transform:
    rows += _linear('bert.pooler.dense', 'pooler/transform', True)
  if head == 'mlm_nsp':
    rows += _linear('cls.seq_relationship', 'next_sentence', True)
  if head in ('classifier', 'tagger'):
    rows += _linear('classifier', 'classifier', True)
  return rows


# The prefix of a model's body, absent in files of the body alone.
PREFIXES = {'gpt2': 'transformer.', 'openai-gpt': 'transformer.', 'llama': 'model.',
            'mistral': 'model.', 'gemma': 'model.', 'gemma2': 'model.', 'bert': 'bert.', 't5': '',
            'mt5': ''}
# What a body has beside it.
_HEADS = ('lm_head.', 'cls.', 'classifier.', 'multiple_choice_head.', 'score.')
# Tensors of some files that are no parameters: masks, positions and frequencies that follow from
# the config; T5's table of cross-attention, which the first releases stored and never read.
_IGNORED = re.compile(r'|'.join([
    r'(.*\.)?attn\.(bias|masked_bias)', r'(.*\.)?rotary_emb\.inv_freq', r'(.*\.)?position_ids',
    r'(.*\.)?token_type_ids',
    r'decoder\.block\.0\.layer\.1\.EncDecAttention\.relative_attention_bias\.weight']))
# Heads of BERT that a checkpoint carries along though its class does not read them.
_OTHER_HEADS = re.compile(r'bert\.pooler\..*|cls\..*|classifier\..*')


class Ties(NamedTuple):
  """The names of one table of a model: its own, copies of it, and the output layer's."""
  table: str
  copies: tuple[str, ...]
  output: str


def ties(model_type: str) -> Ties:
  """The names that hold a model's embedding table."""
  prefix = PREFIXES[model_type]
  if model_type in ('t5', 'mt5'):
    return Ties('shared.weight', ('encoder.embed_tokens.weight', 'decoder.embed_tokens.weight'),
                'lm_head.weight')
  if model_type == 'bert':
    return Ties('bert.embeddings.word_embeddings.weight', (), 'cls.predictions.decoder.weight')
  own = {'gpt2': 'wte', 'openai-gpt': 'tokens_embed'}.get(model_type, 'embed_tokens')
  return Ties(f'{prefix}{own}.weight', (), 'lm_head.weight')


def table(model_type: str, config: ModelConfig) -> list[Tensor]:
  """All tensors of a model; each parameter of ours is listed once for each of its layers."""
  prefix = PREFIXES[model_type]
  if model_type in ('t5', 'mt5'):
    rows = [('shared.weight', 'embedder/tokens')]
    for stack in ('encoder', 'decoder'):
      rows += [(f'{stack}.block.0.layer.0.SelfAttention.relative_attention_bias.weight',
                f'{stack}/relative_bias'),
               (f'{stack}.final_layer_norm.weight', f'{stack}/final_norm/scale')]
    blocks = [('encoder', 'encoder.block', _t5_block(config, False), config.num_layers),
              ('decoder', 'decoder.block', _t5_block(config, True), config.num_decoder_layers)]
  elif model_type == 'bert':
    rows = [(f'{prefix}embeddings.{theirs}_embeddings.weight', f'embedder/{ours}')
            for theirs, ours in (('word', 'tokens'), ('position', 'positions'),
                                 ('token_type', 'types'))]
    rows += [*_norm(f'{prefix}embeddings.LayerNorm', 'embedder/norm', True),
             *_bert_head(config)]
    blocks = [('encoder', f'{prefix}encoder.layer', _bert_block(), config.num_layers)]
  elif model_type in ('gpt2', 'openai-gpt'):
    tokens, positions = ('wte', 'wpe') if model_type == 'gpt2' else ('tokens_embed',
                                                                     'positions_embed')
    rows = [(f'{prefix}{tokens}.weight', 'embedder/tokens'),
            (f'{prefix}{positions}.weight', 'embedder/positions')]
    if model_type == 'gpt2':
      rows += _norm(f'{prefix}ln_f', 'decoder/final_norm', True)
    if config.classifies_texts:
      choice = config.head == 'choice'
      rows += _linear('multiple_choice_head.summary' if choice else 'score', 'classifier', choice)
    blocks = [('decoder', f'{prefix}h', _gpt_block(), config.num_layers)]
  else:
    norms = _GEMMA2_NORMS if model_type == 'gemma2' else _LLAMA_NORMS
    rows = [(f'{prefix}embed_tokens.weight', 'embedder/tokens'),
            (f'{prefix}norm.weight', 'decoder/final_norm/scale')]
    blocks = [('decoder', f'{prefix}layers', _llama_block(norms, config.bias), config.num_layers)]
  if not config.tied_embeddings and config.predicts_tokens:
    rows.append((ties(model_type).output, 'embedder/output', 'dense'))
  tensors = [Tensor(theirs, ours, None, *rest) for theirs, ours, *rest in rows]
  for stack, theirs, block, num_layers in blocks:
    tensors += [Tensor(f'{theirs}.{i}.{name}', f'{stack}/blocks/{ours}', i, *rest)
                for name, ours, *rest in block for i in range(num_layers)]
  return tensors


def renamed(model_type: str, names: Iterable[str]) -> dict[str, str]:
  """{current name: name in the file}.

  Early BERT files call a norm's scale gamma and its bias beta, and files of a model's body alone
  leave out its prefix. Raises UserError if two names are one.
  """
  names, found = list(names), {}
  prefix = PREFIXES[model_type]
  bare = not any(name.startswith(prefix) for name in names)
  for name in names:
    current = re.sub(r'LayerNorm\.gamma$', 'LayerNorm.weight', name)
    current = re.sub(r'LayerNorm\.beta$', 'LayerNorm.bias', current)
    if bare and not name.startswith(_HEADS):
      current = prefix + current
    if current in found:
      raise UserError(f'{name} and {found[current]} are the same parameter: remove the wrong one')
    found[current] = name
  return found


def is_no_parameter(name: str) -> bool:
  """Whether a tensor that the table lacks follows from the config."""
  return bool(_IGNORED.fullmatch(name))


def is_other_head(model_type: str, name: str) -> bool:
  """Whether it is of a head that the model's class does not have."""
  return model_type == 'bert' and bool(_OTHER_HEADS.fullmatch(name))
