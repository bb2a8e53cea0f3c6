"""`t5x-lite evaluate`: results, going on from answers, and what it refuses."""

import json

import pytest

from t5x_lite import cli
from t5x_lite.evaluation.results import read_items, read_result

GIN = """from __gin__ import dynamic_registration
from t5x_lite import models
from tasks import files
include 'experiments/tiny_lm.gin'
TASK = @files.FileTask()
files.FileTask.train = '{folder}/text.txt'
files.FileTask.objective = 'lm'
files.FileTask.targets = 'text'
TARGETS_LENGTH = 64
BATCH_SIZE = 8
STEPS = 1
models.ModelConfig.num_layers = 1
models.ModelConfig.scan_layers = True
models.ModelConfig.embed_dim = 16
models.ModelConfig.mlp_dim = 32
models.ModelConfig.num_heads = 2
"""


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  """A run of one step, and data sets of four rows."""
  folder = tmp_path_factory.mktemp('evaluate')
  (folder / 'text.txt').write_text('a line of text to read\n' * 40)
  (folder / 'run.gin').write_text(GIN.format(folder=folder))
  assert cli.main(['train', f'--gin_file={folder / "run.gin"}', '--gin.SEED=0',
                   f'--gin.MODEL_DIR={folder / "run"}']) == 0
  rows = [{'question': f'What is {n}?', 'choices': [f'one {n}', 'two', 'a third'], 'gold': n % 3}
          for n in range(4)]
  for split in ('train', 'test'):
    (folder / f'arc_easy_{split}.jsonl').write_text(
        ''.join(json.dumps(row) + '\n' for row in rows))
  return folder


def evaluate(folder, *flags, task='arc_easy'):
  return cli.main(['evaluate', str(folder / 'run'), f'--tasks={task}', f'--data={folder}',
                   '--batch_size=8', *flags])


def test_a_result_is_printed_and_kept_and_goes_on(folder, capsys):
  assert evaluate(folder, '--shots=2') == 0
  out = capsys.readouterr().out
  assert 'arc_easy, 2 shots, 4 documents' in out and '* acc_norm' in out
  assert 'context: 64' in out
  path = folder / 'run/evaluations/arc_easy-2shot-1.json'
  result, items = read_result(path), read_items(path)
  assert (result.number, result.step, result.headline) == (4, 1, 'acc_norm')
  assert [len(item['logprobs']) for item in items] == [3] * 4
  # The answers are there: nothing is computed, and a line that was cut off is computed again.
  answers = folder / 'run/evaluations/answers-1.jsonl'
  before = answers.read_text()
  assert len(before.splitlines()) == 12
  answers.write_text(before[:-20])
  assert evaluate(folder, '--shots=2') == 0
  assert 'its last line was cut off' in capsys.readouterr().err
  assert [json.loads(x)[0] for x in answers.read_text().splitlines()] == [
      json.loads(x)[0] for x in before.splitlines()]
  assert [item['logprobs'] for item in read_items(path)] == [
      pytest.approx(item['logprobs'], abs=1e-5) for item in items]


def test_json_and_a_limit(folder, capsys):
  assert evaluate(folder, '--limit=2', '--json', '--fresh', '--separate') == 0
  result, = json.loads(capsys.readouterr().out)
  assert result['number'] == 2 and 'the first 2 documents' in result['conventions']['limit']


@pytest.mark.parametrize('flags, message', [
    (['--shots=-1'], '--shots=-1: give 0 or more'),
    (['--batch_size=0'], '--batch_size=0: give 1 or more'),
    (['--limit=0'], '--limit=0: give 1 or more'),
    (['--shots=5'], '5 solved examples are asked for, and train has 4'),
    (['--max_length=4'], 'is longer than the 4 that the model reads')])
def test_what_is_out_of_range(folder, flags, message, capsys):
  assert evaluate(folder, *flags) == 1
  error = capsys.readouterr().err.strip().splitlines()[-1]
  assert error.startswith('error: ') and message in error


@pytest.mark.parametrize('task, message', [
    ('', '--tasks is empty: name some'), ('arc_esay', "did you mean 'arc_easy'"),
    ('mmlu', 'has no mmlu_test.jsonl'),
    ('truthfulqa_mc1', 'has no truthfulqa_mc_v0_validation.jsonl')])
def test_tasks_that_there_are_not(folder, task, message, capsys):
  assert evaluate(folder, task=task) == 1
  assert message in capsys.readouterr().err


def test_folders_that_are_no_runs(folder, capsys):
  assert cli.main(['evaluate', str(folder), '--tasks=arc_easy', f'--data={folder}']) == 1
  assert 'is no run' in capsys.readouterr().err
  assert cli.main(['evaluate', str(folder / 'run'), '--tasks=arc_easy', '--data=nowhere']) == 1
  assert '--data=nowhere is no folder' in capsys.readouterr().err


def test_tasks_are_written_and_scored_after_one_another(folder, capsys):
  row = {'title': 'T', 'context': 'Rain fell.', 'question': 'What?', 'answers': {'text': ['Rain']}}
  pair = {'translation': {'de': 'Nein.', 'en': 'No.'}}
  for name, rows in (('squad_validation', [row]), ('wmt16_de-en_test', [pair, pair])):
    (folder / f'{name}.jsonl').write_text(''.join(json.dumps(x) + '\n' for x in rows))
  assert evaluate(folder, '--max_length=300', '--shots=0', task='squad,wmt16-en-de,arc_easy') == 0
  out = capsys.readouterr().out
  assert evaluate(folder, '--max_length=200', '--shots=0', task='arc_easy,squad') == 1
  refused = capsys.readouterr()   # before anything is scored
  assert not refused.out and 'error: squad: 256 new tokens leave no room' in refused.err
  assert 'squad, 0 shots, 1 documents' in out and '* f1' in out
  assert '* bleu' in out and 'bleu: nrefs:1|case:mixed|eff:no|tok:13a' in out
  assert 'arc_easy, 0 shots, 4 documents' in out   # by the parameters that wrote before


SUITES = """from t5x_lite.evaluation.suites import in_training
include 'runs/suites.gin'
SUITES_DATA = '{folder}'
in_training.SuiteEval.also = None
in_training.SuiteEval.tasks = ('arc_easy', 'core')
in_training.SuiteEval.shots = 1
in_training.SuiteEval.num_examples = 3
in_training.SuiteEval.batch_size = 8
"""


def test_a_run_is_scored_while_it_trains(folder, tmp_path, capsys):
  file = tmp_path / 'suites.gin'
  file.write_text(GIN.format(folder=folder) + SUITES.format(folder=folder))
  assert cli.main(['train', f'--gin_file={file}', '--gin.SEED=0', '--gin.STEPS=2',
                   '--gin.TrainConfig.eval_every=1', f'--gin.MODEL_DIR={tmp_path / "run"}']) == 0
  records = [json.loads(x) for x in (tmp_path / 'run/metrics.jsonl').read_text().splitlines()]
  first, second = [r for r in records if r['kind'] == 'eval']
  assert first['step'] == 1 and second['step'] == 2
  assert {0, 1 / 3, 2 / 3, 1} >= {first['arc_easy/acc_norm'], second['arc_easy/acc_norm']}
  assert first['suites/core_mean'] == first['core_arc_easy/centred']   # of which there is a file
  assert 0 < second['suites/share'] < 1 and second['suites/seconds'] < first['suites/seconds']
  capsys.readouterr()
  assert cli.main(['eval', f'--gin_file={tmp_path / "run/config.gin"}', '--json']) == 0
  again = json.loads(capsys.readouterr().out)
  assert again['arc_easy/acc'] == second['arc_easy/acc']   # of the same documents


@pytest.mark.parametrize('binding, message', [
    ("tasks=('arc_esay',)", "did you mean 'arc_easy'?"), ("tasks='arc_easy'", 'names of tasks'),
    ("data='nowhere'", 'nowhere is no folder')])
def test_settings_of_suites(folder, tmp_path, binding, message, capsys):
  file = tmp_path / 'suites.gin'
  file.write_text(GIN.format(folder=folder) + SUITES.format(folder=folder))
  assert cli.main(['train', f'--gin_file={file}', '--gin.SEED=0', f'--gin.SuiteEval.{binding}',
                   f'--gin.MODEL_DIR={tmp_path / "run"}']) == 1
  error = capsys.readouterr().err.strip().splitlines()[-1]
  assert error.startswith('error: ') and message in error
