"""The notebook of preferences runs to its last cell: a start, GRPO, a reward model, DPO, shares."""

import base64
import html
import json
import math
import pathlib
import re

import pytest

from tasks.datasets import problems

NOTEBOOK = pathlib.Path(__file__).parents[2] / 'colab/preferences.ipynb'
STEPS = 2
FOLDER = f'runs/preferences-{STEPS}'
POLICIES = ('start', 'dpo', 'grpo', 'dr_grpo')


@pytest.fixture(scope='module')
def executed(execute_notebook):
  """The notebook after a run of few steps, and the folder it ran in."""
  return execute_notebook(NOTEBOOK, 500, T5X_LITE_NOTEBOOK_STEPS=str(STEPS))


def rows_of(executed, name):
  """The rated answers in a file of that name."""
  path = executed.folder / FOLDER / f'{name}.jsonl'
  return [json.loads(line) for line in path.read_text().splitlines()]


def steps_of(executed, run):
  """What a run logged of its steps."""
  lines = (executed.folder / FOLDER / run / 'metrics.jsonl').read_text().splitlines()
  return [record for record in map(json.loads, lines) if record['kind'] == 'train']


def pictures(executed, source):
  """The PNGs that the cell with `source` shows."""
  return [base64.b64decode(o.data['image/png']) for o in executed.outputs(source)
          if 'image/png' in o.get('data', {})]


@pytest.mark.slow
@pytest.mark.parametrize('name, split', [
    ('start_train_distinct', 'train'), ('start_validation_distinct', 'validation')] + [
        (f'{policy}_validation', 'validation') for policy in POLICIES])
def test_answers_are_of_the_split_that_is_said_and_rated_by_the_sum(executed, name, split):
  rows = rows_of(executed, name)
  assert 100 < len(rows) <= 128 * STEPS
  for row in rows:
    assert problems.split_of(row['prompt']) == split
    right = str(eval(row['prompt'][:-1]))
    assert row['scores'] == [float(text.strip() == right) for text in row['responses']]
    assert len(row['scores']) == 8 or 'distinct' in name


@pytest.mark.slow
def test_answers_of_the_start_are_shown_and_right_ones_marked(executed):
  shown = re.findall(r'^(\d\d\+\d\d=) (.*)$', executed.printed('def rated('), re.MULTILINE)
  answers = {row['prompt']: row for row in rows_of(executed, 'start_validation')}
  assert len(shown) == 8
  for prompt, line in shown:
    assert line.count('✓') == sum(answers[prompt]['scores'])


@pytest.mark.slow
def test_rewards_and_divergences_are_drawn_and_the_page_shown(executed):
  reward, kl = pictures(executed, "('reward', 'kl')")
  assert reward.startswith(b'\x89PNG') and reward != kl and min(len(reward), len(kl)) > 5_000
  shown, = [o.data['text/html'] for o in executed.outputs('rollouts.html')
            if 'text/html' in o.get('data', {})]
  page = html.unescape(re.search('srcdoc="(.*?)"', shown, re.DOTALL)[1])
  assert page == (executed.folder / FOLDER / 'rollouts.html').read_text()
  both, shares = pictures(executed, 'NAME = ')
  assert both != shares and min(len(both), len(shares)) > 5_000


@pytest.mark.slow
def test_the_accuracy_of_the_reward_model_is_of_held_out_pairs(executed):
  told = dict(re.findall(r'^(reward|length) +([\d.]+) ± [\d.]+ of [\d,]+ pairs$',
                         executed.printed('scores[f"'), re.MULTILINE))
  lines = (executed.folder / FOLDER / 'reward/metrics.jsonl').read_text().splitlines()
  evaluation = json.loads(lines[-1])
  assert told == {name: f'{evaluation[f"{name}/accuracy"]:.3f}' for name in ('reward', 'length')}
  pairs = sum(sum(row['scores']) * (len(row['scores']) - sum(row['scores']))
              for row in rows_of(executed, 'start_validation_distinct'))
  assert 0 < evaluation['reward/pairs'] <= pairs   # less those with an answer without an end


@pytest.mark.slow
def test_dpo_begins_at_log_2_and_says_so(executed):
  first, *_ = steps_of(executed, 'dpo')
  assert first['step'] == 1 and first['loss'] == pytest.approx(math.log(2), abs=1e-6)
  assert f'loss at first {first["loss"]:.6f}, log 2 = 0.693147' in executed.printed('math.log(2)')


@pytest.mark.slow
def test_shares_of_right_sums_are_those_of_the_answers(executed):
  told = dict(re.findall(r'^(\w+) +([\d.]+%) ± [\d.]+%$',
                         executed.printed('def share(') + executed.printed('NAME = '),
                         re.MULTILINE))
  assert told.keys() == {*POLICIES}
  for policy, said in told.items():
    scores = [score for row in rows_of(executed, f'{policy}_validation') for score in row['scores']]
    assert said == f'{sum(scores) / len(scores):.1%}'
  assert len(pictures(executed, 'def share(')[0]) > 5_000


@pytest.mark.slow
def test_the_convention_that_is_changed_is_that_of_the_run(executed):
  config = (executed.folder / FOLDER / 'dr_grpo/config.gin').read_text()
  assert "GroupEstimator.scale = 'none'" in config
  assert "PolicyLoss.average = 'constant'" in config
  assert 'PolicyLoss.max_new_tokens = 4' in config
  losses = {run: [step['loss'] for step in steps_of(executed, run)] for run in ('grpo', 'dr_grpo')}
  assert losses['grpo'] != losses['dr_grpo']
