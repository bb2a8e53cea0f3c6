"""Every key of a config.json is read, known to be irrelevant, or refused by name."""

import json

import pytest

from t5x_lite.core.errors import UserError
from t5x_lite.interop import hf_configs, hf_keys

transformers = pytest.importorskip('transformers')

CLASSES = {
    'gpt2': transformers.GPT2Config, 'openai-gpt': transformers.OpenAIGPTConfig,
    'llama': transformers.LlamaConfig, 'mistral': transformers.MistralConfig,
    'gemma': transformers.GemmaConfig, 'gemma2': transformers.Gemma2Config,
    't5': transformers.T5Config, 'mt5': transformers.MT5Config, 'bert': transformers.BertConfig}
SIZES = ('vocab_size', 'n_embd', 'n_layer', 'n_head', 'n_positions', 'hidden_size',
         'num_hidden_layers', 'num_attention_heads', 'intermediate_size', 'd_model', 'd_kv', 'd_ff',
         'num_layers', 'num_heads', 'model_type', 'max_position_embeddings')


def full(model_type, **changes):
  """config.json of transformers' class with all of its defaults, as JSON holds it."""
  return json.loads(json.dumps(CLASSES[model_type](**changes).to_dict())) | changes


@pytest.mark.parametrize('model_type', CLASSES)
def test_every_key_of_transformers_own_config_is_known_and_has_its_default(model_type):
  hf = full(model_type)
  assert sorted(CLASSES) == sorted(hf_configs.MODEL_TYPES) == sorted(hf_keys.IRRELEVANT)
  config = hf_configs.read_config(hf)
  for key in hf:
    if key not in SIZES and key not in ('is_gated_act', 'dense_act_fn'):
      assert hf_configs.read_config({k: v for k, v in hf.items() if k != key}) == config, key
  if model_type.endswith('t5'):   # what transformers derives from feed_forward_proj
    less = {k: v for k, v in hf.items() if k not in ('is_gated_act', 'dense_act_fn')}
    assert hf_configs.read_config(less) == config


@pytest.mark.parametrize('model_type', CLASSES)
def test_a_key_that_nothing_reads_is_refused_by_name_with_its_value(model_type):
  hf = full(model_type) | {'qk_norm': True, 'a_null': None}
  with pytest.raises(UserError, match=r"config.json: qk_norm = True: not known for model_type"):
    hf_configs.read_config(hf)
  hf = full(model_type) | {f'key_{i:02}': i for i in range(17)}
  with pytest.raises(UserError, match=r'key_00 = 0, .*key_04 = 4 … and 12 more: not known'):
    hf_configs.read_config(hf)


@pytest.mark.parametrize('model_type, change, reason', [
    ('gemma', {'hidden_activation': 'gelu'}, "hidden_activation = 'gelu' is another activation"),
    ('gemma', {'hidden_act': 'silu', 'hidden_activation': 'gelu_pytorch_tanh'}, 'hidden_act'),
    ('gemma2', {'hidden_act': 'relu'}, "hidden_act = 'relu' is another activation"),
    ('gemma', {'use_bidirectional_attention': True}, 'use_bidirectional_attention = True'),
    ('gemma2', {'layer_types': ['full_attention']}, 'layer_types has 1 entries'),
    ('gemma2', {'query_pre_attn_scalar': -1}, 'query_pre_attn_scalar = -1.0 must be above 0'),
    ('llama', {'rope_scaling': {'rope_type': 'linear', 'factor': 2.0}},
     "rope_scaling.rope_type = 'linear' contradicts another place of it, which has 'default'"),
    ('llama', {'rope_parameters': None, 'rope_scaling': {'type': 'linear', 'factor': 2.0}},
     "rope_type = 'linear' is not supported"),
    ('llama', {'rope_parameters': None, 'rope_scaling': {'type': 'dynamic', 'factor': 2.0}},
     "rope_type = 'dynamic' is not supported"),
    ('llama', {'rope_theta': 5e5}, 'rope_parameters.rope_theta = 10000.0 contradicts'),
    ('llama', {'rope_parameters': {'rope_type': 'llama3', 'rope_theta': 1e4}},
     "'factor' is missing"),
    ('llama', {'rope_parameters': {'rope_theta': 1e4, 'beta_fast': 32}}, 'beta_fast = 32: not kn'),
    ('llama', {'partial_rotary_factor': 0.5}, 'partial_rotary_factor = 0.5 is not supported'),
    ('llama', {'quantization_config': {'quant_method': 'fp8'}}, 'quantization_config = '),
    ('mistral', {'layer_types': ['full_attention'] * 32}, 'layer_types = '),
    ('bert', {'is_decoder': True}, 'is_decoder = True is not supported'),
    ('bert', {'architectures': ['BertForMultipleChoice']}, "'BertForMultipleChoice'.* is not supp"),
    ('bert', {'architectures': ['BertForSequenceClassification'],
              'problem_type': 'multi_label_classification'}, 'problem_type = '),
    ('gpt2', {'hidden_size': 512}, 'hidden_size = 512, and n_embd = 768 is the same setting'),
    ('gpt2', {'architectures': ['GPT2ForTokenClassification']}, 'architectures = '),
    ('gpt2', {'architectures': ['GPT2ForSequenceClassification'],
              'problem_type': 'regression'}, "problem_type = 'regression' is not supported"),
    ('openai-gpt', {'architectures': ['OpenAIGPTDoubleHeadsModel'],
                    'summary_activation': 'tanh'}, "summary_activation = 'tanh' is not supported"),
    ('openai-gpt', {'n_inner': 7}, 'n_inner = 7 is not supported'),
    ('t5', {'architectures': ['T5EncoderModel']}, 'architectures = '),
    ('t5', {'feed_forward_proj': 'gated-gelu-x'}, 'is neither an activation nor gated-'),
    ('t5', {'tie_encoder_decoder': True}, 'tie_encoder_decoder = True is not supported'),
    ('llama', {'num_hidden_layers': '2'}, "num_hidden_layers = '2' is no int"),
    ('llama', {'num_hidden_layers': 2.0}, 'num_hidden_layers = 2.0 is no int'),
    ('llama', {'num_hidden_layers': True}, 'num_hidden_layers = True is no int'),
    ('llama', {'rms_norm_eps': None}, 'rms_norm_eps = None is no float'),
    ('llama', {'num_attention_heads': 0}, 'num_attention_heads = 0 is below 1'),
    ('llama', {'vocab_size': 10 ** 30}, 'is out of range'),
    ('llama', {'model_type': ['llama']}, r"model_type \['llama'\] is not supported"),
    ('llama', {'architectures': 'Llama'}, 'architectures'),
])
def test_what_a_model_cannot_have_is_refused_by_name(model_type, change, reason):
  with pytest.raises(UserError, match=reason) as e:
    hf_configs.read_config(full(model_type) | change)
  assert '\n' not in str(e.value)


@pytest.mark.parametrize('model_type', ['mixtral', 'qwen2', 'qwen3', 'phi3', 'gpt_neox', 'gemma3',
                                        'roberta', 'umt5', 'falcon', 'mamba', None])
def test_other_architectures_are_refused_by_name(model_type):
  with pytest.raises(UserError, match=f'model_type {model_type!r} is not supported; gpt2, '):
    hf_configs.read_config({'model_type': model_type, 'vocab_size': 10})


@pytest.mark.parametrize('model_type, change, field, value', [
    ('mistral', {}, 'sliding_window', 4096), ('mistral', {'sliding_window': None},
                                              'sliding_window', None),
    ('gpt2', {'n_inner': 7}, 'mlp_dim', 7), ('gpt2', {'scale_attn_weights': False},
                                             'attention_scale', 1.0),
    ('gpt2', {'architectures': ['GPT2ForSequenceClassification'], 'id2label': None,
              'num_labels': 5}, 'num_classes', 5),
    ('openai-gpt', {'architectures': ['OpenAIGPTDoubleHeadsModel']}, 'head', 'choice'),
    ('bert', {'hidden_act': 'gelu_fast'}, 'activation', 'gelu'),
    ('bert', {'tie_word_embeddings': False, 'architectures': ['BertForMaskedLM']},
     'tied_embeddings', False),
    ('gemma', {'hidden_act': 'gelu', 'hidden_activation': 'gelu_pytorch_tanh'}, 'activation',
     'gelu'),
    ('gemma2', {'num_hidden_layers': 3, 'layer_types': None}, 'scan_layers', False),
    ('gemma2', {'layer_types': ['full_attention'] * 26}, 'sliding_window', None),
    ('t5', {'feed_forward_proj': 'gated-silu'}, 'activation', 'silu'),
    ('t5', {'feed_forward_proj': 'gated-gelu', 'dense_act_fn': 'gelu'}, 'activation',
     'gelu_exact'),
    ('mt5', {}, 'scale_logits', False)])
def test_a_key_that_matters_is_read(model_type, change, field, value):
  hf = full(model_type) | change
  if 'dense_act_fn' not in change:
    hf.pop('dense_act_fn', None), hf.pop('is_gated_act', None)
  elif 'feed_forward_proj' in change:
    hf.pop('is_gated_act')
  config = hf_configs.read_config(hf)
  assert getattr(config, field) == value
  # and written again
  back = hf_configs.read_config(hf_configs.write_config(config, hf_configs.model_type_of(config)))
  assert getattr(back, field) == value


def test_two_classes_of_one_name_are_refused():
  hf = {'id2label': {'0': 'a', '1': 'a'}}
  config = hf_configs.read_config(
      full('bert', num_labels=2, architectures=['BertForSequenceClassification']))
  assert config.num_classes == 2
  with pytest.raises(UserError, match="the classes 0 and 1 one name, 'a'"):
    hf_configs.labels_of(hf, config)
  with pytest.raises(UserError, match="the classes 0 and 1 one name, 'LABEL_1'"):
    hf_configs.labels_of({'id2label': {'0': 'LABEL_1'}}, config)
  assert hf_configs.labels_of({'id2label': {'0': 'a', '1': 'A'}}, config) == ('a', 'A')
