"""What `t5x-lite contamination` reads of a run: whole texts, from its source or its cache."""

import concurrent.futures
import dataclasses
import json

from t5x_lite import cli
from t5x_lite.experiment import gin_config
from tasks.files import FileTask
from tasks.pipeline import caching
from tasks.pipeline.texts import training_texts


class _Here:
  """A pool that works in this process."""

  def __init__(self, *args, **kwargs):
    del args, kwargs

  def submit(self, function, *args):
    future = concurrent.futures.Future()
    future.set_result(function(*args))
    return future

  def shutdown(self, **kwargs):
    pass


def test_a_run_is_read_from_its_source_and_from_its_cache(tmp_path, capsys, monkeypatch):
  monkeypatch.chdir(tmp_path)
  texts = ['one two three four five six', 'Un d\u00e9but, seven eight NINE ten', 'eleven']
  (tmp_path / 'train.jsonl').write_text(''.join(json.dumps({'text': t}) + '\n' for t in texts))
  experiment = gin_config.load_described(['experiments/tiny_lm.gin'])
  data = dataclasses.replace(   # rows of eight tokens cut every text: what is compared is not cut
      experiment.data, task=FileTask(train='train.jsonl'), targets_length=8, packing='none')
  plain = list(training_texts(data))
  assert [text.text for text in plain] == texts
  assert plain[1].place == 'files_lm train example 1'
  data = dataclasses.replace(data, cache_dir=str(tmp_path / 'cache'))
  monkeypatch.setattr(caching, 'SHARDS', 2)
  monkeypatch.setattr(caching.concurrent.futures, 'ProcessPoolExecutor', _Here)
  list(caching.write_cache(data, processes=1))
  assert sorted(text.text for text in training_texts(data)) == sorted(texts)
  (tmp_path / 'items.jsonl').write_text(
      '{"question": "debut seven; eight nine"}\n{"question": "two three four nine"}\n')
  (tmp_path / 'run.gin').write_text('''from __gin__ import dynamic_registration
from tasks import files
include 'experiments/tiny_lm.gin'
TASK = @files.FileTask()
files.FileTask.train = 'train.jsonl'
''')
  assert cli.main(['contamination', 'items.jsonl', '--gin_file=run.gin', '--n=4', '--json']) == 0
  report = json.loads(capsys.readouterr().out)
  assert [found['id'] for found in report['dirty']] == [0]
  assert report['training']['texts'] == 3
  assert report['training']['source'] == 'files_lm'
