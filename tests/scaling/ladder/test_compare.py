"""Two recipes compared: exact values without noise, and coverage with it."""

import dataclasses
import json
import math

import numpy as np
import pytest

from scaling.fitting import parametric
from scaling.fitting.runs import Runs
from scaling.ladder import compare, design
from scaling.ladder.advice import Recipe
from scaling.laws.laws import LAWS
from t5x_lite import cli

LAW = LAWS['besiroglu'].form
# The same with 1.3 times the compute: N and D count for sqrt(1.3) of themselves.
BETTER = dataclasses.replace(LAW, a=LAW.a * 1.3 ** (-LAW.alpha / 2),
                             b=LAW.b * 1.3 ** (-LAW.beta / 2))
LOWER = dataclasses.replace(LAW, e=LAW.e - 0.1)


def recipe_of(law, noise=0.0, rng=None, largest=1e21, shared=0.0, **shape):
  shape = design.Shape(largest=largest, **shape)
  n = np.array([shape.grid_size(LAW, i) for i, _ in shape.cells(LAW)])
  d = np.array([flops for _, flops in shape.cells(LAW)]) / 6 / n
  log_loss = np.log(law.loss(n, d))
  clusters = np.unique(np.round(np.log(n), 2), return_inverse=True)[1]
  if rng is not None:
    log_loss = log_loss + noise * rng.normal(size=n.size) + shared * rng.normal(
        size=clusters.max() + 1)[clusters]
  runs = Runs(n, d, np.exp(log_loss), 6 * n * d, tuple(map(str, range(n.size))))
  start = np.array([[math.log(law.a), math.log(law.b), math.log(law.e), law.alpha, law.beta]])
  fit = parametric.fit_unchecked(runs, starts=start)
  return Recipe(None, runs, fit)


def test_without_noise_the_comparison_is_that_of_the_laws():
  """The multiplier by bisection: ParametricLaw.flops_for."""
  for law in (BETTER, LOWER):
    found = compare.compare_recipes([recipe_of(LAW), recipe_of(law)], 1e23)
    for row in found.rows[:3]:   # own asymptotes
      loss = law.loss(*law.optimum(row.flops))
      assert row.difference[0] == pytest.approx(loss - LAW.loss(*LAW.optimum(row.flops)), abs=1e-6)
      assert row.multiplier[0] == pytest.approx(LAW.flops_for(loss) / row.flops, rel=1e-4)
    assert found.advice is None and found.asymptotes == pytest.approx((LAW.e, law.e), rel=1e-5)
  one = compare.compare_recipes([recipe_of(LAW), recipe_of(BETTER)], 1e23).rows[3:]
  assert all(row.multiplier[0] == pytest.approx(1.3, rel=1e-3) for row in one)


def test_a_loss_that_the_other_never_reaches_has_no_multiplier(capsys):
  found = compare.compare_recipes(
      [recipe_of(LAW), recipe_of(dataclasses.replace(LAW, e=1.0))], 1e24)
  assert found.rows[2].multiplier[0] == math.inf and found.same_asymptote < 0.05
  text = compare.format_comparison(found, ['a', 'b'])
  assert 'x never' in text and 'they differ' in text and 'B is better' in text


@pytest.mark.parametrize('own, shared', [(0.003, 0.0), (0.001, 0.003)])
def test_intervals_cover_the_truth(own, shared):
  """Of 30 pairs, at 95 %: 26 to 30, of the difference and of the multiplier, with E's alike."""
  inside = np.zeros((2, 2))
  truth = BETTER.loss(*BETTER.optimum(1e23)) - LAW.loss(*LAW.optimum(1e23))
  same = 0
  for seed in range(30):
    rng = np.random.default_rng(seed)
    found = compare.compare_recipes(
        [recipe_of(law, own, rng, shared=shared) for law in (LAW, BETTER)], 1e23)
    same += found.same_asymptote > 0.05
    for i, row in enumerate((found.rows[2], found.rows[5])):
      inside[i] += (row.difference[1] <= truth <= row.difference[2],
                    row.multiplier[1] <= 1.3 <= row.multiplier[2])
  assert (inside >= 26).all() and same >= 26


def test_one_asymptote_tells_more():
  rng = np.random.default_rng(1)
  found = compare.compare_recipes([recipe_of(law, 0.003, rng) for law in (LAW, BETTER)], 1e23)
  width = lambda row: row.multiplier[2] / row.multiplier[1]
  assert width(found.rows[5]) < 0.8 * width(found.rows[2])


def test_what_would_settle_it_is_said():
  rng = np.random.default_rng(0)
  slightly = dataclasses.replace(LAW, a=LAW.a * 0.99)
  found = compare.compare_recipes(
      [recipe_of(law, 0.003, rng, budgets=5) for law in (LAW, slightly)], 1e23)
  row = found.rows[2]
  assert row.difference[1] < 0 < row.difference[2]
  text = compare.format_comparison(found, ['a', 'b'])
  assert ' more runs of ' in text or 'nor by 100 more runs' in text
  assert {run['recipe'] for run in found.advice.runs} <= {0, 1}


def test_the_command(tmp_path, capsys, fewer_starts):
  rng, paths = np.random.default_rng(0), []
  for name, law in (('a', LAW), ('b', BETTER)):
    runs = recipe_of(law, 0.003, rng).runs
    path = tmp_path / f'{name}.csv'
    path.write_text('N,D,loss\n' + ''.join(
        f'{n},{d},{x}\n' for n, d, x in zip(runs.parameters, runs.tokens, runs.loss)))
    paths.append(str(path))
  assert cli.main(['scaling', 'compare', *paths, '--target=1e23']) == 0
  said = capsys.readouterr().out
  assert paths[0] in said and 'effective compute' in said and 'Asymptotes: E of A 1.8' in said
  assert cli.main(['scaling', 'compare', *paths, '--target=1e23', '--json']) == 0
  rows = json.loads(capsys.readouterr().out)['rows']
  assert [row['asymptote'] for row in rows] == ['own'] * 3 + ['one'] * 3
  for argv, message in ((paths, 'names no target: pass --target=FLOPS'),
                        ([*paths, '--target=1e20'], '--target=1e+20: give at least the FLOPs'),
                        ([*paths, '--target=nan'], "'nan': expected a number"),
                        ([*paths, '--target=1e23', '--level=2'], '--level=2.0: give a number'),
                        ([paths[0], 'nowhere.csv', '--target=1e23'], 'nowhere.csv')):
    assert cli.main(['scaling', 'compare', *argv]) == 1
    error = capsys.readouterr().err
    assert error.startswith('error: ') and message in error and error.count('\n') == 1
