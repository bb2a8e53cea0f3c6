"""The scaling notebook runs from its first cell to its last: table, plan, ladder, verdict."""

import datetime
import json
import pathlib
import re

import pytest

from scaling.ladder import launch, manifest, registry, verdict
from t5x_lite.training.run_folder import RunFolder

NOTEBOOK = pathlib.Path(__file__).parents[2] / 'colab/scaling.ipynb'
LADDER = 'runs/scaling-notebook'


@pytest.fixture(scope='module')
def executed(execute_notebook):
  """The notebook after its run, and the folder it ran in."""
  return execute_notebook(NOTEBOOK, 900)


@pytest.mark.slow
def test_a_table_of_runs_becomes_a_law(executed):
  folder = executed.folder
  report = executed.printed('scaling(f\'fit {shlex.quote(str(RUNS))} --output')
  assert re.search(r'E +0\.92.*\nA .*\nalpha +0\.409', report) and '95 % interval' in report
  law = json.loads((folder / 'runs/law/fit.json').read_text())
  assert law['runs'] == 12 and len(law['warnings']) == 1


@pytest.mark.slow
def test_money_becomes_a_plan_by_several_laws(executed):
  plan = executed.printed('planner.make_plan(')
  assert 'Plan by besiroglu' in plan and '$500' in plan and 'an hour on' in plan
  rows = re.findall(r'^(\w+) +\S+ +([\d.]+)x +\$(\d+)$', executed.printed('truth.optimum('),
                    re.MULTILINE)
  overheads = {name: float(times) for name, times, _ in rows}
  assert len(rows) > 8 and overheads['besiroglu'] == 1 and min(overheads.values()) == 1
  assert 1.2 < max(overheads.values()) < 2 and max(int(dollars) for *_, dollars in rows) < 250


@pytest.mark.slow
def test_the_prediction_is_registered_before_its_target(executed):
  """By its own date, and the first line that the target logged."""
  folder = executed.folder
  ladder = manifest.read_ladder(folder / LADDER)
  assert len(executed.printed('for wave in launch').splitlines()) == len(ladder.runs)
  prediction, = registry.read_predictions(folder / LADDER)
  said = executed.printed('ladder fit')
  assert prediction['sha256'] in said and 'Predicted loss' in said
  target = RunFolder(manifest.run_folder(folder / LADDER, 'target'))
  made = datetime.datetime.fromisoformat(prediction['made']).timestamp()
  assert made <= target.config.stat().st_mtime
  assert prediction['low'] < prediction['loss'] < prediction['high']
  assert prediction['times_the_largest_rung'] == pytest.approx(5, rel=0.02)


@pytest.mark.slow
def test_the_verdict_is_printed(executed):
  folder = executed.folder
  judged = json.loads((folder / LADDER / verdict.VERDICT).read_text())
  said = executed.printed('ladder check')
  assert judged['sentence'] in said and 'of 1 predictions made with this folder' in said
  target = manifest.run_of(registry.read_predictions(folder / LADDER)[0]['target'])
  assert judged['measured'] == launch.read_outcome(folder / LADDER, target).loss
  assert judged['measured'] == pytest.approx(judged['predicted'], rel=0.3)
  assert judged['inside'] == (judged['low'] <= judged['measured'] <= judged['high'])


@pytest.mark.slow
def test_next_runs_are_suggested(executed):
  assert 'then known' in executed.printed('scaling(f\'suggest')


@pytest.mark.slow
@pytest.mark.parametrize('source', ["show('runs/law/isoflop.png')", "show('runs/law/frontier.png')",
                                    'wrong_size.png', "'figures/isoflop.png'", 'verdict.png'])
def test_every_picture_is_shown(source, executed):
  picture, = [o.data['image/png'] for o in executed.outputs(source)
              if 'image/png' in o.get('data', {})]
  assert len(picture) > 20_000
