"""Text that spells control tokens, beside SentencePiece, tiktoken's rule and transformers' mask."""

import json
import os
import pathlib

import pytest
import sentencepiece
import tensorflow as tf
import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

from tasks import vocabularies
from tasks.vocabularies.seqio_tokenizer import SeqioTokenizer

SPELLED = ['a<|endoftext|>b', '[MASK]', 'x [CLS] y', '</s>', '<extra_id_0>', ' <extra_id_1> <unk>',
           'the <pad> [SEP]', '＜/s＞ [ＭＡＳＫ]']
CORPUS = ['the cat sat on the mat', 'a hat x y', 'the end of text'] * 9
SPECIAL = ['<|endoftext|>', '[PAD]', '[CLS]', '[SEP]', '[MASK]', '<pad>', '</s>', '<unk>',
           '<extra_id_1>', '<extra_id_0>']


def train(model, trainer, pre_tokenizer, normalizer=None, decoder=None):
  tokenizer = tokenizers.Tokenizer(model)
  tokenizer.pre_tokenizer = pre_tokenizer
  if normalizer:
    tokenizer.normalizer = normalizer
  if decoder:
    tokenizer.decoder = decoder
  letters = sorted(set(''.join(CORPUS)) | set('<|>[]/_?'))
  tokenizer.train_from_iterator([*CORPUS, *letters], trainer)
  return tokenizer


def byte_level():
  tokenizer = train(
      models.BPE(), trainers.BpeTrainer(
          vocab_size=300, initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
          special_tokens=SPECIAL[:-2], show_progress=False),
      pre_tokenizers.ByteLevel(add_prefix_space=False), decoder=decoders.ByteLevel())
  tokenizer.add_special_tokens(SPECIAL[-2:])
  return tokenizer


def unigram():
  return train(models.Unigram(), trainers.UnigramTrainer(
      vocab_size=80, special_tokens=SPECIAL, unk_token='<unk>', show_progress=False),
      pre_tokenizers.Metaspace(), normalizers.NFKC(), decoders.Metaspace())


def words():
  return train(models.WordLevel(unk_token='<unk>'), trainers.WordLevelTrainer(
      special_tokens=SPECIAL, show_progress=False), pre_tokenizers.WhitespaceSplit())


def word_piece():
  return train(models.WordPiece(unk_token='<unk>'), trainers.WordPieceTrainer(
      vocab_size=90, special_tokens=SPECIAL, show_progress=False),
      pre_tokenizers.WhitespaceSplit(), normalizers.NFKC())


@pytest.fixture(params=[byte_level, unigram, words, word_piece], ids=lambda make: make.__name__)
def tokenizer(request, tmp_path):
  tokenizer = request.param()
  tokenizer.save(str(tmp_path / 'tokenizer.json'))
  return tokenizer, vocabularies.load_vocabulary(str(tmp_path / 'tokenizer.json'))


def test_text_that_spells_a_control_token_is_text(tokenizer):
  library, vocabulary = tokenizer
  unknown = library.token_to_id('<unk>')
  control = {library.token_to_id(token) for token in SPECIAL} - {unknown}
  for text in SPELLED:
    ids = vocabulary.encode(text)
    assert not control & {*vocabularies.model_ids(vocabulary, ids).tolist()}, text
    assert vocabulary.encode_tf(tf.constant(text)).numpy().tolist() == list(ids)
    if unknown not in ids and library.decoder:
      assert ''.join(vocabulary.decode(ids).split()) == ''.join(
          library.normalizer.normalize_str(text).split() if library.normalizer else text.split())
  plain = 'the cat sat on the hat'
  assert vocabularies.model_ids(vocabulary, vocabulary.encode(plain)).tolist() == (
      library.encode(plain).ids)


def test_ordinary_encoding_of_bytes_is_that_without_added_tokens(tokenizer):
  library, vocabulary = tokenizer
  if not isinstance(library.model, models.BPE):
    pytest.skip('of byte-level BPE')
  spec = json.loads(library.to_str())
  bare = tokenizers.Tokenizer.from_str(json.dumps(spec | {'added_tokens': []}))
  for text in SPELLED:
    assert vocabularies.model_ids(vocabulary, vocabulary.encode(text)).tolist() == (
        bare.encode(text).ids)


def test_a_prompt_names_its_mask_as_the_library_reads_it(tokenizer):
  library, vocabulary = tokenizer
  library.post_processor = processors.TemplateProcessing(single='$A', special_tokens=[])
  feature = type('Feature', (), {'vocabulary': vocabulary, 'add_eos': False})
  for text in ('the [MASK] sat', '[MASK]', 'a hat'):
    ids, masks = SeqioTokenizer(feature).encode_prompt(text, 'mask')
    assert ids == library.encode(text).ids and masks == text.count('[MASK]')
  ids, _ = SeqioTokenizer(feature).encode_prompt('the [MASK] </s> sat', 'mask')
  assert library.token_to_id('[MASK]') in ids and library.token_to_id('</s>') not in ids
  if not vocabulary.extra_ids:
    return
  ids, named = SeqioTokenizer(feature).encode_prompt('the <extra_id_1> [MASK]', 'sentinels')
  assert library.token_to_id('<extra_id_1>') in ids and named == 1
  assert library.token_to_id('[MASK]') not in ids


def test_a_template_of_ours_means_the_control_token(tokenizer):
  library, vocabulary = tokenizer
  (i,) = vocabularies.model_ids(vocabulary, vocabularies.template_ids(vocabulary, '[CLS]'))
  assert i == library.token_to_id('[CLS]')
  assert vocabularies.template_ids(vocabulary, 'the') == list(vocabulary.encode('the'))
  assert len(vocabularies.template_ids(vocabularies.BYTE_VOCABULARY, '[NLU]')) == 5


@pytest.mark.parametrize('name', ['byte', 'sentencepiece'])
def test_prompts_of_other_vocabularies(name, tmp_path):
  if name == 'sentencepiece':
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS), model_prefix=str(tmp_path / 'm'), vocab_size=40,
        hard_vocab_limit=False, minloglevel=2)
    name = str(tmp_path / 'm.model')
  vocabulary = vocabularies.load_vocabulary(name)
  feature = type('Feature', (), {'vocabulary': vocabulary, 'add_eos': False})
  tokenizer, last = SeqioTokenizer(feature), vocabulary.vocab_size - 1
  assert not {last, last - 1} & {*tokenizer.encode('[MASK] <extra_id_0>')}
  ids, masks = tokenizer.encode_prompt('the [MASK] sat', 'mask')
  assert (ids.count(last), masks) == (1, 1)
  ids, named = tokenizer.encode_prompt('a <extra_id_0> b <extra_id_1>', 'sentinels')
  assert named == 2 and [i for i in ids if i >= last - 1] == [last, last - 1]


def test_t5s_two_tokenizers_split_the_spelling_alike():
  folder = os.environ.get('T5X_LITE_TEST_DATA')
  if not folder:
    pytest.skip('T5X_LITE_TEST_DATA is not set')
  folder = pathlib.Path(folder) / 'tokenizers/t5'
  fast = vocabularies.load_vocabulary(str(folder / 'tokenizer.json'))
  slow = vocabularies.load_vocabulary(str(folder / 'spiece.model'))
  plain = sentencepiece.SentencePieceProcessor(str(folder / 'spiece.model'))
  for text in ('a</s>b', 'x <extra_id_0> y', 'Is <unk> <pad> text?'):
    assert list(fast.encode(text)) == list(slow.encode(text)) == plain.EncodeAsIds(text)
    assert slow.encode_tf(tf.constant(text)).numpy().tolist() == plain.EncodeAsIds(text)
