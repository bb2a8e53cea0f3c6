"""Laws of learning rate and batch size, from sweeps whose optima are known."""

import json
import math

import numpy as np
import pytest

from scaling.fitting import hyperparameter_fit as fits
from scaling.laws import hyperparameters
from t5x_lite import cli
from t5x_lite.core.errors import UserError

NS, DS = (5e7, 2e8, 8e8), (1e9, 8e9, 6.4e10)


def sweep_of(rng=None, noise=0.0, batches=3, scatter=0.0, spacing=1.4, rates=5):
  """Of every N and D, rates and batch sizes about the optimum of Step Law, which the loss obeys."""
  rows = []
  for n in NS:
    for d in DS:
      best = np.log(hyperparameters.step_law(n, d))
      if scatter:
        best = best + scatter * rng.normal(size=2)
      for i in range(rates):
        for j in range(batches):
          x = np.array([i - (rates - 1) / 2 + 0.3, j - (batches - 1) / 2 - 0.2]) * math.log(spacing)
          x[1] = 0.0 if batches == 1 else x[1]
          loss = 2.5 * math.exp(0.02 * x[0] ** 2 + 0.01 * x[1] ** 2 - 0.008 * x[0] * x[1])
          loss *= math.exp(noise * rng.normal()) if noise else 1.0
          rows.append((n, d, *np.exp(best + x), loss))
  columns = np.array(rows).T
  return dict(zip(('parameters', 'tokens', 'learning_rate', 'batch_tokens', 'loss'), columns))


def test_step_law_is_found_again():
  """Exactly: its published exponents and coefficients, of rate and batch size together."""
  law = fits.fit_hyperparameters(sweep_of())
  assert law.rate.coefficient == pytest.approx(1.79, rel=1e-5)
  np.testing.assert_allclose(law.rate.constants[1:], (-0.713, 0.307), atol=1e-7)
  assert law.batch.coefficient == pytest.approx(0.58, rel=1e-4)
  np.testing.assert_allclose(law.batch.constants[1:], (0.0, 0.571), atol=1e-6)
  for n, d in ((7e8, 5e10), (5e7, 1e9), (8e8, 6.4e10)):
    law.check_inside(n, d)
    rule = hyperparameters.step_law(n, d)
    assert law.rate.predict(n, d)[0] == pytest.approx(rule.learning_rate, rel=1e-5)
    assert law.batch.predict(n, d)[0] == pytest.approx(rule.batch_tokens, rel=1e-4)
  assert len(law.cells) == 9 and not law.dropped and law.noise < 1e-9


def test_the_optimum_of_a_cell_is_the_vertex_of_its_parabola():
  """Against numpy.polyfit, for rates alone."""
  sweep = sweep_of(np.random.default_rng(0), 0.001, batches=1)
  law = fits.fit_hyperparameters(sweep)
  assert law.batch is None
  for cell in law.cells:
    here = np.isclose(sweep['parameters'], cell.parameters) & np.isclose(
        sweep['tokens'], cell.tokens)
    c, b, _ = np.polyfit(np.log(sweep['learning_rate'][here]), np.log(sweep['loss'][here]), 2)
    assert cell.optimum == pytest.approx([-b / 2 / c])


@pytest.mark.parametrize('noise, scatter', [(0.0003, 0.0), (0.0003, 0.2)])
def test_intervals_cover_the_truth(noise, scatter):
  """Of 60 sweeps, at 95 %: noise of the loss, and optima that do not follow a law exactly."""
  inside = np.zeros(3)
  for seed in range(60):
    law = fits.fit_hyperparameters(sweep_of(np.random.default_rng(seed), noise, scatter=scatter))
    rule = hyperparameters.step_law(4e8, 3e10)
    for i, (value, low, high) in enumerate((law.rate.predict(4e8, 3e10),
                                            law.batch.predict(4e8, 3e10),
                                            law.rate.exponents()[0])):
      truth = (rule.learning_rate, rule.batch_tokens, -0.713)[i]
      assert low < value < high
      inside[i] += low <= truth <= high
  assert (inside >= 53).all(), inside


def test_cells_without_an_optimum_are_named_and_left_out():
  sweep = sweep_of()
  in_cell = lambda i, j: (sweep['parameters'] == NS[i]) & (sweep['tokens'] == DS[j])
  best = hyperparameters.step_law(NS[0], DS[0])
  outside = in_cell(0, 0) & (sweep['learning_rate'] < best.learning_rate * 1.05)
  sweep['loss'][outside] = np.nan                      # the optimum is beyond those left
  rates = sweep['learning_rate'][in_cell(0, 1)]
  sweep['loss'][in_cell(0, 1)] = 2.5 - 0.0002 * np.log(rates) ** 2
  sweep['loss'][in_cell(0, 2)] = np.nan
  sweep['loss'][np.flatnonzero(in_cell(1, 0))[3:]] = 9.0   # too few within 5 %
  law = fits.fit_hyperparameters(sweep)
  text = '\n'.join(law.dropped)
  assert len(law.cells) == 5
  for part in ('runs without a finite loss', 'N 5e+07, D 1e+09: the optimal rate', 'has no minimum',
               'D 6.4e+10: no run has a finite loss', 'do not identify a quadratic'):
    assert part in text, (part, text)


@pytest.mark.parametrize('n, d, message', [
    (4.9e7, 1e9, '--parameters=4.9e.07: the sweeps found optima for N from 5e.07 to 8e.08'),
    (8.2e8, 1e9, '--parameters=8.2e.08'), (1e8, 9e8, '--tokens=9e.08: .* D from 1e.09 to 6.4e.10'),
    (1e8, 6.5e10, '--tokens=6.5e.10')])
def test_a_recommendation_outside_the_sweeps_is_refused(n, d, message):
  law = fits.fit_hyperparameters(sweep_of())
  with pytest.raises(UserError, match=message):
    law.check_inside(n, d)


def test_sweeps_that_identify_no_law_are_refused():
  whole = sweep_of(np.random.default_rng(0), 0.0003)
  keep = lambda mask: {name: values[mask] for name, values in whole.items()}
  with pytest.raises(UserError, match='3 of 3 cells .* a law needs 4'):
    fits.fit_hyperparameters(keep(whole['parameters'] == NS[0]))
  line = sweep_of(np.random.default_rng(0), 0.0003)
  line['tokens'] = 20 * line['parameters'] * np.where(line['tokens'] == DS[0], 1.0, 1.001)
  with pytest.raises(UserError, match='cells'):
    fits.fit_hyperparameters(line)
  ratio = {name: np.tile(values, 2) for name, values in whole.items()}
  ratio['parameters'] = np.repeat([5e7, 1e8, 2e8, 4e8, 8e8, 1.6e9], 45)
  ratio['tokens'] = 20 * ratio['parameters']
  ratio['learning_rate'] = np.tile(whole['learning_rate'][:15], 18)
  ratio['batch_tokens'] = np.tile(whole['batch_tokens'][:15], 18)
  ratio['loss'] = np.tile(whole['loss'][:15], 18)
  with pytest.raises(UserError, match='on one line of ln N and ln D'):
    fits.fit_hyperparameters(ratio)
  with pytest.raises(UserError, match='none has runs to spare'):
    fits.fit_hyperparameters(sweep_of(np.random.default_rng(0), 1e-4, batches=1, rates=3))


def test_the_command(tmp_path, capsys):
  sweep = sweep_of(np.random.default_rng(0), 0.0003)
  path = tmp_path / 'sweep.csv'
  rows = zip(*sweep.values())
  path.write_text('N;D;lr;batch;val_loss\n' + ''.join(
      ';'.join(map(str, row)) + '\n' for row in rows) + '5e7;1e9;1;1e6;nan\n5e7;1e9;1;1e6;\n')
  assert cli.main(['scaling', 'hyperparameters', str(path)]) == 0
  said = capsys.readouterr().out
  assert '9 cells' in said and 'step_law' in said and 'Left out: 2 runs without' in said
  argv = ['scaling', 'hyperparameters', str(path), '--parameters=4e8', '--tokens=3e10']
  assert cli.main([*argv, '--json']) == 0
  point, = json.loads(capsys.readouterr().out)['points']
  rule = hyperparameters.step_law(4e8, 3e10)
  assert point['learning_rate'][0] == pytest.approx(rule.learning_rate, rel=0.15)
  assert point['published']['step_law']['learning_rate'] == pytest.approx(rule.learning_rate)
  for wrong, message in ((['--tokens=1e15'], '--tokens=1e+15: the sweeps found optima for D'),
                         (['--tokens=-1'], '--tokens=-1: give a number above 0'),
                         (['--level=9'], '--level=9.0')):
    assert cli.main([*argv, *wrong]) == 1
    error = capsys.readouterr().err
    assert error.startswith('error: ') and message in error and error.count('\n') == 1
  assert cli.main(argv[:4]) == 1 and 'pass --parameters and --tokens' in capsys.readouterr().err
  for text, message in (('N,D,lr,loss\n1,2,3,4\n', 'has no column of batch_tokens: name one batch'),
                        ('', 'has no runs'), ('a,b\n1,2\n', 'has no column of parameters'),
                        ('N,D,lr,bs,loss\n1e8,1e9,x,1e5,2\n', "line 2: column 'lr' has 'x'"),
                        ('N,D,lr,bs,loss\n1e8,1e9,-1,1e5,2\n', "line 2: lr is '-1'"),
                        ('N,D,lr,bs,loss\n1e8,1e9,1,1e5,a\n', "line 2: column 'loss' has 'a'"),
                        ('N,D,lr,bs,loss\n1e8,1e9,1,1e5,-2\n', "line 2: loss is '-2'"),
                        ('N,D,lr,bs,loss\n1e8,1e9\n', "line 2: column 'lr' has ''")):
    path.write_text(text)
    assert cli.main(argv[:3]) == 1
    assert message in capsys.readouterr().err
