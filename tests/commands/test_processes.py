"""A run of two processes: what it computes is that of one, and one of them writes."""

import json
import os
import pathlib
import socket
import subprocess
import sys

import numpy as np
import pytest

WORKER = '''
import dataclasses, pathlib, sys
import jax
rank, count, port, folder = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4]
if count > 1:
  jax.distributed.initialize(f'localhost:{port}', count, rank)
import numpy as np
from t5x_lite.commands import train
from t5x_lite.data.source import Source
from t5x_lite.experiment.experiment import Experiment, TrainConfig
from t5x_lite.models import ModelConfig
from t5x_lite.parallel.mesh import MeshConfig
from t5x_lite.training import optimizers, schedules

class Uneven(Source):
  """Row r of the stream has 1 + 3 r % 8 tokens."""
  name, lengths, batch_size = 'uneven', {'targets': 8}, 4

  def batches(self, model, *, seed, start=0, shard=(0, 1)):
    while True:
      rows = np.arange(start, start + 4)[shard[0]::shard[1], None]
      real = (np.arange(8) < 1 + 3 * rows % 8).astype(np.int32)
      ids = (rows + np.arange(9)) % 60
      yield {'decoder_input_tokens': ids[:, :-1], 'decoder_target_tokens': ids[:, 1:],
             'decoder_loss_weights': real.astype(np.float32), 'decoder_segment_ids': real,
             'decoder_positions': np.tile(np.arange(8), (len(rows), 1))}
      start += 4

class Evaluation:
  step = None
  def make(self, *args, **kwargs):
    return lambda params, step: {'uneven/loss': 1.0}

for steps in (3, 5):   # the second resumes
  train.train(Experiment(
      model_dir=folder, data=Uneven(), eval=Evaluation(), mesh=MeshConfig(data=2),
      model=ModelConfig(family='decoder_only', vocab_size=64, embed_dim=16, num_layers=1,
                        num_heads=2, mlp_dim=16, init_std=0.02),
      optimizer=optimizers.AdamW(learning_rate=schedules.Constant(rate=0.01)),
      train=TrainConfig(steps=steps, log_every=1)), CONFIG)
'''


def run_processes(count, folder, tmp_path):
  """The lines that each of `count` processes prints."""
  with socket.socket() as free:
    free.bind(('localhost', 0))
    port = free.getsockname()[1]
  flags = f'--xla_force_host_platform_device_count={2 // count}'
  script = tmp_path / 'worker.py'
  # What is compared on resuming is the config; any that both runs are equal to does here.
  script.write_text(WORKER.replace('CONFIG', "'# nothing'").replace(
      'from t5x_lite.commands import train',
      'from t5x_lite.commands import train\nfrom t5x_lite.experiment import gin_config\n'
      'gin_config.check_same_run = lambda *args, **kwargs: None'))
  started = [subprocess.Popen(
      [sys.executable, str(script), str(rank), str(count), str(port), str(folder)],
      env=os.environ | {'XLA_FLAGS': flags, 'PYTHONPATH': str(pathlib.Path.cwd())},
      stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for rank in range(count)]
  outputs = [process.communicate(timeout=300) for process in started]
  assert [process.returncode for process in started] == [0] * count, outputs
  said = lambda text: [line for line in text.splitlines() if not line.startswith('[Gloo]')]
  return [said(out) for out, _ in outputs]


def records(folder):
  return [json.loads(line) for line in (folder / 'metrics.jsonl').read_text().splitlines()]


@pytest.mark.slow
def test_two_processes_train_as_one_and_one_writes(tmp_path):
  run_processes(1, tmp_path / 'one', tmp_path)
  shown = run_processes(2, tmp_path / 'two', tmp_path)
  assert any(line.startswith('Resumed') for line in shown[0]) and shown[1] == []
  one, two = records(tmp_path / 'one'), records(tmp_path / 'two')
  assert [(r['step'], r['kind']) for r in two] == [(r['step'], r['kind']) for r in one] == [
      (1, 'train'), (2, 'train'), (3, 'train'), (3, 'eval'), (4, 'train'), (5, 'train'),
      (5, 'eval')]
  tokens = lambda r: r['tokens_per_second'] * r['seconds_per_step']
  for a, b in zip(one, two):
    if a['kind'] == 'train':
      assert b['loss'] == pytest.approx(a['loss'], rel=1e-5)
      rows = np.arange(4 * (a['step'] - 1), 4 * a['step'])
      assert tokens(a) == pytest.approx(np.sum(1 + 3 * rows % 8)) == pytest.approx(tokens(b))
  assert len(list((tmp_path / 'two/tensorboard').iterdir())) == 2   # one for each start
  assert {p.name for p in (tmp_path / 'two').iterdir()} == {
      'config.gin', 'metrics.jsonl', 'checkpoints', 'tensorboard'}
