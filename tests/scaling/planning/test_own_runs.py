"""Utilisation of one's own runs: from folders and files, the nearest in size, and refusals."""

import dataclasses
import importlib.resources
import json

import pytest

from scaling.planning import goodput, own_runs, plan_text, planner
from scaling.planning.budget import MFU
from scaling.planning.request import Request
from t5x_lite import cli
from t5x_lite.core.errors import UserError
from t5x_lite.cost import accounting
from t5x_lite.experiment import gin_config

PUBLISHED = importlib.resources.files('scaling') / 'data' / 'published_runs.toml'
RUN = """
[{name}]
parameters = {parameters}
tokens = 1e11
length = 2048
attention = [24, 2048]
chip = '{chip}'
chip_hours = {hours}
recomputed = {recomputed}
"""


def write_run(path, name='mine', parameters=1.3e9, chip='h100', hours=600, recomputed='false'):
  path.write_text((path.read_text() if path.exists() else '') + RUN.format(
      name=name, parameters=parameters, chip=chip, hours=hours, recomputed=recomputed))
  return str(path)


@pytest.fixture
def folder(tmp_path):
  """A run of 40 steps that was killed after 30 and went on from 20."""
  experiment, text = gin_config.load_experiment(
      ['experiments/quickstart.gin'], [f"MODEL_DIR='{tmp_path}'", "ModelConfig.remat='full'"])
  (tmp_path / 'config.gin').write_text(text)
  steps = [(10, 0.3, 1.0), (20, 0.2, 1.5), (30, 0.3, 1.0), (30, 0.24, 1.25), (40, 0.3, 1.0)]
  lines = [{'step': step, 'kind': 'train', 'mfu': mfu, 'seconds_per_step': seconds}
           for step, mfu, seconds in steps]
  lines.append({'step': 40, 'kind': 'eval', 'loss': 2.0})
  (tmp_path / 'metrics.jsonl').write_text(''.join(json.dumps(line) + '\n' for line in lines))
  return tmp_path, experiment


def test_a_folder_counts_repeated_steps_as_time_alone(folder):
  path, experiment = folder
  run, = own_runs.read_runs(str(path))
  # Kept: 0.3 of 1 s, 0.2 of 1.5, 0.24 of 1.25, 0.3 of 1; the time of all five is 5.75 s.
  assert run.utilisation == pytest.approx((0.3 + 0.3 + 0.3 + 0.3) / 5.75)
  assert run.parameters == accounting.parameters(experiment.model).active
  assert run.recomputed and run.mfu == pytest.approx(run.utilisation / 0.75) and run.chip is None


def test_a_file_in_the_published_format():
  runs = {run.name: run for run in own_runs.read_runs(str(PUBLISHED))}
  for run in goodput.load_runs():
    assert runs[run.name].utilisation == run.utilisation


def test_the_nearest_in_size_on_the_hardware_is_taken_and_named(tmp_path):
  path = write_run(tmp_path / 'runs.toml')
  write_run(tmp_path / 'runs.toml', 'large', 30e9, hours=12_000)
  write_run(tmp_path / 'runs.toml', 'other', 5e9, 'a100_80', hours=4000)
  found = {run.name: run for run in own_runs.read_runs(path)}
  plan = planner.make_plan(Request(flops=2e20, runs=(path,)))
  assert plan.budget.mfu == pytest.approx(found['mine'].mfu) != MFU
  text = plan_text.format_plan(plan)
  assert f'an MFU of {plan.budget.mfu:.3g} (of your mine, 1,300,000,000 parameters)' in text
  low, high = plan.chip_hours_range   # of published runs, beside
  assert low <= plan.chip_hours <= high and 'published runs' in text
  assert plan.chip_hours == pytest.approx(plan.flops / (3600 * 989.4e12 * plan.budget.mfu))
  assert own_runs.nearest_run([path], 'h100', 20e9).name == 'large'
  assert own_runs.nearest_run([path], 'a100_80', 1e8).name == 'other'


def test_money_buys_what_ones_own_runs_reach(tmp_path):
  path = write_run(tmp_path / 'runs.toml', hours=1200)
  own = own_runs.read_runs(path)[0]
  slow, default = (planner.make_plan(Request(dollars=1000, price=2.0, runs=runs))
                   for runs in ((path,), ()))
  assert slow.flops / default.flops == pytest.approx(own.mfu / MFU, rel=0.02)
  assert slow.dollars == pytest.approx(default.dollars, rel=0.02) == pytest.approx(1000, rel=0.02)


def test_recomputation_lowers_it_and_that_of_the_run_is_taken_out(tmp_path):
  path = write_run(tmp_path / 'runs.toml', recomputed='true')
  run, = own_runs.read_runs(path)
  plain = dataclasses.replace(run, recomputed=False)
  assert plain.mfu == pytest.approx(0.75 * run.mfu)


def test_budget_takes_them_too(tmp_path, capsys, folder):
  path = write_run(tmp_path / 'runs.toml')
  for runs, name in ((path, 'mine'), (str(folder[0]), str(folder[0]))):
    status = cli.main(['scaling', 'budget', 'llama_7b', '--tokens=1e11', f'--runs={runs}',
                       '--hardware=h100'])
    assert status == 0 and f'(of your {name}, ' in capsys.readouterr().out
  for command in (['budget', 'llama_7b', '--tokens=1e11'], ['plan', '--flops=1e20']):
    status = cli.main(['scaling', *command, f'--runs={path}', '--mfu=0.3'])
    err = capsys.readouterr().err
    assert status == 1 and err.count('\n') == 1 and 'both set the MFU' in err


@pytest.mark.parametrize('change, says', [
    (('tokens = 1e11', 'tokens = "many"'), 'give a number above 0'),
    (('length = 2048\n', ''), 'has no length'),
    (('length', 'lenght'), "'lenght' is no field"),
    (('[24, 2048]', '[24]'), 'layers, width'),
    (('= false', '= 0'), 'give true or false'),
    (("'h100'", "'h1000'"), 'h1000'),
    (('= 600', '= 1'), 'of the peak of h100'),
    (('[mine]', 'mine = 3\n[x'), 'cannot be read')])
def test_what_is_wrong_in_a_file_is_said_in_one_line(tmp_path, change, says):
  path = tmp_path / 'runs.toml'
  write_run(path)
  path.write_text(path.read_text().replace(*change))
  with pytest.raises(UserError, match=says) as caught:
    own_runs.read_runs(str(path))
  assert '\n' not in str(caught.value)


def test_other_refusals(tmp_path, folder):
  path, _ = folder
  with pytest.raises(UserError, match='none is on tpu_v5e; they are on h100'):
    own_runs.nearest_run([write_run(tmp_path / 'runs.toml')], 'tpu_v5e', 1e9)
  with pytest.raises(UserError, match='has no config.gin'):
    empty = tmp_path / 'empty'
    empty.mkdir()
    own_runs.read_runs(str(empty))
  with pytest.raises(UserError, match='cannot be read'):
    own_runs.read_runs(str(tmp_path / 'none.toml'))
  (tmp_path / 'blank.toml').write_text('')
  with pytest.raises(UserError, match='has no run'):
    own_runs.read_runs(str(tmp_path / 'blank.toml'))
  (path / 'metrics.jsonl').write_text(json.dumps(
      {'step': 1, 'kind': 'train', 'mfu': None, 'seconds_per_step': 1.0}) + '\n')
  with pytest.raises(UserError, match='logged no MFU'):
    own_runs.read_runs(str(path))
