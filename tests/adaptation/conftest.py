"""A data set of a few lines, and tiny runs on it, for runs of adaptations."""

import json
import shutil

import pytest

from t5x_lite.commands import train
from t5x_lite.experiment import gin_config

# Two layers, of which parts may be frozen; a checkpoint in the middle, from which a run goes on.
TINY = ['ModelConfig.embed_dim=32', 'ModelConfig.num_layers=2', 'ModelConfig.num_heads=2',
        'ModelConfig.mlp_dim=32', 'BATCH_SIZE=8', 'STEPS=4', 'WARMUP_STEPS=1', 'TARGETS_LENGTH=16',
        'MeshConfig.data=1', 'TrainConfig.log_every=1', 'TrainConfig.checkpoint_every=2',
        'EvalConfig.num_examples=8', 'EvalConfig.batch_size=8']


@pytest.fixture(scope='session')
def gin_file(tmp_path_factory):
  """An experiment of `tiny_lm.gin` on sums, whose bindings may name any adaptation."""
  folder = tmp_path_factory.mktemp('text')
  (folder / 'lines.jsonl').write_text('\n'.join(
      json.dumps({'answer': f'{i} + {j} = {i + j}'}) for i in range(20) for j in range(10)))
  (folder / 'lm.gin').write_text(f"""
from __gin__ import dynamic_registration
from t5x_lite import experiment
from t5x_lite.adaptation import lora
from t5x_lite.adaptation import partial
from t5x_lite.adaptation import prefix
from t5x_lite.adaptation.quantization import quantized
from tasks import files
include 'experiments/tiny_lm.gin'
TASK = @files.FileTask()
files.FileTask.train = '{folder}/lines.jsonl'
files.FileTask.validation = '{folder}/lines.jsonl'
files.FileTask.objective = 'lm'
files.FileTask.targets = 'answer'
""")
  return str(folder / 'lm.gin')


@pytest.fixture(scope='session')
def load(gin_file):
  """(model_dir, *bindings) -> (experiment, its gin) of a tiny run."""
  return lambda model_dir, *bindings: gin_config.load_experiment(
      [gin_file], [*TINY, f"MODEL_DIR='{model_dir}'", *bindings])


@pytest.fixture(scope='session')
def run(load):
  """(model_dir, *bindings) -> (experiment, result) of a tiny run, trained."""
  def finished(model_dir, *bindings):
    experiment, text = load(model_dir, *bindings)
    return experiment, train.train(experiment, text)

  return finished


@pytest.fixture(scope='session')
def base(run, tmp_path_factory):
  """A finished run of the whole model."""
  return run(tmp_path_factory.mktemp('base') / 'run')[0]


@pytest.fixture(scope='session')
def resumed(run):
  """(experiment, model_dir, *bindings) -> a copy of a finished run that went on from step 2."""
  def again(experiment, model_dir, *bindings):
    shutil.copytree(experiment.folder, model_dir)
    last = model_dir / 'checkpoints/4'
    shutil.rmtree(last)
    copy, _ = run(model_dir, *bindings)
    assert last.is_dir()
    return copy

  return again
