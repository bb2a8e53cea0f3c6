import json
import re
import subprocess
import sys

import pytest

from t5x_lite.errors import UserError
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
    ({'train': ''}, 'FileTask.train must be a non-empty string'),
    ({'train': 3}, 'FileTask.train .* got 3'),
    ({'validation': 3}, 'FileTask.validation .* got 3'),
    ({'targets': None}, 'FileTask.targets .* got None'),
    ({'objective': 'causal'}, 'FileTask.objective must be one of lm, .* got \'causal\''),
    ({'objective': 'text_to_text'}, 'FileTask.inputs must name'),
    ({'inputs': 'q'}, "FileTask.inputs is for objective 'text_to_text' only"),
    ({'objective': 'text_to_text', 'inputs': 'text'}, 'are both \'text\''),
])
def test_wrong_fields(fields, message):
  with pytest.raises(UserError, match=message):
    files.FileTask(**{'train': 'x.txt', **fields})


@pytest.mark.parametrize('name, lines, message', [
    ('a.jsonl', ['{"text": "a"}', '{"text": '], r'a.jsonl:2: not JSON, .* at column'),
    ('a.jsonl', ['[1]'], r'a.jsonl:1: expected a JSON object, got list'),
    ('a.jsonl', ['', '{"texts": "a", "id": 1}'],
     r"a.jsonl:2: no field 'text' \(did you mean 'texts'\?\); there are texts, id"),
    ('a.jsonl', ['{"text": 3}'], r"a.jsonl:1: field 'text' must be a string, got int"),
    ('a.jsonl', ['{"text": "\\ud800"}'], r'a.jsonl:1: field .* surrogate'),
    ('a.txt', ['fine', b'\xff'], r'a.txt:2: not UTF-8 at byte 1'),
    ('a.csv', ['x'], r'a.csv must end in .jsonl or .txt'),
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


def test_text_to_text_refuses_txt(tmp_path):
  path = _write(tmp_path / 'a.txt', 'x')
  with pytest.raises(UserError, match='use .jsonl'):
    files.FileTask(train=str(path), objective='text_to_text', inputs='q').register()
