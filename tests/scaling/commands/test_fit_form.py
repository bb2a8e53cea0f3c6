"""`t5x-lite scaling fit --form`: its report, its files, the plan by it, and what it refuses."""

import json

import numpy as np
import pytest

from scaling.forms import saved
from scaling.laws.experts import JOINT
from scaling.laws.laws import DataConstrainedLaw, ParametricLaw, over_training
from scaling.laws.precision import PrecisionLaw
from t5x_lite import cli

LAW = over_training(1.84, 212, 367, 0.136)


def write(path, rows, header='parameters,tokens,loss'):
  path.write_text('\n'.join([header, *(','.join(repr(float(x)) for x in row) for row in rows)]))
  return path


@pytest.fixture
def few(tmp_path):
  """Five runs, with which no law of five parameters is fitted."""
  rng = np.random.default_rng(3)
  rows = [(n, d, LAW.loss(n, d) * np.exp(0.002 * rng.normal())) for n, d in (
      (1e7, 2e8), (1e7, 3.4e9), (8e7, 1.6e9), (1.5e8, 3e9), (4e8, 8e9))]
  return write(tmp_path / 'few.csv', rows)


def run(capsys, *argv):
  status = cli.main(['scaling', 'fit', *map(str, argv)])
  return status, *capsys.readouterr()


def test_five_runs_are_fitted_saved_and_planned_by(capsys, few, tmp_path):
  folder = tmp_path / 'out'
  status, out, err = run(capsys, few, '--form=over_training', '--bootstrap=20', '--budgets=1e20',
                         f'--output={folder}')
  assert status == 0 and 'too few to test' in err and 'outside the runs' in err
  for part in ('L = E + (a M^eta', 'least squares of log loss', 'Gadre', '95 % interval', 'eta',
               'one run', 'Noise', 'too few runs to hold some out', 'residuals.png', 'Plan by it'):
    assert part in out, part
  for name in ('residuals', 'over_training'):
    assert (folder / f'{name}.png').read_bytes().startswith(b'\x89PNG')
  law = saved.load_law(folder)
  assert isinstance(law.form, ParametricLaw) and law.form.alpha == law.form.beta
  assert len(law.bootstrap_samples) == 20 and not any('outside' in line for line in law.warnings)
  status, printed, _ = run(capsys, few, '--form=over_training', '--bootstrap=20', '--budgets=1e20',
                           '--json')
  assert status == 0 and json.loads(printed) == json.loads((folder / 'fit.json').read_text())
  assert cli.main(['scaling', 'plan', '--flops=1e20', f'--fit={folder}', '--json']) == 0
  plan = json.loads(capsys.readouterr().out)
  low, high = plan['predictions']['fit']['loss_interval']
  assert plan['law'] == 'fit' and low < plan['predictions']['fit']['loss'] < high


def test_runs_that_repeat_tokens_are_fitted_with_the_form_that_the_refusal_names(
    capsys, tmp_path, data_constrained_optimum):
  truth = DataConstrainedLaw(1.87, 521.0, 0.353, 1488.0, 0.353, 15.0, 5.0)
  rng = np.random.default_rng(0)
  rows = [(n, u * r, truth.data_constrained_loss(n, u * r, u) * np.exp(0.002 * rng.normal()), u)
          for n in (5e7, 2e8, 8e8) for u in (1e8, 2e9) for r in (1, 4, 30, 200)]
  path = write(tmp_path / 'runs.csv', rows, 'parameters,tokens,loss,unique_tokens')
  status, out, err = run(capsys, path)
  assert status == 1 and '--form=repeats' in err
  folder = tmp_path / 'fit'
  status, out, err = run(capsys, path, '--form=repeats', '--bootstrap=20', f'--output={folder}')
  assert status == 0 and 'r_tokens' in out and '(profile)' in out
  assert (folder / 'repeats.png').exists()
  law = saved.load_law(folder)
  assert isinstance(law.form, DataConstrainedLaw)
  assert law.form.r_tokens == pytest.approx(15, rel=0.3)
  flags = ['--flops=1e20', f'--fit={folder}', '--unique_tokens=2e8', '--json']
  assert cli.main(['scaling', 'plan', *flags]) == 0
  plan = json.loads(capsys.readouterr().out)
  want, _ = data_constrained_optimum(law.form, 1e20, 2e8)
  assert plan['predictions']['fit']['parameters'] == pytest.approx(want, rel=1e-3)


def test_a_column_on_which_a_law_does_not_depend_is_not_ignored(capsys, few, tmp_path):
  lines = few.read_text().splitlines()
  bits = '\n'.join([lines[0] + ',weight_bits', *(f'{line},{16 - 4 * (i % 2)}'
                                                 for i, line in enumerate(lines[1:]))])
  path = tmp_path / 'bits.csv'
  path.write_text(bits)
  for flags in (['--form=over_training'], ['--approach=2'], []):
    status, _, err = run(capsys, path, *flags)
    assert status == 1 and 'weight_bits' in err and '--form=precision' in err
  path.write_text(bits.replace(',16', ',8').replace(',12', ',8'))   # the same in all runs
  assert run(capsys, path, '--form=over_training', '--bootstrap=20')[0] == 0


@pytest.mark.parametrize('flags, message', [
    (['--form=chinchilla'], 'choose from over_training, repeats, experts, precision'),
    (['--form=over_training', '--approach=2'], '--approach does not apply to --form'),
    (['--form=over_training', '--loss=lad'], '--loss=lad does not apply to --form'),
    (['--form=over_training', '--drop_outliers'], 'does not apply to --form'),
    (['--form=repeats'], '5 runs do not identify 6 parameters'),
    (['--loss=linear'], 'applies to --form'),
    (['--form=over_training', '--bootstrap=5'], 'give 20 or more')])
def test_refusals(capsys, few, flags, message):
  status, out, err = run(capsys, few, *flags)
  assert status == 1 and out == '' and err.count('\n') == 1 and message in err


def test_a_fit_of_an_unknown_kind_is_refused(capsys, few, tmp_path):
  (tmp_path / 'fit.json').write_text('{"form": "other", "kind": "Other"}')
  assert cli.main(['scaling', 'plan', '--flops=1e20', f'--fit={tmp_path}']) == 1
  assert 'is not a fit (KeyError' in capsys.readouterr().err


@pytest.mark.slow
def test_a_fit_of_models_with_experts_plans_them(capsys, tmp_path):
  rng = np.random.default_rng(0)
  rows = []
  for experts in (1, 4, 16):
    form = JOINT.at(experts)
    for flops in (1e18, 4e18, 1.6e19):
      best, _ = form.optimum(flops)
      rows += [(best * f, d := flops / 6 / best / f, form.loss(best * f, d) * np.exp(
          0.001 * rng.normal()), experts) for f in (0.4, 1, 2.5)]
  path = write(tmp_path / 'runs.csv', rows, 'N,D,loss,num_experts')
  status, _, err = run(capsys, path)
  assert status == 1 and '--form=experts' in err
  folder = tmp_path / 'fit'
  status, out, _ = run(capsys, path, '--form=experts', '--bootstrap=20', '--loss=linear',
                       f'--output={folder}')
  assert (folder / 'experts.png').exists()
  assert status == 0 and 'compute gain' in out and 'with 16 times as many experts' in out
  plan = ['scaling', 'plan', '--flops=1e20', f'--fit={folder}', '--json']
  sizes = {}
  for flags in ([], ['--experts=16', '--top_k=2']):
    assert cli.main([*plan, *flags]) == 0
    sizes[len(flags)] = json.loads(capsys.readouterr().out)['predictions']['fit']['parameters']
  assert sizes[0] == pytest.approx(JOINT.at(1).optimum(1e20)[0], rel=0.15)
  assert cli.main([*plan, '--experts=64', '--top_k=1']) == 0
  warnings = json.loads(capsys.readouterr().out)['warnings']
  assert any('64 times as many experts' in line and '(1 to 16)' in line for line in warnings)
  assert sizes[2] == pytest.approx(JOINT.at(8).optimum(1e20)[0], rel=0.15)


def test_a_fit_of_bits_names_the_optimum_and_plans_in_sixteen(capsys, tmp_path):
  law = PrecisionLaw(1.9, 400.0, 0.34, 410.0, 0.28, weight_gamma=2.6, weight_offset=0.3)
  rng = np.random.default_rng(0)
  rows = [(n, d, law.loss(n, d, weight=bits) * np.exp(0.001 * rng.normal()), bits)
          for n in (3e7, 1e8, 3e8) for d in (1e9, 4e9, 1.6e10) for bits in (3, 4, 6, 16)]
  path = write(tmp_path / 'runs.csv', rows, 'N,D,loss,bits')
  folder = tmp_path / 'fit'
  status, out, err = run(capsys, path, '--form=precision', '--bootstrap=20', f'--output={folder}')
  assert status == 0 and 'optimal bits' in out and 'in 16 bits' in out and 'optimal bits' in err
  assert (folder / 'precision.png').exists()
  form = saved.load_law(folder).form
  assert form.loss(1e9, 2e10) == pytest.approx(law.at(16).loss(1e9, 2e10), rel=0.02)
