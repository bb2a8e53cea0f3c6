"""Imported and exported models against transformers and torch, and planted mistakes they catch."""

import dataclasses
import functools
import json
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip('torch', reason='torch is the oracle: pip install torch transformers')
transformers = pytest.importorskip('transformers')

from t5x_lite import models  # noqa: E402
from t5x_lite.core.errors import UserError  # noqa: E402
from t5x_lite.inference import generate  # noqa: E402
from t5x_lite.interop import hf_configs, huggingface  # noqa: E402
from t5x_lite.models.attention import layer  # noqa: E402
from t5x_lite.models.attention.layer import Attention  # noqa: E402
from t5x_lite.models.stack import Stack  # noqa: E402
from t5x_lite.objectives.language_model import CrossEntropy  # noqa: E402
from t5x_lite.objectives.next_sentence import NextSentenceLoss  # noqa: E402
from t5x_lite.parallel.mesh import MeshConfig  # noqa: E402
from t5x_lite.parallel.partitioner import Partitioner  # noqa: E402
from t5x_lite.training.step import loss_and_gradients  # noqa: E402

VOCAB, LENGTH = 61, 12
_GPT = dict(vocab_size=VOCAB, n_positions=32, n_embd=32, n_layer=3, n_head=4, resid_pdrop=0.0,
            embd_pdrop=0.0, attn_pdrop=0.0, bos_token_id=1, eos_token_id=None)
_LLAMA = dict(vocab_size=VOCAB, hidden_size=32, intermediate_size=48, num_hidden_layers=3,
              num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=64,
              rms_norm_eps=1e-5, bos_token_id=1, eos_token_id=None, pad_token_id=0)
_T5 = dict(vocab_size=VOCAB, d_model=32, d_kv=12, d_ff=48, num_layers=2, num_decoder_layers=3,
           num_heads=4, relative_attention_num_buckets=8, relative_attention_max_distance=10,
           dropout_rate=0.0, eos_token_id=None, decoder_start_token_id=0)
_BERT = dict(vocab_size=VOCAB, hidden_size=32, num_hidden_layers=3, num_attention_heads=4,
             intermediate_size=48, max_position_embeddings=32, hidden_dropout_prob=0.0,
             attention_probs_dropout_prob=0.0)
LLAMA3_ROPE = {'rope_type': 'llama3', 'rope_theta': 100.0, 'factor': 8.0, 'low_freq_factor': 1.0,
               'high_freq_factor': 4.0, 'original_max_position_embeddings': 16}
DECODERS = {
    'gpt2': lambda: transformers.GPT2LMHeadModel(transformers.GPT2Config(**_GPT)),
    'gpt1': lambda: transformers.OpenAIGPTLMHeadModel(transformers.OpenAIGPTConfig(**_GPT)),
    'llama': lambda: transformers.LlamaForCausalLM(transformers.LlamaConfig(**_LLAMA)),
    'llama3': lambda: transformers.LlamaForCausalLM(transformers.LlamaConfig(
        **_LLAMA, rope_parameters=LLAMA3_ROPE, tie_word_embeddings=True, head_dim=12)),
    'mistral': lambda: transformers.MistralForCausalLM(transformers.MistralConfig(
        **_LLAMA, sliding_window=4)),
    'gemma': lambda: transformers.GemmaForCausalLM(transformers.GemmaConfig(
        **_LLAMA | dict(num_key_value_heads=1), head_dim=16)),
    'gemma2': lambda: transformers.Gemma2ForCausalLM(transformers.Gemma2Config(
        **_LLAMA | dict(num_hidden_layers=4), head_dim=16, sliding_window=4,
        query_pre_attn_scalar=24, attn_logit_softcapping=2.0, final_logit_softcapping=3.0)),
}
ENCODER_DECODERS = {
    't5': lambda: transformers.T5ForConditionalGeneration(transformers.T5Config(**_T5)),
    't5_1_1': lambda: transformers.T5ForConditionalGeneration(transformers.T5Config(
        **_T5, feed_forward_proj='gated-gelu', tie_word_embeddings=False)),
}
_bert_config = lambda **more: transformers.BertConfig(**_BERT, **more)
ENCODERS = {
    'bert_mlm': lambda: transformers.BertForMaskedLM(_bert_config()),
    'bert_pretraining': lambda: transformers.BertForPreTraining(_bert_config()),
    'bert_pooler': lambda: transformers.BertModel(_bert_config()),
    'bert_classifier': lambda: transformers.BertForSequenceClassification(
        _bert_config(num_labels=5)),
    'bert_tagger': lambda: transformers.BertForTokenClassification(_bert_config(num_labels=5)),
}
MODELS = DECODERS | ENCODER_DECODERS | ENCODERS
PADDINGS = {'none': [LENGTH] * 3, 'right': [LENGTH, 7, 9], 'left': [LENGTH, 7, 9]}


def redrawn(make):
  """A model of transformers with every parameter far from its initial value."""
  model = make()
  generator = torch.Generator().manual_seed(0)
  # T5 does not divide its scores by sqrt(head_dim): they would be as good as one-hot.
  std = 0.12 if model.config.model_type == 't5' else 0.2
  with torch.no_grad():
    for name, p in model.named_parameters():
      centre = 1.0 if p.ndim == 1 and name.endswith('weight') else 0.0
      p.copy_(centre + std * torch.randn(p.shape, generator=generator))
    if model.config.model_type == 't5' and not model.config.scale_decoder_outputs:
      # transformers 5 ties a fresh model whatever its config says; a released one is not.
      head = torch.nn.Linear(32, VOCAB, bias=False)
      head.weight.copy_(0.3 * torch.randn(head.weight.shape, generator=generator))
      model.lm_head = head
  model.eval()
  model.set_attn_implementation('eager')   # which knows soft caps
  return model


@pytest.fixture(scope='module')
def partitioner():
  return Partitioner(MeshConfig(data=1).make(jax.devices()[:1]))


@pytest.fixture(scope='module')
def imported(tmp_path_factory, partitioner):
  """name -> (model of transformers, its folder, our config, our parameters), made once."""
  made = {}

  def get(name):
    if name not in made:
      model, folder = redrawn(MODELS[name]), tmp_path_factory.mktemp(name)
      model.save_pretrained(folder)
      made[name] = model, folder, *huggingface.load_model(folder, partitioner)
    return made[name]

  return get


def batch_of(padding, seed=0):
  """(tokens, mask, positions) [3, 12] with rows padded on one side."""
  rng = np.random.default_rng(seed)
  tokens, mask = rng.integers(2, VOCAB, (3, LENGTH)), np.zeros((3, LENGTH), np.int64)
  for row, size in enumerate(PADDINGS[padding]):
    mask[row, slice(LENGTH - size, None) if padding == 'left' else slice(size)] = 1
  return tokens * mask, mask, np.maximum(mask.cumsum(1) - 1, 0)


def theirs(model, tokens, mask, positions, **more):
  """What the model of transformers says, as NumPy."""
  args = dict(input_ids=tokens, attention_mask=mask, **more)
  if model.config.model_type != 't5':
    args['position_ids'] = positions
  with torch.no_grad():
    out = model(**{name: torch.tensor(x) for name, x in args.items()})
  out = out.get('logits', out.get('prediction_logits', out.get('pooler_output')))
  return out.numpy()


def features(config, tokens, mask, positions, decoder_tokens=None, types=None):
  """The same as a batch of ours."""
  side = 'decoder' if config.family == 'decoder_only' else 'encoder'
  batch = {f'{side}_input_tokens': tokens, f'{side}_segment_ids': mask,
           f'{side}_positions': positions}
  if decoder_tokens is not None:
    batch['decoder_input_tokens'] = decoder_tokens
  if types is not None:
    batch['encoder_token_types'] = types
  return {name: jnp.asarray(x, jnp.int32) for name, x in batch.items()}


@functools.cache
def program(config):
  network = models.build_network(config)
  return jax.jit(lambda p, b: network.bind(p)(b))


def ours(config, params, batch):
  return np.asarray(program(config)(params, batch))


def both(imported, name, padding, change=lambda config, params: (config, params)):
  """(our logits, theirs) at the places that are no padding."""
  model, _, config, params = imported(name)
  tokens, mask, positions = batch_of(padding)
  more, kwargs = {}, {}
  if config.family == 'encoder_decoder':
    more['decoder_tokens'] = np.random.default_rng(1).integers(0, VOCAB, (3, 10))
    kwargs['decoder_input_ids'] = more['decoder_tokens']
  if config.family == 'encoder_only':
    more['types'] = kwargs['token_type_ids'] = (positions > 3).astype(np.int64)
  if padding == 'left' and config.head in ('classifier', 'pooler', 'mlm_nsp'):
    more['types'][:, 0] = kwargs['token_type_ids'][:, 0] = 1   # read even where it is padding
  want = theirs(model, tokens, mask, positions, **kwargs)
  got = ours(*change(config, params), features(config, tokens, mask, positions, **more))
  if got.shape[1:] == (1, want.shape[-1]):
    got = got[:, 0]
  if got.ndim == 3 and got.shape[1] == LENGTH:
    return got[mask > 0], want[mask > 0]
  return got, want


# A pooler reads the first place, which left padding leaves empty: nothing to agree on.
CASES = [(name, padding) for name in MODELS for padding in PADDINGS
         if not (padding == 'left' and name in ('bert_pooler', 'bert_classifier'))]


@pytest.mark.parametrize('name, padding', CASES)
def test_logits_are_those_of_transformers(name, padding, imported):
  got, want = both(imported, name, padding)
  assert np.abs(want).max() > 0.1
  np.testing.assert_allclose(got, want, atol=1e-4, rtol=0)


def interleaved_rope(x, positions, frequency):
  """Turns (x0, x1), (x2, x3), …: Meta's own layout, wrong for these checkpoints."""
  angle = positions[:, :, None, None] * frequency[None, None, None, :]
  a, b = x[..., ::2], x[..., 1::2]
  turned = a * jnp.cos(angle) - b * jnp.sin(angle), b * jnp.cos(angle) + a * jnp.sin(angle)
  return jnp.stack(turned, -1).reshape(x.shape)


def with_config(**fields):
  return lambda config, params: (dataclasses.replace(config, **fields), params)


def swap(block, a, b):
  def change(config, params):
    params = jax.tree.map(lambda x: x, params)
    node = params['decoder']['blocks'][block]
    node[a], node[b] = node[b], node[a]
    return config, params
  return change


def tied(config, params):
  embedder = {k: v for k, v in params['embedder'].items() if k != 'output'}
  return dataclasses.replace(config, tied_embeddings=True), params | {'embedder': embedder}


MISTAKES = {
    'rotary pairs interleaved': [('llama', None), ('mistral', None), ('gemma', None),
                                 ('gemma2', None)],
    'gate and up swapped': [(n, swap('mlp', 'gate', 'up')) for n in (
        'llama', 'mistral', 'gemma', 'gemma2', 't5_1_1')],
    'keys and values swapped': [(n, swap('attention', 'key', 'value')) for n in DECODERS],
    'head tied': [('llama', tied), ('t5_1_1', tied)],
    'exact GELU': [(n, with_config(activation='gelu_exact')) for n in (
        'gpt1', 'gpt2', 'gemma', 'gemma2', 't5_1_1')],
    'tanh GELU': [(n, with_config(activation='gelu')) for n in ('bert_mlm', 'bert_pooler')],
    'bias in cross-attention': [('t5', None), ('t5_1_1', None)],
    'window one too wide': [(n, with_config(sliding_window=5)) for n in ('mistral', 'gemma2')],
    'window one too narrow': [(n, with_config(sliding_window=3)) for n in ('mistral', 'gemma2')],
    'window in every layer': [('gemma2', with_config(full_attention_interval=None))],
    'scale 1': [(n, with_config(norm_unit_offset=False)) for n in ('gemma', 'gemma2')],
    'embeddings not scaled': [(n, with_config(scale_embeddings=False)) for n in (
        'gemma', 'gemma2')],
    'no soft cap of scores': [('gemma2', with_config(attention_softcap=None))],
    'no soft cap of logits': [('gemma2', with_config(logits_softcap=None))],
    'logits not scaled': [('t5', with_config(scale_logits=False))],
    'logits scaled': [('t5_1_1', with_config(scale_logits=True))],
    'scores divided by sqrt(head_dim)': [(n, with_config(attention_scale=12 ** -0.5)) for n in (
        't5', 't5_1_1')],
    'head_dim for query_pre_attn_scalar': [('gemma2', with_config(attention_scale=16 ** -0.5))],
    'frequencies not scaled': [('llama3', with_config(rope_scaling=None))],
    'another epsilon': [(n, with_config(norm_epsilon=1e-3)) for n in (
        'gpt1', 'gpt2', 'llama', 'mistral', 'gemma', 'gemma2', 't5', 'bert_mlm')],
    'another theta': [(n, with_config(rope_theta=1e3)) for n in ('llama', 'mistral', 'gemma2')],
}


@pytest.mark.parametrize('mistake, name, change', [
    pytest.param(mistake, name, change, id=f'{mistake}-{name}')
    for mistake, cases in MISTAKES.items() for name, change in cases])
def test_a_planted_mistake_fails_the_comparison(mistake, name, change, imported, monkeypatch):
  if change is None:   # the mistake is in the code: a program of it is of this test alone
    monkeypatch.setitem(globals(), 'program', program.__wrapped__)
  if mistake == 'rotary pairs interleaved':
    monkeypatch.setattr(layer, 'rope', interleaved_rope)
  if mistake == 'bias in cross-attention':
    plain = Attention.__call__
    monkeypatch.setattr(Attention, '__call__', lambda self, x, k, v, **kw: plain(
        self, x, k, v, **kw | {'bias': kw.get('bias') or biased[-1]}))
    biased, make = [], Stack._bias

    def remember(self):
      biased.append(make(self))
      return biased[-1]

    monkeypatch.setattr(Stack, '_bias', remember)
  got, want = both(imported, name, 'none', change or (lambda c, p: (c, p)))
  assert np.abs(got - want).max() > 1.5e-4   # the comparison allows 1e-4


def test_positions_counted_from_the_padding_fail_the_comparison(imported):
  for name in ('gpt2', 'gpt1', 'bert_mlm'):
    model, _, config, params = imported(name)
    tokens, mask, positions = batch_of('left')
    want = theirs(model, tokens, mask, positions)
    wrong = np.broadcast_to(np.arange(LENGTH), mask.shape)
    got = ours(config, params, features(config, tokens, mask, wrong))
    assert np.abs(got - want)[mask > 0].max() > 1e-2


def their_loss(model, config, tokens, mask, positions):
  """The mean loss of transformers with its gradients left in the model; and our targets."""
  labels = np.where(mask > 0, tokens, -100)
  args = dict(input_ids=tokens, attention_mask=mask, labels=labels)
  if config.family != 'encoder_decoder':
    args['position_ids'] = positions
  if config.head in ('classifier', 'mlm_nsp'):
    args['labels' if config.head == 'classifier' else 'next_sentence_label'] = np.array([1, 0, 1])
  if config.head == 'tagger':
    args['labels'] = np.where(mask > 0, tokens % 5, -100)
  model.zero_grad()
  loss = model(**{name: torch.tensor(x) for name, x in args.items()}).loss
  loss.backward()
  return float(loss), args


@pytest.mark.parametrize('name', [
    'gpt1', 'gpt2', 'llama', 'gemma2', 't5_1_1', 'bert_pretraining', 'bert_classifier',
    'bert_tagger'])
def test_loss_and_gradient_of_every_parameter_are_those_of_torch(name, imported):
  model, _, config, params = imported(name)
  tokens, mask, positions = batch_of('right')
  want, args = their_loss(model, config, tokens, mask, positions)
  if config.family == 'decoder_only':
    batch = features(config, tokens[:, :-1], mask[:, :-1], positions[:, :-1])
    side, targets, weights = 'decoder', tokens[:, 1:], mask[:, 1:]
  elif config.family == 'encoder_decoder':
    shifted = np.concatenate([np.zeros((3, 1), int), tokens[:, :-1]], 1)
    batch = features(config, tokens, mask, positions, decoder_tokens=shifted)
    side, targets, weights = 'decoder', tokens, mask
  else:
    batch = features(config, tokens, mask, positions)
    side, targets, weights = 'encoder', args['labels'], mask
    if config.head == 'classifier':
      targets, weights = args['labels'][:, None], np.ones((3, 1))
    if config.head == 'mlm_nsp':
      batch['next_sentence_labels'] = jnp.asarray(args['next_sentence_label'])
  batch |= {f'{side}_target_tokens': jnp.asarray(np.maximum(targets, 0)),
            f'{side}_loss_weights': jnp.asarray(weights, jnp.float32)}
  network = models.build_network(config)
  sums, grads = jax.jit(lambda p, b: loss_and_gradients(
      network, [CrossEntropy(), NextSentenceLoss()], p, b, None))(params, batch)
  assert float(sums.total / sums.weight) == pytest.approx(want, rel=1e-4)
  got = {n: np.linalg.norm(g) / float(sums.weight) for n, g in huggingface.their_tensors(
      model.config.model_type, config, grads)}
  named = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
  largest = max(float(g.norm()) for g in named.values())
  for n, g in named.items():
    # The gradient of a bias of keys is zero but for rounding.
    assert got.pop(n) == pytest.approx(float(g.norm()), rel=1e-3, abs=1e-5 * largest), n
  assert not {n: g for n, g in got.items() if g > 1e-5 * largest}


@pytest.mark.parametrize('name', ['gpt2', 'gpt1', 'llama3', 'mistral', 'gemma2', 't5'])
def test_greedy_continuation_is_that_of_transformers(name, imported, partitioner):
  model, _, config, params = imported(name)
  tokens, mask, positions = batch_of('left')
  new = 10
  with torch.no_grad():
    want = model.generate(
        input_ids=torch.tensor(tokens), attention_mask=torch.tensor(mask), do_sample=False,
        max_new_tokens=new, min_new_tokens=new, pad_token_id=0,
        # whose cache counts on as many decoder layers as encoder layers
        use_cache=config.family != 'encoder_decoder').numpy()[:, -new:]
  run = generate.make_greedy(
      models.build_network(config, partitioner), partitioner, max_tokens=new,
      eos_id=-1, pad_id=0, num_ids=VOCAB)
  prompt, valid = tokens, mask > 0
  if config.family == 'encoder_decoder':
    prompt, valid = np.zeros((3, 1), int), np.ones((3, 1), bool)
  got = run(params, features(config, tokens, mask, positions), jnp.asarray(prompt, jnp.int32),
            jnp.asarray(valid)).tokens
  assert len(np.unique(want)) > 2
  np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize('name', MODELS)
def test_exported_and_loaded_again_every_tensor_is_the_same_without_a_warning(
    name, imported, tmp_path, caplog):
  model, _, config, params = imported(name)
  assert huggingface.save_model(tmp_path, config, params) == model.config.model_type
  with warnings.catch_warnings():
    warnings.simplefilter('error')
    back, said = type(model).from_pretrained(tmp_path, output_loading_info=True)
  assert not any(said.values()), said
  # transformers 5 says of every T5 1.1 that it should be tied: of google/flan-t5-small too.
  expected = 'we will NOT tie them' if name == 't5_1_1' else None
  assert all(expected and expected in r.getMessage() for r in caplog.records)
  state = back.state_dict()
  for tensor_name, tensor in model.state_dict().items():
    assert torch.equal(state[tensor_name], tensor), tensor_name
  tokens, mask, positions = batch_of('right')
  kwargs = {'decoder_input_ids': tokens} if config.family == 'encoder_decoder' else {}
  back.set_attn_implementation('eager')
  np.testing.assert_array_equal(theirs(back.eval(), tokens, mask, positions, **kwargs),
                                theirs(model, tokens, mask, positions, **kwargs))


@pytest.mark.parametrize('scan_layers', [True, False])
def test_shards_and_bfloat16_and_a_mesh_give_the_same_parameters(
    scan_layers, imported, tmp_path, unstack):
  _, _, config, params = imported('llama')
  config = dataclasses.replace(config, scan_layers=scan_layers)
  mesh = Partitioner(MeshConfig(fsdp=4, tensor=2).make())
  for dtype, folder in (('float32', tmp_path / 'a'), ('bfloat16', tmp_path / 'b')):
    folder.mkdir()
    huggingface.save_model(folder, imported('llama')[2], params, dtype=dtype, shard_bytes=20_000)
    assert len(list(folder.glob('model-*-of-*.safetensors'))) > 1
    assert json.loads((folder / 'config.json').read_text())['dtype'] == dtype
    back_config, back = huggingface.load_model(folder, mesh, scan_layers=scan_layers)
    assert back_config == config
    up = back['decoder']['blocks']['mlp']['up']['kernel'] if scan_layers else (
        back['decoder']['blocks'][0]['mlp']['up']['kernel'])
    assert not up.sharding.is_fully_replicated
    want = jax.tree.map(lambda x: x.astype(dtype).astype(jnp.float32), params)
    if not scan_layers:
      want = unstack(want)
    jax.tree.map(np.testing.assert_array_equal, back, want)



def test_what_a_folder_lacks_or_has_too_much_is_named(imported, tmp_path, partitioner):
  from safetensors.numpy import load_file, save_file

  _, folder, _, _ = imported('llama')
  tensors = load_file(folder / 'model.safetensors')
  (tmp_path / 'config.json').write_text((folder / 'config.json').read_text())
  write = lambda t: save_file(t, tmp_path / 'model.safetensors', metadata={'format': 'pt'})
  load = lambda: huggingface.load_model(tmp_path, partitioner)

  write({n: t for n, t in tensors.items() if n not in ('model.norm.weight', 'lm_head.weight')}
        | {'model.layers.0.self_attn.q_norm.weight': tensors['model.norm.weight'],
           'model.layers.1.self_attn.rotary_emb.inv_freq': tensors['model.norm.weight']})
  with pytest.raises(UserError, match=(
      r'has unknown tensors: model.layers.0.self_attn.q_norm.weight; it lacks: lm_head.weight, '
      r'model.norm.weight$')):
    load()
  write(tensors | {'model.norm.weight': np.ones(7, np.float32)})
  with pytest.raises(UserError, match=r'model.norm.weight has the shape \(7,\) and not \(32,\)'):
    load()
  (tmp_path / 'model.safetensors').write_bytes(b'not a file of tensors')
  with pytest.raises(UserError, match='is not a complete safetensors file'):
    load()
  (tmp_path / 'model.safetensors').unlink()
  (tmp_path / 'pytorch_model.bin').write_bytes(b'')
  with pytest.raises(UserError, match='a pickle, which can run any code and is never opened'):
    load()
  (tmp_path / 'config.json').write_text('{"model_type": "mamba"}')
  with pytest.raises(UserError, match="model_type 'mamba' is not supported; gpt2, openai-gpt"):
    load()
  (tmp_path / 'config.json').write_text('{')
  with pytest.raises(UserError, match='config.json is not JSON'):
    load()
  (tmp_path / 'config.json').unlink()
  with pytest.raises(UserError, match='holds no config.json'):
    load()


def saved_again(folder, tmp_path, rename, hf=lambda hf: hf):
  """A copy of a folder with its tensors renamed (None: left out) and its config changed."""
  from safetensors.numpy import load_file, save_file

  tensors = load_file(folder / 'model.safetensors')
  save_file({rename(n): t for n, t in tensors.items() if rename(n)}, tmp_path / 'model.safetensors')
  config = hf(json.loads((folder / 'config.json').read_text()))
  (tmp_path / 'config.json').write_text(json.dumps(config))
  return tmp_path


def assert_same_model(folder, config, params, partitioner):
  back_config, back = huggingface.load_model(folder, partitioner)
  assert back_config == config
  jax.tree.map(np.testing.assert_array_equal, back, params)


def test_older_names_are_read(imported, tmp_path, partitioner):
  _, folder, config, params = imported('gpt2')
  bare = lambda name: name.removeprefix('transformer.')   # as the hub's gpt2
  assert_same_model(saved_again(folder, tmp_path, bare), config, params, partitioner)
  _, folder, config, params = imported('bert_pretraining')
  greek = lambda n: n.replace('LayerNorm.weight', 'LayerNorm.gamma').replace(
      'LayerNorm.bias', 'LayerNorm.beta')
  # bert-base-uncased calls itself a BertForMaskedLM and holds the other heads too.
  masked = lambda hf: hf | {'architectures': ['BertForMaskedLM']}
  assert_same_model(saved_again(folder, tmp_path, greek, masked), config, params, partitioner)


def test_configs_of_transformers_4_are_read(imported, tmp_path, partitioner):
  def four(hf):
    rope = hf.pop('rope_parameters')
    hf |= {'rope_theta': rope.pop('rope_theta'), 'torch_dtype': hf.pop('dtype', 'float32')}
    return hf | {'rope_scaling': rope if rope['rope_type'] != 'default' else None}

  for name in ('llama', 'llama3', 'mistral', 'gemma2'):
    _, folder, config, params = imported(name)
    copy = saved_again(folder, tmp_path, lambda n: n, four)
    assert_same_model(copy, config, params, partitioner)
  _, folder, config, params = imported('t5')
  # transformers 4 knows no scale_decoder_outputs, and google/t5-v1_1 is marked untied.
  plain = lambda hf: {k: v for k, v in hf.items() if k != 'scale_decoder_outputs'}
  assert_same_model(saved_again(folder, tmp_path, lambda n: n, plain), config, params, partitioner)
  _, folder, config, params = imported('t5_1_1')
  untied = lambda hf: plain(hf) | {'tie_word_embeddings': False}
  assert_same_model(saved_again(folder, tmp_path, lambda n: n, untied), config, params, partitioner)


@pytest.mark.parametrize('fields, reason', [
    (dict(position_embedding='alibi'),
     "'llama' is closest but cannot have position_embedding = 'alibi'"),
    (dict(attention_softcap=30.0), "'llama' is closest but cannot have attention_softcap"),
    (dict(prefix_lm=True), 'cannot have prefix_lm = True')])
def test_a_model_that_transformers_lacks_is_refused_by_name(fields, reason, configs):
  with pytest.raises(UserError, match=reason):
    hf_configs.model_type_of(dataclasses.replace(configs['decoder'], **fields))


def test_settings_without_a_counterpart_are_refused(imported, tmp_path, partitioner):
  for name, change, reason in (
      ('llama', {'attention_bias': True}, 'attention_bias = True and mlp_bias = False are not'),
      ('llama', {'hidden_act': 'mish'}, "hidden_act = 'mish': this activation is none of"),
      ('llama', {'rope_parameters': {'rope_type': 'yarn'}}, "rope_type = 'yarn' is not supported"),
      ('gpt2', {'scale_attn_by_inverse_layer_idx': True}, 'scale_attn_by_inverse_layer_idx = True'),
      ('gemma2', {'layer_types': ['full_attention'] * 2 + ['sliding_attention'] * 2},
       'layer_types with full attention in other layers than every n-th'),
      ('bert_mlm', {'position_embedding_type': 'relative_key'}, "'relative_key' is not supported")):
    copy = saved_again(imported(name)[1], tmp_path, lambda n: n, lambda hf: hf | change)
    with pytest.raises(UserError, match=reason):
      huggingface.load_model(copy, partitioner)
