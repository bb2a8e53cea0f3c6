import gzip
import json
import re
import subprocess
import sys

import pytest

from t5x_lite.core.errors import UserError
from tasks import files


def _write(path, *lines):
  path.write_bytes(b'\n'.join(
      line if isinstance(line, bytes) else line.encode() for line in lines
  ))
  return path


def _records(name, split='train', **kwargs):
  import seqio

  dataset = seqio.TaskRegistry.get(name).source.get_dataset(split, **kwargs)
  return [{k: v.decode() for k, v in ex.items()} for ex in dataset.as_numpy_iterator()]


def test_importing_loads_neither_tensorflow_nor_seqio():
  code = (
      'import sys, tasks, tasks.files\n'
      "tasks.files.FileTask(train='x')\n"
      "assert not {'tensorflow', 'seqio', 'tensorflow_datasets'} & set(sys.modules)"
  )
  subprocess.run([sys.executable, '-c', code], check=True)


def test_reads_jsonl_and_txt_in_order(tmp_path):
  _write(tmp_path / 'a.jsonl', '{"text": "one\\ntwo", "n": 1}', '', '{"text": "é"}\r', '')
  _write(tmp_path / 'b.txt', 'three', '   ', ' four\r', 'five')
  name = files.FileTask(train=str(tmp_path / '*')).register()
  assert [r['targets'] for r in _records(name, shuffle=False)] == [
      'one\ntwo', 'é', 'three', ' four', 'five'
  ]


def test_shuffle_is_global_and_shards_partition_it(tmp_path):
  import seqio

  _write(tmp_path / 'a.txt', *map(str, range(100)))
  name = files.FileTask(train=str(tmp_path / 'a.txt')).register()
  run = lambda **kwargs: [r['targets'] for r in _records(name, **kwargs)]
  whole = run(seed=5)
  assert whole == run(seed=5) != run(seed=6)
  assert sorted(whole, key=int) == [str(i) for i in range(100)]
  for shuffle, seed in ((True, 5), (True, None), (False, None)):
    shards = [
        run(shuffle=shuffle, seed=seed, shard_info=seqio.ShardInfo(i, 3)) for i in range(3)
    ]
    assert sorted(sum(shards, []), key=int) == [str(i) for i in range(100)]
    if seed is not None:
      assert shards == [whole[i::3] for i in range(3)]


def test_text_to_text_task(tmp_path):
  import seqio

  _write(tmp_path / 'a.jsonl', json.dumps({'q': 'ab', 'text': 'c'}))
  task = files.FileTask(
      train=str(tmp_path / 'a.jsonl'), validation=str(tmp_path / 'a.jsonl'),
      objective='text_to_text', inputs='q',
  )
  name = task.register()
  registered = seqio.TaskRegistry.get(name)
  assert set(registered.splits) == {'train', 'validation'}
  assert [f.__name__ for f in registered.metric_fns] == ['exact_match', 'rouge_l']
  dataset = registered.get_dataset({'inputs': 8, 'targets': 8}, 'validation', shuffle=False)
  (example,) = dataset.as_numpy_iterator()
  assert example['inputs'].tolist() == [100, 101, 1]
  assert example['targets'].tolist() == [102, 1]


def test_registers_once_and_anew_when_the_data_change(tmp_path):
  path = _write(tmp_path / 'a.txt', 'one')
  task = files.FileTask(train=str(path))
  name = task.register()
  assert task.register() == name
  assert files.FileTask(train=str(path), objective='mlm').register() != name
  _write(path, 'two')
  assert task.register() != name


@pytest.mark.parametrize('objective', ['lm', 'span_corruption', 'mlm'])
def test_objectives_give_their_features(tmp_path, objective):
  import seqio

  _write(tmp_path / 'a.txt', 'some words to learn', 'and more of them')
  task = seqio.TaskRegistry.get(
      files.FileTask(train=str(tmp_path / 'a.txt'), objective=objective).register()
  )
  assert [f.__name__ for f in task.metric_fns] == ['language_modeling']
  lengths = {feature: 16 for feature in task.output_features}
  examples = list(task.get_dataset(lengths, seed=0).as_numpy_iterator())
  assert len(examples) >= 2
  assert set(task.output_features) == (
      {'targets'} if objective == 'lm' else {'inputs', 'targets'}
  )


@pytest.mark.parametrize('fields, message', [
    ({'train': ''}, "FileTask.train = '': must be a non-empty string"),
    ({'train': 3}, 'FileTask.train = 3: must be'),
    ({'validation': 3}, 'FileTask.validation = 3: must be'),
    ({'targets': None}, 'FileTask.targets = None: must be'),
    ({'objective': 'causal'}, "FileTask.objective = 'causal': choose from classification, dec"),
    ({'objective': 'span_coruption'}, "did you mean 'span_corruption'"),
    ({'objective': 'text_to_text'}, 'FileTask.inputs = None: must name'),
    ({'inputs': 'q'}, "FileTask.inputs = 'q': is for objectives text_to_text, tlm, classific"),
    ({'objective': 'classification', 'inputs': ('a', 'b'), 'labels': ('0', '1')}, 'must be one te'),
    ({'objective': 'decoder_classification', 'inputs': (), 'labels': ('0', '1')}, 'must be one te'),
    ({'objective': 'decoder_choice', 'inputs': ('a',), 'labels': ('0', '1')}, 'each of 2 labels'),
    ({'objective': 'decoder_choice', 'inputs': 'ab', 'labels': ('0', '1')}, 'each of 2 labels'),
    ({'objective': 'decoder_choice', 'inputs': ('a', 'a'), 'labels': ('0', '1')}, 'all distinct'),
    ({'objective': 'decoder_choice', 'inputs': ('a', 'text'), 'labels': ('0', '1')}, 'the same'),
    ({'objective': 'decoder_classification', 'inputs': 'x'}, r'labels = \(\): must list .* such'),
    ({'objective': 'text_to_text', 'inputs': 'text'}, "inputs = 'text': targets are the same"),
    ({'targets': 'a {} b'}, r"FileTask.targets = 'a {} b': is not a template: it names no field"),
    ({'targets': 'a {b'}, r"FileTask.targets = 'a {b': is not a template: .*; write {{ and }}"),
    ({'targets': '{b!r}'}, 'is not a template: only plain {names}'),
    ({'validation': 1.5}, 'FileTask.validation = 1.5: a share must be between 0 and 1'),
    ({'validation': 0.0}, 'FileTask.validation = 0.0: a share must be between 0 and 1'),
    ({'labels': ('a', 'b')}, 'is for targets that are labels, and objective is \'lm\''),
    ({'objective': 'classification', 'inputs': 'x'}, r'labels = \(\): must list .* such as'),
    ({'objective': 'classification', 'inputs': 'x', 'labels': ('a',)}, 'two labels or more'),
    ({'objective': 'classification', 'inputs': 'x', 'labels': ('a', 'a')}, 'all distinct'),
    ({'columns': 'ab'}, "FileTask.columns = 'ab': must be strings in brackets"),
    ({'skip_bad': 1}, 'FileTask.skip_bad = 1: must be True or False'),
])
def test_wrong_fields(fields, message):
  with pytest.raises(UserError, match=message):
    files.FileTask(**{'train': 'x.txt', **fields})


@pytest.mark.parametrize('name, lines, message', [
    ('a.jsonl', ['{"text": "a"}', '{"text": '], r'a.jsonl:2: not JSON, .* at column'),
    ('a.jsonl', ['[1]'], r'a.jsonl:1: expected a JSON object, got list'),
    ('a.jsonl', ['', '{"texts": "a", "id": 1}'],
     r"a.jsonl:2: no field 'text' \(did you mean 'texts'\?\); there are texts, id"),
    ('a.jsonl', ['{"text": [3]}'], r"field 'text' must be a string or a number, got list"),
    ('a.jsonl', ['{"text": null}'], r"a.jsonl:1: field 'text' must be .* got null"),
    ('a.jsonl', ['{"text": true}'], r"a.jsonl:1: field 'text' must be .* got bool"),
    ('a.csv', ['id,text', '1,a', '2,b,c'], r'a.csv:3: 3 cell\(s\) where there are 2 columns'),
    ('a.csv', ['id,text', '1,"a', '', 'b"', '2,"c"d'], r'a.csv:5: not CSV'),
    ('a.csv', ['id,id'], r'a.csv:1: the line of column names has a duplicate .* FileTask.columns'),
    ('a.tsv', ['id\ttxt', '1\ta'], r"a.tsv:2: no field 'text' \(did you mean 'txt'\?\)"),
    ('a.txt', ['x' * 10_000_000], r'a.txt:1: 10,000,000 bytes, more than .* \(8,388,608\)'),
    ('a.jsonl', ['{"text": "\\ud800"}'], r'a.jsonl:1: field .* surrogate'),
    ('a.txt', ['fine', b'\xff'], r'a.txt:2: not UTF-8 at byte 1'),
    ('a.doc', ['x'], r'a.doc must end in .txt, .jsonl, .csv, .tsv, .parquet'),
    ('a.doc.gz', ['x'], r'a.doc.gz must end in .* or in .gz or .zst or .xz after one of these'),
    ('a.jsonl.gz', ['x'], r'cannot read .*a.jsonl.gz, which is damaged or truncated'),
    ('a.parquet', ['x'], r'cannot read .*a.parquet, which is damaged'),
    ('a.tfrecord', ['x'], r'cannot read .*a.tfrecord, which is damaged'),
    ('a.arrayrecord', ['x'], r'cannot read .*a.arrayrecord, which is damaged'),
    ('a.txt', ['', '  '], 'hold no text'),
    ('a.txt', [], 'hold no text'),
])
def test_wrong_files_are_named_with_their_line(tmp_path, name, lines, message):
  path = _write(tmp_path / name, *lines)
  with pytest.raises(UserError, match=message) as error:
    files.FileTask(train=str(path)).register()
  assert 'FileTask.train' in str(error.value) and '\n' not in str(error.value)


def test_glob_without_a_match(tmp_path):
  _write(tmp_path / 'a.txt', 'x')
  pattern = str(tmp_path / '*.jsonl')
  with pytest.raises(UserError, match='FileTask.validation: no file matches ' + re.escape(
      repr(pattern)
  )):
    files.FileTask(train=str(tmp_path / 'a.txt'), validation=pattern).register()


def test_a_line_of_text_has_one_field(tmp_path):
  path = _write(tmp_path / 'a.txt', 'x')
  with pytest.raises(UserError, match="a.txt:1: no field 'q'; there are text"):
    files.FileTask(train=str(path), objective='text_to_text', inputs='q').register()


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
  monkeypatch.setenv('T5X_LITE_CACHE', str(tmp_path / 'cache'))
  return tmp_path / 'cache' / 'files'


ROWS = [{'text': 'one\ntwo "three"', 'label': 1}, {'text': 'é, 世界', 'label': 0},
        {'text': '  tab', 'label': 1}]


def _jsonl():
  return ''.join(json.dumps(row) + '\n' for row in ROWS).encode()


def _csv_text():
  import csv
  import io
  text = io.StringIO()
  writer = csv.DictWriter(text, ['label', 'text'])
  writer.writeheader()
  writer.writerows(ROWS)
  return ('\ufeff' + text.getvalue()).encode()


def _parquet(path):
  import pyarrow
  from pyarrow import parquet
  more = [row | {'tags': ['a'], 'none': None} for row in ROWS]
  parquet.write_table(pyarrow.Table.from_pylist(more), path, row_group_size=2)


def _example(row):
  import tensorflow as tf
  feature = {'text': tf.train.Feature(bytes_list=tf.train.BytesList(value=[row['text'].encode()])),
             'label': tf.train.Feature(int64_list=tf.train.Int64List(value=[row['label']])),
             'many': tf.train.Feature(int64_list=tf.train.Int64List(value=[1, 2]))}
  return tf.train.Example(features=tf.train.Features(feature=feature)).SerializeToString()


def _tfrecord(path):
  import tensorflow as tf
  with tf.io.TFRecordWriter(str(path)) as writer:
    for row in ROWS:
      writer.write(_example(row))


def _array_record(path):
  from array_record.python import array_record_module
  writer = array_record_module.ArrayRecordWriter(str(path), 'group_size:1')
  for row in ROWS:
    writer.write(_example(row))
  writer.close()


def _zstd(path):
  import pyarrow
  with pyarrow.output_stream(str(path), compression='zstd') as file:
    file.write(_jsonl())


WRITERS = {
    'a.jsonl': lambda path: path.write_bytes(_jsonl()),
    'a.jsonl.gz': lambda path: path.write_bytes(gzip.compress(_jsonl())),
    # What `cat a.gz b.gz` gives.
    'b.jsonl.gz': lambda path: path.write_bytes(
        b''.join(gzip.compress(line) for line in _jsonl().splitlines(keepends=True))),
    'a.jsonl.zst': _zstd,
    'a.csv': lambda path: path.write_bytes(_csv_text()),
    'a.csv.gz': lambda path: path.write_bytes(gzip.compress(_csv_text())),
    'a.parquet': _parquet,
    'a.tfrecord': _tfrecord,
    'a.arrayrecord': _array_record,
}


@pytest.mark.parametrize('name', WRITERS)
def test_every_format_gives_the_same_examples(tmp_path, name):
  WRITERS[name](tmp_path / name)
  task = files.FileTask(train=str(tmp_path / name), objective='text_to_text',
                        inputs='say {{{text}}}', targets='label')
  want = [{'inputs': f'say {{{row["text"]}}}', 'targets': str(row['label'])} for row in ROWS]
  assert _records(task.register(), shuffle=False) == want


def test_a_folder_of_hugging_face_datasets(tmp_path):
  import pyarrow

  folder = tmp_path / 'set' / 'train'
  folder.mkdir(parents=True)
  names = []
  for i, rows in enumerate((ROWS[:1], ROWS[1:])):   # as Dataset.save_to_disk lays them out
    table = pyarrow.Table.from_pylist(rows)
    names.append(f'data-{i:05}-of-00002.arrow')
    with pyarrow.OSFile(str(folder / names[-1]), 'wb') as file:
      with pyarrow.ipc.new_stream(file, table.schema) as writer:
        writer.write_table(table)
  (folder / 'state.json').write_text(json.dumps(
      {'_data_files': [{'filename': name} for name in names]}))
  name = files.FileTask(train=str(folder)).register()
  assert [r['targets'] for r in _records(name, shuffle=False)] == [r['text'] for r in ROWS]
  (folder.parent / 'dataset_dict.json').write_text('{"splits": ["train", "test"]}')
  with pytest.raises(UserError, match='holds the splits train, test: name one, .*set/train'):
    files.FileTask(train=str(folder.parent)).register()
  with pytest.raises(UserError, match=r'is a folder: name its files, such as .*\*.jsonl'):
    files.FileTask(train=str(tmp_path)).register()


def test_a_url_is_fetched_once(cache):
  import fsspec

  system = fsspec.filesystem('memory')
  for name, text in (('a', 'one\n'), ('b', 'two\n')):
    with system.open(f'/texts/{name}.txt', 'wb') as file:
      file.write(text.encode())
  task = files.FileTask(train='memory://texts/*.txt')
  assert [r['targets'] for r in _records(task.register(), shuffle=False)] == ['one', 'two']
  assert sorted(p.read_text() for p in cache.iterdir()) == ['one\n', 'two\n']
  with pytest.raises(UserError, match="FileTask.train: no file matches 'memory://nowhere"):
    files.FileTask(train='memory://nowhere/*.txt').register()
  with pytest.raises(UserError, match="FileTask.train: cannot look for 'nosuch://x': "):
    files.FileTask(train='nosuch://x').register()


def test_an_unpacked_file_is_made_anew_when_its_original_changes(tmp_path, cache):
  path = tmp_path / 'a.txt.gz'
  path.write_bytes(gzip.compress(b'one\n'))
  task = files.FileTask(train=str(path))
  first = task.register()
  assert task.register() == first and len(list(cache.iterdir())) == 1
  path.write_bytes(gzip.compress(b'three\n'))
  assert [r['targets'] for r in _records(task.register(), shuffle=False)] == ['three']


@pytest.mark.parametrize('name', ['a.jsonl.gz', 'a.jsonl.zst', 'a.parquet', 'a.tfrecord',
                                  'a.arrayrecord'])
def test_a_file_cut_off_is_refused_and_leaves_nothing(tmp_path, cache, name):
  WRITERS[name](tmp_path / name)
  content = (tmp_path / name).read_bytes()
  (tmp_path / name).write_bytes(content[:len(content) // 2])
  with pytest.raises(UserError, match=f'{name}, which is damaged or truncated') as error:
    files.FileTask(train=str(tmp_path / name)).register()
  assert '\n' not in str(error.value)
  assert not cache.exists() or not list(cache.iterdir())


def test_tsv_has_no_quotes_and_columns_may_be_named(tmp_path):
  path = _write(tmp_path / 'a.tsv', '1\t"a', '0\tb" c')
  task = files.FileTask(train=str(path), objective='classification', inputs='sentence',
                        targets='label', labels=('0', '1'), columns=('label', 'sentence'))
  assert _records(task.register(), shuffle=False) == [
      {'inputs': '"a', 'targets': '1'}, {'inputs': 'b" c', 'targets': '0'}]


def test_classification_gives_class_numbers(tmp_path):
  import seqio

  path = _write(tmp_path / 'a.csv', 'text,mood', 'ab,good', 'c,bad')
  task = files.FileTask(train=str(path), validation=str(path), objective='classification',
                        inputs='text', targets='mood', labels=('bad', 'good'))
  registered = seqio.TaskRegistry.get(task.register())
  assert [f.__name__ for f in registered.metric_fns] == ['accuracy', 'macro_f1']
  dataset = registered.get_dataset({'inputs': 8, 'targets': 1}, 'validation', shuffle=False)
  got = [{k: ex[k].tolist() for k in ('inputs', 'targets')} for ex in dataset.as_numpy_iterator()]
  assert got == [
      {'inputs': [382, 100, 101], 'targets': [1]}, {'inputs': [382, 102], 'targets': [0]}]
  with pytest.raises(UserError, match="a.csv:2: 'good' is none of the labels a, b"):
    files.FileTask(train=str(path), objective='classification', inputs='text', targets='mood',
                   labels=('a', 'b')).register()


def test_a_decoder_reads_a_text_a_pair_in_both_orders_or_choices(tmp_path):
  import seqio

  path = _write(tmp_path / 'a.csv', 'a,b,right', 'x,yz,two')

  def ids_of(objective, inputs):
    task = files.FileTask(train=str(path), objective=objective, inputs=inputs, targets='right',
                          labels=('one', 'two'))
    dataset = seqio.TaskRegistry.get(task.register()).get_dataset(
        {'inputs': 20, 'targets': 1}, 'train', shuffle=False)
    example, = dataset.as_numpy_iterator()
    assert example['targets'].tolist() == [1]
    return example['inputs'].tolist()

  x, y, z, dash = (3 + ord(letter) for letter in 'xyz-')
  assert ids_of('decoder_classification', '{a}-{b}') == [0, x, dash, y, z, 1]
  assert ids_of('decoder_classification', ('{a}-{b}', '{b}-{a}')) == [
      0, x, dash, y, z, 1, 0, y, z, dash, x, 1]
  assert ids_of('decoder_choice', ('a', 'b')) == [0, x, 1, 0, y, z, 1]


def test_a_share_by_hash_is_stable_and_keeps_equal_examples_together(tmp_path):
  lines = [str(i % 400) for i in range(800)]
  path = _write(tmp_path / 'a.txt', *lines)
  split = lambda path: {
      name: [r['targets'] for r in _records(files.FileTask(
          train=str(path), validation=0.25).register(), name, shuffle=False)]
      for name in ('train', 'validation')}
  got = split(path)
  assert not set(got['train']) & set(got['validation'])
  assert sorted(got['train'] + got['validation']) == sorted(lines)
  # A binomial share of 400 kinds: 100 with a standard deviation of 8.7.
  assert abs(len(set(got['validation'])) - 100) < 35
  more = split(_write(tmp_path / 'b.txt', 'new', *reversed(lines)))
  assert set(got['validation']) - {'new'} == set(more['validation']) - {'new'}
  with pytest.raises(UserError, match='leaves none for'):
    files.FileTask(train=str(_write(tmp_path / 'c.txt', 'x')), validation=0.5).register()


def test_bad_examples_are_left_out_and_counted_when_asked(tmp_path, capsys):
  path = _write(tmp_path / 'a.jsonl', '{"text": "a"}', '{', b'{"text": "\xff"}', '{"text": "b"}')
  task = files.FileTask(train=str(path), skip_bad=True)
  assert [r['targets'] for r in _records(task.register(), shuffle=False)] == ['a', 'b']
  said = capsys.readouterr().err
  assert 'FileTask.train: left out 2 bad example(s) beside 2 good ones; the first:' in said
  assert 'a.jsonl:2: not JSON' in said
  path = _write(tmp_path / 'b.jsonl', '{')
  with pytest.raises(UserError, match='hold no text, only 1 bad line.*b.jsonl:1: not JSON'):
    files.FileTask(train=str(path), skip_bad=True).register()


def test_the_index_of_unchanged_files_is_kept(tmp_path, monkeypatch):
  import dataclasses
  import os
  import time

  import numpy as np

  from t5x_lite.data.files import index, records
  from t5x_lite.data.files.templates import Template

  monkeypatch.setenv('T5X_LITE_CACHE', str(tmp_path / 'cache'))
  monkeypatch.setattr(index, '_KEPT_FROM', 1)
  path = _write(tmp_path / 'a.csv', 'text,label', 'one,1', 'broken', '"two, three",0')
  make = lambda **kw: index.index_files(
      str(path), {'targets': Template('text')}, 'x', skip_bad=True, **kw)
  fresh = make()
  assert not (tmp_path / 'cache').exists(), 'a file of this second may change still'
  later = time.time() + 10
  monkeypatch.setattr(index.time, 'time', lambda: later)
  first = make()
  scan = records.scan
  monkeypatch.setattr(records, 'scan', lambda *_: 1 / 0)
  assert make() is first, 'held, whatever its size'
  index._recent.clear()
  kept = make()
  for field in dataclasses.fields(kept):
    np.testing.assert_equal(getattr(kept, field.name), getattr(first, field.name))
    np.testing.assert_equal(getattr(kept, field.name), getattr(fresh, field.name))
  os.utime(path, (1_000, 1_000))
  with pytest.raises(ZeroDivisionError):   # other settings are another index
    make(held_out=0.5)
  with pytest.raises(ZeroDivisionError):   # so does another time of writing, back or forth
    make()
  monkeypatch.setattr(records, 'scan', scan)
  again = make()
  assert [again[i]['targets'] for i in range(len(again))] == ['one', 'two, three']
  assert kept.num_skipped == 1 and 'a.csv:3' in kept.skipped


def test_files_can_have_every_objective():
  from tasks.files import file_task
  from tasks.preprocessors import pretraining

  assert set(file_task._OBJECTIVES) == {*pretraining.PREPROCESSORS, *file_task._CLASSES}


def test_where_files_lie_does_not_matter(tmp_path):
  names = []
  for folder in ('here', 'there'):
    (tmp_path / folder).mkdir()
    _write(tmp_path / folder / 'a.txt', 'one', 'two')
    names.append(files.FileTask(train=str(tmp_path / folder / 'a.txt')).register())
  _write(tmp_path / 'there' / 'a.txt', 'one', 'too')
  assert names[0] == names[1]
  assert files.FileTask(train=str(tmp_path / 'there' / 'a.txt')).register() != names[0]


def test_the_digest_of_the_data_is_that_of_its_content_in_order(tmp_path):
  digest = lambda split='train', **fields: files.FileTask(
      train=str(tmp_path / '*.txt'), **fields).data_digest(split)
  a, b = _write(tmp_path / 'a.txt', 'one', ''), _write(tmp_path / 'b.txt', 'two', '')
  first = digest()
  assert digest(objective='mlm', validation=str(a)) == first   # settings are compared as settings
  assert digest('validation', validation=str(a)) not in (None, first)
  assert digest('validation') is None
  a.rename(tmp_path / 'aa.txt')
  assert digest() == first
  for change in (
      lambda: _write(b, 'twp', ''),                                     # rewritten
      lambda: _write(b, 'one', ''),                                     # the same twice
      lambda: _write(tmp_path / 'c.txt', 'three', ''),                  # added
      lambda: (tmp_path / 'c.txt').rename(tmp_path / 'a0.txt'),         # in another order
      lambda: b.unlink()):                                              # deleted
    seen = digest()
    change()
    assert digest() != seen


PROSE = 'It was a dark and\nstormy night; the rain\nfell in torrents.\n\nThe end.\n'


@pytest.mark.parametrize('fields, lines, warned', [
    ({}, PROSE, 'has 16 characters in the mean: if lines are cut, set FileTask.sample_by to'),
    ({'sample_by': 'paragraph'}, PROSE, ''), ({'sample_by': 'document'}, PROSE, ''),
    ({}, ('x' * 100 + '\n') * 3, ''), ({}, 'a\n', ''),
    ({'objective': 'text_to_text', 'inputs': '{text}', 'targets': '{text} '}, PROSE, ''),
])
def test_prose_that_is_cut_at_every_line_is_said_once(tmp_path, capsys, fields, lines, warned):
  task = files.FileTask(train=str(_write(tmp_path / 'a.txt', lines * 20)), **fields)
  task.register()
  said = capsys.readouterr().err
  assert warned in said and bool(warned) == bool(said)
  task.register()
  assert not capsys.readouterr().err


def test_an_example_is_a_line_a_paragraph_or_a_document(tmp_path):
  _write(tmp_path / 'a.txt', PROSE)
  _write(tmp_path / 'b.txt', 'Another')
  _write(tmp_path / 'c.jsonl', '{"text": "x"}', '{"text": "y"}')
  read = lambda sample_by: [r['targets'] for r in _records(files.FileTask(
      train=str(tmp_path / '*'), sample_by=sample_by).register(), shuffle=False)]
  assert len(read('line')) == 7
  assert read('paragraph') == [PROSE[:-11], 'The end.', 'Another', 'x', 'y']
  assert read('document') == [PROSE[:-1], 'Another', 'x', 'y']
  with pytest.raises(UserError, match="FileTask.sample_by = 'paragraf': did you mean 'paragraph'"):
    read('paragraf')


def test_settings_that_these_files_do_not_use_are_refused(tmp_path):
  path = str(_write(tmp_path / 'c.jsonl', '{"text": "x"}'))
  for field, value in (('sample_by', 'document'), ('columns', ('text',))):
    with pytest.raises(UserError, match=f'FileTask.{field} = .*, and these are .jsonl: leave it'):
      files.FileTask(train=path, **{field: value}).register()


def test_files_that_change_while_tf_data_reads_them_are_one_line(tmp_path):
  import seqio

  from tasks.pipeline import caching, one_line, registry

  path = _write(tmp_path / 'a.txt', *map(str, range(100)))
  name = files.FileTask(train=str(path)).register()
  _write(path, *map(str, range(100)))   # as it was, at another time
  assert files.FileTask(train=str(path)).register() == name
  assert len(_records(name)) == 100
  reading = seqio.TaskRegistry.get(name).source.get_dataset('train').as_numpy_iterator()
  _write(path, 'another')
  with pytest.raises(UserError, match='a.txt has changed since this run began'):
    with one_line.user_errors():
      list(reading)
  with pytest.raises(UserError, match='a.txt has changed since this run began'):
    list(registry.raw_texts(name, 'train'))
  with pytest.raises(UserError, match='a.txt has changed since this run began'):
    caching._write_shard(name, 'train', (0, 1), str(tmp_path))
