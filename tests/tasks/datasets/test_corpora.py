import numpy as np
import pytest
import seqio
import tensorflow_datasets as tfds

from t5x_lite.core.errors import UserError
from tasks.datasets import corpora

FEATURES = {'text': tfds.features.Text()}


def _rows(splits):
  return {split: [{'text': text} for text in texts] for split, texts in splits.items()}


def _texts(name: str, split: str) -> list[str]:
  dataset = seqio.TaskRegistry.get(name).get_dataset({'targets': 99}, split, shuffle=False)
  return [corpora.VOCABULARY.decode(ex['targets'].tolist()) for ex in dataset.as_numpy_iterator()]


def test_names():
  names = set(seqio.TaskRegistry.names())
  for corpus in ('c4', 'wikipedia', 'wikitext103', 'lm1b', 'mc4_en', 'mc4_bg_latn', 'mc4_zh'):
    assert {f'{corpus}_{o}' for o in ('lm', 'span_corruption', 'mlm')} <= names
  assert len(corpora.MC4) == len(tfds.text.c4.MC4_LANGUAGES) >= 101


@pytest.mark.parametrize('name, splits, expected', [
    ('c4/en:3.1.0', {'train': ['a', ' \n', 'b'], 'validation': ['c']},
     {'c4_lm': {'train': ['a', 'b'], 'validation': ['c']}}),
    ('lm1b:1.1.0', {'train': ['a'], 'test': ['b']},
     {'lm1b_lm': {'train': ['a'], 'validation': ['b']}}),
    ('wikitext/wikitext_103_raw_v1:1.0.0',
     {'train': ['', ' = A = \n', 'line\n'], 'validation': ['v'], 'test': ['t']},
     {'wikitext103_lm': {'train': [' = A = \n', 'line\n'], 'validation': ['v'], 'test': ['t']}}),
    ('c4/multilingual:3.1.0',
     {'de': ['d'], 'de-validation': ['e'], 'bg-Latn': ['f'], 'bg-Latn-validation': ['g']},
     {'mc4_de_lm': {'train': ['d'], 'validation': ['e']},
      'mc4_bg_latn_lm': {'train': ['f'], 'validation': ['g']}}),
])
def test_a_prepared_corpus_is_read(prepare, name, splits, expected):
  prepare(name, _rows(splits), FEATURES)
  for task, texts in expected.items():
    assert {split: _texts(task, split) for split in texts} == texts
    assert set(seqio.TaskRegistry.get(task).splits) == set(texts)


def test_ten_thousand_articles_of_wikipedia_are_held_out(prepare):
  rows = _rows({'train': [str(i) for i in range(10_003)]})
  prepare('wikipedia/20230601.en:1.0.0', rows, FEATURES)
  assert sorted(_texts('wikipedia_lm', 'train')) == ['10000', '10001', '10002']
  source = seqio.TaskRegistry.get('wikipedia_lm').source
  assert [source.num_input_examples(s) for s in ('train', 'validation')] == [3, 10_000]


@pytest.mark.parametrize('objective', ['span_corruption', 'mlm'])
def test_other_objectives_read_the_same_corpus(prepare, objective):
  rows = _rows({'train': ['some words of text ' * 20], 'validation': ['x']})
  prepare('c4/en:3.1.0', rows, FEATURES)
  task = seqio.TaskRegistry.get(f'c4_{objective}')
  dataset = task.get_dataset({'inputs': 64, 'targets': 64}, 'train', shuffle=False, seed=0)
  examples = list(dataset.as_numpy_iterator())
  assert examples and all(0 < len(ex['inputs']) <= 64 for ex in examples)


@pytest.mark.parametrize('name, made_from', [
    ('c4_lm', 'c4/en:3.1.0'),
    ('wikitext103_mlm', 'huggingface:wikitext/wikitext-103-raw-v1'),
])
def test_a_corpus_that_is_not_prepared_is_refused(tfds_dir, name, made_from):
  with pytest.raises(UserError) as error:
    _texts(name, 'validation')
  command = f'TFDS_DATA_DIR={tfds_dir} python -m tasks.datasets.prepared {made_from}`'
  assert command in str(error.value)
  assert '\n' not in str(error.value)


def test_languages_are_drawn_as_by_mt5(monkeypatch):
  sizes = {'de': 1000, 'sw': 10}
  monkeypatch.setattr(
      'tasks.datasets.prepared.PreparedSource.num_input_examples',
      lambda self, split: sizes.get(self.tfds_dataset._map_split(split), 1),
  )
  mixture = seqio.MixtureRegistry.get('mc4_span_corruption')
  rate = {task.name: mixture.get_rate(task) for task in mixture.tasks}
  assert len(rate) == len(corpora.MC4)
  assert rate['mc4_de_span_corruption'] == pytest.approx(1000 ** 0.3)
  assert rate['mc4_sw_span_corruption'] == pytest.approx(10 ** 0.3)
  assert np.isclose(rate['mc4_en_span_corruption'], 1)
