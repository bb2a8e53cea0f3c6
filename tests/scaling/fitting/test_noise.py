"""Noise that runs of a size share: intervals that cover, and laws that the runs do not follow."""

import numpy as np
import pytest

from scaling.fitting import diagnostics, noise, parametric, solver
from scaling.fitting.runs import Runs
from scaling.laws.laws import LAWS
from t5x_lite.core.errors import UserError

LAW = LAWS['besiroglu'].form


def fixed_sizes():
  """Six sizes of four durations."""
  n = np.repeat(np.geomspace(2e7, 6.4e8, 6), 4)
  return n, n * np.tile([5.0, 10, 20, 40], 6)


def crossed():
  """Five sizes, each on the same seven numbers of tokens."""
  return np.repeat(np.geomspace(3e7, 1e9, 5), 7), np.tile(np.geomspace(5e8, 2e10, 7), 5)


def centred(budgets=5, sizes=7, step=0.35):
  """Sizes about the optimum of each budget, rounded to a grid that budgets share."""
  flops = np.repeat(np.geomspace(1e18, 1e20, budgets), sizes)
  best = np.array([LAW.optimum(c)[0] for c in flops])
  n = best * np.tile(np.geomspace(0.25, 4, sizes), budgets)
  n = np.exp(np.round(np.log(n) / step) * step)
  return n, flops / 6 / n


def isoflop():
  """Five sizes about the optimum of each of five budgets, all different."""
  flops = np.repeat(np.geomspace(1e17, 1e21, 5), 5)
  n = np.array([LAW.optimum(c)[0] for c in flops]) * np.tile(np.geomspace(0.25, 4, 5), 5)
  return n, flops / 6 / n


DESIGNS = {'fixed': fixed_sizes, 'crossed': crossed, 'centred': centred}


def sample(design, seed, shared, own, truth=LAW.loss):
  n, d = design()
  sizes = np.unique(np.round(np.log(n), 3), return_inverse=True)[1]
  rng = np.random.default_rng(seed)
  off = shared * rng.standard_normal(sizes.max() + 1)[sizes] + own * rng.standard_normal(len(n))
  return Runs(n, d, truth(n, d) * np.exp(off), 6 * n * d, tuple(map(str, range(len(n)))))


def starts(seed):
  grid = solver.standard_starts()
  return grid[np.random.default_rng(seed).choice(len(grid), 24, replace=False)]


@pytest.fixture(autouse=True)
def warm_starts(monkeypatch):
  """A resample starts at the optimum alone: its other starts are for runs that tell little."""
  monkeypatch.setattr(parametric, '_RESTARTS', 0)


def coverage(design, seeds, shared, own):
  """Seeds whose 95 % intervals hold N*, the loss of 30 times the budget, and a new run's loss."""
  covered = []
  for seed in range(seeds):
    runs = sample(design, seed, shared, own)
    found = parametric.bootstrap(parametric.fit_unchecked(runs, starts=starts(seed)), 120, seed)
    flops = 30 * runs.flops.max()
    n, d = LAW.optimum(flops)
    run = LAW.loss(n, d) * np.exp(
        np.hypot(shared, own) * np.random.default_rng([seed, 1]).standard_normal())
    optimum = found.optimum(flops)
    intervals = (optimum['parameters'][1:], optimum['loss'][1:], found.predict_loss(n, d)[1:])
    covered.append([low <= value <= high for (low, high), value in zip(
        intervals, (n, LAW.loss(n, d), run))])
  return np.sum(covered, 0)


@pytest.mark.slow
@pytest.mark.parametrize('design', DESIGNS)
@pytest.mark.sweep
def test_intervals_cover_with_noise_that_sizes_share(design):
  assert (coverage(DESIGNS[design], 20, 0.003, 0.0005) >= 18).all()


@pytest.mark.slow
@pytest.mark.parametrize('design', DESIGNS)
@pytest.mark.sweep
def test_intervals_cover_with_independent_noise(design):
  """Three standard deviations of a count below 38 of 40."""
  assert (coverage(DESIGNS[design], 40, 0.0, 0.003) >= 34).all()


@pytest.mark.slow
@pytest.mark.sweep
def test_intervals_cover_at_a_few_seeds():
  assert (coverage(crossed, 8, 0.003, 0.0005) >= 7).all()


@pytest.mark.parametrize('shared, own', [(0.003, 0.0005), (0.0, 0.002), (0.002, 0.002)])
def test_shared_and_own_noise_are_estimated(shared, own):
  """With twenty sizes of eight runs; the residuals of a line stand for a law's."""
  clusters = np.repeat(np.arange(20), 8)
  x = np.stack([np.ones(160), clusters, np.tile(np.arange(8), 20)], 1).astype(float)
  for seed in range(4):
    rng = np.random.default_rng(seed)
    y = shared * rng.standard_normal(20)[clusters] + own * rng.standard_normal(160)
    y = y - x @ np.linalg.lstsq(x, y, rcond=None)[0]
    found = noise.estimate_noise(y, x, clusters)
    assert found.identified and found.freedom == 157
    assert found.estimate[1] == pytest.approx(own, rel=0.2)
    assert found.estimate[0] == pytest.approx(shared, rel=0.5, abs=0.0006)
    runs, new = found.simulate(rng, 2000)
    assert new.std() == pytest.approx(np.hypot(shared, own), rel=0.5)
    within = runs - runs.reshape(2000, 20, 8).mean(2)[:, clusters]
    assert within.std() == pytest.approx(own * np.sqrt(7 / 8), rel=0.2)


def test_runs_without_company_are_said_to_hide_shared_noise():
  found = parametric.fit_law(sample(isoflop, 0, 0, 0.003), starts=starts(0))
  assert 'no cluster has two runs' in found.noise_model.describe()
  assert found.noise_model.estimate[1] == pytest.approx(0.003, rel=0.5)


def test_an_outlier_does_not_widen_the_noise():
  runs = sample(centred, 0, 0.0, 0.002)
  spoilt = runs.loss.copy()
  spoilt[5] *= 1.1
  clean, dirty = (parametric.fit_law(Runs(runs.parameters, runs.tokens, loss, runs.flops,
                                          runs.names), starts=starts(0)).noise_model.draw(
                                              np.random.default_rng(0), 500)
                  for loss in (runs.loss, spoilt))
  assert np.median(np.hypot(*dirty)) < 2 * np.median(np.hypot(*clean))


def test_the_resampling_is_said():
  runs = sample(fixed_sizes, 1, 0.003, 0.0005)
  found = parametric.bootstrap(parametric.fit_unchecked(runs, starts=starts(0)), 40)
  said = diagnostics.diagnose(found).resampling
  assert found.resampled == 'noise' and '40 refits to the law plus simulated noise' in said
  assert 'shared by the runs of each of 6 clusters' in said and '% a run' in said
  trunks = tuple(f'trunk {i % 2}' for i in range(len(runs)))
  named = Runs(runs.parameters, runs.tokens, runs.loss, runs.flops, runs.names, cluster=trunks)
  assert parametric.fit_unchecked(named, starts=starts(0)).noise_model.clusters.max() == 1


def test_whole_clusters_are_drawn_where_they_are_many():
  runs = sample(lambda: centred(8, 8, 0.02), 0, 0.0, 0.003)
  assert runs.clusters.max() + 1 >= parametric.MIN_CLUSTERS_RESAMPLED
  found = parametric.bootstrap(parametric.fit_unchecked(runs, starts=starts(0)), 40)
  assert found.resampled == 'clusters' and 'clusters drawn with replacement' in found.resampling


# Laws that the parametric form does not have.

def broken(quantity, change):
  """An exponent that changes in the middle of the runs."""
  def loss(n, d):
    x = np.log(np.asarray(n if quantity == 'N' else d))
    middle = np.median(np.log(isoflop()[0 if quantity == 'N' else 1]))
    bend = np.exp(-change * np.maximum(x - middle, 0))
    of_n, of_d = LAW.a * n ** -LAW.alpha, LAW.b * d ** -LAW.beta
    return LAW.e + (of_n * bend + of_d if quantity == 'N' else of_n + of_d * bend)
  return loss


def mistuned(n, d):
  """Models above the median are worse by 2 % for each factor of e in N."""
  over = np.log(n) - np.median(np.log(isoflop()[0]))
  return LAW.loss(n, d) * np.exp(0.02 * np.maximum(over, 0))


TRUTHS = {'N falls': broken('N', -0.2), 'N rises': broken('N', 0.2), 'D falls': broken('D', -0.2),
          'D rises': broken('D', 0.2), 'mistuned': mistuned}


def refused(truth, seeds, noise=0.003):
  count = 0
  for seed in seeds:
    try:
      parametric.fit_law(sample(isoflop, seed, 0.0, noise, truth), starts=starts(seed))
    except UserError as e:
      assert '\n' not in str(e) and ('do not follow one law' in str(e) or 'identified' in str(e))
      count += 1
  return count


@pytest.mark.parametrize('truth', TRUTHS)
def test_runs_of_another_law_are_refused(truth):
  assert refused(TRUTHS[truth], range(3), 0.001) == 3


@pytest.mark.slow
@pytest.mark.parametrize('truth', TRUTHS)
@pytest.mark.sweep
def test_runs_of_another_law_are_refused_at_most_seeds(truth):
  assert refused(TRUTHS[truth], range(10)) >= 9


@pytest.mark.slow
@pytest.mark.parametrize('design', [isoflop, centred, fixed_sizes])
@pytest.mark.sweep
def test_runs_of_the_law_are_not_refused(design):
  """At a level of 2 %: at most two of thirty."""
  count = 0
  for seed in range(30):
    found = parametric.fit_unchecked(sample(design, seed, 0.001, 0.001), starts=starts(seed))
    count += found.misfit.refused
  assert count <= 2


def test_the_bend_is_found_where_it_is():
  found = parametric.fit_unchecked(sample(isoflop, 0, 0, 5e-4, TRUTHS['D falls']),
                                   starts=starts(0)).misfit
  assert found.refused and found.quantity == 'D' and found.change < 0
  assert abs(np.log(found.at / np.median(isoflop()[1]))) < 1.5


def test_few_sizes_are_said_to_hide_a_bend():
  found = parametric.fit_unchecked(sample(crossed, 3, 0.0, 0.002), starts=starts(0))
  warnings = diagnostics.diagnose(parametric.bootstrap(found, 20)).warnings
  assert any('5 sizes cannot tell' in line or 'may not follow' in line for line in warnings)
