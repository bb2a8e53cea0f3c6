"""`make quickstart`, shortened: what it prints, what it leaves, and that it learns."""

import os
import re
import subprocess
import sys

import pytest

from t5x_lite.commands import quickstart
from t5x_lite.training import run_folder


def test_no_run_is_overwritten(tmp_path):
  assert quickstart.run_folder(tmp_path).name == 'quickstart'
  (tmp_path / 'quickstart').mkdir()
  (tmp_path / 'quickstart-2').mkdir()
  assert quickstart.run_folder(tmp_path).name == 'quickstart-3'


@pytest.mark.slow
def test_quickstart_trains_evaluates_samples_and_says_what_to_try_next(tmp_path, stdlib_data_dir):
  """With the compiler as it is for a user: none of the flags that tests/conftest.py sets."""
  env = os.environ | {'TFDS_DATA_DIR': stdlib_data_dir}
  env.pop('XLA_FLAGS')
  done = subprocess.run(
      [sys.executable, '-m', 't5x_lite', 'quickstart', '--gin.STEPS=60',
       '--gin.EvalConfig.num_examples=64'],
      cwd=tmp_path, capture_output=True, text=True, timeout=900, env=env)
  assert done.returncode == 0, done.stderr
  folder = tmp_path / 'runs/quickstart'
  assert {p.name for p in folder.iterdir()} == {
      'config.gin', 'metrics.jsonl', 'checkpoints', 'tensorboard', 'loss.png'}
  records = run_folder.read_metrics(folder / 'metrics.jsonl')
  losses = [r['loss'] for r in records if r['kind'] == 'train']
  assert losses[-1] < 0.75 * losses[0]
  bits = float(re.search(r'cost (\d\.\d\d) bits a byte', done.stdout)[1])
  assert 1 < bits < 4.67   # of a unigram byte model
  commands = re.findall(r'^  \S+ ((?:infer|eval|plot|train) .*)$', done.stdout, re.M)
  assert [c.split()[0] for c in commands] == ['infer', 'eval', 'plot', 'train']
  for prompt in quickstart.PROMPTS:
    assert f'  | {prompt}' in done.stdout
  noise = [line for line in done.stderr.splitlines() if not line.startswith('Preparing ')]
  assert not noise, noise
