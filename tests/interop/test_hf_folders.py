"""Folders of Hugging Face as they come: what is read is what transformers reads, or is refused."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip('torch')
transformers = pytest.importorskip('transformers')

from safetensors.numpy import load_file, save_file  # noqa: E402

from t5x_lite import cli, models  # noqa: E402
from t5x_lite.core.errors import UserError  # noqa: E402
from t5x_lite.experiment import gin_config  # noqa: E402
from t5x_lite.interop import huggingface  # noqa: E402
from t5x_lite.parallel.mesh import MeshConfig  # noqa: E402
from t5x_lite.parallel.partitioner import Partitioner  # noqa: E402

VOCAB = 61
_GPT = dict(vocab_size=VOCAB, n_positions=32, n_embd=32, n_layer=2, n_head=4, eos_token_id=None,
            bos_token_id=None)
_LLAMA = dict(vocab_size=VOCAB, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
              num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=64,
              eos_token_id=None, bos_token_id=None, pad_token_id=None)
_T5 = dict(vocab_size=VOCAB, d_model=32, d_kv=12, d_ff=48, num_layers=2, num_heads=4)
_BERT = dict(vocab_size=VOCAB, hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
             intermediate_size=48, max_position_embeddings=32)
CLASSES = {
    'gpt2': (transformers.GPT2LMHeadModel, _GPT),
    'openai-gpt': (transformers.OpenAIGPTLMHeadModel, _GPT),
    'llama': (transformers.LlamaForCausalLM, _LLAMA),
    'mistral': (transformers.MistralForCausalLM, _LLAMA),
    'gemma': (transformers.GemmaForCausalLM, _LLAMA | {'head_dim': 16}),
    'gemma2': (transformers.Gemma2ForCausalLM, _LLAMA | {
        'head_dim': 16, 'sliding_window': 4, 'query_pre_attn_scalar': 24}),
    't5': (transformers.T5ForConditionalGeneration, _T5),
    'mt5': (transformers.MT5ForConditionalGeneration, _T5),
    'bert': (transformers.BertForMaskedLM, _BERT),
    'classifier': (transformers.BertForSequenceClassification, _BERT | {'num_labels': 5})}


@pytest.fixture(scope='module')
def partitioner():
  return Partitioner(MeshConfig(data=1).make(jax.devices()[:1]))


def save(folder, name, **changes):
  """Writes a folder of a model whose parameters are all far from their initial values."""
  cls, fields = CLASSES[name]
  model = cls(cls.config_class(**fields | changes))
  generator = torch.Generator().manual_seed(0)
  with torch.no_grad():
    for parameter, p in model.named_parameters():
      centre = 1.0 if p.ndim == 1 and parameter.endswith('weight') else 0.0
      p.copy_(centre + 0.15 * torch.randn(p.shape, generator=generator))
  model.save_pretrained(folder)
  return folder


def edit(folder, rename=lambda n: n, hf=lambda hf: hf, more=lambda tensors: {}):
  """Renames tensors (None: left out), adds some, and changes config.json."""
  path = folder / 'model.safetensors'
  tensors = load_file(path)
  renamed = {rename(n): t for n, t in tensors.items() if rename(n)} | more(tensors)
  save_file({n: np.ascontiguousarray(t) for n, t in renamed.items()}, path,
            metadata={'format': 'pt'})
  config = json.loads((folder / 'config.json').read_text())
  (folder / 'config.json').write_text(json.dumps(hf(config)))
  return folder


def logits_of_transformers(folder, cls, tokens):
  model = cls.from_pretrained(folder, attn_implementation='eager').eval()
  kwargs = {'decoder_input_ids': torch.tensor(tokens)} if model.config.is_encoder_decoder else {}
  with torch.no_grad():
    return model(input_ids=torch.tensor(tokens), **kwargs).logits.numpy()


def logits(folder, partitioner, tokens, **overrides):
  config, params = huggingface.load_model(folder, partitioner, **overrides)
  side = 'decoder' if config.family == 'decoder_only' else 'encoder'
  batch = {f'{side}_input_tokens': tokens, 'decoder_input_tokens': tokens}
  got = models.build_network(config).bind(params)({n: jnp.asarray(x) for n, x in batch.items()})
  return np.asarray(got)[:, 0] if config.head == 'classifier' else np.asarray(got)


def assert_agree(folder, name, partitioner, **overrides):
  tokens = np.random.default_rng(0).integers(2, VOCAB, (2, 12))
  want = logits_of_transformers(folder, CLASSES[name][0], tokens)
  assert np.abs(want).max() > 0.1
  np.testing.assert_allclose(logits(folder, partitioner, tokens, **overrides), want, atol=1e-4,
                             rtol=0)


NOT_DEFAULT = [
    ('gpt2', dict(n_inner=40)), ('gpt2', dict(activation_function='gelu_fast')),
    ('gpt2', dict(activation_function='gelu', layer_norm_epsilon=1e-2)),
    ('gpt2', dict(scale_attn_weights=False)), ('gpt2', dict(reorder_and_upcast_attn=True)),
    ('gpt2', dict(tie_word_embeddings=False)),
    ('openai-gpt', dict(afn='silu', layer_norm_epsilon=1e-2)),
    ('llama', dict(attention_bias=True, mlp_bias=True)),
    ('llama', dict(hidden_act='relu', rms_norm_eps=1e-2, tie_word_embeddings=True)),
    ('llama', dict(head_dim=10, num_key_value_heads=1, rope_parameters={
        'rope_type': 'default', 'rope_theta': 50.0})),
    ('mistral', dict(sliding_window=None)), ('mistral', dict(sliding_window=3)),
    ('mistral', dict(hidden_size=36, num_attention_heads=8, head_dim=6)),
    ('gemma', dict(hidden_act='silu')), ('gemma', dict(tie_word_embeddings=False)),
    ('gemma2', dict(num_hidden_layers=3)), ('gemma2', dict(hidden_activation='gelu')),
    ('gemma2', dict(num_hidden_layers=3, layer_types=[
        'sliding_attention', 'sliding_attention', 'full_attention'])),
    ('gemma2', dict(layer_types=['full_attention'] * 2)),
    ('gemma2', dict(layer_types=['sliding_attention'] * 2, attn_logit_softcapping=None,
                    final_logit_softcapping=None)),
    ('t5', dict(feed_forward_proj='gated-silu')), ('t5', dict(feed_forward_proj='gelu')),
    ('t5', dict(feed_forward_proj='gated-gelu', tie_word_embeddings=False)),
    ('t5', dict(relative_attention_num_buckets=6, relative_attention_max_distance=9,
                num_decoder_layers=1, layer_norm_epsilon=1e-2)),
    ('mt5', dict()), ('mt5', dict(tie_word_embeddings=False)),
    ('bert', dict(hidden_act='gelu_new', layer_norm_eps=1e-2, type_vocab_size=1)),
    ('bert', dict(tie_word_embeddings=False)), ('classifier', dict())]
FAST = {('gpt2', 'scale_attn_weights'), ('llama', 'attention_bias'), ('mt5', ''),
        ('bert', 'tie_word_embeddings'), ('gemma2', 'hidden_activation')}


@pytest.mark.parametrize('name, changes', [
    pytest.param(name, changes, id=f'{name}-{"-".join(changes)}', marks=[] if (
        name, next(iter(changes), '')) in FAST else [pytest.mark.slow])
    for name, changes in NOT_DEFAULT])
def test_a_setting_that_is_read_gives_the_logits_of_transformers(
    name, changes, tmp_path, partitioner):
  assert_agree(save(tmp_path, name, **changes), name, partitioner)


def test_square_layouts_that_are_transposed_are_refused_by_exact_shape(tmp_path, partitioner):
  folder = save(tmp_path, 'gpt2')
  # minGPT's Linear has [out, in] where GPT-2's Conv1D has [in, out]: as many numbers.
  edit(folder, more=lambda t: {n: x.T for n, x in t.items() if n.endswith('attn.c_attn.weight')})
  with pytest.raises(UserError, match=(
      r'transformer.h.0.attn.c_attn.weight has the shape \(96, 32\) and not \(32, 96\), .*: the '
      'config or the layout is of another model')):
    huggingface.load_model(folder, partitioner)
  edit(folder, more=lambda t: {n: x.T for n, x in t.items() if n.endswith('attn.c_attn.weight')})
  wpe = 'transformer.wpe.weight'
  edit(folder, more=lambda t: {wpe: t[wpe].reshape(64, 16),
                               'transformer.ln_f.bias': t['transformer.ln_f.bias'][None]})
  with pytest.raises(UserError, match=r'wpe.weight has the shape \(64, 16\) and not \(32, 32\)'):
    huggingface.load_model(folder, partitioner)


def test_a_table_stored_under_another_of_its_names_is_read(tmp_path, partitioner):
  head_alone = lambda n: 'lm_head.weight' if n == 'transformer.wte.weight' else n
  assert_agree(edit(save(tmp_path / 'gpt2', 'gpt2'), head_alone), 'gpt2', partitioner)
  for i, other in enumerate(('decoder.embed_tokens', 'lm_head')):
    alone = lambda n, other=other: n.replace('shared', other) if n == 'shared.weight' else n
    assert_agree(edit(save(tmp_path / f't5_{i}', 't5'), alone), 't5', partitioner)


def test_tables_that_differ_are_separate_or_refused(tmp_path, partitioner):
  for name, table, output in (('gpt2', 'transformer.wte.weight', 'lm_head.weight'),
                              ('t5', 'shared.weight', 'lm_head.weight'),
                              ('bert', 'bert.embeddings.word_embeddings.weight',
                               'cls.predictions.decoder.weight')):
    folder = edit(save(tmp_path / name, name),
                  more=lambda t, table=table, output=output: {output: t[table][::-1]})
    assert_agree(folder, name, partitioner)
    config, _ = huggingface.load_model(folder, partitioner)
    assert not config.tied_embeddings
  folder = edit(save(tmp_path / 'copy', 't5'),
                more=lambda t: {'decoder.embed_tokens.weight': t['shared.weight'] + 1})
  with pytest.raises(UserError, match='shared.weight and decoder.embed_tokens.weight differ'):
    huggingface.load_model(folder, partitioner)
  # the bias of BERT's output, under its other name
  folder = edit(save(tmp_path / 'bias', 'bert'), more=lambda t: {
      'cls.predictions.decoder.bias': t['cls.predictions.bias'][::-1]})
  assert_agree(folder, 'bert', partitioner)


def test_weights_of_heads_that_a_bert_does_not_have_are_left_and_named(tmp_path, partitioner):
  folder = edit(save(tmp_path / 'mlm', 'bert'), more=lambda t: {
      'bert.pooler.dense.weight': np.ones((32, 32), np.float32),
      'bert.pooler.dense.bias': np.ones(32, np.float32)})
  lines = []
  huggingface.load_model(folder, partitioner, log=lines.append)
  assert lines == ['Not used, of heads that this model does not have: bert.pooler.dense.bias, '
                   'bert.pooler.dense.weight']
  assert_agree(folder, 'bert', partitioner)
  folder = edit(save(tmp_path / 'classifier', 'classifier'), more=lambda t: {
      'cls.predictions.bias': np.ones(VOCAB, np.float32)})
  assert_agree(folder, 'classifier', partitioner)


def test_quantised_tensors_are_refused_by_their_dtype(tmp_path, partitioner):
  import ml_dtypes
  from safetensors.torch import save_file as save_torch
  folder = save(tmp_path, 'llama')
  name = 'model.layers.0.mlp.up_proj.weight'
  tensors = {n: torch.tensor(t) for n, t in load_file(folder / 'model.safetensors').items()}
  for dtype, shown in ((torch.float8_e4m3fn, 'F8_E4M3'), (torch.int8, 'I8'), (torch.uint8, 'U8')):
    save_torch(tensors | {name: tensors[name].to(dtype)}, folder / 'model.safetensors',
               metadata={'format': 'pt'})
    with pytest.raises(UserError, match=f'{name} has the dtype {shown}: quantised weights'):
      huggingface.load_model(folder, partitioner)
  half = {n: t.to(torch.bfloat16 if i % 2 else torch.float16)
          for i, (n, t) in enumerate(tensors.items())}
  save_torch(half, folder / 'model.safetensors', metadata={'format': 'pt'})
  _, params = huggingface.load_model(folder, partitioner)
  up = params['decoder']['blocks']['mlp']['up']['kernel'][0]
  np.testing.assert_array_equal(up, half[name].float().numpy().T)
  assert ml_dtypes.bfloat16


def test_files_of_two_models_in_one_folder_are_refused(tmp_path, partitioner):
  folder = save(tmp_path, 'llama')
  tensors = load_file(folder / 'model.safetensors')
  for i in (1, 2):
    save_file(tensors, folder / f'model-0000{i}-of-00002.safetensors')
  index = lambda names: (folder / 'model.safetensors.index.json').write_text(
      json.dumps({'weight_map': names}))
  load = lambda: huggingface.load_model(folder, partitioner)
  index({name: 'model-00001-of-00002.safetensors' for name in tensors})
  with pytest.raises(UserError, match='holds both model.safetensors and model.safetensors.index'):
    load()
  (folder / 'model.safetensors').unlink()
  load()
  index({name: f'model-0000{i % 2 + 1}-of-00002.safetensors' for i, name in enumerate(tensors)})
  with pytest.raises(UserError, match='is both in model-00001-of-00002.safetensors and in model-0'):
    load()
  for bad in ([], {'a': 1}, {'a': '../model.safetensors'}):
    index(bad)
    with pytest.raises(UserError, match='index.json is damaged'):
      load()
  (folder / 'model.safetensors.index.json').unlink()
  with pytest.raises(UserError, match='but neither model.safetensors nor'):
    load()


def test_long_lists_of_tensors_are_cut_after_five(tmp_path, partitioner):
  folder = edit(save(tmp_path, 'llama'), lambda n: n.replace('self_attn', 'attn'))
  with pytest.raises(UserError) as e:
    huggingface.load_model(folder, partitioner)
  assert str(e.value).count(' … and 3 more') == 2 and len(str(e.value)) < 700


def test_a_head_dim_that_does_not_follow_from_the_width_is_in_config_gin(tmp_path):
  folder = save(tmp_path / 'hf', 'mistral', hidden_size=36, num_attention_heads=8, head_dim=4)
  assert cli.main(['import', f'--from={folder}', f'--to={tmp_path / "run"}']) == 0
  model = gin_config.load_described([str(tmp_path / 'run' / 'config.gin')]).model
  assert (model.embed_dim, model.num_heads, model.head_dim) == (36, 8, 4)
