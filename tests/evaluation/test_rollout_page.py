"""The page of what a policy wrote: means of rollouts, what is shown, and text that is no markup."""

import json
import re

import numpy as np
import pytest

from t5x_lite import cli
from t5x_lite.core.errors import UserError
from t5x_lite.evaluation import rollout_page


def write(folder, rollouts=5, number=6):
  rng = np.random.default_rng(0)
  records = [{'rollout': n, 'prompt': f'p{n}</script>', 'completion': f'<b>{k}&</b>',
              'reward': float(rng.normal()), 'kl': 0.1 * n, 'tokens': k + 1, 'ended': k > 0}
             for n in range(rollouts) for k in range(number)]
  records[3]['fault'] = 'unit_tests: it ran for more than 5 s'
  (folder / 'rollouts.jsonl').write_text(''.join(json.dumps(r) + '\n' for r in records))
  return records


def test_rollouts_are_summarized_by_means_and_their_standard_error(tmp_path):
  records = write(tmp_path)
  rows = rollout_page.summarize(rollout_page.read_rollouts(tmp_path / 'rollouts.jsonl'))
  rewards = [r['reward'] for r in records[6:12]]
  assert rows[1] == pytest.approx({
      'rollout': 1, 'number': 6, 'reward': np.mean(rewards), 'faults': 0, 'kl': 0.1, 'tokens': 3.5,
      'ended': 5 / 6, 'reward_stderr': np.std(rewards, ddof=1) / 6 ** 0.5})
  assert [row['faults'] for row in rows] == [1, 0, 0, 0, 0]


def test_a_page_shows_rollouts_from_first_to_last_as_text(tmp_path, capsys):
  write(tmp_path)
  assert cli.main(['rollouts', str(tmp_path)]) == 0
  assert '30 completions of 5 rollouts' in capsys.readouterr().out
  page = (tmp_path / 'rollouts.html').read_text()
  found = re.search('<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
  data = json.loads(found[1])
  assert [one['rollout'] for one in data['shown']] == [0, 1, 2, 3, 4]
  assert data['curves'] == ['reward', 'kl', 'tokens', 'ended', 'faults']
  assert data['shown'][0]['records'][0]['prompt'] == 'p0</script>'
  few = json.loads(re.search('id="data">(.*?)</script>', rollout_page.render_page(
      'run', rollout_page.read_rollouts(tmp_path / 'rollouts.jsonl'), rollouts=3, samples=2))[1])
  assert [(one['rollout'], len(one['records'])) for one in few['shown']] == [(0, 2), (2, 2), (4, 2)]


def test_a_folder_without_rollouts_and_a_line_that_is_none_are_refused(tmp_path, capsys):
  assert cli.main(['rollouts', str(tmp_path)]) == 1
  assert 'name a run that was trained on rollouts' in capsys.readouterr().err
  (tmp_path / 'rollouts.jsonl').write_text('{"rollout": 0}\n')
  with pytest.raises(UserError, match=r'rollouts.jsonl:1 is no record of a completion'):
    rollout_page.read_rollouts(tmp_path / 'rollouts.jsonl')
  (tmp_path / 'rollouts.jsonl').write_text('')
  with pytest.raises(UserError, match='the run has drawn nothing yet'):
    rollout_page.read_rollouts(tmp_path / 'rollouts.jsonl')
