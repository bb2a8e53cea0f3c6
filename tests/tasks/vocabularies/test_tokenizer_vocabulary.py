"""tokenizer.json files of each kind, beside the `tokenizers` library and what seqio asks of ids."""

import itertools
import json
import os
import pathlib

import numpy as np
import pytest
import seqio
import tensorflow as tf
import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

from t5x_lite.core.errors import UserError
from tasks import files, vocabularies
from tasks.pipeline import seqio_data

TEXTS = ['Hello there, general! ', 'Ünïcode 世界 !!', '  two  spaces\n\tand a tab', '!', '']
CORPUS = TEXTS * 3 + ['the cat sat on the mat', 'there is a hat', 'hello world'] * 5


def _byte_level(special):
  tokenizer = tokenizers.Tokenizer(models.BPE())
  tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
  tokenizer.decoder = decoders.ByteLevel()
  trainer = trainers.BpeTrainer(
      vocab_size=320, initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()))
  tokenizer.train_from_iterator(CORPUS, trainer)
  tokenizer.add_special_tokens(special)   # after all pieces, as GPT-2 and LLaMA 3 have them
  return tokenizer


def _word_piece():
  tokenizer = tokenizers.Tokenizer(models.WordPiece(unk_token='[UNK]'))
  tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
  tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
  tokenizer.decoder = decoders.WordPiece()
  special = ['[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]']
  trainer = trainers.WordPieceTrainer(vocab_size=200, special_tokens=special)
  tokenizer.train_from_iterator(CORPUS, trainer)
  return tokenizer


@pytest.fixture
def load(tmp_path):
  def make(tokenizer, config=None):
    tokenizer.save(str(tmp_path / 'tokenizer.json'))
    if config:
      (tmp_path / 'tokenizer_config.json').write_text(json.dumps(config))
    return vocabularies.load_vocabulary(str(tmp_path / 'tokenizer.json'))
  return make


def test_byte_level_ids_are_lossless_and_none_is_padding(load):
  tokenizer = _byte_level(['<|endoftext|>'])
  vocabulary = load(tokenizer)
  assert tokenizer.id_to_token(0) == '!', 'the first byte is a piece of text, as in GPT-2'
  last = tokenizer.token_to_id('<|endoftext|>')
  assert vocabulary.vocab_size == tokenizer.get_vocab_size() == last + 1
  assert (vocabulary.eos_id, vocabulary.bos_id, vocabulary.unk_id) == (last, last, None)
  assert vocabulary.pad_alias == last + 1
  lengths = vocabularies.byte_lengths(vocabulary)
  assert lengths.shape == (last + 1,) and lengths[last] == 0
  for text in TEXTS:
    ids = vocabulary.encode(text)
    own = vocabularies.model_ids(vocabulary, np.asarray(ids, int))
    assert 0 not in ids and own.tolist() == tokenizer.encode(text).ids
    assert vocabulary.decode(ids) == vocabulary.decode(own.tolist()) == text
    assert lengths[own].sum() == len(text.encode())
    assert vocabulary.encode_tf(tf.constant(text)).numpy().tolist() == ids
    assert vocabulary.decode_tf(tf.constant(ids, tf.int32)).numpy().decode() == text
  # What a model writes: own ids up to the end of text, then padding, which is 0 as '!' is.
  assert vocabulary.decode([0, *tokenizer.encode('hat').ids, last, 0, 0]) == '!hat'


def test_what_reaches_the_model_is_the_tokenizers_own(load, tmp_path):
  tokenizer = _byte_level(['<|endoftext|>'])
  vocabulary = load(tokenizer)
  path = tmp_path / 'a.txt'
  path.write_text('!!a!\n!\n')
  data = seqio_data.DataConfig(task=files.FileTask(train=str(path)), targets_length=8,
                                   batch_size=1, vocabulary=str(vocabulary.path))
  from t5x_lite.models import ModelConfig
  model = ModelConfig(family='decoder_only', vocab_size=vocabulary.vocab_size, embed_dim=8,
                      num_layers=1, num_heads=1, mlp_dim=8)
  batches = data.batches(model, seed=0)
  texts = [[*tokenizer.encode(text).ids, vocabulary.eos_id] for text in ('!!a!', '!')]
  assert any(0 in text for text in texts)
  seen = []
  for batch in itertools.islice(batches, 8):
    (targets,), (segments,) = batch['decoder_target_tokens'], batch['decoder_segment_ids']
    np.testing.assert_array_equal(batch['decoder_loss_weights'][0], segments > 0)
    assert not targets[segments == 0].any()
    seen += [targets[segments == i].tolist() for i in range(1, segments.max() + 1)]
    assert batch['decoder_input_tokens'].max() < vocabulary.vocab_size
  assert all(text in seen for text in texts) and all(text in texts for text in seen)


def test_word_piece_brings_its_class_and_mask(load):
  tokenizer = _word_piece()
  vocabulary = load(tokenizer)
  ids = [tokenizer.token_to_id(f'[{name}]') for name in ('CLS', 'MASK', 'SEP', 'UNK')]
  assert [vocabularies.cls_id(vocabulary), vocabularies.mask_id(vocabulary), vocabulary.eos_id,
          vocabulary.unk_id] == ids
  assert vocabulary.pad_alias is None and vocabulary.pad_id == 0
  assert vocabulary.encode('The hat') == tokenizer.encode('The hat', add_special_tokens=False).ids
  assert vocabulary.decode(vocabulary.encode('The hat')) == 'the hat'
  lengths = vocabularies.byte_lengths(vocabulary)
  assert lengths[vocabulary.encode('the hat')].sum() == len(' the hat')


def test_a_config_beside_it_names_beginning_and_end(load):
  special = ['<|start|>', '<|turn|>', '<|endoftext|>']
  tokenizer = _byte_level(special)
  vocabulary = load(tokenizer, {'eos_token': {'content': '<|turn|>'}, 'bos_token': '<|start|>'})
  assert vocabulary.eos_id == tokenizer.token_to_id('<|turn|>')
  assert vocabulary.bos_id == tokenizer.token_to_id('<|start|>')


def test_files_that_are_no_vocabulary(load, tmp_path):
  with pytest.raises(UserError, match='has no end-of-text token: .* tokenizer_config.json'):
    _ = load(_byte_level([])).eos_id
  (tmp_path / 'tokenizer.json').write_text('{}')
  with pytest.raises(UserError, match='is not a tokenizer.json'):
    vocabularies.load_vocabulary(str(tmp_path / 'tokenizer.json'))


def test_t5s_tokenizer_has_the_ids_and_sentinels_of_its_sentencepiece_model():
  folder = os.environ.get('T5X_LITE_TEST_DATA')
  if not folder:
    pytest.skip('T5X_LITE_TEST_DATA is not set')
  folder = pathlib.Path(folder) / 'tokenizers/t5'
  fast = vocabularies.load_vocabulary(str(folder / 'tokenizer.json'))
  slow = seqio.SentencePieceVocabulary(str(folder / 'spiece.model'), extra_ids=100)
  assert (fast.vocab_size, fast.extra_ids, fast.eos_id, fast.unk_id) == (
      slow.vocab_size, slow.extra_ids, slow.eos_id, slow.unk_id) == (32100, 100, 1, 2)
  assert vocabularies.first_extra_id(fast) == 32000
  text = 'Studies have been shown that owning a dog is good for you.'
  assert fast.encode(text) == slow.encode(text)
  assert vocabularies.byte_lengths(fast)[fast.encode(text)].sum() == len(text) + 1


def test_fingerprints_tell_vocabularies_apart(load, tmp_path):
  first = load(_byte_level(['<|endoftext|>']))
  prints = {vocabularies.fingerprint(v) for v in (
      first, vocabularies.BYTE_VOCABULARY, seqio.ByteVocabulary(extra_ids=1))}
  moved = tmp_path / 'elsewhere'
  moved.mkdir()
  (moved / 'x.json').write_text(first.path.read_text())
  other = vocabularies.load_vocabulary(str(moved / 'x.json'))
  assert len(prints) == 3 and vocabularies.fingerprint(other) in prints and other == first
  assert vocabularies.fingerprint(load(_word_piece())) not in prints
