"""Reward models and DPO by command, on a few pairs."""

import json
import math
import shutil

import pytest

from t5x_lite import cli
from t5x_lite.training.run_folder import RunFolder

TINY = ['--gin.ModelConfig.embed_dim=32', '--gin.ModelConfig.num_layers=1',
        '--gin.ModelConfig.mlp_dim=32', '--gin.BATCH_SIZE=4', '--gin.WARMUP_STEPS=1',
        '--gin_file=models/tiny_decoder.gin', '--gin_file=hardware/cpu.gin',
        '--gin.TrainConfig.log_every=1', '--gin.LEARNING_RATE=1e-2', '--gin.INPUTS_LENGTH=8',
        '--gin.TARGETS_LENGTH=8']


def train(recipe, folder, *flags):
  return cli.main(['train', f'--gin_file=runs/{recipe}.gin', f'--gin.MODEL_DIR={folder}', *TINY,
                   *flags])


def steps_of(folder):
  return [r for r in RunFolder(folder).read_metrics() if r['kind'] == 'train']


@pytest.fixture(scope='module')
def pairs(tmp_path_factory):
  path = tmp_path_factory.mktemp('pairs') / 'pairs.jsonl'
  path.write_text(''.join(json.dumps(
      {'prompt': f'{q}?', 'chosen': f'yes {q}', 'rejected': f'no {q}'}) + '\n'
                          for q in 'abcdefgh'))
  return path


@pytest.fixture(scope='module')
def start(tmp_path_factory):
  folder = tmp_path_factory.mktemp('runs') / 'start'
  assert cli.main(['train', '--gin_file=experiments/addition.gin', f'--gin.MODEL_DIR={folder}',
                   *TINY[:3], '--gin.STEPS=1', '--gin.BATCH_SIZE=4',
                   '--gin.EvalConfig.num_examples=8']) == 0
  return folder


def test_a_reward_model_learns_which_is_better(pairs, start, tmp_path):
  assert train('reward_model', tmp_path / 'run', f'--gin.PREFERENCES={pairs}',
               f'--gin.INIT_FROM={start}', '--gin.STEPS=40') == 0
  steps = steps_of(tmp_path / 'run')
  assert steps[0]['loss'] > 0.4 and steps[-1]['loss'] < 0.1
  assert steps[-1]['rewards/accuracies'] == 1


def test_dpo_begins_at_log_2_and_reads_its_reference_again(pairs, start, tmp_path, capsys):
  flags = [f'--gin.PREFERENCES={pairs}', f'--gin.INIT_FROM={start}', '--gin.STEPS=12',
           '--gin.TrainConfig.checkpoint_every=5']
  assert train('dpo', tmp_path / 'run', *flags) == 0
  steps = steps_of(tmp_path / 'run')
  assert steps[0]['loss'] == pytest.approx(math.log(2), abs=1e-6)
  assert steps[0]['rewards/margins'] == pytest.approx(0, abs=1e-6)
  assert steps[-1]['loss'] < 0.6 and steps[-1]['rewards/accuracies'] == 1
  # what the reference says is read again: by a run that resumes, and by another of the same start
  file = RunFolder(tmp_path / 'run').reference_logprobs
  shutil.copytree(tmp_path / 'run', tmp_path / 'resumed')
  for step in (10, 12):
    shutil.rmtree(tmp_path / 'resumed/checkpoints' / str(step))
  assert train('dpo', tmp_path / 'resumed', *flags) == 0
  lines = lambda run: [(r['step'], r['loss']) for r in steps_of(tmp_path / run)]
  assert lines('resumed') == lines('run')
  capsys.readouterr()
  shared = f'--gin.WithReference.cache={file}'
  assert train('dpo', tmp_path / 'other', *flags, shared, '--gin.DirectPreference.beta=0.5') == 0
  assert 'Computing what the reference says' not in capsys.readouterr().err
  assert steps_of(tmp_path / 'other')[0]['loss'] == pytest.approx(math.log(2), abs=1e-6)
  # another policy, or other data, is not
  assert train('dpo', tmp_path / 'third', *flags[:1], f'--gin.INIT_FROM={tmp_path / "run"}',
               '--gin.STEPS=12', shared) == 1
  assert 'log-probabilities of another policy' in capsys.readouterr().err
  file.unlink()
  shutil.rmtree(tmp_path / 'run/checkpoints/12')
  assert train('dpo', tmp_path / 'run', *flags) == 1
  assert 'reference_logprobs.npz is missing' in capsys.readouterr().err


def test_a_reference_that_is_kept_gives_the_same_as_one_that_is_cached(pairs, start, tmp_path):
  flags = [f'--gin.PREFERENCES={pairs}', f'--gin.INIT_FROM={start}', '--gin.STEPS=4']
  assert train('dpo', tmp_path / 'cached', *flags) == 0
  assert train('dpo', tmp_path / 'kept', *flags, '--gin.WithReference.cached=False') == 0
  for one, other in zip(steps_of(tmp_path / 'cached'), steps_of(tmp_path / 'kept'), strict=True):
    assert one['loss'] == pytest.approx(other['loss'], abs=1e-5)
