"""Tokenizers in GGUF files: what is written, and llama.cpp's ids of hard texts against ours."""

import importlib.util
import io
import json
import os
import pathlib
import subprocess
import sys

import pytest
import sentencepiece
import tokenizers

from t5x_lite import cli, models
from t5x_lite.core.errors import UserError
from t5x_lite.interop import gguf_files, gguf_tokenizer, tokenizer_files
from t5x_lite.interop.gguf_tokenizer import BYTE, CONTROL, NORMAL, UNKNOWN, UNUSED, USER_DEFINED
from t5x_lite.models import ModelConfig

gguf = pytest.importorskip('gguf', reason="pip install -e '.[gguf]'")

HERE = pathlib.Path(__file__).parent
DATA = pathlib.Path(os.environ.get('T5X_LITE_TEST_DATA', '/nonexistent')) / 'tokenizers'
WITH_LLAMA_CPP = os.environ.get('T5X_LITE_TEST_LLAMA_CPP') or (
    sys.executable if importlib.util.find_spec('llama_cpp') else None)
TEXTS = ["Hello  world\n\n  x = 1\t'tis 3.14", 'leading and trailing  ',
         "I've SAID you'll 12345 go!",
         "def f(x):\n    return x['a']\n", '</s> <s> <|endoftext|> hi', '']
BEYOND_ASCII = ['naïve café 東京 😀', ' a space before']


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
  """{kind: SentencePiece model} as train-vocab makes them, of this file's own text."""
  lines, found = pathlib.Path(__file__).read_text().splitlines(keepends=True), {}
  for kind in ('bpe', 'unigram'):
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines), model_writer=model, vocab_size=400, model_type=kind,
        pad_id=0, eos_id=1, unk_id=2, bos_id=-1, byte_fallback=True, minloglevel=2,
        normalization_rule_name='identity', add_dummy_prefix=False,
        remove_extra_whitespaces=False, user_defined_symbols=['<sep>'])
    found[kind] = tmp_path_factory.mktemp('vocab') / f'{kind}.model'
    found[kind].write_bytes(model.getvalue())
  return found


def test_bytes_are_a_sentencepiece_model_without_merges():
  made = gguf_tokenizer.read_vocabulary('byte', 262)
  assert made.model == 'llama' and made.tokens[:4] == ['<pad>', '</s>', '<unk>', '<0x00>']
  assert made.tokens[3 + 32] == '▁' and made.tokens[258] == '<0xFF>'
  assert made.tokens[259:] == ['[PAD259]', '[PAD260]', '[PAD261]']
  assert made.types[:4] == [CONTROL, CONTROL, UNKNOWN, BYTE] and made.types[259:] == [UNUSED] * 3
  assert len(made.tokens) == len(made.types) == len(made.scores) == len(set(made.tokens)) == 262


def test_pieces_keep_their_ids_types_and_scores(trained):
  for kind, name in (('bpe', 'llama'), ('unigram', 't5')):
    model = sentencepiece.SentencePieceProcessor(str(trained[kind]))
    made = gguf_tokenizer.read_vocabulary(str(trained[kind]), 400)
    assert made.model == name and not made.space and not made.trim
    assert made.types[3] == USER_DEFINED and made.tokens[3] == '<sep>'
    for i in range(260, 400):
      assert (made.tokens[i], made.scores[i]) == (model.id_to_piece(i), model.get_score(i))
    assert len(set(made.tokens)) == 400
  # Bytes of ASCII without a piece are pieces in Unigram, at SentencePiece's penalty.
  index = made.tokens.index('\x7f')   # which the text lacks
  assert model.is_byte(index) and made.types[index] == NORMAL
  assert made.scores[index] == min(model.get_score(i) for i in range(260, 400)) - 10
  assert 'beyond ASCII' in made.notes[0]


def write_json(path, **changes) -> str:
  spec = json.loads((HERE / 'tiny_gpt2/tokenizer.json').read_text())
  path.write_text(json.dumps(spec | changes))
  return str(path)


@pytest.mark.parametrize('regex, name', gguf_tokenizer.PRE.items())
def test_how_text_is_split_has_the_name_that_llama_cpp_gives_it(regex, name, tmp_path):
  split = {'type': 'Sequence', 'pretokenizers': [
      {'type': 'Split', 'pattern': {'Regex': regex}, 'behavior': 'Isolated', 'invert': False},
      {'type': 'ByteLevel', 'add_prefix_space': False, 'trim_offsets': True, 'use_regex': False}]}
  path = write_json(tmp_path / 'tokenizer.json', pre_tokenizer=split)
  assert gguf_tokenizer.read_vocabulary(path, 384).pre == name
  if name == 'dbrx':
    spec = json.loads(pathlib.Path(path).read_text())
    spec['model']['ignore_merges'] = True
    path = write_json(tmp_path / 'tokenizer.json', pre_tokenizer=split, model=spec['model'])
    assert gguf_tokenizer.read_vocabulary(path, 384).pre == 'llama-bpe'


@pytest.mark.parametrize('changes, reason', [
    ({'pre_tokenizer': {'type': 'ByteLevel', 'add_prefix_space': True, 'trim_offsets': True,
                        'use_regex': True}}, 'puts a space before a text, which llama.cpp'),
    ({'pre_tokenizer': {'type': 'Whitespace'}}, "splits text by ['Whitespace'], for which"),
    ({'model': {'type': 'WordPiece', 'vocab': {'[UNK]': 0, '<|endoftext|>': 1},
                'unk_token': '[UNK]', 'continuing_subword_prefix': '##',
                'max_input_chars_per_word': 9}}, 'is of the kind WordPiece, which is not written')])
def test_tokenizers_that_llama_cpp_has_not_are_refused(changes, reason, tmp_path):
  with pytest.raises(UserError) as error:
    gguf_tokenizer.read_vocabulary(write_json(tmp_path / 'tokenizer.json', **changes), 384)
  assert reason in str(error.value) and '\n' not in str(error.value)


def test_a_table_with_fewer_rows_than_tokens_is_refused():
  with pytest.raises(UserError, match='has 259 tokens and the model 200 rows'):
    gguf_tokenizer.read_vocabulary('byte', 200)


def test_how_a_text_begins_and_ends_is_in_the_file(stories_folder, tmp_path):
  """As tokenizer_config.json and generation_config.json of the import have it."""
  import shutil

  folder, run, file = tmp_path / 'hf', tmp_path / 'run', tmp_path / 'm.gguf'
  shutil.copytree(stories_folder, folder)
  (folder / 'tokenizer_config.json').write_text(json.dumps(
      {'add_bos_token': True, 'chat_template': '{{ messages[0].content }}'}))
  (folder / 'generation_config.json').write_text('{"eos_token_id": [2, 300]}')
  assert cli.main(['import', f'--from={folder}', f'--to={run}']) == 0
  assert cli.main(['export', f'--from={run}', f'--to={file}']) == 0
  fields = {n.removeprefix('tokenizer.'): f.contents()
            for n, f in gguf.GGUFReader(file).fields.items() if n.startswith('tokenizer.')}
  assert {n: x for n, x in fields.items() if not isinstance(x, list)} == {
      'ggml.model': 'llama', 'ggml.pre': 'default', 'ggml.bos_token_id': 1, 'ggml.eos_token_id': 2,
      'ggml.eot_token_id': 300, 'ggml.unknown_token_id': 0, 'ggml.add_bos_token': True,
      'ggml.add_eos_token': False, 'ggml.add_space_prefix': True,
      'ggml.remove_extra_whitespaces': False, 'chat_template': '{{ messages[0].content }}'}
  assert len(fields['ggml.tokens']) == len(fields['ggml.scores']) == 512


def vocabularies(trained, folder):
  """{name: (path, rows, encode)} of every kind, those of files with T5X_LITE_TEST_DATA."""
  found = {'byte': ('byte', 259, lambda text: [3 + b for b in text.encode()])}
  models_of = dict(trained)
  files = {'tiny_gpt2': HERE / 'tiny_gpt2/tokenizer.json'}
  if DATA.exists():
    models_of |= {'mistral': DATA / 'mistral/tokenizer.model.v3', 't5': DATA / 't5/spiece.model'}
    vocab = json.loads((DATA / 'gpt2/encoder.json').read_text())
    lines = (DATA / 'gpt2/vocab.bpe').read_text().splitlines()[1:]
    merges = [tuple(line.split()) for line in lines]
    made = tokenizers.Tokenizer(tokenizers.models.BPE(vocab=vocab, merges=merges))
    made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = tokenizers.decoders.ByteLevel()
    made.add_special_tokens(['<|endoftext|>'])
    made.save(str(folder / 'gpt2.json'))
    files['gpt2'] = folder / 'gpt2.json'
  for name, path in models_of.items():
    model = sentencepiece.SentencePieceProcessor(str(path))
    found[name] = str(path), model.get_piece_size(), model.encode
  for name, path in files.items():
    file = tokenizer_files.TokenizerFile(str(path))
    found[name] = str(path), file.size, file.encode
  return found


@pytest.mark.skipif(WITH_LLAMA_CPP is None, reason='llama-cpp-python is not installed, and '
                    'T5X_LITE_TEST_LLAMA_CPP names no Python that has it')
def test_llama_cpp_gives_every_text_the_ids_that_models_read(trained, tmp_path):
  import jax

  found = vocabularies(trained, tmp_path)
  assert len(found) >= 4
  for name, (path, size, encode) in found.items():
    config = ModelConfig(family='decoder_only', vocab_size=size + 3, embed_dim=32, num_layers=1,
                         num_heads=1, mlp_dim=32, max_length=32)
    file, texts = tmp_path / f'{name}.gguf', TEXTS + BEYOND_ASCII * (name != 'unigram')
    gguf_files.save_gguf(
        file, config, models.build_network(config).init(jax.random.key(0)),
        gguf_tokenizer.read_vocabulary(path, size + 3), gguf_files.Prompting(eos=1), 'float16')
    request = {'path': str(file), 'length': 32, 'prompt': None, 'new': 0, 'text': None,
               'texts': texts}
    done = subprocess.run([WITH_LLAMA_CPP, str(HERE / 'run_llama_cpp.py')], text=True, check=True,
                          input=json.dumps([request]), capture_output=True)
    (answer,) = json.loads(done.stdout)
    for text, ids in zip(texts, answer['ids']):
      assert ids == encode(text), (name, text)
