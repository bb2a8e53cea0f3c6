"""Runs from CSV files and from folders, and the lines that refuse what cannot be right."""

import csv
import io
import json

import numpy as np
import pytest

from scaling.fitting.run_folders import read_curves, read_folders
from scaling.fitting.runs import (
  Runs,
  check_settings,
  check_varied,
  describe_settings,
  read_csv,
)
from t5x_lite.core.errors import UserError
from t5x_lite.cost import accounting
from t5x_lite.experiment import gin_config

GOOD = 'N,D,loss\n1e6,2e8,3.5\n2e6,4e8,3.2\n4e6,8e8,2.9\n'


def write(tmp_path, text):
  path = tmp_path / 'runs.csv'
  path.write_text(text, encoding='utf-8')
  return path


def refusal(function, *args) -> str:
  with pytest.raises(UserError) as caught:
    function(*args)
  assert '\n' not in str(caught.value)
  return str(caught.value)


@pytest.mark.parametrize('header', [
    'parameters,tokens,loss', 'params,D_tokens,val_loss', 'N,D,L', '\ufeffModel Size,tokens,Loss'])
def test_columns_are_known_by_their_usual_names(tmp_path, header):
  runs = read_csv(write(tmp_path, GOOD.replace('N,D,loss', header)))
  np.testing.assert_array_equal(runs.parameters, [1e6, 2e6, 4e6])
  np.testing.assert_array_equal(runs.tokens, [2e8, 4e8, 8e8])
  np.testing.assert_array_equal(runs.loss, [3.5, 3.2, 2.9])
  np.testing.assert_allclose(runs.flops, [1.2e15, 4.8e15, 1.92e16])


def test_two_of_three_give_the_third(tmp_path):
  by_n = read_csv(write(tmp_path, 'Model Size,Training FLOP,loss\n1e6,1.2e15,3\n'))
  assert by_n.tokens[0] == pytest.approx(2e8)
  by_d = read_csv(write(tmp_path, 'tokens,flops,loss\n2e8,1.2e15,3\n'))
  assert by_d.parameters[0] == pytest.approx(1e6)


def test_columns_that_are_named_come_before_those_that_are_known(tmp_path):
  path = write(tmp_path, 'run,N,D,loss,bits\na,1e6,2e8,3.5,4.0\n\nb,2e6,4e8,3.2,3.9\n')
  runs = read_csv(path, {'loss': 'bits'})
  np.testing.assert_array_equal(runs.loss, [4.0, 3.9])
  assert runs.names == ('runs.csv, line 2 (a)', 'runs.csv, line 4 (b)')


@pytest.mark.parametrize('text, parts', [
    ('', ['has no runs']),
    ('N,D,loss\n', ['has no runs']),
    ('N,D,error\n1e6,2e8,3\n', ['no known column of losses', '--columns loss=NAME', "'error'"]),
    ('N,depth,loss\n1e6,2,3\n', ['tokens or flops', '--columns tokens=NAME', "'depth'"]),
    (GOOD.replace('3.2', 'x'), ['line 3', "'loss' has 'x'"]),
    (GOOD.replace(',3.2', ''), ['line 3', "'loss' has ''"]),
    (GOOD.replace('3.2', 'nan'), ['line 3', 'loss is nan']),
    (GOOD.replace('3.2', '-3.2'), ['line 3', 'loss is -3.2']),
    (GOOD.replace('3.2', '0'), ['line 3', 'loss is 0']),
    (GOOD.replace('2e6', 'inf'), ['line 3', 'parameters is inf']),
    ('N,D,loss\n0.4,8,3\n16,300,2\n', ['line 2', '0.4 parameters', 'billions', '4e+08']),
    ('N,D,loss\n4e8,8,3\n16e9,300,2\n', ['line 2', '8 tokens', 'billions', '8e+09']),
    ('N,D,loss\n4e17,8e9,3\n', ['line 2', 'parameters', '1e9 twice', '4e+08']),
    ('N,D,C,loss\n4e8,8e9,2.5e19,3\n', ['line 2', '1.3 times', '6 N D']),
    ('N,D,C,loss\n4e8,8e9,1.4e19,3\n', ['line 2', '0.729 times', '6 N D']),
    ('N,D,C,loss\n4e8,8e9,1.92e10,3\n', ['line 2', 'billions in one column and units']),
    ('N,D,C,loss\n4e8,8e9,1.92e28,3\n', ['line 2', 'billions in one column and units']),
])
def test_bad_files_are_refused_in_one_line(tmp_path, text, parts):
  line = refusal(read_csv, write(tmp_path, text))
  assert 'runs.csv' in line
  for part in parts:
    assert part in line


def test_flops_that_are_off_by_a_quarter_at_most_are_kept(tmp_path):
  runs = read_csv(write(tmp_path, 'N,D,C,loss\n4e8,8e9,2.39e19,3\n4e8,8e9,1.45e19,3\n'))
  np.testing.assert_array_equal(runs.flops, [2.39e19, 1.45e19])


def test_columns_that_are_not_there_are_refused(tmp_path):
  path = write(tmp_path, GOOD)
  assert "'loss'" in refusal(read_csv, path, {'loss': 'los'})
  assert 'choose from parameters' in refusal(read_csv, path, {'width': 'N'})
  assert 'cannot be read' in refusal(read_csv, tmp_path / 'none.csv')


def csv_text(rows, mark):
  file = io.StringIO()
  csv.writer(file, delimiter=mark).writerows(rows)
  return file.getvalue()


@pytest.mark.parametrize('mark', [',', ';', '\t'])
def test_cells_are_separated_as_in_the_header(tmp_path, mark):
  rows = [['run; a, b, c, d; e; f', 'N', 'D', 'loss'], ['a; b, c\td', 1e6, 2e8, 3.5],
          ['', '2e6 ', ' 4e8', 3.2]]
  text = csv_text(rows, mark).replace(rows[0][0], f'"{rows[0][0]}"').replace('""', '"')
  runs = read_csv(write(tmp_path, text), {'name': rows[0][0]})
  np.testing.assert_array_equal(runs.loss, [3.5, 3.2])
  np.testing.assert_array_equal(runs.tokens, [2e8, 4e8])
  assert runs.names == ('runs.csv, line 2 (a; b, c\td)', 'runs.csv, line 3')


@pytest.mark.parametrize('mark, text, parts', [
    (';', '3,5', ["'3,5'", 'decimal point']),
    (',', '3,5', ["'3,5'", 'decimal point']),
    (';', '3,5e0', ["'3,5e0'", 'decimal point']),
    (';', '1.000,5', ['1.000,5', 'not a number']),
    ('\t', '1,000,000.5', ['decimal point', 'thousands'])])
def test_decimal_commas_are_refused(tmp_path, mark, text, parts):
  line = refusal(read_csv, write(tmp_path, csv_text(
      [['N', 'D', 'loss'], [1e6, 2e8, 3.5], [1e6, 2e8, text]], mark)))
  assert 'line 3' in line
  for part in parts:
    assert part in line


def test_a_line_with_more_cells_than_the_header_is_refused(tmp_path):
  assert '4 cells, and the header 3' in refusal(
      read_csv, write(tmp_path, GOOD.replace('3.2', '3,2')))
  assert len(read_csv(write(tmp_path, GOOD.replace('3.2', '3.2,,')))) == 3
  assert "2 columns 'loss'" in refusal(
      read_csv, write(tmp_path, 'N,D,loss,loss\n1e6,2e8,3,2\n'))


def test_unique_tokens_and_epochs_are_read(tmp_path):
  text = 'N,D,loss,U,epochs\n1e6,2e8,3,1e8,2\n1e6,2e8,3,,4\n1e6,2e8,3,5e7,\n1e6,2e8,3,,\n'
  runs = read_csv(write(tmp_path, text))
  np.testing.assert_array_equal(runs.unique_tokens, [1e8, 5e7, 5e7, 2e8])
  np.testing.assert_array_equal(runs.epochs, [2, 4, 4, 1])
  np.testing.assert_array_equal(runs.select(runs.epochs > 2).unique_tokens, [5e7, 5e7])
  # A run that does not finish its data repeats nothing.
  part = read_csv(write(tmp_path, 'N,D,loss,U,epochs\n1e6,2e8,3,8e8,0.25\n1e6,2e8,3,4e8,\n'))
  np.testing.assert_array_equal(part.epochs, [1, 1])


@pytest.mark.parametrize('cells, part', [
    ('1e8,4', '4 epochs of 1e+08 unique tokens are not 2e+08 tokens'), ('0,', 'unique_tokens is 0'),
    (',0', 'epochs is 0'), (',-1', 'epochs is -1'), (',nan', 'epochs is nan'),
    ('x,', "'U' has 'x'"), ('0.1,', 'billions'), (',inf', 'unique_tokens is 0')])
def test_impossible_repeats_are_refused(tmp_path, cells, part):
  line = refusal(read_csv, write(tmp_path, f'N,D,loss,U,epochs\n1e6,2e8,3,{cells}\n'))
  assert part in line and 'line 2' in line


def test_clusters_are_the_sizes_unless_they_are_named(tmp_path):
  runs = read_csv(write(tmp_path, 'N,D,loss,trunk,seed\n1e6,2e8,3,,0\n2e6,2e8,3,,0\n'
                                  '1.001e6,3e8,3,,1\n2e6,3e8,3,t,1\n1e6,3e8,3,t,1\n'))
  assert runs.clusters.tolist() == [0, 1, 0, 2, 2] and runs.seed == ('0', '0', '1', '1', '1')
  assert runs.select(np.array([1, 3])).clusters.tolist() == [0, 1]
  n = np.array([3e6, 1e6, 3e6])
  assert Runs(n, 20 * n, np.full(3, 3.0), 120 * n * n, tuple('abc')).clusters.tolist() == [0, 1, 0]


@pytest.mark.parametrize('n, d, letter', [
    ([1e6, 1e6, 2e6, 2.01e6], [1e8, 2e8, 4e8, 8e8], 'N'),
    ([1e6, 2e6, 4e6, 8e6], [1e8, 1e8, 2e8, 2e8], 'D')])
def test_two_sizes_do_not_identify_a_law(n, d, letter):
  n, d = np.array(n), np.array(d)
  runs = Runs(n, d, np.full(4, 3.0), 6 * n * d, tuple('abcd'))
  assert f'2 different {letter}' in refusal(check_varied, runs)
  check_varied(Runs(d, d * 2, np.full(4, 3.0), 12 * d * d, tuple('abcd')) if len(set(d)) > 2
               else Runs(n, n, np.full(4, 3.0), 6 * n * n, tuple('abcd')))


@pytest.fixture(scope='module')
def config_gin():
  return gin_config.load_experiment(['experiments/tiny_lm.gin'], ["MODEL_DIR = 'runs/x'"])


def folder(tmp_path, config_gin, records, name='run'):
  path = tmp_path / name
  path.mkdir()
  (path / 'config.gin').write_text(config_gin[1])
  (path / 'metrics.jsonl').write_text(''.join(json.dumps(r) + '\n' for r in records))
  return path


def test_a_finished_run_is_read_and_its_evaluations_are_a_curve(tmp_path, config_gin):
  experiment = config_gin[0]
  steps = experiment.train.steps
  path = folder(tmp_path, config_gin, [
      {'step': steps // 2, 'kind': 'eval', 'lm/loss': 3.0, 'lm/accuracy': 0.4},
      {'step': steps, 'kind': 'train', 'loss': 2.0},
      {'step': steps, 'kind': 'eval', 'lm/loss': 2.5, 'lm/accuracy': 0.5}])
  runs = read_folders([path])
  assert runs.loss[0] == 2.5 and runs.names == (str(path),)
  assert runs.parameters[0] == accounting.parameters(experiment.model).total
  assert runs.tokens[0] == steps * experiment.data.batch_size * experiment.data.targets_length
  assert runs.flops[0] == 6 * runs.parameters[0] * runs.tokens[0]
  curve = read_curves([path])
  np.testing.assert_array_equal(curve.loss, [3.0, 2.5])
  np.testing.assert_allclose(curve.tokens, [runs.tokens[0] / 2, runs.tokens[0]])


def test_runs_with_experts_count_active_parameters_and_keep_their_experts(tmp_path, config_gin):
  experiment, text = gin_config.load_experiment(
      ['experiments/tiny_lm.gin'], ["MODEL_DIR = 'runs/x'", 'ModelConfig.num_experts = 4',
                                    'ModelConfig.experts_per_token = 1'])
  records = [{'step': experiment.train.steps, 'kind': 'eval', 'lm/loss': 2.5}]
  paths = [folder(tmp_path, given, records, name)
           for given, name in ((config_gin, 'dense'), ((experiment, text), 'experts'))]
  runs = read_folders(paths)
  sizes = accounting.parameters(experiment.model)
  assert runs.parameters[1] == sizes.active < sizes.total
  assert runs.settings['experts'].tolist() == [1, 4] and runs.settings['top_k'].tolist() == [1, 1]
  assert '--form=experts' in refusal(check_settings, runs)
  assert not read_folders(paths[:1]).settings


def test_settings_are_read_with_their_usual_values_for_blank_cells(tmp_path):
  runs = read_csv(write(tmp_path, 'N,D,loss,bits,num_experts,topk\n1e6,2e8,3.5,8,,\n'
                                  '2e6,4e8,3.2,,16,2\n4e6,8e8,2.9,4,8,1\n'))
  assert runs.settings['weight_bits'].tolist() == [8, 16, 4]
  assert runs.settings['experts'].tolist() == [1, 16, 8]
  assert runs.select([2]).settings['top_k'].tolist() == [1]
  assert 'column weight_bits: the runs have 4 to 16' in refusal(check_settings, runs)
  assert 'no column of kv_bits' in refusal(
      check_settings, runs, ['kv_bits'], ['weight_bits', 'experts', 'top_k'])
  assert describe_settings(runs.select([2])) == [
      'all runs have weight_bits 4: the law is of such models',
      'all runs have experts 8: the law is of such models']
  assert 'weight_bits is -8' in refusal(read_csv, write(
      tmp_path, 'N,D,loss,bits\n1e6,2e8,3.5,-8\n'))


def test_unfinished_runs_are_refused(tmp_path, config_gin):
  steps = config_gin[0].train.steps
  at = lambda step, **values: {'step': step, 'kind': 'eval'} | values
  for name, records, part in (
      ('stopped', [at(steps // 2, **{'lm/loss': 3.0})], f'step {steps // 2} of {steps}'),
      ('blind', [{'step': steps, 'kind': 'train', 'loss': 2.0}], 'no evaluation'),
      ('two', [at(steps, **{'a/loss': 3.0, 'b/loss': 2.0})], 'a/loss, b/loss'),
      ('broken', [at(steps, **{'lm/loss': None})], 'not finite')):
    line = refusal(read_folders, [folder(tmp_path, config_gin, records, name)])
    assert part in line and name in line
  assert 'has no config.gin' in refusal(read_folders, [tmp_path])
