"""Structure of dialogues of a known automaton: found as it is."""

import json
import random

import numpy as np
import pytest

from t5x_lite import cli
from t5x_lite.core.errors import UserError
from t5x_lite.dialogue.schema import Act, Dialogue, Turn, json_lines
from t5x_lite.dialogue.structure.discover import StructureConfig, discover
from tasks.dialogue import generated

NOISE = 0.01    # of turns, whose text is that of another state
# State: (templates, {what follows: probability}). A user's states and a system's alternate.
STATES = {
    'u.find': (('i look for a {food} restaurant in the {area}',
                'please look for a {food} restaurant in the {area} of town',
                'look for some {food} restaurant in the {area} please'),
               {'s.offer': 0.7, 's.none': 0.3}),
    'u.other': (('is there something else instead', 'no is there something else',
                 'well is there something else'), {'s.offer': 1.0}),
    'u.phone': (('please what is their phone number', 'can i have their phone number',
                 'give me their phone number'), {'s.phone': 1.0}),
    'u.book': (('book a table for {n} people at {n}:30',
                'can you book a table for {n} people at {n}:30',
                'now book a table for {n} people at {n}:15'), {'s.booked': 0.5, 's.full': 0.5}),
    'u.day': (('then try {day} instead', 'then try {day} please', 'ok then try {day}'),
              {'s.booked': 0.7, 's.full': 0.3}),
    'u.bye': (('thank you goodbye', 'ok thank you goodbye', 'thank you goodbye now'),
              {'s.bye': 1.0}),
    's.offer': (('{name} serves {food} food would you like it',
                 'how about {name} it serves {food} food', '{name} also serves {food} food'),
                {'u.phone': 0.3, 'u.book': 0.4, 'u.other': 0.3}),
    's.none': (('sorry nothing matches your request', 'i am afraid nothing matches your request',
                'nothing matches your request at all'), {'u.find': 0.6, 'u.bye': 0.4}),
    's.phone': (('you can call them on 01223 {n}{n}{n}{n}{n}{n}', 'call them on 01223 4{n}6{n}{n}3',
                 'please call them on 01223 3{n}6{n}{n}3'), {'u.book': 0.5, 'u.bye': 0.5}),
    's.booked': (('your booking succeeded with reference A{n}B{n}C{n}X{n}',
                  'done booking succeeded with reference Z{n}Y{n}Q{n}W{n}'), {'u.bye': 1.0}),
    's.full': (('that hour is fully taken', 'alas that hour is fully taken',
                'i see that hour is fully taken'), {'u.day': 0.8, 'u.bye': 0.2}),
    's.bye': (('have a nice meal goodbye', 'have a nice meal', 'now have a nice meal'),
              {None: 1.0}),
}
WORDS = {'food': ('thai', 'indian', 'chinese', 'british'), 'area': ('north', 'south', 'centre'),
         'name': ('Nandos', 'Curry Garden', 'Meze', 'Pizza Hut'), 'n': '23456789',
         'day': ('monday', 'friday', 'sunday')}


def make_dialogues(number: int, seed: int, noise: float = 0.0) -> list[Dialogue]:
  """Dialogues that begin with u.find.

  Args:
    noise: probability of a turn that says what another state of its speaker says.
  """
  rng = random.Random(seed)
  dialogues = []
  for d in range(number):
    turns, state = [], 'u.find'
    while state is not None:
      said = state
      if rng.random() < noise:
        said = rng.choice([name for name in STATES if name[0] == state[0] and name != state])
      text = rng.choice(STATES[said][0])
      while '{' in text:
        name = text[text.index('{') + 1:text.index('}')]
        text = text.replace('{' + name + '}', rng.choice(WORDS[name]), 1)
      turns.append(Turn('user' if state[0] == 'u' else 'system', text,
                        acts=(Act(state[2:], 'restaurant'),)))
      following = STATES[state][1]
      state = rng.choices(list(following), following.values())[0]
    dialogues.append(Dialogue(str(d), tuple(turns), ('restaurant',)))
  return dialogues


def true_edges() -> set[tuple[str, str]]:
  """Of the automaton, with START and END."""
  return {('START', 'u.find')} | {
      (state, following or 'END') for state, (_, all_of) in STATES.items() for following in all_of}


@pytest.fixture(scope='module')
def known():
  """(dialogues of a known automaton, what was found in them)."""
  dialogues = make_dialogues(300, seed=0, noise=NOISE)
  held_out = make_dialogues(100, seed=1, noise=NOISE)
  config = StructureConfig(k=6, min_probability=0.1, starts=4)
  return dialogues, discover(dialogues, config, held_out)


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
  offers = [state for state in found.states if 'serves' in state.words]
  assert len(offers) == 1 and offers[0].speaker == 'system' and offers[0].size > 300
  phone, = (state for state in found.states if '[phone]' in state.words)
  assert phone.text.startswith(('you can call', 'call them', 'please call')) and (
      any('01223' in text for text in phone.examples))


@pytest.mark.slow
def test_the_edges_of_generated_dialogues_are_those_they_are_made_by():
  dialogues = generated.generate(600, noise=NOISE)
  found = discover(dialogues, StructureConfig(
      k=20, starts=4, delexicalise=True, annotations=('intents',)))
  name = lambda state: state if state in ('START', 'END') else (
      f'{"u" if state in generated.USER else "s"}.{state}')
  edges = {(name(state), name(other))
           for state, following in generated.AUTOMATON.items() for other in following}
  assert len(edges) == 28 and set(edges_by_act(dialogues, found)) == edges
  assert all(side['homogeneity'] > 0.99 for side in found.agreement.values())


def test_clusters_that_differ_in_wording_alone_are_one_state_of_the_minimal_automaton():
  dialogues = make_dialogues(100, seed=2)
  found = discover(dialogues, StructureConfig(k=12, starts=4, min_count=1))
  blocks = {}
  for dialogue, path in zip(dialogues, found.paths):
    for turn, state in zip(dialogue.turns, path):
      act = turn.speaker, turn.acts[0].intent
      blocks.setdefault(act, set()).add(found.automaton.blocks[state])
  assert len(found.states) == 24 > len(found.graph.nodes) - 2
  assert len(blocks['system', 'bye']) == len(blocks['user', 'bye']) == 1


def test_annotations_and_an_encoder_take_the_place_of_words():
  dialogues = make_dialogues(60, seed=3)
  shapes = []

  def blind(texts):
    shapes.append(len(texts))
    return np.zeros((len(texts), 4))

  config = StructureConfig(speaker='system', k=6, annotations=('intents',), context=2, starts=4)
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
  argv = ['dialogue', 'discover', str(path), f'--held_out={more}', '--speaker=system', '--k=5-6',
          f'--output={tmp_path / "out"}']
  assert cli.main(argv) == 0
  out, err = capsys.readouterr()
  assert not err and out.startswith('60 dialogues, ') and '  system: ' in out
  assert '% of transitions are edges' in out and ', nmi 0.' in out or ', nmi 1.' in out
  assert {file.name for file in (tmp_path / 'out').iterdir()} == {
      f'structure.{suffix}' for suffix in ('json', 'dot', 'png', 'svg', 'html')}
  record = json.loads((tmp_path / 'out/structure.json').read_text())
  assert set(record['figures']['scores']['system']) == {'5', '6'}
  k = len(record['states'])
  assert len(record['dialogues']) == 60 and set(record['dialogues']['0']) <= {
      f's{i}' for i in range(k)}
  assert sum(t['count'] for t in record['transitions'] if t['from'] == 'START') == 60
  assert (tmp_path / 'out/structure.png').read_bytes().startswith(b'\x89PNG')
  assert cli.main(argv) == 1 and 'exists and is not empty' in capsys.readouterr().err
  assert cli.main([*argv[:-1], f'--output={tmp_path}/x', '--k=many']) == 1
  assert capsys.readouterr().err == 'error: --k=many: write one number, or two as 5-20\n'
