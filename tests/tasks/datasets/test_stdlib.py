import os
import subprocess
import sys

import numpy as np
import pytest
import seqio
import tensorflow as tf
import tensorflow_datasets as tfds

from tasks.datasets import python_stdlib, stdlib_sources
from tasks.pipeline import feature_converters


def _modules(dataset):
  return [ex['module'].decode() for ex in dataset.as_numpy_iterator()]


def test_splits_are_disjoint_by_module(stdlib):
  by_config = {}
  for config in ('modules', 'functions', 'operators'):
    source = stdlib.StdlibSource(config)
    data = source.builder.as_data_source()
    names = {s: {ex['module'].decode() for ex in data[s]} for s in source.splits}
    assert len(set.union(*names.values())) == sum(map(len, names.values()))
    for split, modules in names.items():
      assert {stdlib_sources.split_of(m) for m in modules} == {split}
    by_config[config] = names
  for config in ('functions', 'operators'):
    for split, names in by_config[config].items():
      assert names <= by_config['modules'][split]


def test_an_operator_is_named_by_its_place(stdlib):
  example = stdlib.StdlibSource('operators').builder.as_data_source('test')[0]
  name = stdlib_sources.OPERATORS[example['operator']]
  for task, read in (('stdlib_operator', slice(None)),
                     ('stdlib_operator_decoder_classification', slice(1, -1))):
    (task_example,) = seqio.TaskRegistry.get(task).get_dataset(
        {'inputs': 128, 'targets': 1}, 'test', shuffle=False).take(1).as_numpy_iterator()
    assert task_example['targets'] == [example['operator']] and name in stdlib_sources.OPERATORS
    ids = task_example['inputs'][read]
    assert stdlib.VOCABULARY.decode(ids.tolist()) == example['code'].decode()


def test_examples_are_those_of_the_interpreter(stdlib):
  found = {
      ex['module'].decode(): ex['text'].decode()
      for s in python_stdlib.SPLITS
      for ex in stdlib.StdlibSource('modules').builder.as_data_source(s)
  }
  path = stdlib_sources.library_root() / 'json' / 'decoder.py'
  assert found['json.decoder'] == path.read_text()
  assert not any('site-packages' in m for m in found)


def test_package_ranks_follow_training_counts(stdlib):
  source = stdlib.StdlibSource('functions')
  counts, ranks = {}, {}
  for split in python_stdlib.SPLITS:
    for ex in source.builder.as_data_source(split):
      package = ex['package'].decode()
      assert ex['module'].decode().split('.')[0] == package
      assert ranks.setdefault(package, ex['package_rank']) == ex['package_rank']
      counts.setdefault(package, 0)
      counts[package] += split == 'train'
  by_rank = sorted(ranks, key=ranks.get)
  assert sorted(ranks.values()) == list(range(len(ranks)))
  assert by_rank == sorted(counts, key=lambda p: (-counts[p], p))


def test_shuffle_is_deterministic_and_shards_partition_it(stdlib):
  source = stdlib.StdlibSource('modules')
  run = lambda **kw: _modules(source.get_dataset('validation', **kw))
  whole = run(seed=1)
  plain = run(shuffle=False)
  assert whole == run(seed=1) != run(seed=2)
  assert plain == run(shuffle=False) != whole and sorted(plain) == sorted(whole)
  shards = [run(seed=1, shard_info=seqio.ShardInfo(i, 2)) for i in range(2)]
  assert shards == [whole[0::2], whole[1::2]]
  shards = [run(seed=None, shard_info=seqio.ShardInfo(i, 2)) for i in range(2)]
  assert sorted(sum(shards, [])) == sorted(plain)
  assert source.num_input_examples('validation') == len(plain)
  assert source.list_shards('validation')


def test_task_shards_partition_the_examples(stdlib):
  task = seqio.TaskRegistry.get('stdlib_docstring')
  run = lambda info: sorted(
      ex['targets_pretokenized'] for ex in task.get_dataset(
          {'inputs': 16, 'targets': 16}, 'validation', seed=0, shard_info=info
      ).as_numpy_iterator()
  )
  assert sorted(run(seqio.ShardInfo(0, 2)) + run(seqio.ShardInfo(1, 2))) == run(None)


def test_tfds_load_reads_slices(stdlib_data_dir):
  whole = tfds.load('python_stdlib/functions', split='validation', data_dir=stdlib_data_dir)
  part = tfds.load('python_stdlib/functions', split='validation[:7]', data_dir=stdlib_data_dir)
  names = lambda ds: [ex['name'] for ex in ds.as_numpy_iterator()]
  assert len(part) == 7 and names(part) == names(whole)[:7]
  only = tfds.load(
      'python_stdlib/functions', split='test[:1]', data_dir=stdlib_data_dir,
      decoders=tfds.decode.PartialDecoding({'docstring': tfds.features.Text()}),
  )
  assert set(only.element_spec) == {'docstring'}


def test_data_dir_may_change_after_import_and_use(stdlib, stdlib_data_dir, tmp_path):
  source = stdlib.StdlibSource('modules')
  assert source.num_input_examples('validation') > 0
  # The same data under another folder, as if prepared there.
  os.symlink(os.path.join(stdlib_data_dir, 'python_stdlib'), tmp_path / 'python_stdlib')
  seqio.set_tfds_data_dir_override(str(tmp_path))
  assert source.builder.data_dir.startswith(str(tmp_path))
  seqio.set_tfds_data_dir_override(stdlib_data_dir)
  assert source.builder.data_dir.startswith(stdlib_data_dir)


def test_lm_chunks_make_up_the_modules(stdlib):
  task = seqio.TaskRegistry.get('stdlib_lm')
  chunks = [
      ex['targets'] for ex in
      task.get_dataset({'targets': 1000}, 'validation', shuffle=False).as_numpy_iterator()
  ]
  documents, current = [], []
  for chunk in chunks:
    assert 1 <= len(chunk) <= 1000
    current.extend(chunk)
    if chunk[-1] == 1:
      documents.append((np.array(current[:-1]) - 3).astype(np.uint8).tobytes())
      current = []
    else:
      assert len(chunk) == 1000
  assert not current
  texts = stdlib.StdlibSource('modules').get_dataset('validation', shuffle=False)
  assert documents == [ex['text'] for ex in texts.as_numpy_iterator()]


def test_shuffled_rows_are_of_the_whole_corpus(stdlib):
  """The buffer holds all rows of the training split, of 7 MB, at lengths from 64 on."""
  plain, shuffled = map(seqio.TaskRegistry.get, ('stdlib_lm', 'stdlib_lm_shuffled'))
  assert shuffled.shuffle_buffer_size > 7e6 / 64 > plain.shuffle_buffer_size
  first = [[row['targets'].tolist() for row in task.get_dataset(
      {'targets': 64}, 'validation', shuffle=False).take(20).as_numpy_iterator()]
           for task in (plain, shuffled)]
  assert first[0] == first[1]


@pytest.mark.parametrize('name', ['stdlib_span_corruption', 'stdlib_mlm'])
def test_noise_is_fixed_by_the_seed_and_fresh_each_epoch(stdlib, name):
  task = seqio.TaskRegistry.get(name)
  lengths = {'inputs': 1024, 'targets': 1024}
  run = lambda seed, epochs: [
      ex['inputs'].tolist() for ex in task.get_dataset(
          lengths, 'validation', shuffle=False, seed=seed, num_epochs=epochs
      ).as_numpy_iterator()
  ]
  two = run(7, 2)
  half = len(two) // 2
  assert two[:half] == run(7, 1)
  assert all(a != b for a, b in zip(two[:half], two[half:]) if len(a) > 100)


def test_docstring_task(stdlib):
  task = seqio.TaskRegistry.get('stdlib_docstring')
  dataset = task.get_dataset({'inputs': 64, 'targets': 32}, 'validation', shuffle=False)
  for ex in dataset.take(20).as_numpy_iterator():
    assert ex['inputs'][-1] == ex['targets'][-1] == 1
    assert len(ex['inputs']) <= 64 and len(ex['targets']) <= 32
    text = stdlib.VOCABULARY.decode(ex['inputs'].tolist())
    assert text.startswith('docstring: ')
  assert [f.__name__ for f in task.metric_fns] == ['exact_match', 'rouge_l', 'bleu']


def test_package_task_through_the_evaluator(stdlib):
  lengths = {'inputs': 32, 'targets': 1}
  evaluator = seqio.Evaluator(
      'stdlib_package', feature_converters.ClassificationFeatureConverter(),
      sequence_length=lengths, num_examples=20,
  )

  def predict(dataset):
    return [(int(i), [int(ex['encoder_target_tokens'][0])]) for i, ex in dataset]

  future, _ = evaluator.evaluate(compute_metrics=True, predict_fn=predict)
  assert future.result()['stdlib_package'] == {'accuracy': 100.0, 'macro_f1': 100.0}
  task = seqio.TaskRegistry.get('stdlib_package')
  dataset = task.get_dataset(lengths, 'validation', shuffle=False)
  for ex in dataset.take(20).as_numpy_iterator():
    assert ex['inputs'][0] == 382 and len(ex['inputs']) <= 32
    assert ex['targets'].shape == (1,) and 0 <= ex['targets'][0] < 20


def test_mixture_rates(stdlib):
  mixture = seqio.MixtureRegistry.get('stdlib_mixture')
  dataset = mixture.get_dataset({'inputs': 64, 'targets': 64}, 'validation', seed=0)
  prefix = [b + 3 for b in b'docstring: ']
  examples = list(dataset.take(800).as_numpy_iterator())
  docstrings = sum(ex['inputs'][:len(prefix)].tolist() == prefix for ex in examples)
  assert abs(docstrings - 200) < 62  # Five standard deviations.


_PREPARE = '''
import sys
from tasks.datasets import python_stdlib, stdlib_sources
import pathlib
stdlib_sources.library_root = lambda: pathlib.Path(sys.argv[2])
builder = python_stdlib.prepared_builder('functions', sys.argv[1])
print('EXAMPLES', sum(s.num_examples for s in builder.info.splits.values()))
'''


@pytest.mark.slow
def test_processes_that_prepare_at_once_all_end_well(tmp_path):
  # A small library, but one with a module in every split.
  for i in range(120):
    (tmp_path / f'module{i}.py').write_text(f'def f():\n  "Doc {i}."\n')
  command = [sys.executable, '-c', _PREPARE, str(tmp_path / 'data'), str(tmp_path)]
  processes = [
      subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)
  ]
  outputs = [p.communicate()[0] for p in processes]
  assert [p.returncode for p in processes] == [0, 0]
  # Nothing else goes to standard output, where a command may be printing JSON.
  assert outputs == ['EXAMPLES 120\n'] * 2


def test_preparation_never_looks_for_a_network(tmp_path, monkeypatch):
  for i in range(120):
    (tmp_path / f'module{i}.py').write_text(f'x = {i}\n')
  monkeypatch.setattr(stdlib_sources, 'library_root', lambda: tmp_path)

  def refuse(*args, **kwargs):
    raise AssertionError(f'network: {args}')

  monkeypatch.setattr('socket.getaddrinfo', refuse)
  monkeypatch.setattr('socket.socket.connect', refuse)
  dataset = tfds.load(
      'python_stdlib/modules', split='train', data_dir=str(tmp_path / 'data')
  )
  assert isinstance(dataset, tf.data.Dataset) and len(dataset) > 90
