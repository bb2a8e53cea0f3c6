"""States of a variational RNN as a structure, and the picture of a latent space."""

import json

import numpy as np
import pytest

from t5x_lite import cli
from t5x_lite.core.errors import UserError
from t5x_lite.dialogue.schema import Dialogue, Turn, json_lines
from t5x_lite.dialogue.structure.discover import StructureConfig
from t5x_lite.dialogue.structure.written import write_structure
from t5x_lite.dialogue.variational.discover_latent import discover_latent
from t5x_lite.dialogue.variational.picture import NAMED, draw_latents, project
from t5x_lite.dialogue.variational.vrnn import VrnnConfig
from tasks.dialogue.generated import generate


@pytest.mark.slow
def test_latent_states_are_a_structure_with_the_models_own_transitions(tmp_path):
  dialogues, held_out = generate(100), generate(30, seed=1)
  config = StructureConfig(k=9, delexicalise=True, annotations=('intents',))
  found = discover_latent(dialogues, config, held_out, VrnnConfig(
      steps=200, annealing=60, hidden=16, batch_size=16, learning_rate=0.02))
  assert [len(path) for path in found.paths] == [len(one.turns) for one in dialogues]
  assert all(found.states[s].speaker == ('user', 'system')[n % 2]
             for path in found.paths for n, s in enumerate(path))
  assert all(state.size for state in found.states) and len(found.states) <= 18
  k = len(found.states)
  assert found.prior.shape == (k + 1, k + 1)
  np.testing.assert_allclose(found.prior.sum(1), 1, atol=1e-5)
  assert found.agreement['user']['nmi'] > 0.8 and found.agreement['system']['nmi'] > 0.5
  perplexity = found.held_out['perplexity']
  assert perplexity['prior'] < perplexity['uniform'] / 2 and found.held_out['coverage'] > 0.8
  write_structure(tmp_path, 'latent', found, [one.id for one in dialogues])
  record = json.loads((tmp_path / 'structure.json').read_text())
  assert len(record['transitions']) == (found.counts > 0).sum()
  assert all(0 < transition['prior'] <= 1 for transition in record['transitions'])


def test_what_the_model_cannot_read_is_refused(tmp_path, capsys):
  path = tmp_path / 'talks.jsonl'
  path.write_text(json_lines(generate(2)))
  for flag in '--context=2', '--choose_by=likelihood':
    assert cli.main(['dialogue', 'discover', str(path), '--model=vrnn', flag,
                     f'--output={tmp_path / "out"}']) == 1
    assert 'leave out speaker, context and choose_by' in capsys.readouterr().err
  with pytest.raises(UserError, match='1 dialogues have no utterance of one side'):
    discover_latent([Dialogue('one', (Turn('user', 'a table'),))], StructureConfig())
  twice = Dialogue('twice', (Turn('user', 'a table'), Turn('user', 'a taxi'),
                             Turn('system', 'which one')))
  with pytest.raises(UserError, match="dialogue twice: turns do not alternate, the user's first"):
    discover_latent([twice], StructureConfig())


def test_a_picture_names_the_most_frequent_acts_with_their_numbers():
  acts = [f'act{n}' for n in range(NAMED + 3) for _ in range(20 - n)]
  means = np.random.default_rng(0).normal(size=(len(acts), 5))
  figure = draw_latents(project(means, 'pca'), acts, 'latents')
  names = [text.get_text() for text in figure.legends[0].get_texts()]
  assert names == [f'others ({9 + 10 + 11})', *(f'act{n} ({20 - n})' for n in range(NAMED))]
  assert sum(len(one.get_offsets()) for one in figure.axes[0].collections) == len(acts)
  line = project(means[:, :1], 'pca')
  assert np.ptp(line[:, 1]) == 0
  np.testing.assert_allclose(np.abs(line[:, 0]), np.abs(means[:, 0] - means[:, 0].mean()))


def test_the_command_draws_and_says_whether_the_latent_is_used(tmp_path, capsys):
  path = tmp_path / 'talks.jsonl'
  path.write_text(json_lines(generate(6)))
  argv = ['dialogue', 'embed', str(path), '--steps=3', '--latent=2', '--json',
          f'--output={tmp_path / "latents.png"}']
  assert cli.main(argv) == 0
  figures = json.loads(capsys.readouterr().out)
  assert set(figures) == {'utterances', 'elbo', 'iwae', 'kl', 'information', 'active_units'}
  assert (tmp_path / 'latents.png').read_bytes().startswith(b'\x89PNG')
  path.write_text('')
  assert cli.main(argv) == 1 and 'has 0 utterances of the system' in capsys.readouterr().err
