"""The made language, on examples."""

import tensorflow as tf

from tasks.preprocessors.cipher import cipher_pairs


def _pairs(texts, **options):
  dataset = tf.data.Dataset.from_tensor_slices({'text': texts})
  return [{name: text.decode() for name, text in one.items()}
          for one in cipher_pairs(dataset, text='text', **options).as_numpy_iterator()]


def test_letters_are_exchanged_one_for_one_and_words_reversed():
  text = 'The five boxing wizards jump quickly, über 2 hens.'
  (pair,) = _pairs([text])
  assert pair['inputs'] == text
  words = pair['targets'].split()[::-1]
  assert words[7] == '2' and [*map(len, words)] == [*map(len, text.split())]
  letters = dict(zip(text.lower().replace(' ', ''), ''.join(words).lower()))
  assert all(letters[x] == x for x in ',ü2.')
  assert sorted(letters.values()) == sorted(letters) and letters['e'] != 'e'
  assert words[0] == letters['t'] + (letters['h'] + letters['e']).upper()


def test_a_seed_is_a_language():
  first, again, other = (_pairs(['plain words'], seed=seed)[0]['targets'] for seed in (0, 0, 1))
  assert first == again != other
