"""The loss through a decay: areas, plans, known truths, refusals, the command."""

import dataclasses
import json
import re

import numpy as np
import pytest

from scaling.fitting import annealing, annealing_runs
from t5x_lite import cli
from t5x_lite.core.errors import UserError
from t5x_lite.experiment import gin_config
from t5x_lite.training import schedules

PEAK, OFFSET, MEMORY = 3e-3, 0.03, 0.998
NONE = np.array([])
BASE = annealing.Curve('base', np.array([1]), np.array([1.0]), NONE.astype(int), NONE,
                       PEAK * np.minimum(np.arange(1, 9001) / 100, 1))


def truth(rates, steps):
  """Losses after steps, by the law with known constants."""
  s1, s2 = annealing.compute_areas(rates, MEMORY)
  return 2 + 0.5 * s1[steps - 1] ** -0.5 - 0.3 * s2[steps - 1]


def curve_of(total, decay, rng=None, noise=0.0, start=0, stop=None, evaluate=True, name='run',
             model=0, shift=0.0):
  """A WSD run, logged every 20 steps from `start` to `stop`, with noise that lasts (AR 0.3)."""
  rates = annealing.plan_rates(BASE, total, decay)
  steps = np.arange(start + 20, (stop or total) + 1, 20)
  losses, last = truth(rates, steps) + shift, np.array([total] if evaluate else [], int)
  final = truth(rates, last) + shift + OFFSET
  if rng is not None:
    own = rng.normal(size=len(steps))
    for i in range(1, len(own)):
      own[i] = 0.3 * own[i - 1] + np.sqrt(0.91) * own[i]
    losses = losses + noise * own
    final = final * (1 + 0.005 * rng.normal(size=len(last)))
  return annealing.Curve(name, steps, losses, last, final, rates, model)


def test_areas_are_the_double_sum_of_the_paper():
  rates = np.array([1.0, 2.0, 3.0, 3.0, 2.5, 1.0, 0.5])
  s1, s2 = annealing.compute_areas(rates, 0.9)
  np.testing.assert_allclose(s1, np.cumsum(rates))
  for s in range(1, 8):   # from the peak on; the warm-up anneals nothing
    expected = sum((rates[k - 2] - rates[k - 1]) * 0.9 ** (i - k)
                   for i in range(4, s + 1) for k in range(4, i + 1))
    assert s2[s - 1] == pytest.approx(expected)


@pytest.mark.parametrize('steps, decay', [(1000, 200), (500, 400), (300, 1)])
def test_a_plan_is_the_schedule_that_trains_it(steps, decay):
  schedule = schedules.WSD(peak=PEAK, total_steps=steps, warmup_steps=100, decay_steps=decay)
  rates = annealing_runs._evaluate(schedule, steps)
  warm = np.append(rates[:min(150, steps - decay + 1)], PEAK)
  curve = dataclasses.replace(BASE, rates=warm)
  np.testing.assert_allclose(annealing.plan_rates(curve, steps, decay), rates, rtol=1e-5,
                             atol=1e-12)


def test_the_law_is_found_again_without_noise():
  trunk, branch = curve_of(4000, 800, stop=3200, evaluate=False), curve_of(1500, 300, start=1200)
  plan = annealing.plan_rates(trunk, 4000, 800)
  fits, weights = annealing.fit_curves([trunk, branch], plan, MEMORY, count=20)
  constants = fits[0].constants()
  for name, value in {'L0': 2, 'A': 0.5, 'alpha': 0.5, 'C': 0.3,
                      'evaluation_offset': OFFSET}.items():
    assert constants[name] == pytest.approx(value, rel=1e-3), name
  found = annealing.forecast(fits, weights, plan)
  expected = truth(plan, np.array([4000]))[0]
  assert found.training[0] == pytest.approx(expected, abs=1e-4)
  assert found.evaluation[0] == pytest.approx(expected + OFFSET, abs=1e-4)
  assert found.longer == pytest.approx(plan.sum() / trunk.rates[:3200].sum(), rel=0.02)
  annealed = annealing.compute_areas(plan, MEMORY)[1][-1]
  assert found.gain[0] == pytest.approx(0.3 * annealed, rel=1e-3)
  assert annealing.forecast(fits, weights, plan, step=3000).training[0] == pytest.approx(
      truth(plan, np.array([3000]))[0], abs=1e-4)


def test_a_decayed_run_of_another_model_tells_c():
  trunk = curve_of(4000, 800, stop=3200, evaluate=False)
  other = curve_of(4000, 800, model=1, shift=0.7)
  plan = annealing.plan_rates(trunk, 4000, 800)
  fits, weights = annealing.fit_curves([trunk, other], plan, MEMORY, count=20)
  assert fits[0].constants()['L0'] == pytest.approx(2, rel=1e-3)
  assert fits[0].constants(model=1)['L0'] == pytest.approx(2.7, rel=1e-3)
  found = annealing.forecast(fits, weights, plan)
  assert found.training[0] == pytest.approx(truth(plan, np.array([4000]))[0], abs=1e-4)
  assert found.evaluation is None   # of this model nothing was evaluated


@pytest.mark.slow
def test_intervals_cover_the_truth():
  """Of 20 trunks with a short branch at 95 %, lambda not given, with noise that lasts."""
  inside = np.zeros(2)
  for seed in range(20):
    rng = np.random.default_rng(seed)
    trunk = curve_of(4000, 800, rng, 0.05, stop=3200, evaluate=False)
    branch = curve_of(1500, 300, rng, 0.05, start=1200)
    plan = annealing.plan_rates(trunk, 4000, 800)
    fits, weights = annealing.fit_curves([trunk, branch], plan, count=60, seed=seed)
    found = annealing.forecast(fits, weights, plan)
    expected = truth(plan, np.array([4000]))[0]
    one = (expected + OFFSET) * (1 + 0.005 * rng.normal())
    inside += [found.training[1] <= expected <= found.training[2],
               found.evaluation[1] <= one <= found.evaluation[2]]
  assert (inside >= 17).all(), inside


def test_the_last_losses_are_told_by_the_others():
  trunk, branch = curve_of(4000, 800, stop=3200, evaluate=False), curve_of(1500, 300, start=1200)
  plan = annealing.plan_rates(trunk, 4000, 800)
  (fit,), _ = annealing.fit_curves([trunk, branch], plan, MEMORY, count=20)
  count, off, _ = annealing.hold_out(fit)
  assert count == int(0.25 * (fit.records.run == 0).sum()) and abs(off) < 1e-4
  spiked = dataclasses.replace(trunk, losses=trunk.losses + 0.1 * (trunk.steps > 2500))
  (fit,), _ = annealing.fit_curves([spiked, branch], plan, MEMORY, count=20)
  assert annealing.hold_out(fit)[1] > 0.05


def test_lambda_is_not_taken_for_known():
  """Runs of one short decay do not tell it: several keep weight, and the interval has them all."""
  rng = np.random.default_rng(2)
  trunk = curve_of(4000, 800, rng, 0.05, stop=3200, evaluate=False)
  branch = curve_of(1500, 300, rng, 0.05, start=1200)
  plan = annealing.plan_rates(trunk, 4000, 800)
  fits, weights = annealing.fit_curves([trunk, branch], plan, count=60)
  assert len(fits) >= 3 and weights.sum() == pytest.approx(1) and weights.max() < 0.9
  one, alone = annealing.fit_curves([trunk, branch], plan, 0.9995, count=60)
  width = lambda found: found.training[2] - found.training[1]
  assert width(annealing.forecast(fits, weights, plan)) > 0.8 * width(
      annealing.forecast(one, alone, plan))


def test_runs_that_do_not_tell_are_refused():
  trunk = curve_of(4000, 800, stop=3200, evaluate=False)
  plan = annealing.plan_rates(trunk, 4000, 800)
  with pytest.raises(UserError, match='no run has decayed: .* pass one with --decayed'):
    annealing.fit_curves([trunk], plan)
  hardly = curve_of(3000, 600, stop=2500)
  with pytest.raises(UserError, match='the runs have decayed by 0.0.* of what is planned'):
    annealing.fit_curves([trunk, dataclasses.replace(hardly, eval_steps=NONE.astype(int),
                                                     eval_losses=NONE)], plan)
  with pytest.raises(UserError, match='run: 6 logged losses at the peak .* 10 are needed'):
    annealing.fit_curves([trunk.until(300), hardly], plan)


def write_csv(path, curve):
  lines = [f'{s},{loss:.6f},{curve.rates[s - 1]:.9f},'
           + ''.join(f'{x:.6f}' for x in curve.eval_losses[curve.eval_steps == s])
           for s, loss in zip(curve.steps, curve.losses)]
  path.write_text('step,loss,learning_rate,eval_loss\n' + '\n'.join(lines) + '\n')
  return path


@pytest.fixture
def files(tmp_path):
  rng = np.random.default_rng(0)
  return (write_csv(tmp_path / 'trunk.csv', curve_of(4000, 800, rng, 0.02, stop=3200,
                                                     evaluate=False)),
          write_csv(tmp_path / 'branch.csv', curve_of(1600, 320, rng, 0.02)))


def run(capsys, *argv):
  status = cli.main(['scaling', 'curve', *map(str, argv)])
  out, err = capsys.readouterr()
  return status, out, err


def test_the_command(capsys, files, tmp_path):
  trunk, branch = files
  picture = tmp_path / 'curve.png'
  argv = (trunk, f'--decayed={branch}', '--steps=4000', '--decay_steps=800', '--bootstrap=40')
  status, out, err = run(capsys, *argv, f'--output={picture}')
  assert status == 0 and picture.stat().st_size > 10_000
  for part in ('losses up to step 3,200', 'what the decay gives', 'Held out'):
    assert part in out
  assert 'anneals' in err and 'as any of the runs' in err   # 320 steps of decay tell little of 800
  status, out, err = run(capsys, *argv, f'--memory={MEMORY}', '--json')
  report = json.loads(out)
  value, low, high = report['forecast']['evaluation']
  plan = annealing.plan_rates(BASE, 4000, 800)
  assert status == 0 and low < truth(plan, np.array([4000]))[0] + OFFSET < high
  assert list(report['memories']) == [str(MEMORY)]
  status, out, _ = run(capsys, trunk, f'--other={branch}', '--decay_steps=320', '--bootstrap=20',
                       '--until=2000', '--json', f'--memory={MEMORY}')
  report = json.loads(out)   # the decay begins where the run was read up to
  assert status == 0 and report['steps'] == 2320 and report['last_step'] == 2000
  assert report['forecast']['evaluation'] is None


@pytest.mark.parametrize('flags, message', [
    (['--decay_steps=800'], 'no run has decayed'),
    (['--decay_steps=800', '--output=curve'], '--output=.*curve: name a picture'),
    (['--decay_steps=0'], '--decay_steps=0: give 1 or more'),
    (['--decay_steps=800', '--steps=850'], '--steps=850 with --decay_steps=800: the warm-up'),
    (['--decay_steps=800', '--until=3'], '--until=3: .* has logged no loss up to there'),
    (['--decay_steps=800', '--memory=1'], '--memory=1.0: give 0 or more, below 1'),
    (['--decay_steps=800', '--eval_noise=0'], '--eval_noise=0.0: give a share'),
    (['--decay_steps=800', '--decayed=nowhere.csv'], 'nowhere.csv cannot be read')])
def test_bad_flags_are_one_line(capsys, files, flags, message):
  status, out, err = run(capsys, files[0], *flags)
  assert status == 1 and out == '' and err.count('\n') == 1 and re.search(message, err), err


@pytest.mark.parametrize('text, message', [
    ('step,loss\n1,2\n', 'has no column of learning_rate: name one learning_rate or lr'),
    ('step,loss,lr\n', 'has no runs'), ('step,loss,lr\n0,2,1\n', 'step is 0, expected a step'),
    ('step,loss,lr\n2,2,1\n2,2,1\n', 'line 3: step 2 does not follow step 2: sort'),
    ('step,loss,lr\n1,nan,1\n', 'the loss of step 1 is nan, expected a number above 0'),
    ('step,loss,lr\n1,2,-1\n', 'lr is -1, expected 0 or more'),
    ('step,loss,lr\n1,2,0\n', 'all learning rates are 0'),
    ('step,loss,lr\n5000,3,1\n5010,3,1\n', 'begins at step 5,000, and the law sums the rates'),
    ('step,loss,lr,eval_loss\n1,2,1,x\n', "'x', not a number")])
def test_bad_files_are_one_line(capsys, tmp_path, text, message):
  path = tmp_path / 'bad.csv'
  path.write_text(text)
  status, out, err = run(capsys, path, '--decay_steps=8')
  assert status == 1 and out == '' and err.count('\n') == 1 and message in err, err


def test_lines_without_a_loss_tell_the_rates_alone(tmp_path):
  path = tmp_path / 'a.csv'
  path.write_text('step,loss,lr,eval_loss\n1,,0,\n11,,1,\n20,3,1,\n30,2,1,2.5\n')
  curve = annealing_runs.read_curve(path)
  assert curve.steps.tolist() == [20, 30] and curve.losses.tolist() == [3, 2]
  assert curve.eval_steps.tolist() == [30] and curve.eval_losses.tolist() == [2.5]
  np.testing.assert_allclose(curve.rates, [*np.arange(11) / 10, *np.ones(19)])


def test_a_folder_is_read_with_the_rates_of_its_schedule(tmp_path):
  overrides = ["MODEL_DIR = 'runs/x'", 'STEPS = 500',
               'optimizers.AdamW.learning_rate = @schedules.WSD()', 'schedules.WSD.peak = 0.003',
               'schedules.WSD.warmup_steps = 50', 'schedules.WSD.decay_steps = 100',
               'schedules.WSD.total_steps = 500']
  _, text = gin_config.load_experiment(['experiments/tiny_lm.gin'], overrides)
  path = tmp_path / 'run'
  path.mkdir()
  (path / 'config.gin').write_text(text)
  records = [{'step': 400, 'kind': 'train', 'loss': 3.0}, {'step': 300, 'kind': 'train',
                                                           'loss': 3.5},
             {'step': 500, 'kind': 'eval', 'lm/loss': 2.5, 'lm/accuracy': 0.5},
             {'step': 500, 'kind': 'train', 'loss': None}]
  (path / 'metrics.jsonl').write_text(''.join(json.dumps(record) + '\n' for record in records))
  curve = annealing_runs.read_curve(path)
  np.testing.assert_array_equal(curve.steps, [300, 400])
  np.testing.assert_array_equal(curve.losses, [3.5, 3.0])
  np.testing.assert_array_equal([*curve.eval_steps, *curve.eval_losses], [500, 2.5])
  assert len(curve.rates) == 500 and curve.warmup == 49
  np.testing.assert_allclose(curve.rates[[0, 24, 49, 300, 450]], 0.003 * np.array(
      [0.02, 0.5, 1, 1, 0.5]), rtol=1e-5)
  with pytest.raises(UserError, match='is a file of a run: pass its folder'):
    annealing_runs.read_curve(path / 'metrics.jsonl')
  with pytest.raises(UserError, match='has no config.gin: pass the MODEL_DIR of a run'):
    annealing_runs.read_curve(tmp_path)
