"""config.json of Hugging Face transformers (4 and 5) <-> ModelConfig.

Each family has a pair of functions that are each other's inverse. `model_type_of` applies both to
find what a family cannot express.
"""

from collections.abc import Callable
import dataclasses
from typing import Any, NamedTuple

from t5x_lite.core.errors import UserError
from t5x_lite.models import ModelConfig
from t5x_lite.models.positions import RopeScaling

Json = dict[str, Any]
# How a model is computed or trained: not part of an exported config.
NOT_ARCHITECTURE = ('dtype', 'attention', 'scan_layers', 'remat', 'dropout_rate', 'init_std',
                    'max_length', 'expert_capacity')
_ACTIVATIONS = {'relu': 'relu', 'gelu_new': 'gelu', 'gelu_pytorch_tanh': 'gelu',
                'gelu': 'gelu_exact', 'silu': 'silu', 'swish': 'silu'}


class ModelType(NamedTuple):
  """The two directions of one model_type, and the class name of a model with a language head."""
  read: Callable[[Json], dict[str, Any]]
  write: Callable[[ModelConfig], Json]
  architecture: str


def _activation(name: str) -> str:
  if name not in _ACTIVATIONS:
    raise UserError(f'config.json: activation {name!r} is none of {", ".join(_ACTIVATIONS)}')
  return _ACTIVATIONS[name]


def _require(hf: Json, reason: str, **values) -> None:
  """Raises UserError if a setting that has no counterpart here is not at its usual value."""
  for name, value in values.items():
    if hf.get(name, value) not in (value, None):
      raise UserError(f'config.json: {name} = {hf[name]!r} is not supported ({reason})')


def _hf_activation(config: ModelConfig, gelu: str = 'gelu_new') -> str:
  return {'gelu': gelu, 'gelu_exact': 'gelu'}.get(config.activation, config.activation)


def _read_gpt(hf: Json, activation: str, placement: str) -> dict[str, Any]:
  _require(hf, 'only GPT as published', scale_attn_weights=True, add_cross_attention=False,
           scale_attn_by_inverse_layer_idx=False, n_inner=4 * hf['n_embd'])
  return dict(
      family='decoder_only', vocab_size=hf['vocab_size'], embed_dim=hf['n_embd'],
      num_layers=hf['n_layer'], num_heads=hf['n_head'], mlp_dim=4 * hf['n_embd'],
      max_length=hf.get('n_positions', hf.get('n_ctx')), norm='layer_norm',
      norm_epsilon=hf.get('layer_norm_epsilon', 1e-5), norm_placement=placement,
      activation=activation, gated_mlp=False, bias=True, position_embedding='learned',
      dropout_rate=float(hf.get('resid_pdrop', 0.1)),
      tied_embeddings=hf.get('tie_word_embeddings', True))


def _write_gpt(config: ModelConfig) -> Json:
  return dict(
      vocab_size=config.vocab_size, n_embd=config.embed_dim, n_layer=config.num_layers,
      n_head=config.num_heads, n_positions=config.max_length, n_ctx=config.max_length,
      layer_norm_epsilon=config.norm_epsilon, tie_word_embeddings=config.tied_embeddings,
      resid_pdrop=config.dropout_rate, embd_pdrop=config.dropout_rate,
      attn_pdrop=config.dropout_rate)


def _read_gpt2(hf: Json) -> dict[str, Any]:
  return _read_gpt(hf, _activation(hf.get('activation_function', 'gelu_new')), 'pre')


def _write_gpt2(config: ModelConfig) -> Json:
  return _write_gpt(config) | {'activation_function': _hf_activation(config)}


def _read_gpt1(hf: Json) -> dict[str, Any]:
  # In transformers' GPT-1, 'gelu' is the tanh form.
  activation = {'gelu': 'gelu', 'relu': 'relu', 'silu': 'silu', 'swish': 'silu'}[
      hf.get('afn', 'gelu')]
  return _read_gpt(hf, activation, 'post')


def _write_gpt1(config: ModelConfig) -> Json:
  return _write_gpt(config) | {'afn': config.activation}


def _read_rope(hf: Json) -> dict[str, Any]:
  """transformers 5 uses rope_parameters, 4 uses rope_theta and rope_scaling."""
  rope = dict(hf.get('rope_parameters') or {})
  scaling = rope or dict(hf.get('rope_scaling') or {})
  theta = rope.get('rope_theta', hf.get('rope_theta', 10_000.0))
  kind = scaling.get('rope_type', scaling.get('type', 'default'))
  result = {'position_embedding': 'rope', 'rope_theta': float(theta), 'rope_scaling': None}
  if kind == 'llama3':
    result['rope_scaling'] = RopeScaling(
        factor=float(scaling['factor']), low_frequency_factor=float(scaling['low_freq_factor']),
        high_frequency_factor=float(scaling['high_freq_factor']),
        original_length=scaling['original_max_position_embeddings'])
  elif kind != 'default':
    raise UserError(f'config.json: rope_type {kind!r} is not supported; default and llama3 are')
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


def _read_llama(hf: Json) -> dict[str, Any]:
  _require(hf, 'biases are in all linear layers or in none', attention_bias=False, mlp_bias=False)
  heads = hf['num_attention_heads']
  return dict(
      family='decoder_only', vocab_size=hf['vocab_size'], embed_dim=hf['hidden_size'],
      num_layers=hf['num_hidden_layers'], num_heads=heads, mlp_dim=hf['intermediate_size'],
      num_kv_heads=hf.get('num_key_value_heads') or heads,
      head_dim=hf.get('head_dim') or hf['hidden_size'] // heads,
      max_length=hf.get('max_position_embeddings', 2048), norm='rms_norm',
      norm_epsilon=hf.get('rms_norm_eps', 1e-6), activation=_activation(
          hf.get('hidden_act', 'silu')), gated_mlp=True, bias=False,
      tied_embeddings=hf.get('tie_word_embeddings', False)) | _read_rope(hf)


def _write_llama(config: ModelConfig) -> Json:
  return dict(
      vocab_size=config.vocab_size, hidden_size=config.embed_dim,
      num_hidden_layers=config.num_layers, num_attention_heads=config.num_heads,
      num_key_value_heads=config.num_kv_heads, head_dim=config.head_dim,
      intermediate_size=config.mlp_dim, max_position_embeddings=config.max_length or 2048,
      rms_norm_eps=config.norm_epsilon, hidden_act=_hf_activation(config, 'gelu_pytorch_tanh'),
      tie_word_embeddings=config.tied_embeddings) | _write_rope(config)


def _read_mistral(hf: Json) -> dict[str, Any]:
  return _read_llama({'num_key_value_heads': 8} | hf) | {'sliding_window': hf.get('sliding_window')}


def _write_mistral(config: ModelConfig) -> Json:
  return _write_llama(config) | {'sliding_window': config.sliding_window}


def _read_gemma(hf: Json) -> dict[str, Any]:
  _require(hf, 'Gemma reads from left to right here', use_bidirectional_attention=False)
  # Early files have 'gelu', which is the tanh form in Gemma.
  return _read_llama({'head_dim': 256, 'tie_word_embeddings': True} | hf
                     | {'hidden_act': 'gelu_pytorch_tanh'}) | {
      'norm_unit_offset': True, 'scale_embeddings': True}


def _write_gemma(config: ModelConfig) -> Json:
  return _write_llama(config) | {'hidden_act': 'gelu_pytorch_tanh',
                                 'hidden_activation': 'gelu_pytorch_tanh'}


def _read_gemma2(hf: Json) -> dict[str, Any]:
  kinds = hf.get('layer_types')
  usual = ['full_attention' if i % 2 else 'sliding_attention'
           for i in range(hf['num_hidden_layers'])]
  if kinds not in (None, usual):
    raise UserError('config.json: layer_types that do not alternate are not supported')
  return _read_gemma(hf) | {
      'norm_placement': 'both', 'sliding_window': hf.get('sliding_window', 4096),
      'full_attention_interval': 2,
      'attention_scale': float(hf.get('query_pre_attn_scalar', 256)) ** -0.5,
      'attention_softcap': hf.get('attn_logit_softcapping', 50.0),
      'logits_softcap': hf.get('final_logit_softcapping', 30.0)}


def _write_gemma2(config: ModelConfig) -> Json:
  scalar = config.attention_scale ** -2
  return _write_gemma(config) | {
      'query_pre_attn_scalar': round(scalar) if abs(scalar - round(scalar)) < 1e-6 else scalar,
      'sliding_window': config.sliding_window, 'attn_logit_softcapping': config.attention_softcap,
      'final_logit_softcapping': config.logits_softcap,
      'layer_types': ['full_attention' if i % 2 else 'sliding_attention'
                      for i in range(config.num_layers)]}


def _read_t5(hf: Json) -> dict[str, Any]:
  *gated, activation = hf.get('feed_forward_proj', 'relu').split('-')
  # T5 1.1 was trained with the tanh form.
  activation = 'gelu' if gated and activation == 'gelu' else _activation(activation)
  tied = hf.get('tie_word_embeddings', True)
  # transformers 5 writes tie_word_embeddings: true for all, and this instead.
  scaled = hf.get('scale_decoder_outputs', tied)
  return dict(
      family='encoder_decoder', vocab_size=hf['vocab_size'], embed_dim=hf['d_model'],
      num_layers=hf['num_layers'], num_heads=hf['num_heads'], mlp_dim=hf['d_ff'],
      num_decoder_layers=hf.get('num_decoder_layers') or hf['num_layers'], head_dim=hf['d_kv'],
      norm='rms_norm', norm_epsilon=hf.get('layer_norm_epsilon', 1e-6), activation=activation,
      gated_mlp=bool(gated), position_embedding='relative',
      relative_buckets=hf.get('relative_attention_num_buckets', 32),
      relative_max_distance=hf.get('relative_attention_max_distance', 128), attention_scale=1.0,
      tied_embeddings=tied, scale_logits=scaled, init_std=None)


def _write_t5(config: ModelConfig) -> Json:
  activation = {'gelu': 'gelu' if config.gated_mlp else 'gelu_new'}.get(
      config.activation, _hf_activation(config))
  return dict(
      vocab_size=config.vocab_size, d_model=config.embed_dim, d_kv=config.head_dim,
      d_ff=config.mlp_dim, num_layers=config.num_layers, num_heads=config.num_heads,
      num_decoder_layers=config.num_decoder_layers, layer_norm_epsilon=config.norm_epsilon,
      feed_forward_proj=('gated-' if config.gated_mlp else '') + activation,
      relative_attention_num_buckets=config.relative_buckets,
      relative_attention_max_distance=config.relative_max_distance,
      tie_word_embeddings=config.tied_embeddings, scale_decoder_outputs=config.scale_logits,
      dropout_rate=config.dropout_rate, is_encoder_decoder=True)


# The head of a checkpoint, and the class name of transformers for it.
BERT_HEADS = {'mlm': 'BertForMaskedLM', 'mlm_nsp': 'BertForPreTraining', 'pooler': 'BertModel',
              'classifier': 'BertForSequenceClassification', 'tagger': 'BertForTokenClassification'}


def _read_bert(hf: Json) -> dict[str, Any]:
  _require(hf, 'BERT as published', position_embedding_type='absolute', is_decoder=False,
           add_cross_attention=False)
  names = {name: head for head, name in BERT_HEADS.items()}
  head = names.get((hf.get('architectures') or ['BertModel'])[0], 'mlm')
  classes = head in ('classifier', 'tagger')
  labels = len(hf['id2label']) if 'id2label' in hf else hf.get('num_labels', 2)
  return dict(
      family='encoder_only', vocab_size=hf['vocab_size'], embed_dim=hf['hidden_size'],
      num_layers=hf['num_hidden_layers'], num_heads=hf['num_attention_heads'],
      mlp_dim=hf['intermediate_size'], max_length=hf['max_position_embeddings'],
      num_token_types=hf.get('type_vocab_size', 2), norm='layer_norm',
      norm_epsilon=hf.get('layer_norm_eps', 1e-12), norm_placement='post', embedding_norm=True,
      activation=_activation(hf.get('hidden_act', 'gelu')), gated_mlp=False, bias=True,
      position_embedding='learned', head=head,
      dropout_rate=float(hf.get('hidden_dropout_prob', 0.1)),
      num_classes=labels if classes else None)


def _write_bert(config: ModelConfig) -> Json:
  hf = dict(
      vocab_size=config.vocab_size, hidden_size=config.embed_dim,
      num_hidden_layers=config.num_layers, num_attention_heads=config.num_heads,
      intermediate_size=config.mlp_dim, max_position_embeddings=config.max_length,
      type_vocab_size=config.num_token_types, layer_norm_eps=config.norm_epsilon,
      hidden_act=_hf_activation(config), hidden_dropout_prob=config.dropout_rate,
      attention_probs_dropout_prob=config.dropout_rate,
      architectures=[BERT_HEADS[config.head]])
  if config.num_classes is not None:
    labels = {str(i): f'LABEL_{i}' for i in range(config.num_classes)}
    hf |= {'id2label': labels, 'label2id': {name: int(i) for i, name in labels.items()}}
  return hf


MODEL_TYPES = {
    'gpt2': ModelType(_read_gpt2, _write_gpt2, 'GPT2LMHeadModel'),
    'openai-gpt': ModelType(_read_gpt1, _write_gpt1, 'OpenAIGPTLMHeadModel'),
    'llama': ModelType(_read_llama, _write_llama, 'LlamaForCausalLM'),
    'mistral': ModelType(_read_mistral, _write_mistral, 'MistralForCausalLM'),
    'gemma': ModelType(_read_gemma, _write_gemma, 'GemmaForCausalLM'),
    'gemma2': ModelType(_read_gemma2, _write_gemma2, 'Gemma2ForCausalLM'),
    't5': ModelType(_read_t5, _write_t5, 'T5ForConditionalGeneration'),
    'bert': ModelType(_read_bert, _write_bert, 'BertForPreTraining'),
}


def find_model_type(hf: Json) -> ModelType:
  """The family of a config.json; UserError if it is not supported."""
  model_type = hf.get('model_type')
  if model_type not in MODEL_TYPES:
    raise UserError(f'config.json: model_type {model_type!r} is not supported; '
                    f'{", ".join(MODEL_TYPES)} are')
  return MODEL_TYPES[model_type]


def read_config(hf: Json, **overrides) -> ModelConfig:
  """The ModelConfig of a config.json; UserError if it has an unsupported setting."""
  try:
    fields = find_model_type(hf).read(hf)
  except KeyError as e:
    raise UserError(f'config.json: {e.args[0]!r} is missing') from e
  return ModelConfig(**fields | overrides)


def write_config(config: ModelConfig, model_type: str) -> Json:
  """config.json of a model, as transformers 4 and 5 read it."""
  family = MODEL_TYPES[model_type]
  return {'model_type': model_type, 'architectures': [family.architecture]} | family.write(config)


def model_type_of(config: ModelConfig) -> str:
  """The model_type whose config.json expresses all of `config`; UserError naming what none can."""
  differences = {}
  for model_type in MODEL_TYPES:
    try:
      back = read_config(write_config(config, model_type))
    except (UserError, KeyError, TypeError):
      continue
    differs = [f.name for f in dataclasses.fields(config) if f.name not in NOT_ARCHITECTURE
               and _differ(getattr(config, f.name), getattr(back, f.name))]
    if not differs:
      return model_type
    differences[model_type] = differs
  closest = min(differences, key=lambda name: len(differences[name]))
  names = ', '.join(f'{n} = {getattr(config, n)!r}' for n in differences[closest])
  raise UserError(f'No model of transformers matches this one; {closest!r} is closest but '
                  f'cannot have {names}')


def _differ(a, b) -> bool:
  if isinstance(a, float) and isinstance(b, float):
    return abs(a - b) > 1e-9 * abs(a)
  return a != b
