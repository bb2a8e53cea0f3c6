"""gin in, an Experiment out; and one line with file, line and cure for every mistake."""

import dataclasses
import re

import pytest

from t5x_lite.core.errors import UserError
from t5x_lite.experiment import gin_config
from t5x_lite.models import ModelConfig

EXPERIMENTS = sorted(p.name for p in (gin_config.CONFIGS / 'experiments').glob('*.gin'))


def load(*bindings, file='experiments/tiny_lm.gin'):
  return gin_config.load_experiment([file], [*bindings])[0]


@pytest.mark.parametrize('name', EXPERIMENTS)
def test_every_experiment_builds_and_its_operative_config_builds_the_same(name, tmp_path):
  written = (gin_config.CONFIGS / 'experiments' / name).read_text()
  files = [f'{macro}=data/{macro}.txt' for macro in re.findall(r'^(\w+) = %gin.REQUIRED', written,
                                                               re.MULTILINE)]
  has_model = "include 'models/" in written or "include 'experiments/" in written
  experiment, text = gin_config.load_experiment(   # of an imported model, that of its run
      [*(() if has_model else ('models/bert_base.gin',)), f'experiments/{name}'],
      ['MODEL_DIR=runs/x',
       *['INIT_FROM=runs/y'] * bool(re.search(
           "include '.*(finetune|_q?lora|_instruct|grpo|rloo|ppo|dpo|reward)", written)),
       *['DIALOGUES=data/dialogues.jsonl'] * bool(re.search(
           "include '(runs/dialogue|experiments/dialogue_)", written)),
       *['PREFERENCES=data/pairs.jsonl'] * bool(re.search("include 'runs/(dpo|reward)", written)),
       'VOCABULARY=runs/v.model', *files,
       *['CONVERSATIONS=data/chat.jsonl'] * ('_chat' in name)])
  (tmp_path / 'config.gin').write_text(text)
  again, _ = gin_config.load_experiment([str(tmp_path / 'config.gin')])
  assert again == experiment
  assert type(experiment.model) is ModelConfig


@pytest.mark.parametrize('name', EXPERIMENTS)
def test_every_experiment_begins_with_what_it_trains(name):
  text = (gin_config.CONFIGS / 'experiments' / name).read_text()
  assert text.startswith('# ') and len(text.splitlines()[0]) > 30


def test_bindings_set_macros_fields_and_bare_words():
  experiment = load('MODEL_DIR=some/where', 'STEPS=7', 'ModelConfig.num_layers=3',
                    'models.ModelConfig.norm="layer_norm"', 'DataConfig.data_dir=None')
  assert experiment.model_dir == 'some/where'
  assert experiment.train.steps == 7
  assert experiment.optimizer.learning_rate.total_steps == 7
  assert (experiment.model.num_layers, experiment.model.norm) == (3, 'layer_norm')
  assert experiment.data.data_dir is None


def test_load_leaves_nothing_behind():
  assert load('MODEL_DIR=x', 'ModelConfig.num_layers=3').model.num_layers == 3
  assert load('MODEL_DIR=x').model.num_layers == 4


def test_gin_files_are_found_from_any_directory(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  for name in ('experiments/tiny_lm.gin', 'experiments/tiny_lm', 'configs/experiments/tiny_lm.gin'):
    assert load('MODEL_DIR=x', file=name).train.steps > 0


def test_a_users_file_may_include_ours_and_one_beside_it(tmp_path):
  (tmp_path / 'mine').mkdir()
  (tmp_path / 'mine/size.gin').write_text(
      'from __gin__ import dynamic_registration\nfrom t5x_lite import models\n'
      'models.ModelConfig.num_layers = 5\n')
  (tmp_path / 'mine/run.gin').write_text(
      "include 'experiments/tiny_lm.gin'\ninclude 'size.gin'\nMODEL_DIR = 'x'\n")
  assert load(file=str(tmp_path / 'mine/run.gin')).model.num_layers == 5


@pytest.mark.parametrize('binding, message', [
    ('ModelConfig.num_layer=2', "ModelConfig has no 'num_layer'; did you mean 'num_layers'?"),
    ('ModelConfg.num_layers=2', "unknown name 'ModelConfg'; did you mean 'ModelConfig'?"),
    ('ModelConfig.num_layers=two', "ModelConfig.num_layers = 'two': expected int"),
    ('ModelConfig.num_layers=2.5', 'ModelConfig.num_layers = 2.5: expected int'),
    ('ModelConfig.bias=1', 'ModelConfig.bias = 1: expected bool'),
    ('ModelConfig.norm=rmsnorm', "did you mean 'rms_norm'?"),
    ('ModelConfig.num_heads=5', 'must divide embed_dim 128'),
    ('ModelConfig.mlp_dim=%WIDTH', '%WIDTH is not set anywhere'),
    ('ModelConfig.mlp_dim=0', 'ModelConfig.mlp_dim = 0: must be above 0'),
    ('ModelConfig.max_length=100', 'the data has sequences of 256 tokens'),
    ('DataConfig.task=3', 'expected the name of a seqio task or mixture'),
    ('AdamW.beta1=1', 'AdamW.beta1 = 1: must be at least 0 and below 1'),
    ('Experiment.optimizer=@optimizers.Adamw()', "did you mean 'AdamW'?"),
    ('MeshConfig.data=0', 'must be above 0, or -1'),
    ('Experiment.seed', 'expected --gin.NAME=VALUE'),
])
def test_a_mistake_on_the_command_line_is_one_line_with_the_cure(binding, message):
  with pytest.raises(UserError) as error:
    load('MODEL_DIR=x', binding)
  assert message in str(error.value)
  assert '\n' not in str(error.value)


@pytest.mark.parametrize('line, message', [
    ('models.ModelConfig.num_layer = 2', "bad.gin:5: ModelConfig has no 'num_layer'"),
    ('models.ModelConfig.num_layers = "2"', "expected int ({}bad.gin:5)"),
    ('model.ModelConfig.num_layers = 2', "bad.gin:5: 'model' of 'model.ModelConfig' is not "
     "imported; did you mean 'models'?"),
    ("include 'experiments/tiny.gin'", "bad.gin:5: gin file 'experiments/tiny.gin' not found"),
    ('models.ModelConfig.num_layers = %LAYERS', 'bad.gin:5: %LAYERS is not set anywhere'),
    ('models.ModelConfig.num_layers = = 2', 'bad.gin'),
])
def test_a_mistake_in_a_file_is_named_with_its_line(line, message, tmp_path):
  path = tmp_path / 'bad.gin'
  path.write_text('from __gin__ import dynamic_registration\nfrom t5x_lite import models\n'
                  f"include 'experiments/tiny_lm.gin'\nMODEL_DIR = 'x'\n{line}\n")
  with pytest.raises(UserError) as error:
    load(file=str(path))
  assert message.format(f'{tmp_path}/') in str(error.value)
  assert '\n' not in str(error.value)


def test_a_required_macro_left_unset_is_named():
  with pytest.raises(UserError, match=r'MODEL_DIR is required .*pass --gin.MODEL_DIR=VALUE'):
    load()


def test_a_missing_gin_file_names_where_it_was_looked_for_and_the_nearest():
  with pytest.raises(UserError) as error:
    load(file='experiments/tiny_ml.gin')
  assert str(gin_config.CONFIGS) in str(error.value)
  assert "did you mean 'experiments/tiny_mlm.gin'?" in str(error.value)
  with pytest.raises(UserError, match='No gin file: pass --gin_file=FILE'):
    gin_config.load_experiment([])


def test_differences_names_what_decides_a_runs_numbers_and_nothing_else():
  old = load('MODEL_DIR=x')
  assert gin_config.differences(old, load('MODEL_DIR=y')) == []
  same = dataclasses.replace(old, train=dataclasses.replace(old.train, steps=9, log_every=1))
  assert gin_config.differences(old, same) == []
  other = load('MODEL_DIR=x', 'ModelConfig.num_layers=2', 'CrossEntropy.z_loss=1e-4', 'SEED=1')
  assert gin_config.differences(old, other) == [
      'model.num_layers: 4 → 2', 'objectives.z_loss: 0.0 → 0.0001', 'seed: 0 → 1']


def test_the_classes_of_an_imported_model_keep_their_order(tmp_path):
  def load_with(labels, names):
    path = tmp_path / 'mine.gin'
    path.write_text("from __gin__ import dynamic_registration\nfrom tasks import files\n"
                    "include 'experiments/classify_files.gin'\n"
                    f'files.FileTask.labels = {labels}\n')
    return gin_config.load_experiment([str(path)], [
        'MODEL_DIR=x', 'TRAIN=a.tsv', 'VALIDATION=b.tsv', f'InferConfig.labels={names}'])

  names = ('neg', 'pos')
  assert load_with(names, names)[0].infer.labels == names
  assert load_with(('pos', 'neg'), ())[0].infer.labels == ()
  with pytest.raises(UserError, match='list them in the order of the model, or set '
                                      'InferConfig.labels to ()'):
    load_with(('pos', 'neg'), names)


@pytest.mark.parametrize('name', ['prompt_prefix', 'prompt_suffix', 'end_ids'])
def test_ids_of_prompts_are_in_the_vocabulary(name):
  assert getattr(load('MODEL_DIR=x', f'InferConfig.{name}=(383,)').infer, name) == (383,)
  with pytest.raises(UserError, match='ids are below ModelConfig.vocab_size 384'):
    load('MODEL_DIR=x', f'InferConfig.{name}=(384,)')
