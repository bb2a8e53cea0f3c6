"""The notebook of dialogues runs to its last cell: data, automaton, simulated users, scores."""

import base64
import json
import pathlib
import re

import pytest

NOTEBOOK = pathlib.Path(__file__).parents[2] / 'colab/dialogue.ipynb'
STEPS = 2


@pytest.fixture(scope='module')
def executed(execute_notebook):
  """The notebook after a run of few steps, and the folder it ran in."""
  pytest.importorskip('sacremoses')
  return execute_notebook(NOTEBOOK, 500, T5X_LITE_NOTEBOOK_STEPS=str(STEPS))


@pytest.mark.slow
def test_states_are_found_again(executed):
  found, words = (json.loads((executed.folder / f'runs/dialogue-{STEPS}' / name / 'structure.json'
                              ).read_text())['figures']['agreement']
                  for name in ('structure', 'words'))
  for side in ('user', 'system'):
    assert found[side]['nmi'] > max(0.85, words[side]['nmi'])
  page = ''.join(o.data.get('text/html', '') for o in executed.outputs('structure.html'))
  assert 'iframe' in page and 'I recommend' in page


@pytest.mark.slow
def test_faults_are_seen_in_success(executed):
  rules, silent = re.findall(r'^success +([\d.]+)%', executed.printed("('rules', 'no_phone')"),
                             re.MULTILINE)
  assert float(rules) == 100 and 10 < float(silent) < 90
  assert 'never gives the phone' in executed.printed('--bias')


@pytest.mark.slow
def test_systems_are_scored_and_shown(executed):
  table, picture = executed.outputs('comparison.png')
  rows = [line.split(' | ')[0] for line in table.data['text/markdown'].splitlines()[2:7]]
  assert rows == [f'| {name}' for name in (
      'most_frequent', 'nearest', 'scratch', 'qlora', 'corpus')]
  assert len(base64.b64decode(picture.data['image/png'])) > 10_000
  said = executed.printed('for name, found in predictions.items()')
  assert said.startswith('user: ') and len(re.findall('^  corpus', said, re.MULTILINE)) > 2
