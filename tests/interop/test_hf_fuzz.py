"""Random edits of Hugging Face folders: refused in one line, or read as transformers reads them."""

import functools
import json
import os
import random
import shutil
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

os.environ.setdefault('TRANSFORMERS_VERBOSITY', 'critical')
torch = pytest.importorskip('torch')
transformers = pytest.importorskip('transformers')

from t5x_lite import models  # noqa: E402
from t5x_lite.core.errors import UserError  # noqa: E402
from t5x_lite.interop import hf_tokenizers, huggingface  # noqa: E402
from t5x_lite.interop.tokenizer_files import TokenizerFile  # noqa: E402
from t5x_lite.parallel.mesh import MeshConfig  # noqa: E402
from t5x_lite.parallel.partitioner import Partitioner  # noqa: E402

EDITS = 500
VOCAB = 20
WORDS = ['[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]', *'abcdefg', '##a', '##b', '##c', 'ab', 'é',
         '!', '1', '2']
_LLAMA = dict(vocab_size=VOCAB, hidden_size=8, intermediate_size=12, num_hidden_layers=2,
              num_attention_heads=2, max_position_embeddings=32, eos_token_id=3, bos_token_id=2)
_GPT = dict(vocab_size=VOCAB, n_positions=32, n_embd=8, n_layer=2, n_head=2, eos_token_id=3,
            bos_token_id=2)
_BERT = dict(vocab_size=VOCAB, hidden_size=8, num_hidden_layers=2, num_attention_heads=2,
             intermediate_size=12, max_position_embeddings=32)
_T5 = dict(vocab_size=VOCAB, d_model=8, d_kv=4, d_ff=12, num_layers=2, num_heads=2)
MODELS = {
    'gpt2': (transformers.GPT2LMHeadModel, _GPT), 'llama': (transformers.LlamaForCausalLM, _LLAMA),
    'llama3': (transformers.LlamaForCausalLM, _LLAMA | dict(
        num_key_value_heads=1, rope_parameters={
            'rope_type': 'llama3', 'rope_theta': 100.0, 'factor': 8.0, 'low_freq_factor': 1.0,
            'high_freq_factor': 4.0, 'original_max_position_embeddings': 16})),
    'gemma2': (transformers.Gemma2ForCausalLM, _LLAMA | dict(
        num_key_value_heads=1, head_dim=4, sliding_window=4, query_pre_attn_scalar=6)),
    't5': (transformers.T5ForConditionalGeneration, _T5),
    'bert': (transformers.BertForMaskedLM, _BERT)}


def save(folder, name):
  cls, fields = MODELS[name]
  model, generator = cls(cls.config_class(**fields)), torch.Generator().manual_seed(0)
  with torch.no_grad():
    for parameter, p in model.named_parameters():
      centre = 1.0 if p.ndim == 1 and parameter.endswith('weight') else 0.0
      p.copy_(centre + 0.3 * torch.randn(p.shape, generator=generator))
  model.save_pretrained(folder, max_shard_size='1KB' if name == 'llama3' else '1GB')
  if name == 'gpt2':
    (folder / 'vocab.json').write_text(json.dumps(
        {c: i for i, c in enumerate(['<|endoftext|>', *'abcdefgh', 'Ġ', '!', 'ab', 'Ġa', '1'])}))
    (folder / 'merges.txt').write_text('#version: 0.2\na b\nĠ a\n')
  elif name == 'bert':
    (folder / 'vocab.txt').write_text('\n'.join(WORDS) + '\n')
    (folder / 'tokenizer_config.json').write_text('{"do_lower_case": false}')
  else:
    made = transformers.BertTokenizer({w: i for i, w in enumerate(WORDS)})
    transformers.PreTrainedTokenizerFast(tokenizer_object=made._tokenizer, eos_token='[SEP]',
                                         unk_token='[UNK]').save_pretrained(folder)


def edit_json(rng, value):
  """JSON with one value changed, dropped or added."""
  key = rng.choice([*value, 'another_key'])
  if isinstance(value.get(key), dict) and value[key] and rng.random() < 0.7:
    return value | {key: edit_json(rng, value[key])}
  if rng.random() < 0.2:
    return {k: v for k, v in value.items() if k != key}
  others = [None, True, False, 0, 1, -1, 2, 3, 7, 0.5, 1e30, 10 ** 18, 'x', '', [], {}, [1], 'gelu',
            'silu', 'llama', 'relu', 'bert']
  return value | {key: rng.choice(others)}


def edit(rng, folder):
  """Changes one file of a folder; returns what was done."""
  files = sorted(p for p in folder.iterdir() if p.is_file())
  weight = lambda p: 6 if p.name == 'config.json' else 3 if p.suffix == '.safetensors' else 2
  path = rng.choices(files, [weight(p) for p in files])[0]
  data = path.read_bytes()
  if path.suffix == '.json' and rng.random() < 0.5:
    path.write_text(json.dumps(edit_json(rng, json.loads(data))))
    return f'{path.name}: a value'
  head = 8 + int.from_bytes(data[:8], 'little') if path.suffix == '.safetensors' else len(data)
  at, size = rng.randrange(head), rng.choice([1, 1, 1, 2, 5, 40])
  kind = rng.choice(['flip', 'set', 'set', 'digit', 'cut', 'drop', 'double', 'insert'])
  if kind == 'digit':
    digits = [i for i in range(head) if chr(data[i]).isdigit()] or [at]
    at = rng.choice(digits)
    data = data[:at] + str(rng.randrange(10)).encode() + data[at + 1:]
  elif kind in ('flip', 'set'):
    new = data[at] ^ (1 << rng.randrange(8)) if kind == 'flip' else rng.randrange(32, 127)
    data = data[:at] + bytes([new]) + data[at + 1:]
  elif kind == 'cut':
    data = data[:at]
  elif kind == 'drop':
    data = data[:at] + data[at + size:]
  elif kind == 'double':
    data = data[:at + size] + data[at:]
  else:
    data = data[:at] + bytes(rng.randrange(256) for _ in range(size)) + data[at:]
  path.write_bytes(data)
  return f'{path.name}: {kind} at {at}'


@functools.cache
def forward(config):
  network = models.build_network(config)
  return jax.jit(lambda params, batch: network.bind(params)(batch))


TOKENS = np.random.default_rng(0).integers(2, VOCAB, (2, 10))


def ours(folder, partitioner):
  """(logits, ids of texts or None), or UserError."""
  config, params = huggingface.load_model(folder, partitioner)
  hf = huggingface.read_config(folder)
  tokenizer = hf_tokenizers.prepare(folder, hf)
  side = 'decoder' if config.family == 'decoder_only' else 'encoder'
  batch = {n: jnp.asarray(TOKENS % config.vocab_size) for n in (
      f'{side}_input_tokens', 'decoder_input_tokens')}
  logits = np.asarray(forward(config)(params, batch))
  if tokenizer.file is None:
    return logits, None
  file = TokenizerFile(str(folder / tokenizer.file))
  return logits, [[*tokenizer.prompt_prefix, *file.encode(text), *tokenizer.prompt_suffix]
                  for text in ('ab a! 1', 'g é hello b')]


def theirs(folder, cls):
  model = cls.from_pretrained(folder, attn_implementation='eager').eval()
  tokens = torch.tensor(TOKENS % model.config.vocab_size)
  more = {'decoder_input_ids': tokens} if model.config.is_encoder_decoder else {}
  with torch.no_grad():
    return model(input_ids=tokens, **more).logits.float().numpy()


def their_ids(folder, name):
  """Of the class that wrote the files, which no edit of theirs makes another."""
  auto = name in ('gpt2', 'bert')
  tokenizer = (transformers.AutoTokenizer if auto else
               transformers.PreTrainedTokenizerFast).from_pretrained(folder)
  return [tokenizer(text)['input_ids'] for text in ('ab a! 1', 'g é hello b')]


def try_edit(seed, originals, tmp_path, partitioner):
  """What became of an edit: (outcome, what was done)."""
  rng = random.Random(seed)
  name = rng.choice(sorted(MODELS))
  folder = tmp_path / str(seed)
  shutil.copytree(originals / name, folder)
  done = f'seed {seed}, {name}, {edit(rng, folder)}'
  shutil.copytree(folder, untouched := tmp_path / f'{seed}_theirs')
  start = time.monotonic()
  try:
    logits, ids = ours(folder, partitioner)
  except UserError as e:
    assert '\n' not in str(e) and len(str(e)) < 1500, done
    return 'refused', done
  finally:
    assert time.monotonic() - start < 10, done
    shutil.rmtree(folder)
  try:
    want = theirs(untouched, MODELS[name][0])
  except Exception:   # what transformers raises has no common type
    return 'read by us alone', done
  np.testing.assert_allclose(logits, want, atol=2e-3, rtol=1e-3, err_msg=done)
  if ids is not None:
    try:
      want_ids = their_ids(untouched, name)
    except Exception:
      return 'tokenizer read by us alone', done
    assert ids == want_ids, done
  shutil.rmtree(untouched)
  return 'the same', done


@pytest.mark.slow
@pytest.mark.sweep
def test_an_edited_folder_is_refused_in_one_line_or_read_as_transformers_reads_it(
    tmp_path_factory, tmp_path):
  originals = tmp_path_factory.mktemp('originals')
  partitioner = Partitioner(MeshConfig(data=1).make(jax.devices()[:1]))
  for name in MODELS:
    save(originals / name, name)
    logits, ids = ours(originals / name, partitioner)
    np.testing.assert_allclose(logits, theirs(originals / name, MODELS[name][0]), atol=1e-4)
    assert ids == their_ids(originals / name, name)
  first = int(os.environ.get('T5X_LITE_FUZZ_SEED', 0))
  outcomes = [try_edit(seed, originals, tmp_path, partitioner)
              for seed in range(first, first + EDITS)]
  counts = {o: sum(outcome == o for outcome, _ in outcomes) for o in {o for o, _ in outcomes}}
  print(counts, [done for outcome, done in outcomes if 'alone' in outcome])   # where it fails
  assert counts['refused'] > EDITS / 5 and counts['the same'] > EDITS / 10, counts
