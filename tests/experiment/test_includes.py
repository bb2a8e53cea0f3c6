"""Files are read once, a run's config.gin means its own folder, and what training alone reads."""

import pytest

from t5x_lite.core.errors import UserError
from t5x_lite.experiment import gin_config

HEAD = 'from __gin__ import dynamic_registration\nfrom t5x_lite import models\n'


def load(*files, bindings=(), **options):
  return gin_config.load_experiment([str(f) for f in files], bindings, **options)[0]


def test_a_file_that_is_included_again_changes_nothing(tmp_path):
  (tmp_path / 'first.gin').write_text(
      f"{HEAD}include 'experiments/tiny_lm.gin'\nVOCABULARY = 'own.model'\nINPUTS_LENGTH = 3\n")
  got = load(tmp_path / 'first.gin', 'experiments/tiny_lm.gin', 'runs/experiment.gin',
             bindings=['MODEL_DIR=x'])
  assert (got.data.vocabulary, got.data.inputs_length) == ('own.model', 3)
  (tmp_path / 'second.gin').write_text("include 'first.gin'\ninclude 'runs/pretrain.gin'\n")
  assert load(tmp_path / 'second.gin', bindings=['MODEL_DIR=x']) == got


def test_files_that_include_themselves_or_each_other_are_read_once(tmp_path):
  (tmp_path / 'a.gin').write_text(
      f"{HEAD}include 'experiments/tiny_lm.gin'\ninclude 'b.gin'\ninclude './a.gin'\nSTEPS = 7\n")
  (tmp_path / 'b.gin').write_text("include 'a.gin'\nSEED = 3\n")
  got = load(tmp_path / 'a.gin', bindings=['MODEL_DIR=x'])
  assert (got.train.steps, got.seed) == (7, 3)


def test_the_config_of_a_run_means_its_own_folder(tmp_path):
  run, moved = tmp_path / 'run', tmp_path / 'moved'
  run.mkdir()
  _, text = gin_config.load_experiment(['experiments/tiny_lm.gin'], [f"MODEL_DIR='{run}'"])
  (run / 'config.gin').write_text(text)
  (run / 'checkpoints').mkdir()
  run.rename(moved)
  assert load(moved / 'config.gin').folder == moved
  assert load(moved / 'config.gin', bindings=['MODEL_DIR=other']).model_dir == 'other'
  (tmp_path / 'later.gin').write_text("MODEL_DIR = 'later'\n")
  assert load(moved / 'config.gin', tmp_path / 'later.gin').model_dir == 'later'


IMPORTED = HEAD + """include 'runs/experiment.gin'
VOCABULARY = 'own.model'
models.ModelConfig:
  family = 'decoder_only'
  vocab_size = 64
  embed_dim = 32
  num_layers = 1
  num_heads = 2
  mlp_dim = 64
  max_length = 100
"""


def test_what_training_alone_reads_is_required_of_training_alone(tmp_path):
  (tmp_path / 'config.gin').write_text(IMPORTED)
  (tmp_path / 'checkpoints').mkdir()
  got = load(tmp_path / 'config.gin', trains=False)
  assert (got.folder, got.data.vocabulary, got.data.lengths) == (
      tmp_path, 'own.model', {'targets': 50})
  with pytest.raises(UserError, match='TASK is required .*--gin.TASK=VALUE'):
    load(tmp_path / 'config.gin')
  with pytest.raises(UserError, match='TARGETS_LENGTH is required'):
    load(tmp_path / 'config.gin', bindings=['TASK=stdlib_lm'], trains=False)


def test_training_starts_from_an_imported_run_in_either_order(tmp_path):
  (tmp_path / 'config.gin').write_text(IMPORTED)
  (tmp_path / 'checkpoints').mkdir()
  bindings = ['MODEL_DIR=x', 'TASK=stdlib_lm', 'STEPS=200', 'BATCH_SIZE=2', 'TARGETS_LENGTH=8',
              'LEARNING_RATE=1e-3', f'INIT_FROM={tmp_path}']
  one = load(tmp_path / 'config.gin', 'runs/finetune.gin', bindings=bindings)
  assert (one.data.vocabulary, one.model_dir) == ('own.model', 'x')
  assert one == load('runs/finetune.gin', tmp_path / 'config.gin', bindings=bindings)


def test_paths_inside_a_run_move_with_it(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  run = tmp_path / 'runs/a'
  run.mkdir(parents=True)
  (run / 'vocab.model').touch()
  _, text = gin_config.load_experiment(['experiments/tiny_lm.gin'], [
      'MODEL_DIR=runs/a', 'VOCABULARY=runs/a/vocab.model', 'InferConfig.input=runs/a2/x.txt',
      'Experiment.init_from=@experiment.InitFrom()', 'InitFrom.model_dir=runs/a/base'])
  (run / 'config.gin').write_text(text)
  (run / 'metrics.jsonl').touch()
  run.rename(tmp_path / 'b')
  got = load('b/config.gin')
  assert (got.model_dir, got.data.vocabulary, got.init_from.model_dir) == (
      'b', 'b/vocab.model', 'b/base')
  assert got.infer.input == 'runs/a2/x.txt'   # beside the run, not in it
  monkeypatch.chdir(tmp_path / 'b')
  assert load('config.gin').data.vocabulary == './vocab.model'


def test_a_config_that_binds_the_folder_itself_means_its_own_too(tmp_path):
  text = f"{HEAD}from t5x_lite import experiment\ninclude 'experiments/tiny_lm.gin'\n" + (
      "experiment.Experiment.model_dir = '/old/place'\nVOCABULARY = '/old/place/v'\n")
  (tmp_path / 'config.gin').write_text(text)
  assert load(tmp_path / 'config.gin').model_dir == '/old/place'   # no run lies beside it
  (tmp_path / 'checkpoints').mkdir()
  got = load(tmp_path / 'config.gin')
  assert (got.model_dir, got.data.vocabulary) == (str(tmp_path), f'{tmp_path}/v')
