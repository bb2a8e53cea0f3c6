"""A script that reads one batch and ends, ends."""

import os
import subprocess
import sys

import pytest

SCRIPT = '''
from tasks import files
from tasks.pipeline.seqio_data import DataConfig
from t5x_lite.models import ModelConfig
data = DataConfig(task=files.FileTask(train='lines.txt'), targets_length=32, batch_size=4)
model = ModelConfig(family='decoder_only', vocab_size=384, embed_dim=8, num_layers=1, num_heads=1,
                    mlp_dim=8)
batches = data.batches(model, seed=0)
print(sorted(next(batches)))
raise SystemExit(7)
'''


@pytest.mark.slow
def test_a_script_that_reads_one_batch_ends(tmp_path):
  (tmp_path / 'lines.txt').write_text('\n'.join(f'line {i} of many' for i in range(20000)))
  root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.dirname(__file__))))
  for _ in range(3):   # one of three was left hanging
    done = subprocess.run([sys.executable, '-c', SCRIPT], cwd=tmp_path, timeout=120, check=False,
                          env=os.environ | {'PYTHONPATH': root}, capture_output=True, text=True)
    assert done.returncode == 7 and 'decoder_target_tokens' in done.stdout, done.stderr
