"""Settings beside a SentencePiece model: ids and frames are those of transformers, or refused."""

import json

import pytest
import sentencepiece

from t5x_lite.interop import hf_tokenizers

transformers = pytest.importorskip('transformers')

TEXTS = ('Hello quick world', 'a quick text. A quick one', 'quick')
_NO = {'lstrip': False, 'rstrip': False, 'single_word': False, 'normalized': False}
_OWN = {'0': {'content': '<unk>', 'special': True, **_NO},
        '1': {'content': '<s>', 'special': True, **_NO},
        '2': {'content': '</s>', 'special': True, **_NO}}
_LLAMA = {
    'add_bos_token': True, 'add_eos_token': False, 'add_prefix_space': None,
    'added_tokens_decoder': _OWN, 'additional_special_tokens': [], 'bos_token': '<s>',
    'chat_template': '{{ x }}', 'clean_up_tokenization_spaces': False, 'eos_token': '</s>',
    'legacy': True, 'model_max_length': 10 ** 30, 'pad_token': None, 'padding_side': 'left',
    'sp_model_kwargs': {}, 'spaces_between_special_tokens': False,
    'tokenizer_class': 'LlamaTokenizer', 'unk_token': '<unk>', 'use_default_system_prompt': False}


@pytest.fixture(scope='module')
def models(tmp_path_factory):
  """{name: bytes} of small models: of BPE as LLaMA's and as Gemma's, of Unigram as T5's."""
  folder = tmp_path_factory.mktemp('models')
  text = folder / 'text.txt'
  text.write_text('Hello quick world\na quick text. A quick one\nno other words at all\n' * 20)
  special = {'bpe': dict(unk_id=0, bos_id=1, eos_id=2, pad_id=-1, byte_fallback=True,
                         remove_extra_whitespaces=False, vocab_size=320,
                         user_defined_symbols=['<sep>']),
             'gemma': dict(pad_id=0, eos_id=1, bos_id=2, unk_id=3, bos_piece='<bos>',
                           eos_piece='<eos>', byte_fallback=True, add_dummy_prefix=False,
                           remove_extra_whitespaces=False, vocab_size=320,
                           user_defined_symbols=['<mask>', '<start_of_turn>']),
             'unigram': dict(pad_id=0, eos_id=1, unk_id=2, bos_id=-1, vocab_size=60)}
  for name, options in special.items():
    sentencepiece.SentencePieceTrainer.train(
        input=str(text), model_prefix=str(folder / name),
        model_type='bpe' if name == 'gemma' else name, hard_vocab_limit=False,
        minloglevel=2, **options)
  return {name: (folder / f'{name}.model').read_bytes() for name in special}


@pytest.fixture
def prepare(models, tmp_path):
  """(model_type, settings, ...) -> (what is made of the folder, transformers' tokenizer)."""

  def prepare(model_type, settings, algorithm=None, **files):
    transformers.AutoConfig.for_model(model_type).save_pretrained(tmp_path)
    algorithm = algorithm or ('unigram' if model_type == 't5' else 'bpe')
    name = 'spiece.model' if model_type == 't5' else 'tokenizer.model'
    (tmp_path / name).write_bytes(models[algorithm])
    for file, content in (files | {'tokenizer_config': settings}).items():
      (tmp_path / f'{file}.json').write_text(json.dumps(content))
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    hf = {'model_type': model_type}
    got, processor = hf_tokenizers.prepare(tmp_path, hf), sentencepiece.SentencePieceProcessor(
        model_proto=models[algorithm])
    same = got.file and all(
        [*got.prompt_prefix, *processor.encode(text), *got.prompt_suffix]
        == theirs(text)['input_ids'] for text in TEXTS)
    return got, same

  return prepare


@pytest.mark.parametrize('model_type, settings', [
    ('llama', _LLAMA), ('llama', _LLAMA | {'add_prefix_space': True}), ('mistral', _LLAMA),
    ('llama', {'tokenizer_class': 'LlamaTokenizerFast'}), ('llama', {}),
    ('llama', {'tokenizer_class': 'LLaMATokenizer', 'bos_token': '', 'eos_token': ''}),
    ('llama', _LLAMA | {'bos_token': '</s>'}),
    ('llama', _LLAMA | {'bos_token': {'content': '</s>', 'lstrip': False, '__type': 'AddedToken'}}),
    ('llama', _LLAMA | {'bos_token': None}),
    ('llama', _LLAMA | {'eos_token': '<s>', 'add_eos_token': True}),
    ('llama', _LLAMA | {'pad_token': '</s>', 'unk_token': '<s>'}),
    ('llama', {k: v for k, v in _LLAMA.items() if k != 'bos_token'}),
    ('llama', {'tokenizer_class': 'CodeLlamaTokenizer'}),
    ('llama', {'tokenizer_class': 'CodeLlamaTokenizer', 'add_bos_token': False}),
    ('t5', {}), ('t5', {'tokenizer_class': 'T5Tokenizer', 'eos_token': '<pad>'}),
    ('t5', {'add_eos_token': False, 'add_bos_token': True, 'add_prefix_space': True}),
    ('gpt2', {'tokenizer_class': 'T5Tokenizer', 'extra_ids': 0}),
])
def test_settings_that_are_honoured(model_type, settings, prepare):
  algorithm = 'unigram' if 'T5Tokenizer' in settings.values() else None
  got, same = prepare(model_type, settings, algorithm)
  assert same and got.notes == ()


@pytest.mark.parametrize('settings, message', [
    ({'add_prefix_space': False}, 'add_prefix_space = False is not supported'),
    ({'tokenizer_class': 'T5Tokenizer'}, "tokenizer_class = 'T5Tokenizer' is not supported"),
    ({'tokenizer_class': 'GemmaTokenizerFast'}, "tokenizer_class = 'GemmaTokenizer' is not"),
    ({'tokenizer_class': 'XLNetTokenizer'}, 'LLaMATokenizer or CodeLlamaTokenizer is'),
    ({'added_tokens_decoder': {'3': {'content': 'quick', 'special': False}}},
     "added_tokens_decoder = {'3': {'content': 'quick', 'special': False}} is not supported"),
    ({'added_tokens_decoder': {'3': {'content': 'quick', 'special': True}}}, 'at that id'),
    ({'added_tokens_decoder': {'9999': {'content': 'quick', 'special': False}}},
     'it is found in a text'),
    ({'added_tokens_decoder': {'9999': {'content': '<s>', 'special': True}}}, 'at the id 1'),
    ({'bos_token': '▁quick'}, "'▁quick' is a piece of text"),
    ({'image_token': '▁quick'}, "'▁quick' is a piece of text"),
    ({'extra_special_tokens': ['▁quick']}, "'▁quick' is a piece of text"),
    ({'bos_token': '<start>'}, "bos_token = '<start>' is not supported"),
    ({'eos_token': '<end>', 'add_eos_token': True}, "eos_token = '<end>' is not supported"),
    ({'sp_model_kwargs': {'alpha': 0.1}}, "sp_model_kwargs = {'alpha': 0.1} is not supported"),
    ({'auto_map': {'AutoTokenizer': ['a.B', None]}}, 'auto_map'),
])
def test_settings_that_are_refused_by_name(settings, message, prepare, monkeypatch):
  theirs = lambda _: lambda text: {'input_ids': []}
  monkeypatch.setattr(transformers.AutoTokenizer, 'from_pretrained', theirs)
  got, _ = prepare('llama', _LLAMA | settings)
  assert got.file is None and message in got.notes[-1] and 'save_pretrained' in got.notes[-1]


def test_the_algorithm_is_that_of_the_class(prepare):
  got, _ = prepare('t5', {'tokenizer_class': 'T5Tokenizer'}, 'bpe')
  assert got.file is None and 'reads UNIGRAM models, and spiece.model is a BPE' in got.notes[0]


def test_the_space_before_a_text_is_that_of_the_class(prepare, monkeypatch):
  theirs = lambda _: lambda text: {'input_ids': []}
  monkeypatch.setattr(transformers.AutoTokenizer, 'from_pretrained', theirs)
  for settings in ({}, {'tokenizer_class': 'GemmaTokenizer'}):
    got, _ = prepare('gemma', settings)
    assert got.file is None and "tokenizer_class = 'GemmaTokenizer' is not" in got.notes[0]


def test_settings_of_gemma_are_honoured(prepare):
  tokens = ('<pad>', '<eos>', '<bos>', '<unk>', '<mask>', '<start_of_turn>')
  added = {str(i): {'content': token, 'special': token != '<mask>', **_NO}
           for i, token in enumerate(tokens)}
  settings = {
      'add_bos_token': True, 'add_eos_token': False, 'added_tokens_decoder': added,
      'additional_special_tokens': ['<start_of_turn>'], 'bos_token': '<bos>', 'eos_token': '<eos>',
      'pad_token': '<pad>', 'unk_token': '<unk>', 'sp_model_kwargs': {},
      'spaces_between_special_tokens': False, 'tokenizer_class': 'GemmaTokenizer',
      'use_default_system_prompt': False, 'clean_up_tokenization_spaces': False}
  got, same = prepare('gemma', settings, 'gemma')
  assert same and got.notes == () and got.prompt_prefix == (2,)
  got, _ = prepare('llama', _LLAMA | {'add_prefix_space': True}, 'gemma')
  assert got.file is None and 'puts no space before a text' in got.notes[0]


def test_tokens_of_older_files(prepare):
  older = {'bos_token': '</s>'}   # which wins, unless added_tokens_decoder is there
  settings = {k: v for k, v in _LLAMA.items() if k != 'added_tokens_decoder'}
  got, same = prepare('llama', settings, special_tokens_map=older)
  assert same and got.prompt_prefix == (2,)
  got, same = prepare('llama', _LLAMA, special_tokens_map=older)
  assert same and got.prompt_prefix == (1,)
  got, _ = prepare('llama', settings, added_tokens={'quick': 400}, special_tokens_map={})
  assert got.file is None and 'added_tokens.json = ' in got.notes[0]


def test_what_is_accepted_and_not_used_is_told(prepare):
  added = _OWN | {'400': {'content': '[PAD]', 'special': True}}
  got, same = prepare('llama', _LLAMA | {
      'added_tokens_decoder': added, 'pad_token': '[PAD]', 'do_lower_case': True})
  assert same and got.notes == (
      "Special tokens that are no pieces of tokenizer.model: '[PAD]': text that spells them is "
      'split as any other',
      'tokenizer_config.json: do_lower_case = True: not known, and not used')


def test_spaces_that_transformers_takes_out_of_texts_are_told(prepare):
  sentinels = [f'<extra_id_{i}>' for i in range(100)]
  got, same = prepare('t5', {'additional_special_tokens': sentinels, 'extra_ids': 100,
                             'clean_up_tokenization_spaces': True}, special_tokens_map={})
  assert same and len(got.notes) == 1 and 'clean_up_tokenization_spaces = True' in got.notes[0]


def test_sentinels_may_be_listed(models, prepare):
  processor = sentencepiece.SentencePieceProcessor(model_proto=models['unigram'])
  size = processor.get_piece_size()
  listed = {str(size + i): {'content': f'<extra_id_{99 - i}>', 'special': True, **_NO}
            for i in range(100)}
  got, same = prepare('t5', {'added_tokens_decoder': listed})
  assert same and got.notes == ()


def test_pieces_of_the_user_may_be_listed(prepare):
  for special in (True, False):
    piece = {'3': {'content': '<sep>', 'special': special, **_NO}}
    got, same = prepare('llama', _LLAMA | {'added_tokens_decoder': _OWN | piece})
    assert same and got.notes == ()
  got, _ = prepare('llama', _LLAMA | {'added_tokens_decoder': {'3': piece['3'] | {'lstrip': True}}})
  assert got.file is None and 'lstrip' in got.notes[0]
