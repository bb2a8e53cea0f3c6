"""config.json of Hugging Face transformers (4 and 5) <-> ModelConfig.

Each family has a pair of functions that are each other's inverse. `model_type_of` applies both to
find what a family cannot express. What is absent from a config.json is as transformers' class has
it; a key that nothing here reads is refused (hf_keys.py).
"""

from collections.abc import Callable
import dataclasses
from typing import Any, NamedTuple

from t5x_lite.core.errors import UserError
from t5x_lite.interop import hf_decoders as decoders
from t5x_lite.interop.hf_decoders import activation_of, hf_activation
from t5x_lite.interop.hf_keys import Keys, class_of, number_of_classes, unnamed_classes
from t5x_lite.interop.json_files import Json
from t5x_lite.models import ModelConfig

# How a model is computed or trained: not part of an exported config.
NOT_ARCHITECTURE = ('dtype', 'attention', 'scan_layers', 'remat', 'dropout_rate',
                    'embedding_noise', 'init_std', 'max_length', 'expert_capacity')


class ModelType(NamedTuple):
  """One model_type: its two directions, and the transformers classes whose tensors are read.

  The first class is that of a model with a language head.
  """
  read: Callable[[Keys], dict[str, Any]]
  write: Callable[[ModelConfig], Json]
  classes: tuple[str, ...]


def _read_t5_kin(keys: Keys, feed_forward: str) -> dict[str, Any]:
  given = keys('feed_forward_proj', str, feed_forward)
  *gated, name = given.split('-')
  if gated not in ([], ['gated']):
    raise UserError(f'config.json: feed_forward_proj = {given!r} is neither an activation nor '
                    'gated-ACTIVATION')
  # T5 1.1 was trained with the tanh form. What transformers derived from feed_forward_proj and
  # wrote beside it, it also reads.
  keys.hf.setdefault('dense_act_fn', 'gelu_new' if given == 'gated-gelu' else name)
  return dict(
      family='encoder_decoder', vocab_size=keys('vocab_size', int),
      embed_dim=keys('d_model', int), num_layers=keys('num_layers', int),
      num_heads=keys('num_heads', int), mlp_dim=keys('d_ff', int),
      num_decoder_layers=keys('num_decoder_layers', int, None, null=True) or keys(
          'num_layers', int), head_dim=keys('d_kv', int),
      norm='rms_norm', norm_epsilon=keys('layer_norm_epsilon', float, 1e-6),
      activation=activation_of(keys, 'dense_act_fn', name),
      gated_mlp=keys('is_gated_act', bool, bool(gated)), position_embedding='relative',
      relative_buckets=keys('relative_attention_num_buckets', int, 32),
      relative_max_distance=keys('relative_attention_max_distance', int, 128),
      attention_scale=1.0, dropout_rate=keys('dropout_rate', float, 0.1), init_std=None)


def _read_t5(keys: Keys) -> dict[str, Any]:
  tied = keys('tie_word_embeddings', bool, True)
  # transformers 5 writes tie_word_embeddings: true for all, and this instead.
  return _read_t5_kin(keys, 'relu') | {
      'tied_embeddings': tied, 'scale_logits': keys('scale_decoder_outputs', bool, tied)}


def _read_mt5(keys: Keys) -> dict[str, Any]:
  return _read_t5_kin(keys, 'gated-gelu') | {
      'tied_embeddings': keys('tie_word_embeddings', bool, True), 'scale_logits': False}


def _write_t5(config: ModelConfig) -> Json:
  activation = {'gelu': 'gelu' if config.gated_mlp else 'gelu_new'}.get(
      config.activation, hf_activation(config))
  hf = dict(
      vocab_size=config.vocab_size, d_model=config.embed_dim, d_kv=config.head_dim,
      d_ff=config.mlp_dim, num_layers=config.num_layers, num_heads=config.num_heads,
      num_decoder_layers=config.num_decoder_layers, layer_norm_epsilon=config.norm_epsilon,
      feed_forward_proj=('gated-' if config.gated_mlp else '') + activation,
      relative_attention_num_buckets=config.relative_buckets,
      relative_attention_max_distance=config.relative_max_distance,
      tie_word_embeddings=config.tied_embeddings, scale_decoder_outputs=config.scale_logits,
      dropout_rate=config.dropout_rate, is_encoder_decoder=True)
  # 'gated-gelu' is the tanh form, so that the exact one has to be named twice.
  exact = config.gated_mlp and config.activation == 'gelu_exact'
  return hf | {'dense_act_fn': 'gelu'} if exact else hf


# The head of a checkpoint, and the class name of transformers for it.
BERT_HEADS = {'mlm': 'BertForMaskedLM', 'mlm_nsp': 'BertForPreTraining', 'pooler': 'BertModel',
              'classifier': 'BertForSequenceClassification', 'tagger': 'BertForTokenClassification'}


def _read_bert(keys: Keys) -> dict[str, Any]:
  keys.fixed('position_embedding_type', 'absolute', reason='BERT as published')
  names = {name: head for head, name in BERT_HEADS.items()}
  head = names.get(class_of(keys.hf), 'mlm')
  classes = head in ('classifier', 'tagger')
  return dict(
      family='encoder_only', vocab_size=keys('vocab_size', int),
      embed_dim=keys('hidden_size', int), num_layers=keys('num_hidden_layers', int),
      num_heads=keys('num_attention_heads', int), mlp_dim=keys('intermediate_size', int),
      max_length=keys('max_position_embeddings', int),
      num_token_types=keys('type_vocab_size', int, 2), norm='layer_norm',
      norm_epsilon=keys('layer_norm_eps', float, 1e-12), norm_placement='post',
      embedding_norm=True, activation=activation_of(keys, 'hidden_act', 'gelu'), gated_mlp=False,
      bias=True, position_embedding='learned', head=head,
      dropout_rate=keys('hidden_dropout_prob', float, 0.1),
      tied_embeddings=keys('tie_word_embeddings', bool, True),
      num_classes=number_of_classes(keys) if classes else None)


def _write_bert(config: ModelConfig) -> Json:
  hf = dict(
      vocab_size=config.vocab_size, hidden_size=config.embed_dim,
      num_hidden_layers=config.num_layers, num_attention_heads=config.num_heads,
      intermediate_size=config.mlp_dim, max_position_embeddings=config.max_length,
      type_vocab_size=config.num_token_types, layer_norm_eps=config.norm_epsilon,
      hidden_act=hf_activation(config), hidden_dropout_prob=config.dropout_rate,
      attention_probs_dropout_prob=config.dropout_rate,
      tie_word_embeddings=config.tied_embeddings, architectures=[BERT_HEADS[config.head]])
  return hf if config.num_classes is None else hf | unnamed_classes(config.num_classes)


def _decoder(read, write, name: str, *others: str) -> ModelType:
  return ModelType(read, write, (f'{name}ForCausalLM', f'{name}Model', *others))


def _gpt(read, write, name: str) -> ModelType:
  heads = (f'{name}{suffix}' for suffix in decoders.GPT_HEADS.values())
  return ModelType(read, write, (*heads, f'{name}Model'))


MODEL_TYPES = {
    'gpt2': _gpt(decoders.read_gpt2, decoders.write_gpt2, 'GPT2'),
    'openai-gpt': _gpt(decoders.read_gpt1, decoders.write_gpt1, 'OpenAIGPT'),
    'llama': _decoder(decoders.read_llama, decoders.write_llama, 'Llama', 'LLaMAForCausalLM'),
    'mistral': _decoder(decoders.read_mistral, decoders.write_mistral, 'Mistral'),
    'gemma': _decoder(decoders.read_gemma, decoders.write_gemma, 'Gemma'),
    'gemma2': _decoder(decoders.read_gemma2, decoders.write_gemma2, 'Gemma2'),
    't5': ModelType(_read_t5, _write_t5, ('T5ForConditionalGeneration', 'T5Model',
                                          'T5WithLMHeadModel')),
    'mt5': ModelType(_read_mt5, _write_t5, ('MT5ForConditionalGeneration', 'MT5Model',
                                            'T5ForConditionalGeneration')),
    'bert': ModelType(_read_bert, _write_bert, ('BertForPreTraining', *BERT_HEADS.values())),
}


def find_model_type(hf: Json) -> ModelType:
  """The family of a config.json; UserError if it, or its class of transformers, is not known."""
  model_type = hf.get('model_type')
  if not isinstance(model_type, str) or model_type not in MODEL_TYPES:
    raise UserError(f'config.json: model_type {model_type!r} is not supported; '
                    f'{", ".join(MODEL_TYPES)} are')
  known = MODEL_TYPES[model_type]
  if class_of(hf) not in (None, *known.classes):
    raise UserError(f'config.json: architectures = {hf["architectures"]!r} is not supported; '
                    f'{", ".join(dict.fromkeys(known.classes))} are')
  return known


def read_config(hf: Json, **overrides) -> ModelConfig:
  """The ModelConfig of a config.json; UserError if it has an unsupported or unknown setting."""
  read = find_model_type(hf).read
  keys = Keys(hf)
  fields = read(keys)
  keys.check_all_read()
  return ModelConfig(**fields | overrides)


def labels_of(hf: Json, config: ModelConfig) -> tuple[str, ...]:
  """The names of a model's classes, as transformers numbers them; none if it has no classes.

  Raises UserError if two classes have one name, as an answer would not tell which it is.
  """
  named = hf.get('id2label')
  named = named if isinstance(named, dict) else {}
  labels = tuple(str(named.get(str(i), f'LABEL_{i}')) for i in range(config.num_classes or 0))
  for i, label in enumerate(labels):
    if (first := labels.index(label)) < i:
      raise UserError(f'config.json: id2label = {named!r:.120} gives the classes {first} and {i} '
                      f'one name, {label!r}: give each its own')
  return labels


def write_config(config: ModelConfig, model_type: str) -> Json:
  """config.json of a model, as transformers 4 and 5 read it."""
  family = MODEL_TYPES[model_type]
  return {'model_type': model_type, 'architectures': [family.classes[0]]} | family.write(config)


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
