"""metrics.jsonl: written, read back, and cut where a run resumes."""

import json
import math

from t5x_lite.training import metric_writer, run_folder
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
