"""Tokenised data on disk: the same examples as without, counted by hand, and what is refused."""

import collections
import dataclasses
import json
import shutil

import numpy as np
import pytest
import seqio
import tensorflow as tf

from t5x_lite import cli
from t5x_lite.core.errors import UserError
from t5x_lite.experiment import gin_config
from tasks import vocabularies
from tasks.files import FileTask
from tasks.pipeline import caching, description, provider
from tasks.pipeline.mixtures import Mixture
from tasks.pipeline.seqio_data import DataConfig
from tasks.preprocessors import classification, pretraining

SIZES = [3 + i % 5 for i in range(40)]


@pytest.fixture(scope='module')
def cached(tmp_path_factory):
  """A decoder on two files of bytes, 40 lines of 3 to 7 letters and 10 of 20, and their cache."""
  folder = tmp_path_factory.mktemp('cached')
  lines = [chr(ord('a') + i % 26) * size for i, size in enumerate(SIZES)]
  (folder / 'short.txt').write_text('\n'.join(lines) + '\n')
  (folder / 'long.txt').write_text(''.join(f'{i}123456789ABCDEFGHIJ' + '\n' for i in range(10)))
  tasks = tuple(FileTask(train=str(folder / f'{n}.txt'), name=n) for n in ('short', 'long'))
  experiment = gin_config.load_described(['experiments/tiny_lm.gin'])
  data = dataclasses.replace(
      experiment.data, task=Mixture(tasks=tasks, rates=(3, 1)), targets_length=8, batch_size=4,
      packing='none', cache_dir=str(folder / 'cache'))
  written = list(caching.write_cache(data, processes=1))
  train = dataclasses.replace(experiment.train, steps=100)
  return dataclasses.replace(experiment, data=data, train=train), written


def rows(experiment, batches: int) -> list[bytes]:
  stream = experiment.data.batches(experiment.model, seed=0)
  return [row.astype('int32').tobytes() for _, batch in zip(range(batches), stream)
          for row in batch['decoder_target_tokens']]


def test_counts_are_those_of_the_files(cached):
  _, written = cached
  assert dict(written) == {
      'long_lm': {'examples': 10, 'targets_tokens': 200, 'targets_max_tokens': 20},
      'short_lm': {'examples': 40, 'targets_tokens': sum(SIZES), 'targets_max_tokens': 7},
  }


@pytest.mark.slow
def test_a_run_reads_the_same_examples_from_its_cache(cached):
  experiment, _ = cached
  plain = dataclasses.replace(experiment, data=dataclasses.replace(experiment.data, cache_dir=None))
  got, want = rows(experiment, 200), rows(plain, 200)
  assert set(got) == set(want) and got != want
  # Rates are as they were: three of four rows are short ones, of small letters.
  short = sum(ord('a') <= row[0] - 3 <= ord('z') for row in got)
  assert 540 < short < 660
  assert rows(experiment, 20) == got[:80]


def test_describe_counts_what_is_cached(cached):
  experiment, _ = cached
  short, long = description.describe(experiment)
  # With its end, a short line is one example; a long one of 21 ids makes three, of 8, 8 and 5.
  assert (short.examples, long.examples) == (40, 10)
  assert short.tokens == pytest.approx(sum(SIZES) + 40)
  assert long.tokens == pytest.approx(210)


def test_what_is_written_is_not_written_again(cached):
  experiment, _ = cached
  assert list(caching.write_cache(experiment.data, processes=1)) == []


@pytest.mark.slow
def test_a_cut_off_cache_is_no_cache_and_is_written_anew(cached, tmp_path):
  experiment, written = cached
  data = dataclasses.replace(experiment.data, cache_dir=str(tmp_path))
  task = provider.get_task(data)   # evaluation does without
  with pytest.raises(UserError, match='is not a finished cache of the train split of .*: write it'):
    caching.use_cache(task, data)
  left = tmp_path / task.tasks[0].name
  left.mkdir()
  (left / 'train.tfrecord-00099-of-00100').write_bytes(b'half a shard')
  with pytest.raises(UserError, match='is not a finished cache'):
    caching.use_cache(task, data)
  assert dict(caching.write_cache(data, processes=1)) == dict(written)
  assert not (left / 'train.tfrecord-00099-of-00100').exists()
  caching.use_cache(task, data)


@pytest.mark.parametrize('old, new, message', [
    ('bytes+125', 'bytes+100', r"written with vocabularies {'targets': 'bytes\+100'}, and the run"),
    ('tokenize_text', 'tokenize', r"with preprocessors \['tokenize'\], and the run has"),
    ('"examples": 40', '"examples": 41', 'with examples 41, and the run has 40'),
])
def test_a_cache_of_other_data_is_refused(cached, old, new, message):
  experiment, _ = cached
  task = provider.get_task(experiment.data)
  (short,) = (t for t in task.tasks if t.name.startswith('short'))
  path = caching._folder(experiment.data, short) / 'provenance.json'
  kept = path.read_text()
  assert old in kept
  path.write_text(kept.replace(old, new))
  try:
    with pytest.raises(UserError, match=message):
      next(experiment.data.batches(experiment.model, seed=0))
  finally:
    path.write_text(kept)


def _examples(split, shuffle_files, seed=None):
  """Pairs and a label; a source that can be sharded by examples alone."""
  del split, seed
  rows = tf.data.Dataset.range(37)
  text = lambda i: tf.strings.join(['text ', tf.strings.as_string(i)])
  rows = rows.map(lambda i: {'inputs': text(i), 'targets': tf.strings.as_string(i), 'label': i % 2})
  return rows.shuffle(37, seed=0) if shuffle_files else rows


@pytest.fixture(params=['text_to_text', 'classification'])
def function_task(request):
  name = f'test_caching_{request.param}'
  if name not in seqio.TaskRegistry.names():
    parts = pretraining.task_parts('text_to_text', vocabularies.BYTE_VOCABULARY)
    if request.param == 'classification':
      parts = classification.task_parts(
          vocabularies.BYTE_VOCABULARY, 2, text='inputs', label='label')
    seqio.TaskRegistry.add(name, source=seqio.FunctionDataSource(_examples, splits=['train'],
                           num_input_examples={'train': 37}), shuffle_buffer_size=8, **parts)
  return name


def test_every_example_of_other_sources_is_there_once(function_task, tmp_path, monkeypatch):
  """In this process, since others do not know a task that only a test registers."""
  monkeypatch.setattr(caching.concurrent.futures, 'ProcessPoolExecutor', _Here)
  one = function_task.endswith('classification')
  data = DataConfig(task=function_task, task_module='tasks.preprocessors.pretraining',
                    inputs_length=16, targets_length=1 if one else 4, batch_size=1,
                    cache_dir=str(tmp_path))
  ((_, counts),) = caching.write_cache(data, processes=1)
  assert counts['examples'] == 37 and counts['inputs_max_tokens'] == (8 if one else 7)
  task = provider.get_task(data)
  caching.use_cache(task, data)

  def read(use_cached):
    dataset = task.get_dataset(
        data.lengths, 'train', shuffle=False, use_cached=use_cached, trim_output_features=True)
    return [{name: np.asarray(x).tolist() for name, x in ex.items()}
            for ex in dataset.as_numpy_iterator()]

  key = lambda ex: json.dumps(ex, default=str, sort_keys=True)
  got, want = read(True), read(False)
  assert sorted(map(key, got)) == sorted(map(key, want)) and len(got) == 37
  assert not one or {ex['targets'][0] for ex in got} == {0, 1}


class _Here:
  """A pool of processes that is this one."""

  def __init__(self, processes, context, initializer, initargs):
    del processes, context
    initializer(*initargs)

  def submit(self, function, *args):
    future = caching.concurrent.futures.Future()
    future.set_result(function(*args))
    return future

  def shutdown(self, **unused):
    pass


def test_what_cannot_be_cached_is_refused(tmp_path):
  endless = tf.data.Dataset.from_tensors({'targets': tf.range(3)}).repeat()
  with pytest.raises(UserError, match='task x has no end: leave DataConfig.cache_dir out'):
    caching._check_examples(endless, 'x')
  double = tf.data.Dataset.from_tensors({'targets': tf.zeros([3], tf.float64)})
  with pytest.raises(UserError, match=r"task x: the feature 'targets' \(float64, .* cast it"):
    caching._check_examples(double, 'x')


@pytest.mark.slow   # two processes import TensorFlow
def test_the_command_takes_any_number_of_processes(tmp_path, capsys):
  lines = [f'text {i},{i % 2}\n' for i in range(50)]
  (tmp_path / 'a.csv').write_text('text,label\n' + ''.join(lines))
  gin = tmp_path / 'x.gin'
  gin.write_text(f"""
from __gin__ import dynamic_registration
from tasks import files
include 'experiments/classify_files.gin'
TRAIN = '{tmp_path}/a.csv'
VALIDATION = 0.2
files.FileTask.inputs = 'text'
""")
  call = ['data', 'cache', f'--gin_file={gin}', '--gin.VOCABULARY=None']
  assert cli.main(call) == 1
  assert 'DataConfig.cache_dir is not set: pass --gin' in capsys.readouterr().err
  call.append(f'--gin.DataConfig.cache_dir={tmp_path}/cache')
  assert cli.main([*call, '--processes=0']) == 1
  assert '--processes=0: give 1 or more' in capsys.readouterr().err
  assert cli.main([*call, '--processes=2', '--json']) == 0
  ((name, counts),) = json.loads(capsys.readouterr().out).items()
  assert name == 'files_classification' and 30 <= counts['examples'] <= 48
  # The class id, and the text's bytes.
  assert counts['inputs_max_tokens'] == 8 and counts['targets_tokens'] == counts['examples']
  files = collections.Counter(p.name.split('.')[1][:8] for p in tmp_path.glob('cache/*/train.*'))
  assert files == {'tfrecord': 16}


def test_the_digest_of_the_data_follows_the_cache(cached, tmp_path):
  experiment, _ = cached
  plain = dataclasses.replace(experiment.data, cache_dir=None).data_digest()
  digest = experiment.data.data_digest()
  assert digest == experiment.data.data_digest() and digest.startswith(plain)
  moved = dataclasses.replace(experiment.data, cache_dir=str(tmp_path / 'moved'))
  shutil.copytree(experiment.data.cache_dir, moved.cache_dir)
  assert moved.data_digest() == digest
  shard = next(path for path in sorted((tmp_path / 'moved').rglob('train.tfrecord-*'))
               if path.stat().st_size)
  shard.write_bytes(shard.read_bytes()[:-20])
  cut = moved.data_digest()
  assert cut not in (digest, None)
  shard.unlink()
  assert moved.data_digest() not in (digest, cut)
