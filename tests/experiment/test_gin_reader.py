"""gin files and bindings as they are read: by gin's parser, one line for what is not gin."""

import pathlib

import pytest

from t5x_lite.core.errors import UserError
from t5x_lite.experiment import gin_config

HEAD = """from __gin__ import dynamic_registration
from t5x_lite import experiment
from t5x_lite import models
include 'experiments/tiny_lm.gin'
"""


def load(*bindings, text=None, tmp_path=None):
  """The experiment of the bindings, over a file whose line 5 is the first of `text`."""
  file = 'experiments/tiny_lm.gin'
  if text is not None:
    file = tmp_path / 'mine.gin'
    file.write_bytes(text if isinstance(text, bytes) else (HEAD + text).encode())
  return gin_config.load_experiment([str(file)], ['MODEL_DIR=x', *bindings])[0]


def refused(*bindings, **options) -> str:
  with pytest.raises(UserError) as error:
    load(*bindings, **options)
  assert '\n' not in str(error.value) and len(str(error.value)) < 600
  return str(error.value)


@pytest.mark.parametrize('quotes', ["'''", '"""'])
def test_a_text_of_several_lines_is_kept_whole(quotes, tmp_path):
  prompt = "one\nimport os\ninclude 'b.gin'\n  # STEPS = 3\nfrom x import y\n"
  text = f'experiment.InferConfig.field = {quotes}{prompt}{quotes}\n'
  assert load(text=text, tmp_path=tmp_path).infer.field == prompt


@pytest.mark.parametrize('text', [
    ('\ufeff' + HEAD + 'STEPS = 7\n').encode(), (HEAD + 'STEPS = 7').encode(),
    (HEAD + 'STEPS = 7\n').replace('\n', '\r\n').encode(),
    (HEAD + '\tSTEPS = 7  # \xe9\n').encode(),
    (HEAD + 'experiment.TrainConfig:\n\n  # so\n  steps = (\n    7\n  )\n').encode()])
def test_marks_line_ends_and_brackets_are_read_as_gin_reads_them(text, tmp_path):
  assert load(text=text, tmp_path=tmp_path).train.steps == 7


@pytest.mark.parametrize('text, message', [
    ('STEPS = (\n', 'EOF in multi-line statement'),   # of line 6, or of 5 from Python 3.12 on
    ('STEPS = """\n', 'mine.gin:5: not valid gin: '),
    ('STEPS = (1,\nSEED = 3\n', "mine.gin:6: not valid gin: 'SEED' is neither a number"),
    ('STEPS\n', 'mine.gin:5: not valid gin'), ('STEPS =\n', 'mine.gin:5: not valid gin'),
    ('import\n', 'mine.gin:5: not valid gin'), ('$\n', 'mine.gin:5: not valid gin'),
    ('models.ModelConfig:\n', 'mine.gin:6: not valid gin: Expected indentation'),
    ('STEPS = ' + '(' * 5000 + '\n', 'not valid gin'), ('x = {[1]: 2}\n', 'not valid gin'),
    ('x = ' + '9' * 5000 + '\n', 'mine.gin:5: not valid gin'),
    ("include 'nothing.gin'\n", "mine.gin:5: gin file 'nothing.gin' not found"),
    ('include 3\n', 'mine.gin:5: not valid gin'), ("include ''\n", "mine.gin:5: '' is not a path"),
    (HEAD.encode() + b"MODEL_DIR = 'caf\xe9'\n", 'mine.gin:5: is not UTF-8 text (byte 0xe9)'),
    (b'\x00\x01\xff', 'mine.gin:1: is not UTF-8 text'), (b'\x00', 'mine.gin:1: not valid gin'),
    ('STEPS = %STEPS\n', 'mine.gin:5: %STEPS is made of itself'),
    ('STEPS = %A\nA = (%STEPS,)\n', 'is made of itself'),
    ('experiment.Experiment.eval = @experiment.Experiment()\n', 'Experiment is made of itself'),
    ('A = (%B, %B)\n' + ''.join(f'{a} = (%{b}, %{b})\n' for a, b in zip(
        'BCDEFGHIJKLMNOPQRSTUV', 'CDEFGHIJKLMNOPQRSTUVW')) + 'W = 1\n'
     'experiment.Experiment.hooks = %A\n', 'more than 100,000 values'),
])
def test_what_is_not_gin_is_one_line_with_file_and_line(text, message, tmp_path):
  assert message in refused(text=text, tmp_path=tmp_path)


@pytest.mark.parametrize('value', ['(', '[1', '{', '"a', "'a", '%', '@', '(1, %', '@a b'])
def test_a_value_that_is_not_closed_is_one_line(value):
  assert refused(f'STEPS={value}').startswith(f'--gin.STEPS={value}: not valid gin')


@pytest.mark.parametrize('name', ['', '.', '/x', 'a b', 'ModelConfig.', 'a//b', '3', '--x', 'é'])
def test_a_name_that_is_none_is_one_line(name):
  assert refused(f'{name}=3') == f'--gin.{name}=3: expected --gin.NAME=VALUE'


def test_the_text_of_the_command_line_is_taken_as_it_is():
  for text in ('2024', '1e3', '007', '1_000', 'a b', 'a=b', 'a#b', '3#b', 'é', "a'b", 'a\nSEED=3'):
    experiment = load(f'MODEL_DIR={text}')
    assert (experiment.model_dir, experiment.seed) == (text, 0)
  for text in ('None', 'True'):
    assert f'Experiment.model_dir = {text}: expected str' in refused(f'MODEL_DIR={text}')


def test_a_number_that_is_a_name_survives_in_config_gin(tmp_path):
  experiment, text = gin_config.load_experiment(
      ['experiments/tiny_lm.gin'], ['MODEL_DIR=007', 'STEPS=1e2', 'DataConfig.vocabulary=12'])
  assert (experiment.model_dir, experiment.train.steps, experiment.data.vocabulary) == (
      '007', 100, '12')
  (tmp_path / 'config.gin').write_text(text)
  assert gin_config.load_experiment([str(tmp_path / 'config.gin')])[0] == experiment


@pytest.mark.parametrize('binding, message', [
    ('STEPS=1.5', 'TrainConfig.steps = 1.5: expected int (STEPS, the command line)'),
    ('STEPS=ten', "TrainConfig.steps = 'ten': expected int (STEPS, the command line)"),
    ('BATCH_SIZE=0', 'DataConfig.batch_size = 0: must be above 0'),
    ('LEARNING_RATE=1e999', 'WarmupCosine.peak = inf: must be finite'),
    ('LEARNING_RATE=' + '9' * 400, 'must be finite, as float32 (LEARNING_RATE, the command line)'),
    ('WARMUP_STEPS=801', 'WarmupCosine.warmup_steps = 801: must be at most total_steps 800 '
     '(WARMUP_STEPS, the command line)'),
    ('WARMUP_STEPS=-1', '(WARMUP_STEPS, the command line)'),
    ('SEED=18446744073709551616', 'at most 4,294,967,295 (SEED, the command line)'),
    ('SEED=-1', '(SEED, the command line)'), ('TARGETS_LENGTH=1e9', 'at most 16,777,216'),
    ('SEED=@models.ModelConfig()', 'expected int (SEED, the command line)'),
    ('CrossEntropy.z_loss=-1', 'must be at least 0 (the command line)'),
    ('CrossEntropy.label_smoothing=1', 'must be at least 0 and below 1'),
    ('AdamW.weight_decay=-1e-3', 'must be at least 0 (the command line)'),
    ('Sampling.temperature=1e-40', 'float32 makes it 0'),
    ('Sampling.temperature=1e-3', 'must be 0, which is greedy, or at least 0.01'),
    ('Sampling.temperature=-1', 'must be at least 0 and at most 100'),
    ('InferConfig.step=-1', 'must be at least 0'), ('EvalConfig.num_examples=0', 'above 0'),
    ('RouterLoss.router_z=-1', 'must be at least 0'),
    ('ModelConfig.num_layers=1e5', 'at most 4,096'), ('ModelConfig.init_std=0', 'above 0'),
    ('MeshConfig.rules=(("foo",("data",)),)', "there is no logical axis 'foo'"),
    ('MeshConfig.rules=(("embed",("date",)),)', "no mesh axis 'date'; did you mean 'data'?"),
    ('MeshConfig.fsdp=2147483647', 'the mesh has more than 16,777,216 devices: data 1 x fsdp 2'),
    ('ModelConfig.num_layers=65', '65 unrolled layers compile for hours'),
    ('Experiment.hooks=(@models.ModelConfig(),)', 'expected a tuple of Hook (the command line)'),
    ('Experiment.optimizer=@optimizers.AdamW', 'is a class: write @optimizers.AdamW() for'),
    ('Experiment.optimizer=@optimizers.Adafactor()', 'Adafactor.learning_rate is required: set it'),
    ('VOCABULARY=', "'' is not a path (VOCABULARY, the command line)"),
    ('MODEL_DIR=a\0b', 'is not a path (MODEL_DIR, the command line)'),
])
def test_a_wrong_value_names_the_setting_that_the_user_made(binding, message):
  assert message in refused(binding)


def test_an_encoder_without_inputs_is_refused():
  with pytest.raises(UserError, match="'encoder_only' reads inputs, .*: set INPUTS_LENGTH"):
    gin_config.load_described(['experiments/tiny_mlm.gin'], ['INPUTS_LENGTH=None'])


@pytest.mark.parametrize('text, message', [
    ('STEPS = 1.5\n', r'TrainConfig.steps = 1.5: expected int (STEPS, {}/mine.gin:5)'),
    ("STEPS = %A\nA = 'x'\n", r"TrainConfig.steps = 'x': expected int (A, {}/mine.gin:6)"),
    ('TASK = @data.FileTask()\nfrom tasks import files as data\n',
     'FileTask.train is required: set it, or pass --gin.FileTask.train=VALUE '
     '(@FileTask() in {}/mine.gin:5)'),
])
def test_a_wrong_value_in_a_file_names_the_line_of_the_macro(text, message, tmp_path):
  assert refused(text=text, tmp_path=tmp_path) == message.format(tmp_path)


@pytest.mark.parametrize('binding, message', [
    ('STEP=3', "the command line: STEP is set and used nowhere; did you mean 'STEPS'?"),
    ('INIT_FROM=x', 'INIT_FROM is set and used nowhere'),
    ('a/STEPS=3', 'a/STEPS is set and used nowhere'),
    ('a/ModelConfig.num_layers=1', "nothing names a ModelConfig in the scope 'a'"),
    ('FileTask.train=x', 'FileTask.train is set, and this config makes no FileTask'),
    ('Adafactor.momentum=0.5', 'this config makes no Adafactor'),
    ('RopeScaling.factor=2', 'this config makes no RopeScaling'),
    ('InitFrom.step=3', 'this config makes no InitFrom'),
])
def test_a_setting_that_nothing_reads_is_refused(binding, message, tmp_path):
  assert message in refused(binding)
  name, _, value = binding.partition('=')
  value = value if value.replace('.', '').isdigit() else repr(value)
  text = ('from t5x_lite.models import positions\nfrom t5x_lite.training import optimizers\n'
          'from tasks import files\n')
  for owner, module in {'ModelConfig': 'models', 'FileTask': 'files', 'InitFrom': 'experiment',
                        'Adafactor': 'optimizers', 'RopeScaling': 'positions'}.items():
    name = name.replace(owner, f'{module}.{owner}')
  assert 'mine.gin:8: ' in refused(text=f'{text}{name} = {value}\n', tmp_path=tmp_path)


def test_what_replaces_a_part_need_not_take_back_its_settings(tmp_path):
  text = """from t5x_lite.training import optimizers
from t5x_lite.training import schedules
experiment.Experiment.optimizer = @optimizers.Adafactor()
optimizers.Adafactor.learning_rate = @schedules.Rsqrt()
"""
  experiment = load(text=text, tmp_path=tmp_path)
  assert type(experiment.optimizer).__name__ == 'Adafactor'
  # Its own file's settings are not excused, nor the command line's.
  assert 'mine.gin:9: AdamW.beta1 is set, and this config makes no AdamW' in refused(
      text=f'{text}optimizers.AdamW.beta1 = 0.8\n', tmp_path=tmp_path)
  assert 'LEARNING_RATE is set and used nowhere' in refused(
      'LEARNING_RATE=1', text=text, tmp_path=tmp_path)


def test_scopes_hold_for_what_is_named_in_them(tmp_path):
  text = """from tasks import files
from tasks.pipeline import mixtures
files.FileTask.validation = 0.5
a/files.FileTask.train = 'a'
b/files.FileTask.train = 'b'
b/files.FileTask.validation = 0.1
b/files.FileTask.name = 'b'
mixtures.Mixture.tasks = (@a/files.FileTask(), @b/files.FileTask())
TASK = @mixtures.Mixture()
"""
  tasks = load(text=text, tmp_path=tmp_path).data.task.tasks
  assert [(t.train, t.validation) for t in tasks] == [('a', 0.5), ('b', 0.1)]
  assert "nothing names a FileTask in the scope 'bb'; did you mean 'b'?" in refused(
      text=f"{text}bb/files.FileTask.name = 'c'\n", tmp_path=tmp_path)


def test_scopes_are_those_of_gin(tmp_path):
  # What gin 0.5 makes of these statements: the scope of a reference replaces the one around it,
  # and a macro's value is in the scope of the macro's name (its operative config is written so).
  text = """from tasks import files
from tasks.pipeline import mixtures
files.FileTask.validation = 0.5
files.FileTask.train = 'none'
outer/mixtures.Mixture.tasks = (@a/files.FileTask(), %INNER, @files.FileTask())
a/files.FileTask.train = 'a'
a/files.FileTask.name = 'a'
INNER = @files.FileTask()
INNER/files.FileTask.train = 'inner'
outer/files.FileTask.train = 'outer'
outer/files.FileTask.name = 'outer'
TASK = @outer/mixtures.Mixture()
"""
  (tmp_path / 'mine.gin').write_text(HEAD + text)
  experiment, config = gin_config.load_experiment([str(tmp_path / 'mine.gin')], ['MODEL_DIR=x'])
  tasks = [(t.train, t.name) for t in experiment.data.task.tasks]
  assert tasks == [('a', 'a'), ('inner', 'files'), ('outer', 'outer')]
  (tmp_path / 'config.gin').write_text(config)
  assert gin_config.load_experiment([str(tmp_path / 'config.gin')])[0] == experiment


@pytest.mark.parametrize('name, nearest', [
    ('tiny', "did you mean 'experiments/tiny_lm.gin' or 'experiments/tiny_mlm.gin'?"),
    ('models/lama_7b.gin', "did you mean 'models/llama_7b.gin'?"),
    ('qqqq', f'those of the project are in {gin_config.CONFIGS}')])
def test_a_missing_file_is_answered_with_the_nearest_few(name, nearest):
  with pytest.raises(UserError, match='not found in') as error:
    gin_config.load_experiment([name])
  assert str(error.value).endswith(nearest) and len(str(error.value)) < 400


def test_paths_are_read_as_a_shell_does(tmp_path, monkeypatch):
  monkeypatch.setenv('HOME', str(tmp_path))
  monkeypatch.setenv('T5X_RUNS', 'runs')
  for text in ('~/runs/a', '$HOME/runs/a', '${HOME}/$T5X_RUNS/a'):
    assert load(f'MODEL_DIR={text}').folder == tmp_path / 'runs/a'
    assert load(f'VOCABULARY={text}').data.vocabulary == f'{tmp_path}/runs/a'
  assert '$NOPE/a: the environment has no NOPE' in refused('MODEL_DIR=$NOPE/a')
  assert 'there is no user ~nobody-here' in refused('InferConfig.output=~nobody-here/a')
  monkeypatch.chdir(tmp_path)
  pathlib.Path('$NOPE').mkdir()
  assert load('MODEL_DIR=$NOPE').model_dir == '$NOPE'
