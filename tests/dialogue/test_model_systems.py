"""Models as systems and users: what they write is understood, and the database answers."""

import dataclasses
import re

import pytest

from t5x_lite.dialogue.asking import Form
from t5x_lite.dialogue.schema import Act, Dialogue, Turn
from t5x_lite.dialogue.simulation.database import made_up_town
from t5x_lite.dialogue.simulation.endpoint import EndpointSpeaker
from t5x_lite.dialogue.simulation.goals import GoalConfig, draw_goals, message
from t5x_lite.dialogue.simulation.language import Language
from t5x_lite.dialogue.simulation.model_system import ModelSystem
from t5x_lite.dialogue.simulation.simulate import SimulationConfig, simulate
from t5x_lite.dialogue.simulation.systems import Faults, RuleSystem
from t5x_lite.dialogue.texts import end_to_end_text, results_text, turn_text

TOWN = made_up_town()
GOALS = draw_goals(TOWN, 60, 3, GoalConfig())


class PerfectModel:
  """Writes what a perfect end-to-end model would, but guesses every number of results as 999."""

  form = Form('end_to_end', False, True)

  def __init__(self):
    self._rules, self.begun = RuleSystem(TOWN, Faults(), 0), []

  def __call__(self, asked, begun=None):
    turns = self._rules.reply([Dialogue('x', tuple(turns)) for turns in asked])
    if begun is not None:
      self.begun += begun
      return [turn_text(turn, delexicalised=True) for turn in turns]
    return [end_to_end_text(turns[-1].state, turn.results and dict.fromkeys(turn.results, 999),
                            'a response to 999 results')
            if turn.results else end_to_end_text(turns[-1].state, None, turn.text)
            for turns, turn in zip(asked, turns)]


def test_a_perfect_model_reaches_all_goals_as_the_database_answers():
  model = PerfectModel()
  outcomes = simulate(GOALS, TOWN, ModelSystem(model, TOWN, 0), SimulationConfig())
  assert [one.failures for one in outcomes if not one.success] == []
  rules = simulate(GOALS, TOWN, RuleSystem(TOWN, Faults(), 0), SimulationConfig())
  counts = [turn.results for one in rules for turn in one.dialogue.turns if turn.results]
  assert {re.search('results: (.*)', text)[1] for text in model.begun} == {
      results_text(one) for one in counts}
  said = ' '.join(turn.text for one in outcomes for turn in one.dialogue.turns)
  assert '[' not in said and '999' not in said


def test_responses_with_their_values_are_said_as_they_are():
  class Model:
    form = Form('response', True, False)

    def __call__(self, asked):
      return ['How about the golden fork?'] * len(asked)

  dialogue = Dialogue('x', (Turn('user', 'I need a restaurant.'),))
  assert ModelSystem(Model(), TOWN, 0).reply([dialogue]) == [
      Turn('system', 'How about the golden fork?')]


def test_what_a_model_writes_is_filled_as_far_as_it_can_be():
  class Model:
    form = Form('end_to_end', False, True)

    def __call__(self, asked, begun=None):
      return ['state: pub area = north\nresults: pub 3\nresponse: [value_name] [value_reference]',
              'nonsense'] if begun is None else ['[value_name] is one.', '']

  turns = (Turn('user', 'A pub?'),)
  pub, nothing = ModelSystem(Model(), TOWN, 0).reply([Dialogue('a', turns), Dialogue('b', turns)])
  assert pub.text == '[value_name] is one.' and pub.results is None   # the town has no pubs
  assert nothing == Turn('system', '')


@pytest.mark.parametrize('speaker', ['user', 'system'])
def test_every_sentence_that_an_endpoint_is_shown_is_understood(speaker):
  language = Language(TOWN)
  examples = language.examples(speaker)
  before = Dialogue('x', (Turn('user', 'I need a hotel.', (Act('inform', 'hotel'),)),))
  assert len(examples) > 10
  for text in examples:
    assert language.understand(speaker, text, before), text


def test_an_endpoint_is_told_the_goal_or_the_database_and_the_dialogue():
  asked = []
  ask = lambda text: asked.append(text) or 'Thank you,\n goodbye.'
  user = EndpointSpeaker(ask, 'user', TOWN, 2)
  rules = RuleSystem(TOWN, Faults(), 0)
  outcomes = simulate(GOALS[:3], TOWN, rules, SimulationConfig(), user)
  assert [one.turns for one in outcomes] == [1, 1, 1]
  assert all(one.dialogue.turns[0].text == 'Thank you, goodbye.' for one in outcomes)
  assert not any(one.success for one in outcomes)
  assert all(message(goal) in text for goal, text in zip(GOALS, asked))
  assert 'golden' not in asked[0].split('Write as')[0] and '(none yet)' in asked[0]

  system = EndpointSpeaker(ask, 'system', TOWN, 2)
  outcomes = simulate(GOALS[:2], TOWN, system, SimulationConfig(max_turns=2))
  assert all(name in asked[-1] for name in TOWN['hotel'].by_name)
  assert f'user: {outcomes[-1].dialogue.turns[-2].text}' in asked[-1]


def test_an_endpoint_that_knows_what_to_say_reaches_the_goal():
  """The agenda's own words, by way of text alone."""
  outcomes = simulate(GOALS[:10], TOWN, RuleSystem(TOWN, Faults(), 0), SimulationConfig())
  scripts = {one.dialogue.message: [turn.text for turn in one.dialogue.turns
                                    if turn.speaker == 'user'] for one in outcomes}

  def ask(text):
    goal = next(goal for goal in scripts if goal in text)
    return scripts[goal][text.count('\nuser: ')]

  again = simulate(GOALS[:10], TOWN, RuleSystem(TOWN, Faults(), 0), SimulationConfig(),
                   EndpointSpeaker(ask, 'user', TOWN, 3))
  assert all(one.success for one in again)
  states = [[turn.state for turn in one.dialogue.turns] for one in (*outcomes, *again)]
  assert states[:10] == states[10:]
  assert dataclasses.asdict(again[0])['failures'] == ()
