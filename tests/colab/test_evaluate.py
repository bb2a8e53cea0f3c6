"""The notebook of evaluation runs to its last cell: sets, two models, scores and what they bear."""

import base64
import csv
import html
import json
import pathlib
import re

import pytest

NOTEBOOK = pathlib.Path(__file__).parents[2] / 'colab/evaluate.ipynb'
STEPS = 2
FOLDER = f'runs/evaluate-{STEPS}'
QUESTIONS = 8 * STEPS
MODELS, TASKS, SHOTS = ('base', 'tuned'), ('arc_easy', 'arc_challenge'), (0, 3)


@pytest.fixture(scope='module')
def executed(execute_notebook, stdlib_data_dir):
  """The notebook after a run of few steps, and the folder it ran in."""
  return execute_notebook(NOTEBOOK, 500, T5X_LITE_NOTEBOOK_STEPS=str(STEPS),
                          TFDS_DATA_DIR=str(stdlib_data_dir))


def result(executed, model, task, shots):
  path = executed.folder / FOLDER / model / f'evaluations/{task}-{shots}shot-{STEPS}.json'
  return json.loads(path.read_text())


def pictures(executed, source):
  """The PNGs that the cell with `source` shows."""
  return [base64.b64decode(o.data['image/png']) for o in executed.outputs(source)
          if 'image/png' in o.get('data', {})]


@pytest.mark.slow
def test_the_sets_ask_what_they_say(executed):
  sets = executed.folder / FOLDER / 'sets'
  rows = {name: [json.loads(line) for line in (sets / f'{name}_test.jsonl').open()]
          for name in TASKS}
  assert [len(x) for x in rows.values()] == [QUESTIONS] * 2
  for form, meaning in zip(*rows.values()):
    right = [row['choices']['text']['ABCD'.index(row['answerKey'])] for row in (form, meaning)]
    assert form['question'] == meaning['question'] and right[0] == right[1]
    assert all(len({*row['choices']['text']}) == 4 for row in (form, meaning))
    assert len({tuple(sorted(text.split())) for text in form['choices']['text']}) == 1
  assert len({row['answerKey'] for row in rows['arc_easy']}) > 1


@pytest.mark.slow
def test_no_answer_was_trained_on(executed):
  sets = executed.folder / FOLDER / 'sets'
  trained = {json.loads(line)['text'].partition('\nAnswer: ')[2]
             for line in (sets / 'tuning.jsonl').open()}
  rows = [json.loads(line) for line in (sets / 'arc_challenge_test.jsonl').open()]
  assert len(trained) > 1000
  assert not trained & {text for row in rows for text in row['choices']['text']}


@pytest.mark.slow
def test_losses_by_position_are_shown_of_both(executed):
  (base,), (both,) = pictures(executed, 'islice('), pictures(executed, 'draw_positions({')
  assert base.startswith(b'\x89PNG') and base != both and min(len(base), len(both)) > 5_000
  for model in MODELS:
    table = executed.folder / FOLDER / model / f'evaluations/modules-0shot-{STEPS}.positions.csv'
    rows = [*csv.DictReader(table.open())]
    assert int(rows[-1]['high']) >= 256 and all(float(row['loss']) > 0 for row in rows)


@pytest.mark.slow
def test_both_models_answer_both_sets_with_and_without_examples(executed):
  for model in MODELS:
    for task in TASKS:
      for shots in SHOTS:
        assert result(executed, model, task, shots)['number'] == QUESTIONS
  board = executed.printed("t5x_lite(f'leaderboard")
  assert sorted(re.findall(r'^\| (base|tuned) ', board, re.MULTILINE)) == [*MODELS]


@pytest.mark.slow
def test_what_scores_bear_is_said(executed):
  compared = executed.printed('evaluate compare')
  assert re.findall(r'^(\w+), 0-shot, acc_norm, (\d+) items', compared, re.MULTILINE) == [
      (task, str(QUESTIONS)) for task in TASKS]
  tax = (executed.folder / FOLDER / 'tax.md').read_text()
  cells = [[cell.strip() for cell in line.split('|')[1:3]] for line in tax.splitlines()[2:]]
  assert cells == [['arc_challenge', '0'], ['arc_challenge', '3'], ['arc_easy', '0'],
                   ['arc_easy', '3'], ['modules', '0']]
  scores = [100 * result(executed, model, 'arc_easy', 3)['metrics']['acc_norm'][0]
            for model in MODELS]
  assert [f'{score:.1f}' for score in scores] == [
      cell.strip() for cell in tax.splitlines()[5].split('|')[4:6]]
  nats = [json.loads(line)['metrics']['nats'] for line in (
      executed.folder / FOLDER / 'base' / f'evaluations/modules-0shot-{STEPS}.jsonl').open()]
  assert tax.splitlines()[6].split('|')[4].strip() == f'{sum(nats) / len(nats):.1f}'
  assert f'{QUESTIONS} items; confidence' in executed.printed("t5x_lite(f'calibration")
  picture, = pictures(executed, "t5x_lite(f'calibration")
  assert len(picture) > 5_000


@pytest.mark.slow
def test_the_page_of_items_is_shown(executed):
  shown, = [o.data['text/html'] for o in executed.outputs('evaluate page')
            if 'text/html' in o.get('data', {})]
  page = html.unescape(re.search('srcdoc="(.*?)"', shown, re.DOTALL)[1])
  assert page == (executed.folder / FOLDER / 'items.html').read_text()
  data = json.loads(re.search(r'id="data">(.*?)</script>', page, re.DOTALL)[1])
  assert len(data['models']) == 2 and len(data['items']) == QUESTIONS
