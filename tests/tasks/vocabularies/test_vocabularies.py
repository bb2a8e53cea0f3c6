import collections
import itertools

import numpy as np
import pytest
import sentencepiece
import seqio
import tensorflow as tf

from t5x_lite import cli
from t5x_lite.core.errors import UserError
from tasks import files, vocabularies
from tasks.pipeline import registry
from tasks.preprocessors.classification import LabelVocabulary
from tasks.vocabularies import train_vocabulary
from tasks.vocabularies.train_vocabulary import train_sentencepiece

_SYLLABLES = ['de', 'f', 'ret', 'urn', 'se', 'lf', 'va', 'lue', 'é', 'ran', 'ge', 'print']


@pytest.fixture(scope='module')
def corpus(tmp_path_factory):
  path = tmp_path_factory.mktemp('corpus') / 'text.txt'
  random = np.random.default_rng(0)
  words = [''.join(random.choice(_SYLLABLES, 3)) for _ in range(80)]
  path.write_text(
      '\n'.join('  ' + ' '.join(random.choice(words, 8)) for _ in range(300)), encoding='utf-8'
  )
  return files.FileTask(train=str(path)).register()


@pytest.fixture(scope='module')
def model(corpus, tmp_path_factory):
  prefix = tmp_path_factory.mktemp('spm') / 'tiny'
  return train_sentencepiece(registry.raw_texts(corpus, 'train'), 320, str(prefix))


def test_byte_vocabulary():
  vocabulary = vocabularies.load_vocabulary('byte')
  assert vocabulary.vocab_size == 384
  assert vocabularies.mask_id(vocabulary) == 383 and vocabularies.cls_id(vocabulary) == 382
  assert vocabularies.ordinary_ids(vocabulary) == (3, 259)
  lengths = vocabularies.byte_lengths(vocabulary)
  assert lengths.dtype == np.int32
  assert lengths.tolist() == [0] * 3 + [1] * 256 + [0] * 125


def test_trained_vocabulary_is_lossless_and_knows_its_bytes(model):
  vocabulary = vocabularies.load_vocabulary(model)
  assert vocabulary.vocab_size == 420
  assert (vocabulary.pad_id, vocabulary.eos_id, vocabulary.unk_id) == (0, 1, 2)
  assert vocabularies.ordinary_ids(vocabulary) == (3, 320)
  assert vocabularies.mask_id(vocabulary) == 419
  lengths = vocabularies.byte_lengths(vocabulary)
  assert lengths.shape == (420,)
  assert lengths[:3].tolist() == [0, 0, 0] and not lengths[320:].any()
  for text in ('  def é\n\n\treturn 世界  ', 'self', ' ', 'value ½ '):
    ids = vocabulary.encode(text)
    assert vocabulary.decode(ids) == text
    assert lengths[ids].sum() == len(text.encode())
    assert vocabulary.encode_tf(tf.constant(text)).numpy().tolist() == ids


def test_text_is_read_in_silence_as_sentencepiece_reads_it(model, capfd):
  texts = ['def f(x):\n  return x', 'caf\xe9 \ufffd \u2028\ta\0b', '\ufb01 \u212b  ', '']
  vocabulary = vocabularies.load_vocabulary(model)
  rows = tf.data.Dataset.from_tensor_slices(texts).map(vocabulary.encode_tf)
  processor = sentencepiece.SentencePieceProcessor(model_file=model)
  assert [row.tolist() for row in rows.as_numpy_iterator()] == processor.encode(texts)
  assert 'normalizer' not in capfd.readouterr().err


def test_trained_vocabulary_shortens_its_text(corpus, model):
  vocabulary = vocabularies.load_vocabulary(model)
  texts = list(registry.raw_texts(corpus, 'train'))
  assert len(texts) == 300 and texts[0].startswith('  ')
  ids = sum(len(vocabulary.encode(text)) for text in texts)
  assert ids < 0.6 * sum(len(text.encode()) for text in texts)


def test_training_is_deterministic(corpus, model, tmp_path):
  read = lambda path: open(path, 'rb').read()
  train = lambda name, number=None, **kwargs: train_sentencepiece(
      itertools.islice(registry.raw_texts(corpus, 'train'), number), 320, str(tmp_path / name),
      **kwargs)
  assert read(train('same')) == read(model)
  assert read(train('fewer', 100)) != read(model)
  assert read(train('bpe', model_type='bpe')) != read(model)
  assert sorted(p.name for p in tmp_path.iterdir()) == sorted(
      f'{name}.{kind}' for name in ('same', 'fewer', 'bpe') for kind in ('model', 'vocab')
  )


def test_lines_beyond_the_limit_are_chosen_by_the_seed(corpus, monkeypatch, tmp_path):
  monkeypatch.setattr(train_vocabulary, '_SENTENCES', 200)
  texts = list(registry.raw_texts(corpus, 'train'))
  assert sum(text.count('\n') + 1 for text in texts) == 300
  first, same, other = (
      open(train_sentencepiece(texts, 320, str(tmp_path / name), seed=seed), 'rb').read()
      for name, seed in (('a', 0), ('b', 0), ('c', 1)))
  assert first == same != other


def test_chosen_lines_are_as_likely_as_any():
  counts = collections.Counter(
      line for seed in range(4000) for line in train_vocabulary._choose('abcde', 2, seed))
  assert set(counts) == set('abcde')
  # Five standard errors of a binomial of 4,000 draws at 2/5.
  assert all(abs(count - 1600) < 5 * (4000 * 0.4 * 0.6) ** 0.5 for count in counts.values())
  assert train_vocabulary._choose(iter('abc'), 3, 0) == ['a', 'b', 'c']


def test_training_refuses_to_overwrite(corpus, model):
  with pytest.raises(UserError, match='--output=.* is not overwritten'):
    train_sentencepiece(['any'], 320, model.removesuffix('.model'))
  with pytest.raises(UserError, match='exists and is not overwritten'):   # the same file
    train_sentencepiece(['any'], 320, model)


def test_user_symbols_are_one_piece(corpus, tmp_path):
  path = train_sentencepiece(registry.raw_texts(corpus, 'train'), 320, str(tmp_path / 'x'),
                             user_symbols=['<turn>', '=>'])
  vocabulary = vocabularies.load_vocabulary(path)
  for symbol in ('<turn>', '=>'):
    assert len(vocabulary.encode(symbol)) == 1
    assert vocabulary.decode(vocabulary.encode(f'a{symbol}b')) == f'a{symbol}b'


@pytest.mark.parametrize('kwargs, message', [
    ({'size': 259}, '--size=259: must be at least 260'),
    ({'model_type': 'word'}, '--model_type=word: choose from bpe, unigram'),
    ({'size': 5000}, '--size=5000: SentencePiece cannot make so many pieces: Vocabulary size too'),
])
def test_training_errors(corpus, tmp_path, kwargs, message):
  arguments = {'size': 320, 'output': str(tmp_path / 'x'), **kwargs}
  with pytest.raises(UserError, match=message):
    train_sentencepiece(registry.raw_texts(corpus, 'train'), **arguments)
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('task, split, message', [
    (None, 'test', "no split 'test'; it has train"),
    ('nothing_like_it', 'train', "no task or mixture 'nothing_like_it'"),
])
def test_raw_text_errors(corpus, task, split, message):
  with pytest.raises(UserError, match=message):
    next(registry.raw_texts(task or corpus, split))


def test_loading_errors(tmp_path):
  with pytest.raises(UserError, match="no file 'missing.model'"):
    vocabularies.load_vocabulary('missing.model')
  path = tmp_path / 'bad.model'
  path.write_bytes(b'not a model')
  with pytest.raises(UserError, match='is not a SentencePiece model'):
    vocabularies.load_vocabulary(str(path))


def test_with_vocabulary_copies_a_task_once(corpus, model):
  vocabulary = vocabularies.load_vocabulary(model)
  name = registry.with_vocabulary(corpus, vocabulary)
  assert name != corpus and name == registry.with_vocabulary(corpus, vocabulary)
  assert registry.with_vocabulary(corpus, vocabularies.BYTE_VOCABULARY) == corpus
  task = seqio.TaskRegistry.get(name)
  assert task.output_features['targets'].vocabulary == vocabulary
  (first, *_) = task.get_dataset(None, 'train', shuffle=False).as_numpy_iterator()
  (old, *_) = seqio.TaskRegistry.get(corpus).get_dataset(
      None, 'train', shuffle=False
  ).as_numpy_iterator()
  assert vocabulary.decode(first['targets'].tolist()) == vocabularies.BYTE_VOCABULARY.decode(
      old['targets'].tolist()
  )


def test_with_vocabulary_copies_a_mixture_and_leaves_labels_alone(stdlib, model):
  vocabulary = vocabularies.load_vocabulary(model)
  mixture = seqio.MixtureRegistry.get(
      registry.with_vocabulary('stdlib_mixture', vocabulary)
  )
  rates = {t.name.split('__')[0]: mixture.get_rate(t) for t in mixture.tasks}
  assert rates == {'stdlib_span_corruption': 3.0, 'stdlib_docstring': 1.0}
  package = seqio.TaskRegistry.get(registry.with_vocabulary('stdlib_package', vocabulary))
  assert package.output_features['targets'].vocabulary == LabelVocabulary(20)
  dataset = package.get_dataset({'inputs': 32, 'targets': 1}, 'validation', shuffle=False)
  example = next(dataset.as_numpy_iterator())
  assert example['inputs'][0] == vocabularies.cls_id(vocabulary)


def test_raw_text_needs_a_tokenising_task(stdlib):
  with pytest.raises(UserError, match="'stdlib_package' has no tokenising step"):
    next(registry.raw_texts('stdlib_package', 'train'))


@pytest.mark.parametrize('flags, message', [
    (['--task=stdlib_lmm'], "error: --task=stdlib_lmm --split=train: no task or mixture"),
    (['--task=stdlib_lm', '--task_module=no.such'], 'error: --task_module=no.such: cannot be'),
    (['--files=none*.txt'], 'error: --files: no file matches'),
])
def test_errors_of_the_command_name_its_flags(flags, message, tmp_path, capsys):
  argv = ['train-vocab', *flags, '--size=300', f'--output={tmp_path}/x']
  assert cli.main(argv) == 1
  error = capsys.readouterr().err
  assert error.startswith(message) and error.count('\n') == 1
