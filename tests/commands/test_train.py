"""Whole runs of a tiny model: what they write, that they resume exactly, and what they refuse."""

import dataclasses
import json
import os
import random
import signal
import threading
import time

import numpy as np
import pytest

from t5x_lite import cli
from t5x_lite.commands import eval, infer, train
from t5x_lite.core.errors import UserError
from t5x_lite.experiment import gin_config
from t5x_lite.training import loop, run_folder
from t5x_lite.training.checkpoints import Checkpoints
from tasks.pipeline.seqio_data import DataConfig

TINY = ['ModelConfig.embed_dim=32', 'ModelConfig.num_layers=1', 'ModelConfig.num_heads=2',
        'ModelConfig.mlp_dim=32', 'BATCH_SIZE=8', 'STEPS=8', 'WARMUP_STEPS=2',
        'TrainConfig.log_every=1', 'InferConfig.batch_size=8']
EVAL = ['EvalConfig.num_examples=8', 'EvalConfig.batch_size=8']
NO_EVAL = 'Experiment.eval=None'


@pytest.fixture(scope='module')
def text_file(tmp_path_factory):
  """Two hundred lines a tiny model can tell from noise."""
  path = tmp_path_factory.mktemp('text') / 'lines.jsonl'
  rows = [{'question': f'{i} + {j}', 'answer': str(i + j)} for i in range(20) for j in range(10)]
  path.write_text('\n'.join(map(json.dumps, rows)))
  return path


def gin_of(text_file, tmp_path, objective='lm', base='tiny_lm', extra=''):
  """A user's gin file: no Python, a file and its fields."""
  path = tmp_path / f'{objective}.gin'
  path.write_text(f"""
from __gin__ import dynamic_registration
from tasks import files
include 'experiments/{base}.gin'
TASK = @files.FileTask()
files.FileTask.train = '{text_file}'
files.FileTask.validation = '{text_file}'
files.FileTask.objective = '{objective}'
files.FileTask.targets = 'answer'
{extra}
""")
  return str(path)


def load(gin_file, model_dir, *bindings):
  evaluation = [] if NO_EVAL in bindings else EVAL
  return gin_config.load_experiment(
      [gin_file], [*TINY, *evaluation, f"MODEL_DIR='{model_dir}'", *bindings])


def losses(model_dir):
  records = run_folder.read_metrics(model_dir / 'metrics.jsonl')
  return {r['step']: r['loss'] for r in records if r['kind'] == 'train'}


def lm(text_file, tmp_path, model_dir, *bindings):
  return load(gin_of(text_file, tmp_path), model_dir, 'TARGETS_LENGTH=16', *bindings)


def stop_at(model_dir, step):
  """A thread that sends this process SIGTERM when the run has logged `step`."""
  def wait():
    for _ in range(3000):
      time.sleep(0.02)
      path = model_dir / 'metrics.jsonl'
      if path.exists() and any(r['step'] >= step for r in run_folder.read_metrics(path)):
        os.kill(os.getpid(), signal.SIGTERM)
        return

  thread = threading.Thread(target=wait, daemon=True)
  thread.start()
  return thread


@pytest.fixture(scope='module')
def trained(text_file, tmp_path_factory):
  """A finished run of eight steps: (experiment, result)."""
  folder = tmp_path_factory.mktemp('trained')
  experiment, text = lm(text_file, folder, folder / 'run')
  return experiment, train.train(experiment, text)


def test_a_run_is_its_folder(trained):
  experiment, result = trained
  folder = experiment.folder
  assert result.finished and result.step == 8
  assert {p.name for p in folder.iterdir()} == {
      'config.gin', 'metrics.jsonl', 'checkpoints', 'tensorboard'}
  assert gin_config.load_experiment([str(folder / 'config.gin')])[0] == experiment
  records = run_folder.read_metrics(folder / 'metrics.jsonl')
  assert [r['step'] for r in records if r['kind'] == 'train'] == list(range(1, 9))
  assert records[-1]['kind'] == 'eval'


def test_the_logged_learning_rate_is_the_one_the_optimizer_applies(trained):
  experiment, _ = trained
  records = run_folder.read_metrics(experiment.folder / 'metrics.jsonl')
  records = [r for r in records if r['kind'] == 'train']
  assert [r['learning_rate'] for r in records[:2]] == pytest.approx([3e-3 / 2, 3e-3])
  # Of the first step of Adam every element is one rate, but for weight decay.
  assert records[0]['update_norm'] > 0


def test_evaluation_of_the_checkpoint_equals_that_of_the_run(trained):
  experiment, result = trained
  again = eval.evaluate(experiment)
  assert again == pytest.approx(result.metrics)
  (name,) = {key.split('/')[0] for key in again}
  assert again[f'{name}/perplexity'] == pytest.approx(2.718281828 ** again[f'{name}/loss'])


def test_training_a_finished_run_again_changes_nothing(trained, capsys):
  experiment, result = trained
  before = (experiment.folder / 'metrics.jsonl').read_text().splitlines()
  text = (experiment.folder / 'config.gin').read_text()
  again = train.train(experiment, text)
  assert again.step == 8 and again.metrics == pytest.approx(result.metrics)
  after = (experiment.folder / 'metrics.jsonl').read_text().splitlines()
  assert after[:len(before)] == before
  assert 'already trained to step 8' in capsys.readouterr().out


def test_another_config_in_the_same_folder_is_refused(trained, text_file, tmp_path):
  experiment, _ = trained
  before = (experiment.folder / 'config.gin').read_text()
  other, text = lm(text_file, tmp_path, experiment.folder, 'ModelConfig.num_layers=2')
  with pytest.raises(UserError, match=r'another config \(model.num_layers: 1 → 2\): use another'):
    train.train(other, text)
  assert (experiment.folder / 'config.gin').read_text() == before


def test_inference_writes_inputs_outputs_and_scores(trained, tmp_path):
  experiment, _ = trained
  (tmp_path / 'prompts.txt').write_text('1\n\n12\n7\n')
  settings = dataclasses.replace(experiment.infer, input=str(tmp_path / 'prompts.txt'),
                                 output=str(tmp_path / 'out.jsonl'), max_tokens=5)
  path, records = infer.infer(dataclasses.replace(experiment, infer=settings))
  written = [json.loads(line) for line in path.read_text().splitlines()]
  assert written == records
  assert [r['inputs'] for r in records] == ['1', '12', '7']
  assert all(r['score'] < 0 and isinstance(r['output'], str) for r in records)


def test_outputs_do_not_depend_on_what_else_is_in_the_batch(trained):
  experiment, _ = trained
  generator, _ = infer.load_generator(experiment)
  together = generator(['1', '12345', '7'])
  alone = [generator([text])[0] for text in ('1', '12345', '7')]
  assert [r['output'] for r in together] == [r['output'] for r in alone]
  for a, b in zip(together, alone):
    assert a['score'] == pytest.approx(b['score'], abs=1e-4)


@pytest.mark.slow
def test_a_run_stopped_by_sigterm_and_resumed_logs_the_same_losses(stdlib_data_dir, tmp_path):
  """On a streamed mixture of two tasks, dropout on, bit for bit; stopped twice, at random steps."""
  def experiment(name):
    return gin_config.load_experiment(
        ['experiments/tiny_span_corruption.gin'],
        [*TINY, NO_EVAL, 'TASK=stdlib_mixture', f"MODEL_DIR='{tmp_path / name}'", 'STEPS=24',
         'INPUTS_LENGTH=64', 'TARGETS_LENGTH=32',
         f"DataConfig.data_dir='{stdlib_data_dir}'", 'ModelConfig.dropout_rate=0.1',
         'TrainConfig.checkpoint_every=6', 'ModelConfig.num_decoder_layers=1'])

  unbroken = experiment('unbroken')
  train.train(*unbroken)
  broken, text = experiment('broken')
  stops = [0]
  for latest in (8, 16):
    at = random.randint(stops[-1] + 1, latest)
    stop_at(broken.folder, at)
    result = train.train(broken, text)
    assert not result.finished and result.step >= at
    stops.append(result.step)
  assert train.train(broken, text).finished
  assert losses(broken.folder) == losses(unbroken[0].folder), f'stopped at {stops[1:]}'
  assert len(losses(broken.folder)) == 24


def test_a_crash_loses_only_what_came_after_the_last_checkpoint(
    trained, text_file, tmp_path, monkeypatch):
  whole, _ = trained
  experiment, text = lm(text_file, tmp_path, tmp_path / 'run', 'TrainConfig.checkpoint_every=3',
                        NO_EVAL)
  batches = DataConfig.batches

  def failing(*args, **kwargs):
    for i, batch in enumerate(batches(*args, **kwargs)):
      if i == 5:
        raise OSError('the disk is gone')
      yield batch

  with monkeypatch.context() as patch:
    patch.setattr(DataConfig, 'batches', failing)
    with pytest.raises(OSError, match='the disk is gone'):
      train.train(experiment, text)
  assert train.train(experiment, text).finished
  assert losses(experiment.folder) == losses(whole.folder)


def test_a_loss_that_is_not_finite_stops_the_run_and_is_not_saved(text_file, tmp_path):
  experiment, text = lm(text_file, tmp_path, tmp_path / 'run', 'LEARNING_RATE=1e30',
                        'AdamW.clip_norm=None', 'TrainConfig.checkpoint_every=1')
  with pytest.raises(UserError, match='not finite at step .*: lower the learning'):
    train.train(experiment, text)
  good = run_folder.read_metrics(experiment.folder / 'metrics.jsonl')
  saved = Checkpoints(experiment.folder).steps()
  assert max(saved, default=0) < max(r['step'] for r in good)


def test_fine_tuning_starts_from_another_runs_parameters(trained, text_file, tmp_path, capsys):
  source, _ = trained
  gin = gin_of(text_file, tmp_path, extra="""
from t5x_lite import experiment
experiment.Experiment.init_from = @experiment.InitFrom()
""")
  tuned, text = load(gin, tmp_path / 'tuned', 'TARGETS_LENGTH=16', NO_EVAL,
                     f"InitFrom.model_dir='{source.folder}'")
  train.train(tuned, text)
  assert 'Started from' in capsys.readouterr().out
  assert losses(tuned.folder)[1] < losses(source.folder)[1]


BRANCH = """
from t5x_lite import experiment
experiment.Experiment.init_from = @experiment.InitFrom()
experiment.InitFrom.model_dir = '{source}'
experiment.InitFrom.restore_state = True
experiment.InitFrom.step = {step}
"""


def branch_of(source, step, text_file, folder, *bindings):
  folder.mkdir(exist_ok=True)
  gin_file = gin_of(text_file, folder, extra=BRANCH.format(source=source, step=step))
  return load(gin_file, folder / 'branch', 'TARGETS_LENGTH=16', *bindings)


@pytest.mark.slow
def test_a_branch_goes_on_as_the_run_it_left(text_file, tmp_path, capsys):
  train.train(*lm(text_file, tmp_path, tmp_path / 'run', 'TrainConfig.checkpoint_every=3', NO_EVAL))
  same = branch_of(tmp_path / 'run', 6, text_file, tmp_path, NO_EVAL)
  train.train(*same)
  assert f'Branched off {tmp_path}/run at step 6' in capsys.readouterr().out
  whole, branched = losses(tmp_path / 'run'), losses(tmp_path / 'branch')
  assert branched == {step: whole[step] for step in (7, 8)}
  # Settings of its own: here another number of steps, and so another learning rate.
  other = branch_of(tmp_path / 'run', 6, text_file, tmp_path / 'other', 'STEPS=10', NO_EVAL)
  assert train.train(*other).step == 10
  assert losses(tmp_path / 'other' / 'branch')[8] != whole[8]


class RecordBatches(loop.Hook):
  """Keeps what each step was given."""

  def __init__(self):
    self.rows = []

  def after_step(self, run):
    self.rows += [*run.batch['decoder_target_tokens']]


@pytest.mark.slow
def test_a_branch_of_another_batch_size_reads_the_next_examples(trained, text_file, tmp_path):
  """And so does its own branch, whose steps before it were of two sizes."""
  source, _ = trained   # at step 8 it has read 64 examples
  stream = source.data.batches(source.model, seed=source.seed)
  rows = [row for _ in range(10) for row in next(stream)['decoder_target_tokens']]
  first, text = branch_of(source.model_dir, 8, text_file, tmp_path, 'STEPS=10', 'BATCH_SIZE=4',
                          NO_EVAL)
  record = RecordBatches()
  train.train(dataclasses.replace(first, hooks=(record,)), text)
  assert np.array_equal(record.rows, rows[64:72])
  second, text = branch_of(first.model_dir, 10, text_file, tmp_path / 'second', 'STEPS=11',
                           NO_EVAL)
  record = RecordBatches()
  train.train(dataclasses.replace(second, hooks=(record,)), text)
  assert np.array_equal(record.rows, rows[72:80])


@pytest.mark.parametrize('bindings, message', [
    (('STEPS=8',), 'was at step 8 already: branch off an earlier checkpoint'),
    (('STEPS=9', 'SEED=1'), 'has seed 0 and this run 1'),
    (('STEPS=9', 'ModelConfig.mlp_dim=64'), 'of another model config: params/decoder.* is float32'),
])
def test_a_branch_of_another_run_is_refused(trained, bindings, message, text_file, tmp_path):
  run = branch_of(trained[0].model_dir, 8, text_file, tmp_path, *bindings)
  with pytest.raises(UserError, match=message):
    train.train(*run)
  assert not (tmp_path / 'branch').exists()


@pytest.mark.parametrize('bindings, message', [
    (['TASK=stdlib_lmm', 'BATCH_SIZE=8'], "did you mean 'stdlib_lm'?"),
    (['DataConfig.task_module=tasks.nothing'], 'cannot be imported'),
    (['BATCH_SIZE=6', 'MeshConfig.data=4'], 'not divisible by the mesh: data x fsdp is 4; the next '
     'size that is: 8'),
    (['MeshConfig.data=16'], 'needs 16 devices but there are 8'),
    (['MeshConfig.tensor=4'], 'ModelConfig.num_heads = 2: not divisible by the mesh'),
    (['ModelConfig.vocab_size=128'], 'have 384 ids; raise vocab_size'),
    (['INPUTS_LENGTH=8'], 'has the features targets'),
    (['DataConfig.split=dev'], 'DataConfig.split'),
])
def test_a_run_that_cannot_work_is_refused_before_anything_is_written(
    bindings, message, text_file, tmp_path):
  experiment, text = lm(text_file, tmp_path, tmp_path / 'run', *bindings)
  with pytest.raises(UserError) as error:
    train.train(experiment, text)
  assert message in str(error.value) and '\n' not in str(error.value)
  assert not (tmp_path / 'run').exists()


def test_a_missing_source_of_parameters_is_refused_before_anything_is_written(text_file, tmp_path):
  gin = gin_of(text_file, tmp_path, extra="""
from t5x_lite import experiment
experiment.Experiment.init_from = @experiment.InitFrom()
""")
  experiment, text = load(gin, tmp_path / 'run', 'TARGETS_LENGTH=16', 'InitFrom.model_dir=/nowhere')
  with pytest.raises(UserError, match='No checkpoint in /nowhere'):
    train.train(experiment, text)
  assert not (tmp_path / 'run').exists()


@pytest.mark.parametrize('objective, base, bindings', [
    ('text_to_text', 'tiny_span_corruption',
     ['INPUTS_LENGTH=16', 'TARGETS_LENGTH=8', 'FileTask.inputs=question']),
    pytest.param('text_to_text', 'tiny_lm',
                 ['INPUTS_LENGTH=16', 'TARGETS_LENGTH=8', 'FileTask.inputs=question',
                  'ModelConfig.prefix_lm=True'], marks=pytest.mark.slow),
    pytest.param('span_corruption', 'tiny_span_corruption',
                 ['INPUTS_LENGTH=16', 'TARGETS_LENGTH=8'], marks=pytest.mark.slow),
    pytest.param('mlm', 'tiny_mlm', ['INPUTS_LENGTH=16', 'TARGETS_LENGTH=16'],
                 marks=pytest.mark.slow),
])
def test_a_users_file_trains_every_family_without_python(objective, base, bindings, text_file,
                                                         tmp_path):
  gin = gin_of(text_file, tmp_path, objective, base)
  experiment, text = load(gin, tmp_path / 'run', 'STEPS=2', *bindings)
  result = train.train(experiment, text)
  assert result.finished and result.metrics
  if objective == 'text_to_text':
    path, records = infer.infer(experiment)
    assert len(records) == 200 and records[0]['targets'] == '0'
    assert path.parent == experiment.folder


@pytest.mark.slow
def test_a_run_with_a_vocabulary_of_its_own_names_its_scores_after_the_task(stdlib, tmp_path):
  command = ['train-vocab', '--task=stdlib_docstring', '--split=validation', '--size=600',
             f'--output={tmp_path / "vocab"}']
  assert cli.main(command) == 0
  experiment, text = gin_config.load_experiment(
      ['experiments/tiny_lm_pieces.gin'],
      [*TINY, *EVAL, f"VOCABULARY='{tmp_path / 'vocab.model'}'",
       f"MODEL_DIR='{tmp_path / 'run'}'", 'STEPS=2', 'TARGETS_LENGTH=16'])
  assert set(train.train(experiment, text).metrics) == {
      f'stdlib_lm/{name}' for name in ('loss', 'perplexity', 'bits_per_byte', 'token_accuracy')}


def test_an_empty_file_is_refused(tmp_path):
  empty = tmp_path / 'empty.jsonl'
  empty.write_text('')
  experiment, text = load(gin_of(empty, tmp_path), tmp_path / 'run', 'TARGETS_LENGTH=16')
  with pytest.raises(UserError, match='empty.jsonl'):
    train.train(experiment, text)
  assert not (tmp_path / 'run').exists()
