"""From loss to a downstream metric: published constants, known truths, refusals, the command."""

import json
import re

import numpy as np
import pytest

from scaling.fitting import downstream
from t5x_lite import cli
from t5x_lite.core.errors import UserError

# C4 loss and mean error of the 17 tasks, of the six models a corpus that Gadre et al. 2024 fit on,
# from github.com/mlfoundations/scaling (exp_data); and the (eps, k, gamma) that they print.
GADRE = {
    'C4': ([(5.220676, 0.80367), (3.800284, 0.74003), (3.432646, 0.67673), (3.041737, 0.64874),
            (4.506404, 0.78972), (2.656859, 0.57069)], (0.850, 2.08, 0.756)),
    'RedPajama': ([(5.387021, 0.81349), (3.899943, 0.72505), (3.531147, 0.67101),
                   (3.149769, 0.63655), (4.572293, 0.76710), (2.768757, 0.54733)],
                  (0.857, 2.21, 0.715)),
}
GADRE_7B = (2.382220, 0.47958)   # of C4


def scores_of(loss, accuracy, examples=np.nan, clusters=None):
  loss = np.asarray(loss, float)
  return downstream.Scores(loss, np.asarray(accuracy, float), np.full(len(loss), float(examples)),
                           np.arange(len(loss)) if clusters is None else clusters,
                           tuple(f'run {i}' for i in range(len(loss))), 'loss', 'task')


def exponential(loss):
  return 0.3 + 3 * np.exp(-0.9 * loss)


def sigmoid(loss):
  return 0.25 + 0.6 / (1 + np.exp(4 * (loss - 2.9)))


@pytest.mark.parametrize('corpus', GADRE)
def test_gadre_et_al_are_reproduced_to_their_digits(corpus):
  runs, printed = GADRE[corpus]
  loss, error = np.array(runs).T
  found = downstream.fit_downstream(scores_of(loss, 1 - error), count=60)
  assert [form.name for form in found.forms] == ['exponential']   # six runs do not tell a sigmoid
  eps, k, gamma = found.forms[0].constants().values()
  assert (round(eps, 3), round(k, 2), round(gamma, 3)) == printed
  if corpus == 'C4':   # the model of 6.9B parameters, of lower loss, is in the interval
    assert found.predict(GADRE_7B[0])['law'][0] == pytest.approx(1 - 0.5065, abs=2e-4)
    for _, low, high in found.predict(GADRE_7B[0]).values():
      assert low < 1 - GADRE_7B[1] < high


@pytest.mark.parametrize('name, truth, constants', [
    ('exponential', exponential, {'eps': 0.7, 'k': 3.0, 'gamma': 0.9}),
    ('sigmoid', sigmoid, {'a': -0.6, 'k': 4.0, 'L0': 2.9, 'b': 0.85})])
def test_exact_curves_are_found_again(name, truth, constants):
  loss = np.linspace(2.3, 4, 14)
  form = downstream.fit_form(name, scores_of(loss, truth(loss)), 0.0)
  if name == 'sigmoid':   # as the ladder's paper writes it
    a, k, centre, b = constants.values()
    np.testing.assert_allclose(a / (1 + np.exp(-k * (loss - centre))) + b, truth(loss))
  for key, value in constants.items():
    assert form.constants()[key] == pytest.approx(value, rel=1e-4), key


@pytest.mark.slow
@pytest.mark.parametrize('truth, preferred', [(exponential, 'exponential'), (sigmoid, 'sigmoid')])
@pytest.mark.sweep
def test_intervals_cover_the_truth(truth, preferred):
  """At 95 %, below all losses of the runs: of the law, and of a new run, without the form given."""
  inside, names, seeds = np.zeros(2), [], 20
  for seed in range(seeds):
    rng = np.random.default_rng(seed)
    draw = lambda p: np.clip(rng.binomial(1000, p) / 1000 + 0.005 * rng.normal(size=np.shape(p)),
                             0, 1)
    loss = rng.uniform(2.6, 4, 15)
    found = downstream.fit_downstream(scores_of(loss, draw(truth(loss)), 1000), 0.25, count=60,
                                      seed=seed)
    at = found.predict(2.4)
    names.append(found.forms[0].name)
    inside += [at[key][1] <= value <= at[key][2]
               for key, value in (('law', truth(2.4)), ('one_run', draw(np.array(truth(2.4)))))]
  assert (inside >= 18).all(), inside
  assert names.count(preferred) >= 17


@pytest.mark.parametrize('name, theta', [('exponential', [0.3, 0.2, 0.9]),
                                         ('sigmoid', [0.2, 0.7, 4.0, -0.2])])
def test_derivatives_are_those_of_differences(name, theta):
  x, theta = np.linspace(-1, 1, 7), np.array(theta)
  for i, column in enumerate(downstream._slopes(name, theta, x).T):
    step = 1e-6 * (np.arange(len(theta)) == i)
    difference = downstream._curve(name, theta + step, x) - downstream._curve(name, theta - step, x)
    np.testing.assert_allclose(column, difference / 2e-6, atol=1e-8)


def test_asymptotes_are_between_chance_and_one():
  loss = np.linspace(2.2, 4, 12)
  found = downstream.fit_downstream(scores_of(loss, sigmoid(loss) + 0.01 * np.sin(9 * loss)), 0.25,
                                    count=60)
  for form in found.forms:
    assert (form.accuracy(50.0, form.samples) >= 0.25 - 1e-9).all()
    assert (form.accuracy(0.01, form.samples) <= 1).all()


def test_the_interval_of_the_loss_is_carried_through():
  loss = np.linspace(2.3, 4, 14)
  rng = np.random.default_rng(0)
  accuracy = exponential(loss) + 0.002 * rng.normal(size=14)
  found = downstream.fit_downstream(scores_of(loss, accuracy), count=100)
  sharp = found.predict(2.5)['law']
  wide = found.predict(2.5, 2.5 + 0.1 * rng.normal(size=500))['law']
  slope = 2.7 * np.exp(-0.9 * 2.5)
  assert sharp[2] - sharp[1] < 0.03
  assert wide[2] - wide[1] == pytest.approx(2 * 1.96 * 0.1 * slope, rel=0.15)


def test_the_noise_of_examples_is_told_from_more():
  """Binomial noise alone leaves no excess; with 3 points of noise of 1,000,000 examples, that."""
  rng, loss = np.random.default_rng(1), np.linspace(2.3, 4, 60)
  counted = rng.binomial(200, exponential(loss)) / 200
  assert downstream.fit_form('exponential', scores_of(loss, counted, 200), 0).excess < 0.015
  noisy = np.clip(exponential(loss) + 0.03 * rng.normal(size=60), 0, 1)
  found = downstream.fit_form('exponential', scores_of(loss, noisy, 1e6), 0)
  assert found.excess == pytest.approx(0.03, rel=0.25)


def test_a_flat_metric_is_refused():
  rng = np.random.default_rng(3)
  loss = np.linspace(2.4, 4, 12)
  with pytest.raises(UserError, match=r'task is flat: accuracies of 0.2\d+ to 0.2\d+, chance is '
                                      r'0.25, without a trend .* It may emerge'):
    downstream.fit_downstream(scores_of(loss, rng.binomial(500, 0.25, 12) / 500, 500), 0.25)
  refused = 0
  for seed in range(20):
    noise = np.random.default_rng(seed).binomial(500, 0.25, 12) / 500
    try:
      downstream.fit_downstream(scores_of(loss, noise, 500), 0.25, count=20)
    except UserError:
      refused += 1
  assert refused >= 19


@pytest.mark.parametrize('loss, accuracy, message', [
    (np.linspace(2, 3, 4), np.linspace(0.5, 0.3, 4), '4 runs: a curve of 3 parameters needs 5'),
    (np.full(9, 2.5), np.linspace(0.5, 0.3, 9), 'all runs have a loss of about 2.5'),
    (np.linspace(2, 3, 9), np.linspace(0.3, 0.5, 9), 'accuracies by task rise with loss: pass')])
def test_runs_that_tell_no_curve_are_refused(loss, accuracy, message):
  with pytest.raises(UserError, match=message):
    downstream.fit_downstream(scores_of(loss, accuracy))
  with pytest.raises(UserError):
    downstream.fit_downstream(scores_of(loss, accuracy), form='sigmoid')


def run(capsys, *argv):
  status = cli.main(['scaling', 'downstream', *map(str, argv)])
  out, err = capsys.readouterr()
  return status, out, err


@pytest.fixture
def evals(tmp_path):
  rng = np.random.default_rng(0)
  path = tmp_path / 'evals.csv'
  rows = [(f'{x};{rng.binomial(2000, sigmoid(x)) / 2000};2000') for x in np.linspace(2.4, 4, 16)]
  path.write_text('bits_per_byte;acc;examples\n' + '\n'.join(rows) + '\n')
  return path


def test_the_command(capsys, evals, tmp_path):
  picture = tmp_path / 'acc.png'
  argv = (evals, '--metric=acc', '--chance=0.25', '--bootstrap=60')
  status, out, err = run(capsys, *argv, '--loss=2.3,3', f'--output={picture}')
  assert status == 0 and picture.stat().st_size > 10_000
  assert 'acc (accuracy) over bits_per_byte, 16 runs of 2.4 to 4' in out and 'sigmoid' in out
  assert err == ('warning: bits_per_byte 2.3 is outside the runs (2.4 to 4) by 6.25 % of their '
                 'range\n')
  status, out, err = run(capsys, *argv, '--loss=2.5', '--loss_interval=2.45,2.55', '--json')
  report = json.loads(out)
  point, = report['predictions']
  assert status == 0 and err == '' and point['loss'] == pytest.approx([2.5, 2.45, 2.55], abs=2e-3)
  assert point['metric'][1] < sigmoid(2.5) < point['metric'][2]
  errors = evals.with_name('errors.csv')
  lines = evals.read_text().split('\n')
  errors.write_text('\n'.join([lines[0], *(';'.join((a, str(1 - float(b)), n)) for a, b, n in (
      line.split(';') for line in lines[1:] if line))]))
  status, out, _ = run(capsys, errors, '--metric=acc', '--error', '--chance=0.25',
                       '--bootstrap=60', '--loss=2.5', '--loss_interval=2.45,2.55', '--json')
  turned, = json.loads(out)['predictions']
  value, low, high = point['metric']
  np.testing.assert_allclose(turned['metric'], (1 - value, 1 - high, 1 - low), atol=1e-6)


def test_checkpoints_of_a_run_are_a_cluster(capsys, tmp_path):
  """Named by the column `run`; a name that is of one line alone is no cluster."""
  path = tmp_path / 'evals.csv'
  rows = [f'r{i // 3},{x},{exponential(x):.4f}' for i, x in enumerate(np.linspace(2.4, 4, 9))]
  path.write_text('run,loss,acc\n' + '\n'.join(rows))
  scores = downstream.read_scores(path, 'acc')
  np.testing.assert_array_equal(scores.clusters, [0, 0, 0, 1, 1, 1, 2, 2, 2])
  status, out, err = run(capsys, path, '--metric=acc', '--bootstrap=20')
  assert status == 0 and out.count('\n') >= 7 and err.count('warning') == 2


def test_a_fitted_law_gives_the_loss(capsys, evals, tmp_path):
  law = {'e': 1.8, 'a': 400.0, 'alpha': 0.34, 'b': 1500.0, 'beta': 0.36}
  samples = {name: [value * factor for factor in (0.98, 1.0, 1.02)] for name, value in law.items()}
  fit = tmp_path / 'fit.json'
  fit.write_text(json.dumps({'approach': 3, 'law': law, 'bootstrap_samples': samples, 'runs': 20,
                             'fitted': [1e18, 1e20]}))
  argv = (evals, '--metric=acc', '--bootstrap=30', f'--fit={fit}')
  status, out, _ = run(capsys, *argv, '--flops=1e21')
  assert status == 0 and '1e+21 FLOPs, 10 times outside the runs of the law' in out
  status, out, _ = run(capsys, *argv, '--flops=1e21', '--json')
  point, = json.loads(out)['predictions']
  assert point['loss'][1] < point['loss'][0] < point['loss'][2]


@pytest.mark.parametrize('flags, message', [
    (['--metric=mmlu'], "--metric: .* has no columns 'mmlu'; choose from"),
    (['--metric=acc', '--output=x.foo'], '--output=.*x.foo: name a picture'),
    (['--metric=acc', '--fit=x'], 'pass --fit=FOLDER and --flops=FLOPS'),
    (['--metric=acc', '--chance=1.5'], '--chance=1.5: give the accuracy of guessing'),
    (['--metric=acc', '--loss=-1'], '--loss=-1: give losses'),
    (['--metric=acc', '--loss=2,3', '--loss_interval=1,4'], 'pass one'),
    (['--metric=acc', '--loss=2', '--loss_interval=3,4'], 'give two losses about --loss=2'),
    (['--metric=acc', '--loss_column=nll'], "--loss_column: .* has no columns 'nll'"),
    (['--metric=acc', '--loss=0.7'], r'bits_per_byte 0.7 is outside the runs \(2.4 to 4\) by more'),
    (['--metric=acc', '--bootstrap=1'], '--bootstrap=1: give 20 or more'),
    (['--metric=acc', '--level=95'], '--level=95'),
    (['--metric=examples'], 'line 2: examples is 2000, expected a fraction'),
    (['--metric=acc', '--error'], 'pass --error if it is an error rate')])
def test_bad_input_is_one_line(capsys, evals, flags, message):
  status, out, err = run(capsys, evals, *flags)
  assert status == 1 and out == '' and err.count('\n') == 1
  assert re.search(message, err), err


@pytest.mark.parametrize('text, message', [
    ('loss,acc\n', 'has no runs'),
    ('loss,acc\n2,x\n', "line 2: column 'acc' has 'x', not a number"),
    ('loss,acc\n-2,0.5\n', 'line 2: loss is -2, expected a number above 0'),
    ('loss,acc\n2,nan\n', 'acc is nan, expected a fraction'),
    ('loss,acc,acc\n2,0.5,0.5\n', "2 columns 'acc'; keep one"),
    ('x,acc\n2,0.5\n', 'has no known column of losses'),
    ('loss,acc,examples\n2,0.5,0\n', 'examples is 0, expected the number of examples'),
    ('loss,acc\n2,0,5\n', 'has 3 cells, and the header 2')])
def test_bad_files_are_one_line(capsys, tmp_path, text, message):
  path = tmp_path / 'bad.csv'
  path.write_text(text)
  status, out, err = run(capsys, path, '--metric=acc')
  assert status == 1 and out == '' and err.count('\n') == 1 and message in err, err
