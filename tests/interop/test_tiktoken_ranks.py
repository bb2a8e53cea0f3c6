"""Rank files, beside tiktoken itself with the settings of its own encodings."""

import base64
import itertools
import pathlib
import random

import pytest
import tiktoken
from tiktoken_ext import openai_public
import tokenizers

from t5x_lite.core.errors import UserError
from t5x_lite.interop import tiktoken_ranks
from tasks import vocabularies

TEXTS = [
    'Hello there, general! ', "I'll say it's THEY'RE, don't you'd", 'x' * 40, '', '!', '\n\n  \t a',
    'numbers 1234567 and 12 345.678', 'Ünïcode 世界 🙂 e\u0301', 'def f(x):\n    return  x\r\n',
    'snake_case camelCase HTMLParser', '<|endoftext|> is text here', '\u00a0 \u2003x',
]


def ranks(number: int) -> dict[bytes, int]:
  """As many pieces: all bytes, '!' first, then words of letters and spaces, short ones first."""
  letters = 'etaoinsrhdlu cm'
  pieces = [bytes([b]) for b in (*range(33, 256), *range(33))]
  words = (start + ''.join(word) for size in itertools.count(1)
           for word in itertools.product(letters, repeat=size) for start in ('', ' '))
  rng = random.Random(0)
  seen = set(pieces)
  for word in words:
    word = word.encode()
    if len(pieces) == number:
      return {piece: rank for rank, piece in enumerate(pieces)}
    # Of a long word only some are pieces, so that which pairs are merged first matters.
    if word not in seen and (len(word) < 3 or rng.random() < 0.7):
      seen.add(word)
      pieces.append(word)


@pytest.fixture
def write(tmp_path):
  def make(content, name='tokenizer.model'):
    path = tmp_path / name
    if isinstance(content, dict):
      content = b''.join(base64.b64encode(p) + b' %d\n' % r for p, r in content.items())
    path.write_bytes(content)
    return str(path)
  return make


@pytest.mark.parametrize('number, encoding', [
    (50_256, 'r50k_base'), (50_280, 'p50k_base'), (100_256, 'cl100k_base'),
    pytest.param(199_998, 'o200k_base', marks=pytest.mark.slow),
])
def test_ids_are_those_of_tiktoken(write, monkeypatch, number, encoding):
  pieces = ranks(number)
  if encoding == 'p50k_base':   # whose end of text has an id between those of its pieces
    pieces = {piece: rank + (rank >= 50_256) for piece, rank in pieces.items()}
  monkeypatch.setattr(openai_public, 'load_tiktoken_bpe', lambda *_, **__: pieces)
  oracle = tiktoken.Encoding(**getattr(openai_public, encoding)())
  vocabulary = vocabularies.load_vocabulary(write(pieces))
  end = oracle.encode_single_token('<|endoftext|>')
  assert vocabulary.vocab_size == oracle.n_vocab
  assert (vocabulary.eos_id, vocabulary.pad_alias) == (end, oracle.n_vocab)
  lengths = vocabularies.byte_lengths(vocabulary)
  for text in [*TEXTS, 'the cat sat on the mat' * 3, 'it is the best of times, instead']:
    own = [0 if i == vocabulary.pad_alias else i for i in vocabulary.encode(text)]
    want = oracle.encode_ordinary(text)
    if '<|' not in text:   # tokenizers knows special tokens in text, as transformers does
      assert own == want, text
    assert vocabulary.decode(want) == text
    assert sum(lengths[i] for i in want) == len(text.encode())
  assert lengths[end] == 0


def test_llama_3_has_its_special_tokens(write):
  """As llama3's tokenizer.py of April 2024 numbers them."""
  vocabulary = vocabularies.load_vocabulary(write(ranks(128_000)))
  ids = vocabulary.file.tokenizer.get_vocab()
  assert vocabulary.vocab_size == 128_256
  assert (vocabulary.bos_id, vocabulary.eos_id) == (128_000, 128_001)
  assert ids['<|eot_id|>'] == 128_009
  assert [ids[f'<|reserved_special_token_{i}|>'] for i in (0, 3, 4, 5, 250)] == [
      128_002, 128_005, 128_008, 128_010, 128_255]
  assert '<|reserved_special_token_251|>' not in ids


@pytest.mark.parametrize('content, message', [
    (ranks(300), r'tokenizer.model has 300 pieces, .* known for 50256 \(r50k_base, GPT-2\).*: use'),
    (b'IQ== 0\nIg== x\n', r"tokenizer.model:2: expected a piece in base64, .* got b'Ig== x'"),
    (b'IQ== 0\nIg=\n', 'tokenizer.model:2: expected'),
    (b'IQ== 0\nI*== 1\n', 'tokenizer.model:2: expected'),
])
def test_bad_files_are_named(write, content, message):
  with pytest.raises(UserError, match=message):
    vocabularies.load_vocabulary(write(content))


def test_other_files_are_no_rank_files(write):
  assert tiktoken_ranks.is_rank_file(write(b'IQ== 0\n', 'cl100k_base.tiktoken'))
  for content in (b'', b'{"version": "1.0"}', b'\x0a\x0e\x0a<unk>', b'some words here\n'):
    assert not tiktoken_ranks.is_rank_file(write(content))


def test_an_export_writes_a_tokenizer_json(write, tmp_path, monkeypatch):
  from t5x_lite.commands import export_huggingface, export_source

  monkeypatch.setitem(tiktoken_ranks.ENCODINGS, 256, tiktoken_ranks.ENCODINGS[50_256])
  path = pathlib.Path(write(ranks(256)))
  (tmp_path / 'out').mkdir()
  export_huggingface.copy_vocabulary(path, tmp_path / 'out', 'gpt2')
  exported = tokenizers.Tokenizer.from_file(str(tmp_path / 'out' / 'tokenizer.json'))
  pieces = list(ranks(256))
  for text in TEXTS[:4]:
    assert exported.encode(text).ids == [pieces.index(bytes([b])) for b in text.encode()]
  ids = export_source.token_ids(None, str(path))
  assert ids == {'eos_token_id': 50_256, 'bos_token_id': 50_256, 'pad_token_id': 50_256}
