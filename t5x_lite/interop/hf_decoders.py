"""config.json of the decoder-only models of transformers <-> fields of a ModelConfig.

A pair of functions for each, as hf_configs.py has them for the other families.
"""

from typing import Any

from t5x_lite.core.errors import UserError
from t5x_lite.interop.hf_keys import Keys, class_of, number_of_classes, unnamed_classes
from t5x_lite.interop.json_files import Json
from t5x_lite.models import ModelConfig
from t5x_lite.models.positions import RopeScaling

_TANH_GELU = ('gelu_new', 'gelu_pytorch_tanh', 'gelu_fast', 'gelu_accurate', 'gelu_python_tanh')
_ACTIVATIONS = {'relu': 'relu', 'silu': 'silu', 'swish': 'silu', 'gelu': 'gelu_exact',
                'gelu_python': 'gelu_exact'} | dict.fromkeys(_TANH_GELU, 'gelu')


def activation_of(keys: Keys, name: str, default: str,
                  known: dict[str, str] = _ACTIVATIONS) -> str:
  """The activation of ModelConfig that a key names; UserError for another than the known ones."""
  value = keys(name, str, default)
  if value not in known:
    raise UserError(f'config.json: {name} = {value!r}: this activation is none of '
                    f'{", ".join(known)}')
  return known[value]


def hf_activation(config: ModelConfig, gelu: str = 'gelu_new') -> str:
  """transformers' name of a model's activation; `gelu` is that of the tanh form."""
  return {'gelu': gelu, 'gelu_exact': 'gelu'}.get(config.activation, config.activation)


# The head of a GPT beside its output layer, and how the names of transformers' classes end.
GPT_HEADS = {None: 'LMHeadModel', 'choice': 'DoubleHeadsModel',
             'classifier': 'ForSequenceClassification'}


def _read_gpt_head(keys: Keys) -> dict[str, Any]:
  name = class_of(keys.hf) or ''
  head = next((head for head, suffix in GPT_HEADS.items() if name.endswith(suffix)), None)
  if head == 'choice':
    for key, value in (('summary_type', 'cls_index'), ('summary_use_proj', True),
                       ('summary_proj_to_labels', True), ('summary_activation', None)):
      keys.fixed(key, value, reason='a choice is a linear layer of one token')
  if head == 'classifier':   # whose class has no output layer: here it is the embedding table
    return {'head': head, 'num_classes': number_of_classes(keys), 'tied_embeddings': True}
  return {'head': head}


def _read_gpt(keys: Keys) -> dict[str, Any]:
  return dict(
      family='decoder_only', vocab_size=keys('vocab_size', int), embed_dim=keys('n_embd', int),
      num_layers=keys('n_layer', int), num_heads=keys('n_head', int),
      mlp_dim=keys('n_inner', int, None, null=True) or 4 * keys('n_embd', int),
      max_length=keys('n_positions', int), norm='layer_norm',
      norm_epsilon=keys('layer_norm_epsilon', float, 1e-5), gated_mlp=False, bias=True,
      position_embedding='learned', dropout_rate=keys('resid_pdrop', float, 0.1),
      tied_embeddings=keys('tie_word_embeddings', bool, True)) | _read_gpt_head(keys)


def _write_gpt(config: ModelConfig, name: str) -> Json:
  hf = dict(
      architectures=[f'{name}{GPT_HEADS[config.head]}'],
      vocab_size=config.vocab_size, n_embd=config.embed_dim, n_layer=config.num_layers,
      n_head=config.num_heads, n_positions=config.max_length, n_ctx=config.max_length,
      layer_norm_epsilon=config.norm_epsilon, tie_word_embeddings=config.tied_embeddings,
      resid_pdrop=config.dropout_rate, embd_pdrop=config.dropout_rate,
      attn_pdrop=config.dropout_rate)
  if config.num_classes is not None:
    hf |= unnamed_classes(config.num_classes)
  return hf if config.mlp_dim == 4 * config.embed_dim else hf | {'n_inner': config.mlp_dim}


def read_gpt2(keys: Keys) -> dict[str, Any]:
  """See the head of this file."""
  keys.fixed('scale_attn_by_inverse_layer_idx', False, reason='all layers scale alike')
  return _read_gpt(keys) | {
      'activation': activation_of(keys, 'activation_function', 'gelu_new'), 'norm_placement': 'pre',
      'attention_scale': None if keys('scale_attn_weights', bool, True) else 1.0}


def write_gpt2(config: ModelConfig) -> Json:
  """See the head of this file."""
  hf = _write_gpt(config, 'GPT2') | {'activation_function': hf_activation(config)}
  usual = config.attention_scale == config.head_dim ** -0.5
  return hf if usual else hf | {'scale_attn_weights': False}


def read_gpt1(keys: Keys) -> dict[str, Any]:
  """See the head of this file."""
  # In transformers' GPT-1, 'gelu' is the tanh form, the MLP has one width and scores are scaled.
  known = {'gelu': 'gelu', 'relu': 'relu', 'silu': 'silu', 'swish': 'silu'}
  keys.fixed('n_inner', 4 * keys('n_embd', int), reason='GPT-1 has one width')
  return _read_gpt(keys) | {'activation': activation_of(keys, 'afn', 'gelu', known),
                            'norm_placement': 'post', 'mlp_dim': 4 * keys('n_embd', int)}


def write_gpt1(config: ModelConfig) -> Json:
  """See the head of this file."""
  return _write_gpt(config, 'OpenAIGPT') | {'afn': config.activation}


def _read_rope(keys: Keys) -> dict[str, Any]:
  """transformers 5 uses rope_parameters, 4 uses rope_theta and rope_scaling; both may be there."""
  rope = {}
  theta = {'rope_theta': keys('rope_theta', float, None, null=True),
           'partial_rotary_factor': keys('partial_rotary_factor', float, None, null=True)}
  for origin, part in (
      ('', theta), *((f'{name}.', keys(name, dict, None, null=True) or {})
                     for name in ('rope_parameters', 'rope_scaling'))):
    for name, value in part.items():
      name = 'rope_type' if name == 'type' else name
      if value is not None and rope.setdefault(name, value) != value:
        raise UserError(f'config.json: {origin}{name} = {value!r} contradicts another place of it, '
                        f'which has {rope[name]!r}: remove the wrong one')
  rope = Keys({'model_type': keys.model_type} | rope)
  rope.fixed('partial_rotary_factor', 1.0, reason='all of a head is turned')
  kind = rope('rope_type', str, 'default')
  result = {'position_embedding': 'rope', 'rope_theta': rope('rope_theta', float, 10_000.0),
            'rope_scaling': None}
  if kind == 'llama3':
    result['rope_scaling'] = RopeScaling(
        factor=rope('factor', float), low_frequency_factor=rope('low_freq_factor', float),
        high_frequency_factor=rope('high_freq_factor', float),
        original_length=rope('original_max_position_embeddings', int))
  elif kind != 'default':
    raise UserError(f'config.json: rope_type = {kind!r} is not supported; default and llama3 are')
  rope.check_all_read()
  return result


def _write_rope(config: ModelConfig) -> Json:
  """With the keys of both transformers 4 and 5."""
  scaling = {'rope_type': 'default'}
  if config.rope_scaling is not None:
    s = config.rope_scaling
    scaling = {'rope_type': 'llama3', 'factor': s.factor, 'low_freq_factor': s.low_frequency_factor,
               'high_freq_factor': s.high_frequency_factor,
               'original_max_position_embeddings': s.original_length}
  return {'rope_theta': config.rope_theta,
          'rope_scaling': None if config.rope_scaling is None else scaling,
          'rope_parameters': scaling | {'rope_theta': config.rope_theta}}


def _read_decoder(keys: Keys, *, max_length: int, tied: bool, kv_heads: int | None = None,
                  head_dim: int | None = None) -> dict[str, Any]:
  """What LLaMA and its kin share; the defaults are those of each."""
  heads, width = keys('num_attention_heads', int), keys('hidden_size', int)
  if heads < 1:
    raise UserError(f'config.json: num_attention_heads = {heads} is below 1')
  return dict(
      family='decoder_only', vocab_size=keys('vocab_size', int), embed_dim=width,
      num_layers=keys('num_hidden_layers', int), num_heads=heads,
      mlp_dim=keys('intermediate_size', int),
      num_kv_heads=keys('num_key_value_heads', int, kv_heads, null=True) or heads,
      head_dim=keys('head_dim', int, head_dim, null=True) or width // heads,
      max_length=keys('max_position_embeddings', int, max_length), norm='rms_norm',
      norm_epsilon=keys('rms_norm_eps', float, 1e-6), gated_mlp=True, bias=False,
      tied_embeddings=keys('tie_word_embeddings', bool, tied)) | _read_rope(keys)


def _write_decoder(config: ModelConfig) -> Json:
  return dict(
      vocab_size=config.vocab_size, hidden_size=config.embed_dim,
      num_hidden_layers=config.num_layers, num_attention_heads=config.num_heads,
      num_key_value_heads=config.num_kv_heads, head_dim=config.head_dim,
      intermediate_size=config.mlp_dim, max_position_embeddings=config.max_length or 2048,
      rms_norm_eps=config.norm_epsilon, hidden_act=hf_activation(config, 'gelu_pytorch_tanh'),
      tie_word_embeddings=config.tied_embeddings) | _write_rope(config)


def read_llama(keys: Keys) -> dict[str, Any]:
  """See the head of this file."""
  bias = keys('attention_bias', bool, False)
  if (other := keys('mlp_bias', bool, False)) != bias:
    raise UserError(f'config.json: attention_bias = {bias} and mlp_bias = {other} are not '
                    'supported together: biases are in all linear layers or in none')
  return _read_decoder(keys, max_length=2048, tied=False) | {
      'activation': activation_of(keys, 'hidden_act', 'silu'), 'bias': bias}


def write_llama(config: ModelConfig) -> Json:
  """See the head of this file."""
  return _write_decoder(config) | {'attention_bias': config.bias, 'mlp_bias': config.bias}


def read_mistral(keys: Keys) -> dict[str, Any]:
  """See the head of this file."""
  return _read_decoder(keys, max_length=131_072, tied=False, kv_heads=8) | {
      'activation': activation_of(keys, 'hidden_act', 'silu'),
      'sliding_window': keys('sliding_window', int, 4096, null=True)}


def write_mistral(config: ModelConfig) -> Json:
  """See the head of this file."""
  return _write_decoder(config) | {'sliding_window': config.sliding_window}


def _read_gemma_kin(keys: Keys, name: str, other: str, kv_heads: int) -> dict[str, Any]:
  """`name` is the key of the activation, `other` the one that other versions of it have."""
  keys.fixed('use_bidirectional_attention', False, reason='Gemma reads from left to right here')
  keys.fixed('attention_bias', False, reason='no linear layer has biases')
  # Early files have hidden_act 'gelu', which is the tanh form in Gemma.
  known = {'hidden_act': _ACTIVATIONS | {'gelu': 'gelu'}, 'hidden_activation': _ACTIVATIONS}
  activation = activation_of(keys, name, 'gelu_pytorch_tanh', known[name])
  if other in keys.hf and keys.hf[other] is not None:
    if (second := activation_of(keys, other, '', known[other])) != activation:
      raise UserError(f'config.json: {other} = {keys.hf[other]!r} is another activation than '
                      f'{name}, {keys.hf.get(name, "gelu_pytorch_tanh")!r} ({second} and '
                      f'{activation}): versions of transformers differ in which they take; '
                      'remove the wrong one')
  keys.read.add(other)
  return _read_decoder(keys, max_length=8192, tied=True, kv_heads=kv_heads, head_dim=256) | {
      'activation': activation, 'norm_unit_offset': True, 'scale_embeddings': True}


def read_gemma(keys: Keys) -> dict[str, Any]:
  """See the head of this file."""
  return _read_gemma_kin(keys, 'hidden_act', 'hidden_activation', 16)


def write_gemma(config: ModelConfig) -> Json:
  """See the head of this file."""
  hf = _write_decoder(config)
  return hf | {'hidden_activation': hf['hidden_act']}


def read_gemma2(keys: Keys) -> dict[str, Any]:
  """See the head of this file."""
  layers = keys('num_hidden_layers', int)
  read = _read_gemma_kin(keys, 'hidden_activation', 'hidden_act', 4)
  window = keys('sliding_window', int, 4096, null=True)
  kinds = keys('layer_types', list, None, null=True)
  full, sliding, interval = 'full_attention', 'sliding_attention', 2
  if kinds is not None and len(kinds) != layers:
    raise UserError(f'config.json: layer_types has {len(kinds)} entries, and num_hidden_layers '
                    f'is {layers}')
  if kinds is not None and set(map(str, kinds)) == {full}:
    window = None
  elif kinds is not None and set(map(str, kinds)) == {sliding}:
    interval = None
  elif kinds is not None:
    interval = kinds.index(full) + 1 if full in kinds else 1
    if kinds != [full if (i + 1) % interval == 0 else sliding for i in range(layers)]:
      raise UserError('config.json: layer_types with full attention in other layers than every '
                      'n-th are not supported')
  interval = None if window is None else interval
  scalar = keys('query_pre_attn_scalar', float, 256.0)
  if not scalar > 0:
    raise UserError(f'config.json: query_pre_attn_scalar = {scalar} must be above 0')
  return read | {
      'norm_placement': 'both', 'sliding_window': window, 'full_attention_interval': interval,
      # A scan over groups of layers takes whole groups.
      'scan_layers': not interval or layers % interval == 0,
      'attention_scale': scalar ** -0.5,
      'attention_softcap': keys('attn_logit_softcapping', float, 50.0, null=True),
      'logits_softcap': keys('final_logit_softcapping', float, 30.0, null=True)}


def write_gemma2(config: ModelConfig) -> Json:
  """See the head of this file."""
  scalar = config.attention_scale ** -2
  return write_gemma(config) | {
      'query_pre_attn_scalar': round(scalar) if abs(scalar - round(scalar)) < 1e-6 else scalar,
      'sliding_window': config.sliding_window, 'attn_logit_softcapping': config.attention_softcap,
      'final_logit_softcapping': config.logits_softcap,
      'layer_types': ['full_attention' if config.sliding_window_of(i) is None else
                      'sliding_attention' for i in range(config.num_layers)]}
