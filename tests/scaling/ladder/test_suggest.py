"""Which runs next: the choice of each, and what sequences of choices cost beside the default."""

import json
import math

import numpy as np
import pytest
from scipy import optimize

from scaling.ladder import design, information, launch, manifest, suggest
from scaling.ladder.information import Noise
from scaling.ladder.suggest import Candidate, Knowledge
from scaling.laws.laws import LAWS, ParametricLaw
from t5x_lite import cli
from t5x_lite.training.run_folder import RunFolder

LAW = LAWS['besiroglu'].form
TARGET = 1e23


def default_runs(law, largest):
  shape = design.Shape(largest=largest)
  return [Candidate(n, c / 6 / n) for i, c in shape.cells(law) for n in [shape.grid_size(law, i)]]


def columns(runs):
  return np.array([(run.parameters, run.tokens) for run in runs]).T


@pytest.mark.parametrize('noise', [Noise(0.003), Noise(0.001, 0.004)])
def test_what_is_known_is_the_information_of_the_runs_and_a_weak_prior(noise):
  """Sums over sizes, updated run by run, against one covariance of all runs."""
  runs = default_runs(LAW, 1e21)
  n, d = columns(runs)
  gradient = information.size_gradient(LAW, TARGET)
  found = information.information(LAW, n, d, np.round(np.log(n) / 0.01), noise)
  known = Knowledge(LAW, noise, gradient, n, d)
  middle = np.eye(5)
  middle[0, 3], middle[1, 4] = np.log(n).mean(), np.log(d).mean()
  prior = np.linalg.inv(middle @ np.diag(suggest.PRIOR ** 2) @ middle.T)
  assert known.variance() == pytest.approx(
      float(gradient @ np.linalg.solve(found + prior, gradient)), rel=1e-6)
  assert known.variance() == pytest.approx(information.variance(found, gradient), rel=0.2)
  extra = [Candidate(n[0], d[0] * 3), Candidate(2e9, 3e9)]
  after = known.variances_with(extra, known.rows(extra))
  for run, value in zip(extra, after):
    other = Knowledge(LAW, noise, gradient, n, d)
    other.add(run)
    assert other.variance() == pytest.approx(value) and value < known.variance()


def test_each_choice_is_the_best_of_all_for_its_flops():
  """Against every candidate, tried one by one."""
  runs = default_runs(LAW, 1e19)
  grid = suggest.candidate_grid(LAW, 1e19, 1e21)
  gradient = information.loss_gradient(LAW, *LAW.optimum(TARGET))
  make = lambda runs: Knowledge(LAW, Noise(0.002, 0.002), gradient, *columns(runs))
  chosen = suggest.suggest_runs([make(runs)], [grid], 3e21, count=4)
  assert len(chosen) == 4 and sum(c.run.flops for c in chosen) <= 3e21
  for suggestion in chosen:
    before = make(runs).variance()
    gains = [math.log(before / make([*runs, run]).variance()) / run.flops for run in grid]
    best = grid.pop(int(np.argmax(gains)))
    assert best == suggestion.run
    runs = [*runs, best]
    assert suggestion.error == pytest.approx(math.sqrt(make(runs).variance()), rel=1e-4)


def test_a_budget_and_a_goal_are_kept():
  grid = suggest.candidate_grid(LAW, 1e19, 1e21)
  gradient = information.loss_gradient(LAW, *LAW.optimum(TARGET))
  make = lambda: Knowledge(LAW, Noise(), gradient, *columns(default_runs(LAW, 1e20)))
  assert suggest.suggest_runs([make()], [grid], 1e18) == []
  assert suggest.suggest_runs([make()], [grid], 1e23, error=1.0) == []
  some = suggest.suggest_runs([make()], [grid], 2e21)
  assert 0 < sum(s.run.flops for s in some) <= 2e21
  goal = some[-1].error
  again = suggest.suggest_runs([make()], [grid], 1e30, error=goal)
  assert again[-1].error <= goal < again[-2].error


def test_the_difference_of_two_recipes_takes_runs_of_the_one_that_is_known_less():
  gradient = information.loss_gradient(LAW, *LAW.optimum(TARGET))
  known = [Knowledge(LAW, Noise(), gradient, *columns(default_runs(LAW, c))) for c in (1e21, 1e19)]
  grid = suggest.candidate_grid(LAW, 1e19, 1e21)
  chosen = suggest.suggest_runs(known, [grid, list(grid)], 1e21, count=6)
  assert chosen and all(s.recipe == 1 for s in chosen)


def least_squares(n, d, y, start=LAW):
  """An independent fit."""
  ln, ld = np.log(n), np.log(d)
  mid = ln.mean(), ld.mean()
  model = lambda x: np.logaddexp(np.logaddexp(
      x[0] - x[1] * (ln - mid[0]), x[2] - x[3] * (ld - mid[1])), x[4])
  x0 = [math.log(start.a) - start.alpha * mid[0], start.alpha,
        math.log(start.b) - start.beta * mid[1], start.beta, math.log(start.e)]
  x = optimize.least_squares(lambda x: (model(x) - y) / 1e-3, x0, x_scale='jac').x
  return ParametricLaw(math.exp(x[4]), math.exp(x[0] + x[1] * mid[0]), x[1],
                       math.exp(x[2] + x[3] * mid[1]), x[3])


def random_law(rng):
  """A law near the published ones, with an optimum of 5 to 80 tokens a parameter at 1e21."""
  alpha, beta = rng.uniform(0.28, 0.42, 2)
  a = 400 * math.exp(rng.normal(0, 0.4)) * 2e8 ** (alpha - 0.34)
  n = math.sqrt(1e21 / 6 / math.exp(rng.uniform(math.log(5), math.log(80))))
  d = 1e21 / 6 / n
  return ParametricLaw(rng.uniform(1.5, 2.0), a, alpha,
                       alpha * a * n ** -alpha * d ** beta / beta, beta)


def sequence(law, gradient_of, goal, rng, noise, largest=1e21):
  """Runs of a sequence: a ladder of a hundredth of the cost, then five suggestions at a time."""
  shape = design.Shape(largest=largest / 64, budgets=4, sizes=3)
  guess = design.nominal_law(largest / 64, 20.0)
  runs = [Candidate(n, c / 6 / n) for i, c in shape.cells(guess) for n in [
      shape.grid_size(guess, i)]]
  measure = lambda run: math.log(law.loss(run.parameters, run.tokens)) + noise * rng.normal()
  losses = [measure(run) for run in runs]
  while True:
    fitted = least_squares(*columns(runs), np.array(losses))
    known = Knowledge(fitted, Noise(noise), gradient_of(fitted), *columns(runs))
    if math.sqrt(known.variance()) <= goal or len(runs) > 200:
      return runs, fitted
    taken = set(runs)
    grid = [run for run in suggest.candidate_grid(fitted, largest / 128, largest)
            if run not in taken]
    for each in suggest.suggest_runs([known], [grid], math.inf, error=goal, count=5):
      runs.append(each.run)
      losses.append(measure(each.run))


@pytest.mark.parametrize('quantity', ['loss', 'size'])
def test_suggested_runs_give_the_interval_of_the_default_for_three_fifths_of_its_flops(quantity):
  """On 20 laws; the default knows D / N, is priced with shared phases, and the others without."""
  rng, fractions, ratios, errors = np.random.default_rng(0), [], [], []
  for _ in range(20):
    law, noise = random_law(rng), 0.003
    gradient_of = lambda form: (information.size_gradient(form, TARGET) if quantity == 'size'
                                else information.loss_gradient(form, *form.optimum(TARGET)))
    n, d = law.optimum(1e21)
    default = default_runs(design.nominal_law(1e21, d / n), 1e21)
    error_of = lambda runs: math.sqrt(information.variance(information.information(
        law, *columns(runs), np.arange(len(runs)), Noise(noise)), gradient_of(law)))
    goal = error_of(default)
    runs, fitted = sequence(law, gradient_of, goal, rng, noise)
    shared = 0.84 * sum(run.flops for run in default)
    fractions.append(sum(run.flops for run in runs) / shared)
    ratios.append(error_of(runs) / goal)     # by the true law, without a prior
    value = lambda form: (math.log(form.optimum(TARGET)[0]) if quantity == 'size'
                          else math.log(form.loss(*law.optimum(TARGET))))
    errors.append((value(fitted) - value(law)) / goal)
  print(quantity, np.round(fractions, 2), np.round(ratios, 2), np.round(errors, 2))
  assert max(fractions) <= 0.6 and max(ratios) <= 1.25
  assert np.median(ratios) <= 1.05 and np.sqrt(np.mean(np.square(errors))) < 1.4


@pytest.fixture
def trained(ladder, tmp_path, trainer):
  manifest.write_ladder(ladder, tmp_path)
  launch.train_runs(ladder, tmp_path, ladder.runs, log_line=lambda line: None)
  return tmp_path


def test_advice_for_a_ladder_is_added_to_it_and_trained(trained, trainer, ladder, capsys,
                                                        fewer_starts):
  assert cli.main(['scaling', 'suggest', str(trained), '--count=3', '--add', '--json']) == 0
  advice = json.loads(capsys.readouterr().out)
  assert len(advice['runs']) == 3 and advice['target'] == 1e15
  halves = [advice['before'], *(run['after'] for run in advice['runs'])]
  assert halves == sorted(halves, reverse=True)
  more = manifest.read_ladder(trained)
  assert more.runs[:len(ladder.runs)] == ladder.runs and len(more.runs) == len(ladder.runs) + 3
  small = min(run.parameters for run in ladder.runs)
  for run, wanted in zip(more.runs[len(ladder.runs):], advice['runs']):
    assert run.flops == pytest.approx(wanted['flops'], rel=0.02) and run.branches_off is None
    assert abs(math.log(run.parameters / wanted['parameters'])) < 0.35
    assert run.parameters > 0.6 * small
  assert cli.main(['scaling', 'ladder', 'run', f'--folder={trained}']) == 0
  assert len(trainer.launched) == len(more.runs)
  assert cli.main(['scaling', 'ladder', 'fit', f'--folder={trained}']) == 0
  assert cli.main(['scaling', 'ladder', 'check', f'--folder={trained}']) == 0
  capsys.readouterr()
  assert cli.main(['scaling', 'suggest', str(trained), '--add']) == 1
  assert 'target of ' in capsys.readouterr().err


def test_unfinished_runs_are_planned_and_failed_ones_and_outliers_are_named(
    trained, ladder, capsys, fewer_starts):
  metrics = [RunFolder(manifest.run_folder(trained, run.name)).metrics for run in ladder.runs]
  metrics[0].unlink()
  for i, change in ((5, None), (9, 0.4)):
    record = json.loads(metrics[i].read_text())
    loss = record['stdlib_lm/loss']
    metrics[i].write_text(json.dumps(record | {
        'stdlib_lm/loss': change and loss + change}) + '\n')
  assert cli.main(['scaling', 'suggest', str(trained), '--count=1']) == 0
  said = capsys.readouterr().err
  for line in (f'{ladder.runs[5].name} has no loss: left out', '1 runs are not finished',
               f'{ladder.runs[9].name}) is an outlier: left out'):
    assert line in said
  for path in metrics:
    path.unlink(missing_ok=True)
  assert cli.main(['scaling', 'suggest', str(trained)]) == 1
  assert 'no run is finished: t5x-lite scaling ladder run' in capsys.readouterr().err


def test_advice_for_a_table(trained, ladder, capsys, fewer_starts):
  table = str(launch.write_results(ladder, trained))
  argv = ['scaling', 'suggest', table, '--target=1e15', '--quantity=size']
  assert cli.main(argv) == 0
  said = capsys.readouterr().out
  assert 'the optimal N is known x / 1.' in said and 'ask again' in said
  assert cli.main([*argv, '--error=0.9']) == 0
  assert 'No run is suggested' in capsys.readouterr().out
  assert cli.main(['scaling', 'suggest', table, table, '--target=1e15',
                   '--quantity=difference', '--count=2']) == 0
  assert 'nats (95%)' in capsys.readouterr().out
  for wrong, message in ((['--add'], 'is no folder of a ladder'),
                         (['--target=1e12'], '--target=1e+12: give at least the FLOPs of the lar'),
                         (['--largest=1e16'], '--largest=1e+16: a run of more FLOPs than the tar'),
                         (['--budget=-1'], '--budget=-1: give FLOPs'),
                         (['--error=2'], '--error=2.0: give a fraction'),
                         (['--count=0'], '--count=0: give 1 or more'),
                         (['--level=95'], '--level=95.0: give a number')):
    assert cli.main([*argv, *wrong]) == 1
    error = capsys.readouterr().err
    assert error.startswith('error: ') and message in error and error.count('\n') == 1
  assert cli.main([*argv[:3], table, *argv[3:]]) == 1
  assert '--quantity=size is of 1 RUNS, not 2' in capsys.readouterr().err
  assert cli.main(['scaling', 'suggest', table]) == 1
  assert 'names no target: pass --target=FLOPS' in capsys.readouterr().err
