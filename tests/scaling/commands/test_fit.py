"""`t5x-lite scaling fit`: its report, its files, and what it refuses."""

import json

import numpy as np
import pytest

from scaling.commands import fit as command
from scaling.fitting import parametric
from scaling.laws import intervals, laws
from t5x_lite import cli

LAW = laws.LAWS['besiroglu'].form


@pytest.fixture(scope='module')
def csv(tmp_path_factory):
  """A ladder of 16 runs of a known law with 0.2 % of noise."""
  rng = np.random.default_rng(0)
  lines = ['run,N,D,val']
  for budget in np.geomspace(1e18, 6.4e19, 4):
    best, _ = LAW.optimum(budget)
    for factor in (0.25, 0.63, 1.6, 4):
      n, d = best * factor, budget / 6 / best / factor
      lines.append(f'r{len(lines)},{n!r},{d!r},{LAW.loss(n, d) * np.exp(0.002 * rng.normal())!r}'
                   .replace('np.float64(', '').replace(')', ''))
  path = tmp_path_factory.mktemp('fit') / 'runs.csv'
  path.write_text('\n'.join(lines))
  return path


@pytest.fixture(autouse=True)
def fewer_starts(monkeypatch):
  """All 4,500 take seconds that no test here needs."""
  starts = parametric.solver.standard_starts()[::70]
  monkeypatch.setattr(parametric.solver, 'standard_starts', lambda: starts)


def run(capsys, *argv):
  status = cli.main(['scaling', 'fit', *map(str, argv)])
  out, err = capsys.readouterr()
  return status, out, err


def refused(capsys, *argv) -> str:
  status, out, err = run(capsys, *argv)
  assert status == 1 and out == '' and err.count('\n') == 1 and err.startswith('error: ')
  return err


def test_the_report_and_its_files(capsys, csv, tmp_path):
  folder = tmp_path / 'out'
  argv = (csv, '--columns', 'loss=val', '--bootstrap=60', '--budgets=6.4e19,6.4e20')
  status, out, err = run(capsys, *argv, f'--output={folder}')
  assert status == 0
  assert err == 'warning: 6.4e+20 FLOPs are a factor of 10 outside the runs (1e+18 to 6.4e+19)\n'
  for part in ('Huber loss', '95 % interval', 'Compute overhead', 'Held out', 'Outliers',
               'variable projection', 'least absolute deviations', 'Conditioning',
               'plus simulated noise', 'Misfit: p', 'x 10'):
    assert part in out, part
  names = ('residuals', 'isoflop', 'surface', 'frontier', 'compute_overhead')
  written = ', '.join(['fit.json', *(f'{name}.png' for name in names)])
  assert out.endswith(f'{folder}: {written}\nPlan by it: t5x-lite scaling plan --fit={folder} '
                      '--flops=FLOPS\n')
  for name in names:
    assert (folder / f'{name}.png').read_bytes().startswith(b'\x89PNG')
  status, printed, _ = run(capsys, *argv, '--json')
  report = json.loads(printed)
  assert report == json.loads((folder / 'fit.json').read_text())
  assert report['law']['alpha'] == pytest.approx(LAW.alpha, abs=0.05)
  budget = report['budgets'][1]
  value, low, high = budget['parameters']
  assert low < value < high and budget['extrapolation'] == pytest.approx(10)
  overhead = budget['compute_overhead']
  assert overhead['1.0'] == pytest.approx(1) and overhead['4.0'] > 1.2
  assert budget['one_run'][0] < budget['loss'][1] < budget['loss'][2] < budget['one_run'][1]
  loaded = parametric.load_law(folder)
  assert loaded.form == laws.ParametricLaw(**report['law'])
  assert loaded.fitted == pytest.approx((1e18, 6.4e19)) and len(loaded.bootstrap_samples) == 60
  assert loaded.extrapolation(6.4e20) == pytest.approx(10)


def test_the_same_seed_gives_the_same_report(capsys, csv):
  reports = [run(capsys, csv, '--columns=loss=val', '--bootstrap=20', f'--seed={seed}')[1]
             for seed in (1, 1, 2)]
  assert reports[0] == reports[1] != reports[2]


def test_a_spoilt_rung_is_an_outlier_and_may_be_dropped(capsys, csv, tmp_path):
  lines = csv.read_text().splitlines()
  first, last = lines[6].rsplit(',', 1)
  lines[6] = f'{first},{float(last) + 0.5}'
  path = tmp_path / 'spoilt.csv'
  path.write_text('\n'.join(lines))
  reports = []
  for flags in ((), ('--drop_outliers',)):
    argv = (path, '--columns=loss=val', '--bootstrap=20', '--json', *flags)
    reports.append(json.loads(run(capsys, *argv)[1]))
  for report, count in zip(reports, (16, 15)):
    assert 'spoilt.csv, line 7 (r6)' in [outlier['name'] for outlier in report['outliers']]
    assert report['runs'] <= count
  clean = reports[1]['law']
  assert reports[0]['without_outliers']['alpha'] == pytest.approx(clean['alpha'], rel=1e-4)
  assert reports[1]['without_outliers'] is None


def strict(text):
  def refuse(constant):
    raise AssertionError(constant)
  return json.loads(text, parse_constant=refuse)


@pytest.mark.parametrize('approach', ['--approach=3', '--approach=2'])
def test_json_is_strict_and_has_the_doubts(capsys, csv, tmp_path, approach):
  status, out, _ = run(capsys, csv, '--columns=loss=val', '--bootstrap=20', '--json', approach,
                       '--budgets=1e30', f'--output={tmp_path}')
  assert status == 0 and strict(out) == strict((tmp_path / 'fit.json').read_text())
  if approach == '--approach=3':
    report = strict(out)
    assert 'refits to the law plus simulated noise' in report['resampling']
    assert report['warnings'] == [] and report['misfit']['p'] > 0.02


def test_outliers_are_a_warning_on_the_command_line_and_in_the_file(capsys, csv, tmp_path):
  lines = csv.read_text().splitlines()
  first, last = lines[6].rsplit(',', 1)
  lines[6] = f'{first},{float(last) + 0.5}'
  path = tmp_path / 'spoilt.csv'
  path.write_text('\n'.join(lines))
  for flags, part in (((), '1 outlier among the 16 runs: spoilt.csv, line 7 (r6)'),
                      (('--drop_outliers',), '1 outlier left out of the fit')):
    status, _, err = run(capsys, path, '--columns=loss=val', '--bootstrap=20', *flags,
                         f'--output={tmp_path}')
    assert status == 0 and f'warning: {part}' in err
    assert part in parametric.load_law(tmp_path).warnings[0]
    assert cli.main(['scaling', 'plan', '--flops=1e20', f'--fit={tmp_path}']) == 0
    assert f'warning: fit: {part}' in capsys.readouterr().out


def test_an_allocation_of_ones_own_serves_plan_and_budget(capsys, csv, tmp_path):
  run(capsys, csv, '--columns=loss=val', '--approach=2', '--bootstrap=20', f'--output={tmp_path}')
  for argv in (['plan', '--flops=1e20'], ['budget', 'llama_7b', '--tokens=1e9']):
    assert cli.main(['scaling', *argv, f'--fit={tmp_path}']) == 0, argv
    assert 'fit' in capsys.readouterr().out


def test_repeated_data_are_refused(capsys, csv, tmp_path):
  lines = csv.read_text().splitlines()
  path = tmp_path / 'repeats.csv'
  path.write_text('\n'.join(f'{line},{extra}' for line, extra in zip(
      lines, ['epochs', *(['1'] * 10), *(['4'] * 6)])))
  for approach in (2, 3):
    assert '6 of 16 runs repeat tokens' in refused(
        capsys, path, '--columns=loss=val', f'--approach={approach}')


def test_flags_of_another_approach_are_refused(capsys, csv):
  for flag in ('--loss=lad', '--drop_outliers', '--resample=runs'):
    assert 'applies to approach 3' in refused(capsys, csv, '--columns=loss=val', '--approach=2',
                                              flag)


def test_drop_highest(capsys, csv):
  report = json.loads(run(capsys, csv, '--columns=loss=val', '--bootstrap=20', '--json',
                          '--drop_highest=3')[1])
  assert report['runs'] == 13
  assert 'leaves none of 16' in refused(capsys, csv, '--columns=loss=val', '--drop_highest=16')


def test_parabolas(capsys, csv, tmp_path):
  status, out, _ = run(capsys, csv, '--columns=loss=val', '--approach=2', '--bootstrap=40',
                       f'--output={tmp_path}')
  assert status == 0 and 'approach 2' in out and 'Exponent of N' in out
  loaded = parametric.load_law(tmp_path)
  assert loaded.form.exponent == pytest.approx(0.51, abs=0.06)
  for flops in (1e18, 8e18, 6.4e19, 1e22):   # 8e18 is the middle, where no interval is empty
    n = loaded.form.optimum(flops)[0]
    (low, high), none = intervals.bootstrap_intervals(
        loaded, lambda form: (form.optimum(flops)[0], None))
    assert low < 0.99 * n and 1.01 * n < high and none is None
  assert (tmp_path / 'isoflop.png').read_bytes().startswith(b'\x89PNG')


def test_the_envelope_of_curves_of_each_size(capsys, tmp_path):
  path = tmp_path / 'curves.csv'
  lines = ['N,D,loss']
  for n in np.geomspace(5e7, 5e9, 9):
    lines += [f'{n:.9g},{n * ratio:.9g},{LAW.loss(n, n * ratio):.9g}'
              for ratio in np.geomspace(1, 400, 30)]
  path.write_text('\n'.join(lines))
  report = json.loads(run(capsys, path, '--approach=1', '--bootstrap=30', '--json')[1])
  assert report['law']['exponent'] == pytest.approx(0.5126, abs=0.05)


def test_mistakes_are_reported_in_one_line(capsys, csv, tmp_path):
  known = '--columns=loss=val'
  assert '--columns loss=NAME' in refused(capsys, csv)
  assert 'expected QUANTITY=NAME' in refused(capsys, csv, '--columns=val')
  assert 'between 0 and 1' in refused(capsys, csv, known, '--level=95')
  assert '--seed=-1: give a whole number' in refused(capsys, csv, known, '--seed=-1')
  assert '20 or more' in refused(capsys, csv, known, '--bootstrap=1')
  for budgets in ('x', '1e21,-1', 'nan', '1e21,,', 'inf'):
    assert 'give FLOPs' in refused(capsys, csv, known, f'--budgets={budgets}')
  assert 'cannot be read' in refused(capsys, tmp_path / 'none.csv')
  assert '2 paths' in refused(capsys, csv, csv)
  assert 'has no config.gin' in refused(capsys, tmp_path)
  assert 'leave it out' in refused(capsys, tmp_path, known)
  path = tmp_path / 'one.csv'
  path.write_text('N,D,loss\n' + ''.join(f'1e8,{k}e9,{4 - k / 9}\n' for k in range(1, 9)))
  assert '1 different N' in refused(capsys, path)


def test_the_ladder_of_the_package_is_read_if_no_runs_are_given(capsys, csv, monkeypatch, tmp_path):
  default = tmp_path / 'ladder.csv'
  default.write_text(csv.read_text().replace('val', 'loss'))
  monkeypatch.setattr(command, 'DATA', default)
  status, out, _ = run(capsys, '--bootstrap=20')
  assert status == 0 and '16 runs' in out


def test_what_is_no_fit_is_not_loaded(tmp_path):
  (tmp_path / 'fit.json').write_text('{"law": 3}')
  for path, message in ((tmp_path, 'is not a fit'),
                        (tmp_path / 'none.json', 'No such file or directory: write a fit')):
    with pytest.raises(Exception, match=message) as caught:
      parametric.load_law(path)
    assert '\n' not in str(caught.value)
