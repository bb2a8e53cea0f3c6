"""The loss curve."""

import json

import pytest

from t5x_lite.core.errors import UserError
from t5x_lite.training import plots


def test_loss_curve_is_a_picture_and_needs_metrics(tmp_path):
  with pytest.raises(UserError, match='train the run first'):
    plots.loss_curve(tmp_path)
  records = [{'step': s, 'kind': 'train', 'loss': 3 / s} for s in range(1, 9)]
  records.append({'step': 8, 'kind': 'eval', 'stdlib_lm/loss': 0.5})
  (tmp_path / 'metrics.jsonl').write_text('\n'.join(map(json.dumps, records)))
  picture = plots.loss_curve(tmp_path)
  assert picture == tmp_path / 'loss.png'
  assert picture.read_bytes().startswith(b'\x89PNG')
