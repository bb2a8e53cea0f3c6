"""The posterior of few runs: against importance sampling, coverage, report, refusals."""

import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scaling.fitting import bayesian, parametric
from scaling.fitting.runs import Runs
from scaling.laws.laws import LAWS, ParametricLaw
from t5x_lite import cli
from t5x_lite.core.errors import UserError

pytest.importorskip('blackjax')
LAW = LAWS['besiroglu'].form
SHAPES = {6: (3, 2), 20: (5, 4)}   # runs -> sizes, budgets


def made_runs(law, sizes, budgets, seed, shared, own, largest=6.4e19):
  """The same sizes at each budget, each of which is 4 times the last; noise shared by size."""
  flops = np.repeat(largest * 0.25 ** np.arange(budgets), sizes)
  n = np.tile(law.optimum(largest / 8)[0] * np.geomspace(0.2, 5, sizes), budgets)
  rng = np.random.default_rng(seed)
  noise = np.tile(shared * rng.standard_normal(sizes), budgets) + own * rng.standard_normal(n.size)
  d = flops / 6 / n
  return Runs(n, d, law.loss(n, d) * np.exp(noise), 6 * n * d,
              tuple(f'run {i}' for i in range(n.size)))


def made_law(seed):
  """Near the published laws, of any entropy of the text."""
  rng = np.random.default_rng([seed, 1])
  alpha, beta = 0.33 * np.exp(0.15 * rng.standard_normal(2))
  a, b = 0.35 * np.exp(0.3 * rng.standard_normal(2))   # at 1e9 parameters and 2e10 tokens
  return ParametricLaw(rng.uniform(0.8, 2.2), a * 1e9 ** alpha, alpha, b * 2e10 ** beta, beta)


def covered(count, seeds, draws=250):
  """[seeds, 2]: whether the intervals hold N* and its loss at 30 times the largest budget."""
  sizes, budgets = SHAPES[count]
  laws = [made_law(seed) for seed in range(seeds)]
  runs = [made_runs(law, sizes, budgets, seed, 0.003, 0.0005) for seed, law in enumerate(laws)]
  points, failed = bayesian.sample_points(runs, draws=draws, warmup=300, chains=2)
  held = []
  for law, own, *drawn in zip(laws, runs, points, failed):
    found = bayesian.make_posterior(own, *drawn, count=2 * draws)
    flops = 30 * own.flops.max()
    optimum, n = found.optimum(flops), law.optimum(flops)[0]
    held.append([low <= value <= high for (_, low, high), value in (
        (optimum['parameters'], n), (optimum['loss'], law.loss(n, flops / 6 / n)))])
  return np.array(held)


@pytest.mark.slow
@pytest.mark.sweep
def test_intervals_cover_at_a_few_seeds():
  assert (covered(6, 6, draws=150).sum(0) >= 5).all()


@pytest.mark.slow
@pytest.mark.parametrize('count', SHAPES)
@pytest.mark.sweep
def test_intervals_cover_with_noise_that_sizes_share(count):
  """Three standard deviations of a count below 95 %: of more runs, at half the seeds."""
  seeds, least = (20, 16) if count == 6 else (10, 8)
  assert (covered(count, seeds).sum(0) >= least).all()


def test_the_posterior_is_that_of_importance_sampling(monkeypatch):
  """Prior draws, weighted by Student's density with its covariances written out, at large noise."""
  monkeypatch.setattr(bayesian, '_NOISE', 0.03)
  bayesian._draw.clear_cache()
  law = ParametricLaw(1.7, 400.0, 0.34, 400.0, 0.28)
  n = np.array([1e8, 1e8, 3e8, 1e9, 1e9])
  d = np.array([2e9, 2e10, 6e9, 2e10, 3e9])
  loss = law.loss(n, d) * np.exp([0.02, -0.03, 0.04, -0.01, 0.03])
  runs = Runs(n, d, loss, 6 * n * d, tuple('abcde'))
  found = bayesian.fit_posterior(runs, 4000)
  bayesian._draw.clear_cache()
  rng = np.random.default_rng(0)
  count, middle = 400_000, np.log(loss).mean()
  log_level = middle + 0.1 * rng.standard_normal(count)
  e = rng.uniform(size=count)
  share = 1 / (1 + np.exp(-1.25 * rng.standard_normal(count)))
  mean = np.log(0.33) + 0.4 * rng.standard_normal(count)
  ratio = 0.5 * rng.standard_normal(count)
  alpha, beta = np.exp(mean - ratio / 2), np.exp(mean + ratio / 2)
  fraction = 0.99 / (1 + np.exp(-1.5 - 2.5 * rng.standard_normal(count)))
  n_middle, d_middle = (np.exp(np.log(x).mean()) for x in (n, d))
  a, b = (1 - e) * share, (1 - e) * (1 - share)
  level = np.exp(log_level)
  values = level[:, None] * (e[:, None] + a[:, None] * (n / n_middle) ** -alpha[:, None]
                             + b[:, None] * (d / d_middle) ** -beta[:, None])
  miss = np.log(loss) - np.log(values)
  same = (n[:, None] == n).astype(float)
  shape = 0.03 ** 2 * ((1 - fraction)[:, None, None] * np.eye(5) + fraction[:, None, None] * same)
  square = (miss * np.linalg.solve(shape, miss[:, :, None])[:, :, 0]).sum(1)
  log_weight = -0.5 * np.linalg.slogdet(shape)[1] - 3.5 * np.log1p(square / 2)
  log_weight += -0.5 * (log_level - middle) ** 2 + 0.5 * ((log_level - middle) / 0.1) ** 2
  weight = np.exp(log_weight - log_weight.max())
  weight /= weight.sum()
  assert 1 / (weight ** 2).sum() > 500
  samples = found.bootstrap_samples
  for name, expected in (('e', level * e), ('alpha', alpha), ('beta', beta)):
    below = [weight[expected < value].sum()
             for value in np.quantile(getattr(samples, name), [0.1, 0.5, 0.9])]
    assert below == pytest.approx([0.1, 0.5, 0.9], abs=0.04), name
  variance = (2 * 0.03 ** 2) * (1 + square / 2) / 5   # its posterior mean: 7 degrees of freedom
  assert (found.own ** 2 + found.shared ** 2).mean() == pytest.approx(
      (weight * variance).sum(), rel=0.25)


def test_the_priors_hold_the_published_laws():
  """At 1e9 parameters and 2e10 tokens, within two deviations; so do Kaplan et al.'s exponents."""
  n, d = 1e9, 2e10
  priors = bayesian.PRIORS
  for name in ('hoffmann_3_unrounded', 'besiroglu', 'muennighoff'):
    law = LAWS[name].form
    for key, value in (
        ('ln a / b', np.log(law.a * n ** -law.alpha / (law.b * d ** -law.beta))),
        ('ln sqrt(alpha beta)', 0.5 * np.log(law.alpha * law.beta)),
        ('ln beta / alpha', np.log(law.beta / law.alpha))):
      mean, deviation = priors[key]
      assert abs(value - mean) < deviation, (name, key)
  kaplan = LAWS['kaplan'].form
  assert abs(np.log(kaplan.alpha_d / kaplan.alpha_n)) < 2 * priors['ln beta / alpha'][1]
  exponent = 1 / (1 + np.exp(-1.96 * priors['ln beta / alpha'][1]))   # of N*, beta / (alpha + beta)
  assert (1 - exponent, exponent) == pytest.approx((0.27, 0.73), abs=0.005)


@pytest.fixture(scope='module')
def three():
  """Three runs at 20 tokens a parameter: N* cannot be told, the loss can."""
  n = np.array([5e7, 2e8, 8e8])
  return Runs(n, 20 * n, LAW.loss(n, 20 * n) * np.exp([0.001, -0.001, 0.002]), 120 * n ** 2,
              ('a', 'b', 'c'))


@pytest.fixture(scope='module')
def posterior(three):
  return bayesian.fit_posterior(three, 200)


def test_three_runs_say_what_is_prior(posterior):
  n = 2e9
  shares = posterior.prior_shares(120 * n ** 2)
  assert shares['parameters'] > 0.3 > 0.2 > shares['loss'] > 0
  law, low, high = posterior.predict_loss(n, 20 * n)
  assert low < LAW.loss(n, 20 * n) < high and low < law < high and high / low < 1.2


def test_the_unit_of_the_loss_does_not_matter(three):
  """The density of losses in bits is that of losses in nats, at a level as many times as high."""
  n, d, y = np.log(three.parameters), np.log(three.tokens), np.log(three.loss)
  points = bayesian._MEANS + bayesian._SPREADS * np.random.default_rng(0).standard_normal((20, 6))
  density = lambda x, y: float(bayesian._log_density(
      jnp.asarray(x), (y, n - n.mean(), d - d.mean(), np.eye(3))))
  shift = -np.log(np.log(2))
  with jax.enable_x64(True):
    for x in points:
      assert density(x + shift * np.eye(6)[0], y + shift) == pytest.approx(density(x, y), abs=1e-6)


def write_csv(path, runs):
  path.write_text('N,D,loss\n' + ''.join(
      f'{n},{d},{loss}\n' for n, d, loss in zip(runs.parameters, runs.tokens, runs.loss)))
  return path


def fit(capsys, *argv):
  status = cli.main(['scaling', 'fit', '--bayes', *map(str, argv)])
  return status, *capsys.readouterr()


def test_the_report_serves_plan(capsys, tmp_path, three):
  csv = write_csv(tmp_path / 'runs.csv', three)
  folder = tmp_path / 'out'
  status, out, err = fit(capsys, csv, '--bootstrap=200', '--budgets=1e19,1e20',
                         f'--output={folder}')
  assert status == 0
  for part in ('a posterior under priors of published laws, 3 runs', 'Sampler: R-hat 1.',
               'The prior\'s share of what is known', 'draws of the posterior', 'residuals.png'):
    assert part in out, part
  assert 'of what is known of the optimal N of 1e+19 FLOPs is the prior' in err
  assert 'too few to test' in err
  report = json.loads((folder / 'fit.json').read_text())
  assert report['sampler']['rhat'] < 1.05 and len(report['bootstrap_samples']['e']) == 200
  loaded = parametric.load_law(folder)
  assert loaded.form == ParametricLaw(**report['law']) and 'posterior' in loaded.interval
  assert cli.main(['scaling', 'plan', '--flops=1e20', f'--fit={folder}']) == 0
  assert 'is the prior' in capsys.readouterr().out


def test_what_cannot_be_fitted_is_refused_in_one_line(capsys, tmp_path, three, monkeypatch):
  csv = write_csv(tmp_path / 'runs.csv', three)

  def refused(*argv):
    status, out, err = fit(capsys, *argv)
    assert status == 1 and out == '' and err.count('\n') == 1
    return err

  for flag in ('--loss=lad', '--drop_outliers', '--resample=runs', '--approach=2'):
    assert 'leave' in refused(csv, flag)
  assert '2 runs: --bayes is for 3 to 500' in refused(csv, '--drop_highest=1')
  repeats = tmp_path / 'repeats.csv'
  repeats.write_text('\n'.join(f'{line},{extra}' for line, extra in zip(
      csv.read_text().splitlines(), ('epochs', 1, 1, 4))))
  assert 'repeat tokens' in refused(repeats)
  monkeypatch.setitem(sys.modules, 'blackjax', None)
  assert "pip install -e '.[bayes]'" in refused(csv)


def test_chains_that_disagree_are_refused(three, monkeypatch):
  rng = np.random.default_rng(0)
  points = bayesian._MEANS + rng.standard_normal((1, 4, 100, 6)) * 0.1
  points[0, 0] += 3
  monkeypatch.setattr(bayesian, 'sample_points',
                      lambda *_: (points, np.zeros((1, 4, 100), bool)))
  with pytest.raises(UserError, match='R-hat'):
    bayesian.fit_posterior(three, 100)


def test_a_law_that_the_runs_contradict_is_refused():
  runs = made_runs(LAW, 7, 5, 0, 0.0, 0.0005)
  middle = np.median(runs.tokens)   # a bend in N would look like noise that sizes share
  bent = runs.loss * np.exp(0.03 * np.maximum(np.log(runs.tokens / middle), 0))
  bent = Runs(runs.parameters, runs.tokens, bent, runs.flops, runs.names)
  with pytest.raises(UserError, match='do not follow one law'):
    bayesian.fit_posterior(bent, 100)
