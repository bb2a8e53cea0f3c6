import json

import numpy as np
import pytest
import seqio
import tensorflow as tf
import tokenizers

from t5x_lite.core.errors import UserError
from tasks import vocabularies
from tasks.preprocessors import masking, words


def _count(vocabulary, text):
  ids = np.array(vocabulary.encode(text))
  return int(words.starts_word(vocabulary)[ids][1:].sum()) + 1


def test_bytes_are_split_at_white_space():
  begins = words.starts_word(vocabularies.BYTE_VOCABULARY)
  assert begins.shape == (384,)
  assert np.flatnonzero(begins).tolist() == [12, 13, 14, 15, 16, 35]
  assert _count(vocabularies.BYTE_VOCABULARY, 'the cat\tsat') == 3


def test_pieces_of_sentencepiece(tmp_path):
  import sentencepiece

  corpus = tmp_path / 'corpus.txt'
  corpus.write_text('\n'.join(['the cats sat on the mats', 'unhappily they unsat'] * 20))
  sentencepiece.SentencePieceTrainer.train(
      input=str(corpus), model_prefix=str(tmp_path / 'm'), vocab_size=40, pad_id=0, eos_id=1,
      unk_id=2, bos_id=-1, hard_vocab_limit=False, minloglevel=2)
  vocabulary = seqio.SentencePieceVocabulary(str(tmp_path / 'm.model'), extra_ids=5)
  begins = words.starts_word(vocabulary)
  assert len(begins) == vocabulary.vocab_size
  text = 'the cats sat on the mats unhappily'
  assert len(vocabulary.encode(text)) > 7 and _count(vocabulary, text) == 7


@pytest.mark.parametrize('pieces, kind, expected', [
    (['[PAD]', '[UNK]', '[SEP]', 'un', '##happy', 'cat', '##s'], 'WordPiece',
     [1, 1, 1, 1, 0, 1, 0, 1]),
    (['<pad>', '</s>', '▁un', 'happy', '▁cat', 's'], 'Unigram', [0, 0, 1, 0, 1, 0, 0]),
])
def test_pieces_of_tokenizers(tmp_path, pieces, kind, expected):
  if kind == 'WordPiece':
    model = tokenizers.models.WordPiece({p: i for i, p in enumerate(pieces)}, unk_token='[UNK]')
  else:
    model = tokenizers.models.Unigram([(p, -1.0) for p in pieces], unk_id=0)
  path = tmp_path / 'tokenizer.json'
  tokenizer = json.loads(tokenizers.Tokenizer(model).to_str())
  path.write_text(json.dumps(tokenizer))
  vocabulary = vocabularies.TokenizerVocabulary(str(path))
  assert words.starts_word(vocabulary).astype(int).tolist() == expected


def test_other_vocabularies_are_refused():
  with pytest.raises(UserError, match='whole_words=False'):
    words.starts_word(seqio.PassThroughVocabulary(9))


def _greedy(lengths, order, count):
  """BERT's loop over words, and for whole words longer than `count` the first of the shortest."""
  room = max(count, min(lengths))
  taken, total = set(), 0
  for word in order:
    if total + lengths[word] <= room:
      taken.add(word)
      total += lengths[word]
  return taken


@pytest.mark.parametrize('seed', range(6))
@pytest.mark.parametrize('count', [1, 5, 20, 1000])
def test_words_are_taken_as_berts_loop_takes_them(count, seed):
  rng = np.random.default_rng(seed)
  lengths = rng.integers(2, 9, rng.integers(1, 40))
  begins = np.concatenate([[True] + [False] * (n - 1) for n in lengths])
  selected = masking.select_words(tf.constant(begins), count, [seed, 1]).numpy()
  order = np.argsort(
      tf.random.stateless_uniform([len(lengths)], [seed, 1]).numpy(), kind='stable')
  taken = _greedy(lengths, order, count)
  expected = np.concatenate([[i in taken] * n for i, n in enumerate(lengths)])
  np.testing.assert_array_equal(selected, expected)


def test_a_word_is_taken_even_if_all_are_longer():
  begins = tf.constant([True, False, False, True, False])
  assert masking.select_words(begins, 1, [0, 0]).numpy().tolist() == [False] * 3 + [True] * 2
