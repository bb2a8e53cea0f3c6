"""Tokenizers of Hugging Face folders: ids and frames are those of transformers."""

import json
import os
import pathlib
import shutil

import pytest

from t5x_lite.core.errors import UserError
from t5x_lite.interop import hf_tokenizers
from t5x_lite.interop.tokenizer_files import TokenizerFile

transformers = pytest.importorskip('transformers')

DATA = pathlib.Path(os.environ.get('T5X_LITE_TEST_DATA', '/nonexistent')) / 'tokenizers'
needs_data = pytest.mark.skipif(not DATA.exists(), reason='T5X_LITE_TEST_DATA is not set')
TEXTS = ('Hello  World, café don\'t', ' leading', 'trailing \n', 'naïve 北京 Ελλάδα\ttab', 'x',
         '12345 $5.00 <b>', 'a\u2028b\u0085c', "I'll they'RE", '😀 emoji')
GPT2 = {'gpt2/encoder.json': 'vocab.json', 'gpt2/vocab.bpe': 'merges.txt'}
GPT1 = {'gpt1/encoder_bpe_40000.json': 'vocab.json', 'gpt1/vocab_40000.bpe': 'merges.txt'}
BERT = {'bert_uncased/vocab.txt': 'vocab.txt'}
CASES = {
    'gpt2': ('gpt2', GPT2, None),
    'gpt2 with bos': ('gpt2', GPT2, {'add_bos_token': True}),
    'gpt2 with a prefix space': ('gpt2', GPT2, {'add_prefix_space': True}),
    'gpt1': ('openai-gpt', GPT1, None),
    'bert': ('bert', BERT, None),
    'bert cased': ('bert', BERT, {'do_lower_case': False}),
    'bert with accents': ('bert', BERT, {'strip_accents': False, 'do_lower_case': True}),
    'bert without Chinese': ('bert', BERT, {'tokenize_chinese_chars': False,
                                            'tokenizer_class': 'BertTokenizerFast'}),
    't5': ('t5', {'t5/tokenizer.json': 'tokenizer.json'}, None),
}


def write(folder, model_type, files, settings=None):
  folder.mkdir(exist_ok=True)
  transformers.AutoConfig.for_model(model_type).save_pretrained(folder)
  for source, name in files.items():
    shutil.copyfile(DATA / source, folder / name)
  if settings is not None:
    (folder / 'tokenizer_config.json').write_text(json.dumps(settings))
  return json.loads((folder / 'config.json').read_text())


@needs_data
@pytest.mark.parametrize('name', [
    pytest.param(name, marks=[] if name in ('gpt2', 'bert cased') else pytest.mark.slow)
    for name in CASES])
def test_ids_of_a_text_are_those_of_transformers(name, tmp_path):
  hf = write(tmp_path / 'run', *CASES[name])
  write(tmp_path / 'theirs', *CASES[name])
  theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / 'theirs')
  got = hf_tokenizers.prepare(tmp_path / 'run', hf)
  assert got.file == 'tokenizer.json' and got.notes == ()
  ours = TokenizerFile(str(tmp_path / 'run' / got.file))
  # transformers 5 puts T5's own splitting at other spaces in place of that of tokenizer.json.
  for text in TEXTS if name != 't5' else [t for t in TEXTS if '\u2028' not in t]:
    want = theirs(text)['input_ids']
    assert [*got.prompt_prefix, *ours.encode(text), *got.prompt_suffix] == want, text
    assert ours.decode_all(want) == theirs.decode(want, skip_special_tokens=True), text


@needs_data
@pytest.mark.slow
@pytest.mark.parametrize('model_type, file, name, settings, frame', [
    ('t5', 't5/spiece.model', 'spiece.model', None, ((), (1,))),
    ('llama', 'mistral/tokenizer.model.v1', 'tokenizer.model', None, ((), ())),
    ('llama', 'mistral/tokenizer.model.v1', 'tokenizer.model', {'add_bos_token': True}, ((1,), ())),
    ('mistral', 'mistral/tokenizer.model.v1', 'tokenizer.model',
     {'add_bos_token': True, 'add_eos_token': True}, ((1,), (2,)))])
def test_sentencepiece_models_are_framed_as_transformers_frames_them(
    model_type, file, name, settings, frame, tmp_path):
  import sentencepiece
  hf = write(tmp_path, model_type, {file: name}, settings)
  got = hf_tokenizers.prepare(tmp_path, hf)
  assert (got.file, (got.prompt_prefix, got.prompt_suffix)) == (name, frame)
  theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
  text = 'Hello world, a text'
  ids = sentencepiece.SentencePieceProcessor(str(tmp_path / name)).encode(text)
  assert [*frame[0], *ids, *frame[1]] == theirs(text)['input_ids']


@needs_data
@pytest.mark.slow
def test_tokens_that_were_added_have_their_ids(tmp_path):
  added = {'50257': {'content': '<pad>', 'special': True},
           '50258': {'content': 'zq', 'special': False, 'normalized': True}}
  hf = write(tmp_path, 'gpt2', GPT2, {'added_tokens_decoder': added})
  got = hf_tokenizers.prepare(tmp_path, hf)
  ours = TokenizerFile(str(tmp_path / got.file))
  assert ours.encode('a zqzq')[-2:] == [50258, 50258] and ours.size == 50259
  (tmp_path / 'tokenizer.json').unlink()
  (tmp_path / 'tokenizer_config.json').write_text(json.dumps({'added_tokens_decoder': {
      '50300': {'content': '<pad>', 'special': True}}}))
  got = hf_tokenizers.prepare(tmp_path, hf)
  assert got.file is None and "'<pad>' at the id 50300" in got.notes[0]


def test_settings_of_tokenizer_config_win_over_tokenizer_json_as_in_transformers(tmp_path):
  made = transformers.BertTokenizer({'[PAD]': 0, '[UNK]': 1, '[CLS]': 2, '[SEP]': 3, '[MASK]': 4,
                                     'hello': 5, 'Hello': 6, 'é': 7, 'e': 8})
  made.save_pretrained(tmp_path)
  settings = json.loads((tmp_path / 'tokenizer_config.json').read_text())
  for change in ({'do_lower_case': False}, {'strip_accents': False}, {}):
    (tmp_path / 'tokenizer_config.json').write_text(json.dumps(settings | change))
    want = transformers.AutoTokenizer.from_pretrained(tmp_path)('Hello é')['input_ids']
    got = hf_tokenizers.prepare(tmp_path, {'model_type': 'bert'})
    ours = TokenizerFile(str(tmp_path / 'tokenizer.json'))
    assert [*got.prompt_prefix, *ours.encode('Hello é'), *got.prompt_suffix] == want


@pytest.mark.parametrize('files, note', [
    ({}, None), ({'vocab.json': '{"a": 0}'}, None),
    ({'vocab.json': '{"a": 0}', 'merges.txt': 'a b c\n'}, 'is not two pieces with a space'),
    ({'vocab.json': '{"a": 0}', 'merges.txt': 'x y\n'}, 'does not fit vocab.json'),
    ({'vocab.json': '[1]', 'merges.txt': ''}, 'holds no JSON object'),
    ({'vocab.json': '{"a": 0}', 'merges.txt': '\xff'}, 'is not UTF-8'),
    ({'tokenizer.json': '{"a": 1}'}, 'is not a tokenizer.json'),
    ({'tokenizer.model': 'no model'}, 'is not a SentencePiece model')])
def test_without_a_readable_tokenizer_there_is_none_and_the_reason_is_told(files, note, tmp_path):
  for name, text in files.items():
    (tmp_path / name).write_text(text, encoding='latin-1')
  got = hf_tokenizers.prepare(tmp_path, {'model_type': 'gpt2'})
  assert got.file is None and (got.notes == () if note is None else note in got.notes[0])
  assert '\n' not in ''.join(got.notes)


def test_vocab_and_merges_of_another_family_are_not_taken_for_gpt2s(tmp_path):
  (tmp_path / 'vocab.json').write_text('{"a": 0}')
  (tmp_path / 'merges.txt').write_text('')
  assert hf_tokenizers.prepare(tmp_path, {'model_type': 'llama'}).file is None


def test_ends_and_other_settings_of_generation(tmp_path):
  hf = {'model_type': 'llama', 'eos_token_id': 2}
  prepare = lambda: hf_tokenizers.prepare(tmp_path, hf)
  assert prepare().end_ids == (2,)
  write = lambda **generation: (tmp_path / 'generation_config.json').write_text(
      json.dumps(generation))
  write(eos_token_id=[7, 9], temperature=0.6, do_sample=True, top_p=0.9, pad_token_id=0)
  got = prepare()
  assert got.end_ids == (7, 9)
  assert got.notes == ('generation_config.json: temperature = 0.6, do_sample = True, top_p = 0.9: '
                       'not used, t5x-lite infer is greedy unless --gin.Sampling.temperature is '
                       'set',)
  write(eos_token_id='7')
  with pytest.raises(UserError, match="eos_token_id = '7' is neither an id nor a list of ids"):
    prepare()
  write()
  hf |= {'model_type': 't5', 'decoder_start_token_id': 3}
  with pytest.raises(UserError, match='decoder_start_token_id = 3 is not supported'):
    prepare()
