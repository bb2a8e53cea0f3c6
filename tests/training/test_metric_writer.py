"""The log of a run: written, read back, cut where a run resumes, and what is no record in it."""

import dataclasses
import json
import math
import sys
import types

import pytest

from t5x_lite.core.errors import UserError
from t5x_lite.training import metric_writer, run_folder, writers
from t5x_lite.training.run_folder import RunFolder


def record(step, **values):
  return json.dumps({'step': step, 'kind': 'train'} | values)


def test_records_are_written_and_read_back(tmp_path):
  writer = metric_writer.MetricWriter(RunFolder(tmp_path))
  writer.write(1, 'train', {'loss': 2.5, 'mfu': math.nan})
  writer.close()
  assert run_folder.read_metrics(tmp_path / 'metrics.jsonl') == [
      {'step': 1, 'kind': 'train', 'loss': 2.5, 'mfu': None}]
  assert list((tmp_path / 'tensorboard').iterdir())


def test_resuming_drops_what_was_logged_after_the_checkpoint_and_a_line_cut_off(tmp_path, capsys):
  path = tmp_path / 'metrics.jsonl'
  path.write_text(''.join(record(s, loss=s) + '\n' for s in (1, 2, 3)) + '{"step": 4, "ki')
  metric_writer.MetricWriter(RunFolder(tmp_path), resumed_step=2).close()
  assert [r['step'] for r in run_folder.read_metrics(path)] == [1, 2]
  assert capsys.readouterr().err == ''


BAD = [b'{"step": 2}', b'[1]', b'3', b'null', b'"a"', b'{"step": "2", "kind": "train"}', b'{',
       b'{"step": true, "kind": "train"}', b'{"step": -1, "kind": "train"}', b'\xff\xfe', b'\0\0',
       b'{"step": 2, "kind": "train", "loss": "low"}', b'{"step": 2, "kind": 3}', b'[' * 100000,
       b'{"step": 2, "kind": "train", "loss": [1]}', b'{"step": ' + b'9' * 5000 + b', "kind": "a"}']


@pytest.mark.parametrize('bad', BAD, ids=range(len(BAD)))
def test_a_bad_line_is_left_out_said_and_kept_in_another_file(bad, tmp_path, capsys):
  path, good = tmp_path / 'metrics.jsonl', record(1, loss=1.5).encode()
  before = good + b'\n' + bad + b'\n' + record(3, loss=0.5).encode() + b'\n'
  path.write_bytes(before)
  assert [r['step'] for r in RunFolder(tmp_path).read_metrics()] == [1, 3]
  assert capsys.readouterr().err == (
      f'note: {path}: 1 line(s) that are no records of metrics are left out; the first is line 2\n')
  metric_writer.MetricWriter(RunFolder(tmp_path), resumed_step=2).close()
  assert path.read_bytes() == good + b'\n'
  assert (tmp_path / 'metrics.jsonl.damaged').read_bytes() == before


def test_numbers_that_are_not_finite_are_none(tmp_path):
  (tmp_path / 'metrics.jsonl').write_text('{"step": 1, "kind": "eval", "a": NaN, "b": 1e999}\n')
  assert RunFolder(tmp_path).evaluation_at(1) == {'a': None, 'b': None}


@dataclasses.dataclass(frozen=True)
class ToList:
  """A writer of a user's own."""
  got: list = dataclasses.field(default_factory=list)

  def open(self, folder, resumed_step):
    self.got.append((folder.path.name, resumed_step))
    return self

  def write(self, step, kind, values):
    self.got.append((step, kind, values))

  def close(self):
    self.got.append('closed')


def test_writers_get_what_the_log_gets(tmp_path):
  mine = ToList()
  writer = metric_writer.MetricWriter(RunFolder(tmp_path), 3, (mine,))
  writer.write(4, 'eval', {'a/loss': 2.0})
  writer.close()
  writer.close()
  assert mine.got == [(tmp_path.name, 3), (4, 'eval', {'a/loss': 2.0}), 'closed']
  assert not (tmp_path / 'tensorboard').exists()
  assert isinstance(mine, writers.WriterConfig)


@pytest.mark.parametrize('name', ['wandb', 'trackio'])
def test_a_tracker_is_called_as_its_documentation_says(name, tmp_path, monkeypatch):
  """Both have init(project, name, resume), log(values, step) and finish()."""
  monkeypatch.delitem(sys.modules, name, raising=False)
  monkeypatch.setattr('importlib.util.find_spec', lambda module: None)
  with pytest.raises(UserError, match=f'Tracker.module = {name!r}: is not installed: pip install'):
    writers.Tracker(module=name)
  calls, fake = [], types.ModuleType(name)
  fake.init = lambda **settings: calls.append(settings)
  fake.log = lambda values, step: calls.append((values, step))
  fake.finish = lambda: calls.append('finish')
  monkeypatch.setitem(sys.modules, name, fake)
  monkeypatch.setattr('importlib.util.find_spec', lambda module: object())
  writer = writers.Tracker(module=name, project='p').open(RunFolder(tmp_path / 'run'), 0)
  writer.write(1, 'train', {'loss': 2.0})
  writer.close()
  settings = calls.pop(0)
  assert settings.pop('id', None) is None or name == 'wandb'
  assert settings == {'project': 'p', 'name': 'run', 'resume': 'allow'}
  assert calls == [({'train/loss': 2.0}, 1), 'finish']
