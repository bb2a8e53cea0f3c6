"""Structure of dialogues of a known automaton, and of MultiWOZ's restaurants."""

import json

import numpy as np
import pytest
from dialogue_chain import make_dialogues, true_edges
from restaurants import FOLDER, restaurants

from t5x_lite import cli
from t5x_lite.core.errors import UserError
from t5x_lite.dialogue.schema import Dialogue, Turn, json_lines
from t5x_lite.dialogue.structure.discover import StructureConfig, discover

NOISE = 0.01    # of turns, whose text is that of another state


@pytest.fixture(scope='module')
def known():
  """(dialogues of a known automaton, what was found in them)."""
  dialogues = make_dialogues(300, seed=0, noise=NOISE)
  held_out = make_dialogues(100, seed=1, noise=NOISE)
  return dialogues, discover(dialogues, StructureConfig(k=6, min_probability=0.1), held_out)


def edges_by_act(dialogues, found):
  """The edges, each state under the act that most of its utterances have."""
  acts = {}
  for dialogue, path in zip(dialogues, found.paths):
    for turn, state in zip(dialogue.turns, path):
      acts.setdefault(state, []).append(f'{turn.speaker[0]}.{turn.acts[0].intent}')
  names = [max(set(acts[s]), key=acts[s].count) for s in range(len(found.states))]
  before, after = [*names, 'START'], [*names, 'END']
  return [(before[i], after[j]) for i, j in zip(*found.automaton.counts.nonzero())]


def test_a_known_automaton_is_recovered(known):
  dialogues, found = known
  assert found.agreement['user']['nmi'] > 0.95 and found.agreement['system']['nmi'] > 0.95
  assert sorted(edges_by_act(dialogues, found)) == sorted(true_edges())
  assert found.held_out['coverage'] > 0.9
  perplexity = found.held_out['perplexity']
  assert perplexity['automaton'] < perplexity['unigram'] / 2
  assert perplexity['automaton'] < 1.1 * perplexity['bigram']
  assert found.entropy['transition'] < found.entropy['marginal'] / 2
  # To read a user's wish of a phone, or s.offer after u.other, is all that tells equal states.
  offers = [state for state in found.states if 'serves' in state.words]
  assert len(offers) == 1 and offers[0].speaker == 'system' and offers[0].size > 300
  phone, = (state for state in found.states if '[phone]' in state.words)
  assert phone.text.startswith(('you can call', 'call them', 'please call')) and (
      any('01223' in text for text in phone.examples))


def test_clusters_that_differ_in_wording_alone_are_one_state_of_the_minimal_automaton():
  dialogues = make_dialogues(300, seed=2)
  found = discover(dialogues, StructureConfig(k=12, min_probability=0.01, min_count=1))
  blocks = {}
  for dialogue, path in zip(dialogues, found.paths):
    for turn, state in zip(dialogue.turns, path):
      blocks.setdefault((turn.speaker, turn.acts[0].intent), set()).add(found.automaton.blocks[state])
  assert len(found.states) == 24 > len(found.graph.nodes) - 2
  assert len(blocks['system', 'bye']) == len(blocks['user', 'bye']) == 1


def test_annotations_and_an_encoder_take_the_place_of_words():
  dialogues = make_dialogues(60, seed=3)
  shapes = []

  def blind(texts):
    shapes.append(len(texts))
    return np.zeros((len(texts), 4))

  config = StructureConfig(speaker='system', k=6, annotations=('intents',), context=2)
  found = discover(dialogues, config, encoder=blind)
  assert found.agreement['system']['nmi'] == pytest.approx(1) and set(found.agreement) == {'system'}
  assert shapes == [sum(map(len, found.paths))]
  with pytest.raises(UserError, match='k = 6 clusters of 1 different points'):
    discover(dialogues, StructureConfig(speaker='system', k=6), encoder=blind)


@pytest.mark.parametrize('fields, message', [
    ({'k': 0}, 'StructureConfig.k'), ({'k': (5, 3)}, 'the least, 2 at least, and the most'),
    ({'speaker': 'bot'}, 'StructureConfig.speaker'), ({'smoothing': 0.0}, 'above 0'),
    ({'annotations': ('acts',)}, 'annotations')])
def test_a_config_says_what_is_wrong(fields, message):
  with pytest.raises(UserError, match=message):
    StructureConfig(**fields)


def test_dialogues_that_say_too_little_are_refused():
  one = Dialogue('1', (Turn('user', 'hello there'),))
  with pytest.raises(UserError, match='1 dialogues have no utterance of the system'):
    discover([one], StructureConfig(speaker='system'))
  with pytest.raises(UserError, match='the user says only 1 different things'):
    discover([one], StructureConfig(speaker='user'))
  two = Dialogue('2', tuple(Turn('user', text) for text in ('a table', 'a taxi', 'a train', 'bye')))
  with pytest.raises(UserError, match='too few to hold out every fifth'):
    discover([two], StructureConfig(speaker='user', k=(2, 3), choose_by='likelihood'))


def test_the_command_writes_json_dot_pictures_and_a_page(tmp_path, capsys):
  path, more = tmp_path / 'talks.jsonl', tmp_path / 'more.jsonl'
  path.write_text(json_lines(make_dialogues(60, seed=4)))
  more.write_text(json_lines(make_dialogues(20, seed=5)))
  argv = ['dialogue', 'discover', str(path), f'--held_out={more}', '--speaker=system', '--k=5-7',
          f'--output={tmp_path / "out"}']
  assert cli.main(argv) == 0
  out, err = capsys.readouterr()
  assert not err and out.startswith('60 dialogues, ') and '  system: ' in out
  assert '% of transitions are edges' in out and ', nmi 0.' in out or ', nmi 1.' in out
  assert {file.name for file in (tmp_path / 'out').iterdir()} == {
      f'structure.{suffix}' for suffix in ('json', 'dot', 'png', 'svg', 'html')}
  record = json.loads((tmp_path / 'out/structure.json').read_text())
  assert set(record['figures']['scores']['system']) == {'5', '6', '7'}
  k = len(record['states'])
  assert len(record['dialogues']) == 60 and set(record['dialogues']['0']) <= {
      f's{i}' for i in range(k)}
  assert sum(t['count'] for t in record['transitions'] if t['from'] == 'START') == 60
  assert (tmp_path / 'out/structure.png').read_bytes().startswith(b'\x89PNG')
  assert cli.main(argv) == 1 and 'exists and is not empty' in capsys.readouterr().err
  assert cli.main([*argv[:-1], f'--output={tmp_path}/x', '--k=many']) == 1
  assert capsys.readouterr().err == 'error: --k=many: write one number, or two as 5-20\n'


@pytest.mark.slow
@pytest.mark.skipif(not FOLDER.exists(), reason='T5X_LITE_TEST_DATA is not set')
def test_the_restaurant_dialogues_of_multiwoz_as_by_scikit_learn():
  """TF-IDF of 1-2 grams, SVD of 100 and k-means have an NMI to acts of 0.48 to 0.53 there."""
  dialogues = restaurants()
  assert len(dialogues) == 112 and sum(len(one.turns) for one in dialogues) == 1_050
  assert sum(len(one.turns) == 14 for one in dialogues) == 5
  nmi = {(speaker, k): discover(dialogues, StructureConfig(
      speaker=speaker, k=k, length=14)).agreement[speaker]['nmi']
         for speaker in ('system', 'user') for k in (6, 10, 14, 20)}
  assert min(nmi['system', k] for k in (6, 10, 14, 20)) >= 0.48, nmi
  assert max(nmi['system', k] for k in (6, 10, 14, 20)) >= 0.53, nmi
  assert min(nmi['user', k] for k in (6, 10, 14, 20)) >= 0.35, nmi


@pytest.mark.slow
@pytest.mark.skipif(not FOLDER.exists(), reason='T5X_LITE_TEST_DATA is not set')
def test_the_automaton_of_restaurant_dialogues_covers_those_held_out():
  dialogues = restaurants()
  train = [one for i, one in enumerate(dialogues) if i % 5 != 4]
  found = discover(train, StructureConfig(length=14, k=10, min_probability=0.02, min_count=1),
                   dialogues[4::5])
  assert found.held_out['coverage'] > 0.8
  perplexity = found.held_out['perplexity']
  assert perplexity['automaton'] < perplexity['unigram'] / 2
