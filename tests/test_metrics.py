"""metrics.jsonl, the progress line and the loss curve."""

import io
import json
import math

import pytest

from t5x_lite.core import console
from t5x_lite.core.errors import UserError
from t5x_lite.training import metric_writer, plots, run_folder
from t5x_lite.training.run_folder import RunFolder


def test_records_are_written_and_read_back(tmp_path):
  writer = metric_writer.MetricWriter(RunFolder(tmp_path))
  writer.write(1, 'train', {'loss': 2.5, 'mfu': math.nan})
  writer.close()
  assert run_folder.read_metrics(tmp_path / 'metrics.jsonl') == [
      {'step': 1, 'kind': 'train', 'loss': 2.5, 'mfu': None}]
  assert list((tmp_path / 'tensorboard').iterdir())


def test_resuming_drops_what_was_logged_after_the_checkpoint_and_a_line_cut_off(tmp_path):
  path = tmp_path / 'metrics.jsonl'
  path.write_text(''.join(json.dumps({'step': s, 'kind': 'train', 'loss': s}) + '\n'
                          for s in (1, 2, 3)) + '{"step": 4, "ki')
  metric_writer.MetricWriter(RunFolder(tmp_path), resumed_step=2).close()
  assert [r['step'] for r in run_folder.read_metrics(path)] == [1, 2]


@pytest.mark.parametrize('seconds, text', [
    (0, '0 s'), (59.9, '59 s'), (60, '1 min 00 s'), (3599, '59 min 59 s'), (3600, '1 h 00 min'),
    (7384, '2 h 03 min'), (-1, '0 s')])
def test_duration(seconds, text):
  assert console.duration(seconds) == text


def test_progress_prints_plain_lines_at_intervals_and_always_the_last():
  stream = io.StringIO()
  progress = console.Progress(3, stream, every=1000)
  values = {'loss': 1.2345, 'tokens_per_second': 12345.6, 'mfu': math.nan}
  for step in (1, 2, 3):
    progress.show(step, values, 75)
  assert stream.getvalue() == ('step 1/3  loss 1.234  12,346 tokens/s  1 min 15 s left\n'
                               'step 3/3  loss 1.234  12,346 tokens/s  1 min 15 s left\n')


def test_progress_shows_utilisation_where_the_peak_is_known():
  stream = io.StringIO()
  console.Progress(1, stream).show(1, {'loss': 1, 'tokens_per_second': 1, 'mfu': 0.4567}, 0)
  assert 'MFU 45.7 %' in stream.getvalue()


def test_progress_rewrites_its_line_on_a_terminal():
  stream = io.StringIO()
  stream.isatty = lambda: True
  progress = console.Progress(2, stream)
  progress.show(2, {'loss': 1, 'tokens_per_second': 1}, 0)
  progress.say('done')
  assert stream.getvalue() == '\r\033[Kstep 2/2  loss 1.000  1 tokens/s  0 s left\ndone\n'


def test_loss_curve_is_a_picture_and_needs_metrics(tmp_path):
  with pytest.raises(UserError, match='train the run first'):
    plots.loss_curve(tmp_path)
  records = [{'step': s, 'kind': 'train', 'loss': 3 / s} for s in range(1, 9)]
  records.append({'step': 8, 'kind': 'eval', 'stdlib_lm/loss': 0.5})
  (tmp_path / 'metrics.jsonl').write_text('\n'.join(map(json.dumps, records)))
  picture = plots.loss_curve(tmp_path)
  assert picture == tmp_path / 'loss.png'
  assert picture.read_bytes().startswith(b'\x89PNG')
