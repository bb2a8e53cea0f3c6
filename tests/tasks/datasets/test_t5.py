"""The tasks of T5 against what T5's published code makes of the same rows.

tests/tasks/data/make_t5_supervised.py made the expected values and says how.
"""

import functools
import importlib.util
import json
import os
import pathlib
import re

import numpy as np
import pytest
import seqio
from sklearn import metrics as sklearn_metrics
import tensorflow_datasets as tfds

from tasks.datasets import glue, super_glue, t5

DATA = pathlib.Path(__file__).parents[1] / 'data'
FIXTURES = json.loads((DATA / 't5_supervised.json').read_text(encoding='utf-8'))
REAL_FOLDER = pathlib.Path(os.environ.get('T5X_LITE_TEST_DATA', '/nonexistent')) / 'glue'
DECLARED = {task.name: task for task in (*glue.TASKS, *super_glue.TASKS, *t5.TASKS)}
CLASSIFIED = [name for name, task in DECLARED.items() if task.classification_name]


def _load_maker():
  path = DATA / 'make_t5_supervised.py'
  spec = importlib.util.spec_from_file_location(path.stem, path)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


MAKER = _load_maker()


def _read(name: str, rows: list[dict], lengths=None) -> list[dict]:
  """What the task makes of the rows."""
  source = seqio.FunctionDataSource(
      lambda split, shuffle_files, seed=None: MAKER.dataset(rows), splits=('validation',)
  )
  task = seqio.TaskRegistry.get(name).replace(source=source)
  dataset = task.get_dataset(lengths, 'validation', shuffle=False)
  return list(dataset.as_numpy_iterator())


@functools.cache
def _made(name: str) -> list[dict]:
  return _read(name, MAKER.rows(name))


def _texts(examples: list[dict], feature: str) -> list[str]:
  return [ex[f'{feature}_pretokenized'].decode() for ex in examples]


def _known(examples: list[dict]) -> list[dict]:
  """Those whose label is not hidden."""
  return [ex for ex, t in zip(examples, _texts(examples, 'targets')) if t not in ('<unk>', '-1.0')]


def _scores(name: str, examples: list[dict], predictions: list[str]) -> dict[str, float]:
  task = seqio.TaskRegistry.get(name)
  process = lambda texts, is_target: [
      task.postprocess_fn(text, example=ex, is_target=is_target)
      for text, ex in zip(texts, examples, strict=True)
  ]
  targets = process(_texts(examples, 'targets'), True)
  predictions = process(predictions, False)
  result = {}
  for metric in task.metric_fns:
    result |= metric(targets, predictions)
  return result


def _assert_scores(name: str, found: dict, expected: dict) -> None:
  # T5's ROUGE is the median of 1,000 random means of these examples.
  tolerance = {'abs': 1.0} if name == 'cnn_dailymail' else {'rel': 1e-9}
  assert found == pytest.approx(expected, **tolerance)


def test_every_task_has_fixtures():
  assert set(FIXTURES['made']) == set(DECLARED) == set(MAKER.TEXT_FIELDS)


@pytest.mark.parametrize('name', DECLARED)
def test_texts_are_those_of_t5(name):
  examples, expected = _made(name), FIXTURES['made'][name]['texts']
  assert len(expected) >= 20
  assert [list(x) for x in zip(_texts(examples, 'inputs'), _texts(examples, 'targets'))] == expected
  for ex, (inputs, targets) in zip(examples, expected):
    features = seqio.TaskRegistry.get(name).output_features
    for feature, text in (('inputs', inputs), ('targets', targets)):
      assert ex[feature][-1] == 1
      assert features[feature].vocabulary.decode(ex[feature].tolist()) == text


@pytest.mark.parametrize('name', DECLARED)
def test_scores_are_those_of_t5(name):
  examples = _known(_made(name))
  predictions = MAKER.guesses(name, _texts(examples, 'targets'))
  _assert_scores(name, _scores(name, examples, predictions), FIXTURES['made'][name]['scores'])


@pytest.mark.parametrize('name', MAKER.LABELS)
def test_label_texts_become_ids_as_in_t5(name):
  task = seqio.TaskRegistry.get(name)
  expected = FIXTURES['made'][name]['ids']
  assert sorted(expected.values())[:1] == [-1] and max(expected.values()) >= 1
  for text, label in expected.items():
    assert task.postprocess_fn(text, example=_made(name)[0], is_target=False) == label


@pytest.mark.parametrize('name', DECLARED)
def test_perfect_predictions_score_100(name):
  examples = _known(_made(name))
  if 'label' not in MAKER.rows(name)[0]:
    # A word is no bigram, and a text without letters has no words.
    words = lambda ex: re.findall(rb'[a-z]{2,}', ex['targets_pretokenized'])
    examples = [ex for ex in examples if len(words(ex)) > 1]
  scores = _scores(name, examples, _texts(examples, 'targets'))
  assert scores and all(value == pytest.approx(100) for value in scores.values())


@pytest.mark.parametrize('name', CLASSIFIED)
def test_shuffled_predictions_score_what_scikit_learn_gives(name):
  examples = _known(_made(name))
  texts = _texts(examples, 'targets')
  shuffled = [texts[i] for i in np.random.default_rng(0).permutation(len(texts))]
  ids = lambda words: [DECLARED[name].labels.index(word) for word in words]
  y, p = ids(texts), ids(shuffled)
  expected = {
      'accuracy': sklearn_metrics.accuracy_score(y, p),
      'f1': sklearn_metrics.f1_score(y, p, average='binary' if max(y) == 1 else 'macro'),
      'matthews_corrcoef': sklearn_metrics.matthews_corrcoef(y, p),
      'mean_3class_f1': sklearn_metrics.f1_score(y, p, average='macro'),
  }
  for metric, value in _scores(name, examples, shuffled).items():
    assert value == pytest.approx(100 * expected[metric]), metric
    assert value < 100


@pytest.mark.parametrize('name', MAKER.REAL)
def test_real_rows_are_as_t5_has_them(name):
  if not REAL_FOLDER.exists():
    pytest.skip('T5X_LITE_TEST_DATA is not set: no files of GLUE')
  examples = _read(name, MAKER.real_rows(name, REAL_FOLDER))
  expected = FIXTURES['real'][name]
  targets = _texts(examples, 'targets')
  assert len(targets) == MAKER.NUM_REAL
  assert MAKER.digest(_texts(examples, 'inputs')) == expected['inputs']
  assert MAKER.digest(targets) == expected['targets']
  guessed = _scores(name, examples, MAKER.guesses(name, targets))
  _assert_scores(name, guessed, expected['scores'])
  perfect = _scores(name, examples, targets)
  assert all(value == pytest.approx(100) for value in perfect.values())


@pytest.mark.parametrize('name', CLASSIFIED)
def test_classification_has_the_same_text_and_the_label(name):
  task = seqio.TaskRegistry.get(f'{name}_classification')
  rows = MAKER.rows(name)
  assert rows[-1]['label'] == -1
  examples = _read(task.name, rows)
  assert len(examples) == len(rows) - 1  # The row without a label is left out.
  vocabulary = task.output_features['inputs'].vocabulary
  assert task.output_features['targets'].vocabulary.vocab_size == len(DECLARED[name].labels)
  for ex, row, (inputs, targets) in zip(examples, rows, FIXTURES['made'][name]['texts']):
    assert ex['inputs'].tolist() == [vocabulary.vocab_size - 2, *vocabulary.encode(inputs)]
    assert ex['targets'].tolist() == [row['label']]
    assert DECLARED[name].labels[row['label']] == targets
  labels = [task.postprocess_fn(ex['targets'], example=ex, is_target=True) for ex in examples]
  for metric in task.metric_fns:
    assert all(value == pytest.approx(100) for value in metric(labels, labels).values())
  cut = _read(task.name, rows, {'inputs': 9, 'targets': 1})
  assert {len(ex['inputs']) for ex in cut} == {9}


def test_tasks_of_other_forms_have_no_classification():
  names = set(DECLARED) - set(CLASSIFIED)
  assert names == {'glue_stsb', 'super_glue_multirc', 'super_glue_record', 'squad',
                   'cnn_dailymail', 'wmt_en_de', 'wmt_en_fr', 'wmt_en_ro'}
  assert not {f'{n}_classification' for n in names} & set(seqio.TaskRegistry.names())


@pytest.mark.parametrize('name', DECLARED)
def test_declarations_agree_with_tfds(name):
  task = DECLARED[name]
  dataset, _, version = task.source.partition(':')
  module, _, config = dataset.partition('/')
  builder = tfds.builder_cls(module)
  configs = builder.builder_configs
  assert config in configs if config else not configs
  versions = [builder.VERSION, getattr(configs.get(config), 'version', None)]
  assert version in [str(v) for v in versions]
  if task.labels:
    assert list(task.labels) == list(configs[config].label_classes)


def _rates(name: str) -> dict[str, float]:
  mixture = seqio.MixtureRegistry.get(name)
  return {task.name: mixture.get_rate(task) for task in mixture.tasks}


def test_mixtures_of_the_benchmarks_have_t5s_weights():
  assert sum(_rates('glue').values()) == 949_101
  assert _rates('glue')['glue_mnli_mismatched'] == 0 and 'glue_wnli' not in _rates('glue')
  assert sum(_rates('super_glue').values()) == 184_092
  assert _rates('super_glue')['super_glue_record'] == 138_854


def test_mixture_of_all_has_three_kinds_of_rates(monkeypatch):
  sizes = {'squad': 87_599, 'cnn_dailymail': 287_113, 'wmt_en_de': 4_592_289,
           'wmt_en_fr': 40_853_298, 'wmt_en_ro': 610_320}
  by_source = {DECLARED[name].source: size for name, size in sizes.items()}
  monkeypatch.setattr(
      'tasks.datasets.prepared.PreparedSource.num_input_examples',
      lambda self, split: {'train': by_source[self.tfds_dataset.name]}[split],
  )
  proportional = _rates('t5_supervised')
  assert len(proportional) == 9 + 7 + 5
  assert proportional['glue_cola'] == 8_551 and proportional['squad'] == 87_599
  assert proportional['glue_rte'] == proportional['super_glue_rte'] == 1_245
  assert proportional['wmt_en_de'] == proportional['wmt_en_ro'] == 2 ** 19
  temperature = _rates('t5_supervised_temperature')
  assert temperature['wmt_en_fr'] == 2 ** 10.5
  assert temperature['squad'] == pytest.approx(87_599 ** 0.5)
  assert temperature['glue_mnli_mismatched'] == 0
  assert temperature['glue_rte'] == pytest.approx(0.5 * 2_490 ** 0.5)
  assert set(_rates('t5_supervised_equal').values()) == {1.0}


def test_every_task_of_a_mixture_can_take_another_vocabulary():
  from tasks.pipeline import registry

  name = registry.with_vocabulary('t5_supervised_equal', seqio.ByteVocabulary(extra_ids=3))
  copy = seqio.MixtureRegistry.get(name)
  assert len(copy.tasks) == 21 and copy.output_features['inputs'].vocabulary.vocab_size == 262
