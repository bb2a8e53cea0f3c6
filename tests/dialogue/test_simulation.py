"""Simulated users: what they say is understood, systems of known quality score what they should."""

import dataclasses
import itertools
import json

import pytest

from t5x_lite import cli
from t5x_lite.dialogue.schema import Act, Dialogue, Goal, Turn, read_dialogues
from t5x_lite.dialogue.simulation.database import DONT_CARE, made_up_town
from t5x_lite.dialogue.simulation.goals import GoalConfig, Wish, draw_goals, is_solvable, message
from t5x_lite.dialogue.simulation.language import Language
from t5x_lite.dialogue.simulation.results import measure_bias, pass_power, summarize
from t5x_lite.dialogue.simulation.simulate import Outcome, SimulationConfig, simulate
from t5x_lite.dialogue.simulation.systems import Faults, RandomSystem, RuleSystem

TOWN = made_up_town()
LANGUAGE = Language(TOWN)
GOALS = draw_goals(TOWN, 300, 0, GoalConfig())


def rules(**faults):
  return RuleSystem(TOWN, Faults(**faults), 0)


@pytest.fixture(scope='module')
def outcomes():
  """Of the rule system without a fault."""
  return simulate(GOALS, TOWN, rules(), SimulationConfig())


def test_all_goals_can_be_reached_in_the_end_and_half_of_changes_not_at_first():
  wishes = [*itertools.chain(*draw_goals(TOWN, 1000, 1, GoalConfig(change=0.5)))]
  assert all(is_solvable(wish, TOWN) for wish in wishes)
  changed = [wish for wish in wishes if wish.first != wish.final]
  fails = [wish for wish in changed if not TOWN[wish.domain].query(wish.first.inform)]
  assert 0.3 < len(changed) / len(wishes) < 0.5   # a wish without constraints cannot change
  assert 0.2 < len(fails) / len(changed) < 0.6
  for wish in changed:
    assert sum(wish.final.inform[slot] != x for slot, x in wish.first.inform.items()) == 1


def test_the_rule_system_reaches_all_solvable_goals(outcomes):
  assert [one.failures for one in outcomes if not one.success] == []
  assert all(one.dialogue.turns[-1].acts == (Act('bye'),) for one in outcomes)


def test_a_system_at_random_reaches_hardly_any():
  found = simulate(GOALS, TOWN, RandomSystem(TOWN, 0), SimulationConfig())
  assert sum(one.success for one in found) / len(found) < 0.05


def test_a_system_that_never_gives_the_phone_number_loses_the_goals_that_ask_for_it():
  found = simulate(GOALS, TOWN, rules(never_gives=('phone',)), SimulationConfig())
  for one in found:
    asks = any('phone' in wish.final.request for wish in GOALS[one.goal])
    assert one.success != asks
    assert not asks or any('phone not told' in reason for reason in one.failures)


def test_what_is_said_is_understood_and_spans_are_values(outcomes):
  key = lambda acts: sorted(map(dataclasses.astuple, acts))
  for one in outcomes:
    for n, turn in enumerate(one.dialogue.turns):
      before = Dialogue('', one.dialogue.turns[:n])
      assert key(LANGUAGE.understand(turn.speaker, turn.text, before)) == key(turn.acts), turn.text
      values = {(act.domain, act.slot, act.value) for act in turn.acts}
      for span in turn.spans:
        said = turn.text[span.start:span.end].lower()
        assert (span.domain, span.slot, said) in values


def test_a_system_that_is_understood_from_its_text_alone_does_as_well(outcomes):
  class TextOnly:
    def reply(self, dialogues):
      return [dataclasses.replace(turn, acts=()) for turn in rules().reply(dialogues)]

  found = simulate(GOALS[:100], TOWN, TextOnly(), SimulationConfig())
  assert [one.dialogue for one in found] == [one.dialogue for one in outcomes[:100]]


def test_dialogues_do_not_depend_on_the_batch(outcomes):
  found = simulate(GOALS[:40], TOWN, rules(), SimulationConfig(batch_size=7))
  assert found == outcomes[:40]
  other = simulate(GOALS[:40], TOWN, rules(), SimulationConfig(seed=1))
  assert [one.dialogue.turns for one in other] != [one.dialogue.turns for one in found]


def test_measured_success_is_that_which_faults_leave():
  for one in measure_bias(GOALS, TOWN, SimulationConfig()):
    assert abs(one.measured - one.known) <= 3 * one.stderr + 1e-12, one


def fixed(system_acts):
  """A system that says these acts, turn by turn, then the last again."""
  class Fixed:
    def reply(self, dialogues):
      return [Turn('system', '-', system_acts[min(
          len(one.turns) // 2, len(system_acts) - 1)]) for one in dialogues]

  return Fixed()


def hold(wish, *system_acts, **config):
  """The one outcome of a wish with a system of fixed acts."""
  (found,) = simulate([[wish]], TOWN, fixed(system_acts), SimulationConfig(**config))
  return found


def a_wish(**goal):
  goal = Goal(**{'inform': {'food': 'thai'}, 'request': ('phone',)} | goal)
  return Wish('restaurant', goal, goal)


THAI, OTHER = (next(one for one in TOWN['restaurant'].entities if (one['food'] == 'thai') == thai)
               for thai in (True, False))


def offer(entity):
  return Act('offer', 'restaurant', 'name', entity['name'])


def phone(entity):
  return Act('inform', 'restaurant', 'phone', entity['phone'])


@pytest.mark.parametrize('acts, failures', [
    ([(offer(THAI),), (phone(THAI),)], ()),
    ([(offer(THAI), phone(THAI))], ()),
    ([(offer(THAI),), (phone(OTHER),)], ('wrong phone (restaurant)',)),
    ([(offer(OTHER),), (phone(OTHER),)], ('offer of another food (restaurant)',)),
    ([(phone(THAI),)], ('no offer (restaurant)', 'lost patience')),
    ([(offer(THAI),), (Act('more'),)], ('phone not told (restaurant)', 'lost patience')),
    ([(Act('nothing', 'restaurant'),)], ('no offer (restaurant)',)),
    ([(offer(OTHER), phone(OTHER)), (offer(THAI),), (phone(THAI),)],
     ('offer of another food (restaurant)',)),   # the first had all that was asked for
])
def test_outcomes_of_fixed_systems(acts, failures):
  found = hold(a_wish(), *acts)
  assert found.failures == failures and found.success == (not failures)


def test_a_user_insists_on_its_constraint():
  said = (offer(OTHER), Act('inform', 'restaurant', 'food', OTHER['food']))
  found = hold(a_wish(), said, (offer(THAI),), (phone(THAI),))
  assert found.success
  assert found.dialogue.turns[2].acts == (Act('inform', 'restaurant', 'food', 'thai'),)


def test_a_new_offer_is_asked_about_again():
  two = a_wish(request=('phone', 'address'))
  told = (offer(OTHER), phone(OTHER))
  address = Act('inform', 'restaurant', 'address', THAI['address'])
  found = hold(two, told, (offer(THAI),), (phone(THAI), address))
  assert found.success


def test_a_question_is_answered_and_what_does_not_matter_is_said():
  ask = lambda slot: (Act('request', 'restaurant', slot),)
  found = hold(a_wish(), ask('area'), ask('food'), (offer(THAI), phone(THAI)))
  assert [turn.acts[0].value for turn in found.dialogue.turns[2:6:2]] == [DONT_CARE, 'thai']


def test_nothing_is_right_where_there_is_nothing():
  none = {'food': 'thai', 'area': 'moon'}
  wish = a_wish(inform=none)
  assert not is_solvable(wish, TOWN)
  domain = dataclasses.replace(TOWN['restaurant'], informable=dict(
      TOWN['restaurant'].informable) | {'area': ('moon',)})
  config = SimulationConfig()
  (told,) = simulate([[wish]], {'restaurant': domain}, fixed(
      [(Act('nothing', 'restaurant'),)]), config)
  assert told.success
  (lied,) = simulate([[wish]], {'restaurant': domain}, fixed([(offer(THAI), phone(THAI))]), config)
  assert lied.failures == ('not told that there is none (restaurant)',)


def test_turns_are_limited():
  found = hold(a_wish(), (Act('more'),), max_turns=2)
  assert found.turns == 2 and found.failures[0] == 'no offer (restaurant)'


def test_pass_power_is_the_mean_over_all_choices_of_trials():
  trials = {0: [True, True, False, True], 1: [False, True, False, False], 2: [True] * 4}
  outcomes = [Outcome(Dialogue('', ()), goal, True, () if one else ('x',), 1)
              for goal, some in trials.items() for one in some]
  for k in range(1, 5):
    by_hand = [all(chosen) for some in trials.values()
               for chosen in itertools.combinations(some, k)]
    assert pass_power(outcomes, k) == pytest.approx(sum(by_hand) / len(by_hand))
  summary = summarize(outcomes)
  assert summary['success'] == pytest.approx(8 / 12) and summary['failures'] == {'x': 4}
  assert list(summary['pass']) == [1, 2, 3, 4]


def test_a_goal_is_told_in_words():
  first = Goal({'food': 'thai', 'area': DONT_CARE}, ('phone', 'address'), {'day': 'monday'})
  final = dataclasses.replace(first, inform={'food': 'french', 'area': DONT_CARE})
  assert message([Wish('restaurant', first, final)]) == (
      'You are looking for a restaurant: food thai. If there is none, or once you are offered one, '
      'you want food french instead. Ask for the phone and address. Then book it: day monday.')


def test_the_command_writes_dialogues_and_says_what_came_of_them(tmp_path, capsys):
  path = tmp_path / 'dialogues.jsonl'
  flags = ['--goals=20', '--trials=2', f'--output={path}', '--json']
  assert cli.main(['dialogue', 'simulate', *flags]) == 0
  found = json.loads(capsys.readouterr().out)
  assert found['success'] == 1 and found['dialogues'] == 40 and found['pass'] == {'1': 1, '2': 1}
  dialogues = [*read_dialogues(path)]
  assert len(dialogues) == 40 and dialogues[0].goals and dialogues[0].turns[1].results
  assert cli.main(['dialogue', 'simulate', '--goals=50', '--system=random']) == 0
  assert 'lost patience' in capsys.readouterr().out
  assert cli.main(['dialogue', 'simulate', '--goals=50', '--bias']) == 0
  assert 'never gives the phone' in capsys.readouterr().out


@pytest.mark.parametrize('flag, message', [
    ('--never_gives=fax', 'choose from address, phone, postcode, reference'),
    ('--goals=0', '1 or more'), ('--wrong=2', 'below 1'), ('--patience=0', 'above 0')])
def test_flags_that_are_wrong(flag, message, capsys):
  assert cli.main(['dialogue', 'simulate', flag]) == 1
  error = capsys.readouterr().err
  assert message in error and error.count('\n') == 1


@pytest.mark.parametrize('text, acts', [
    ('I want a cheap indian restaurant in the west.',
     {('inform', 'area', 'west'), ('inform', 'food', 'indian'), ('inform', 'pricerange', 'cheap')}),
    ('I am looking for a restaurant: area west, pricerange cheap and food indian.',
     {('inform', 'area', 'west'), ('inform', 'food', 'indian'), ('inform', 'pricerange', 'cheap')}),
    ('Cheap', {('inform', 'pricerange', 'cheap')}),
    ('Can I have the phone number?', {('request', 'phone', '')}),
    ('Phone and postcode please.', {('request', 'phone', ''), ('request', 'postcode', '')}),
    ('And the address?', {('request', 'address', '')}), ('Hm.', set())])
def test_people_may_say_it_in_words_of_their_own(text, acts):
  before = Dialogue('', (Turn('user', 'A restaurant.', (Act('inform', 'restaurant'),)),))
  found = LANGUAGE.understand('user', text, before)
  assert {act.domain for act in found} <= {'restaurant'}
  assert {(act.intent, act.slot, act.value) for act in found} == acts
