"""Generated dialogues: they follow their automaton, their database and their goals."""

import collections

import numpy as np
import pytest
from scipy import stats

from t5x_lite.core.errors import UserError
from t5x_lite.dialogue.faults import find_faults
from t5x_lite.dialogue.schema import from_json, to_json
from tasks.dialogue.generated import (
  AUTOMATON,
  DATABASE,
  DOMAIN,
  END,
  SCHEMA,
  START,
  TEMPLATES,
  USER,
  generate,
  query,
  state_of,
)

DIALOGUES = generate(2000, seed=3)


def test_the_automaton_is_one_and_its_speakers_alternate():
  assert {*AUTOMATON} - {START} == {*TEMPLATES} and all(len(t) >= 3 for t in TEMPLATES.values())
  for state, following in AUTOMATON.items():
    assert sum(following.values()) == pytest.approx(1)
    for other in {*following} - {END}:
      assert state == START or (other in USER) != (state in USER)
  texts = [text for templates in TEMPLATES.values() for text in templates]
  assert len({*texts}) == len(texts)


def test_transitions_have_the_stated_probabilities():
  """By a chi-squared test of each state with several next ones; and no other edge is there."""
  counts = collections.defaultdict(collections.Counter)
  for one in DIALOGUES:
    path = [START, *map(state_of, one.turns), END]
    for pair in zip(path, path[1:]):
      counts[pair[0]][pair[1]] += 1
  assert {state: {*found} for state, found in counts.items()} == {
      state: {*following} for state, following in AUTOMATON.items()}
  p = [stats.chisquare([found[other] for other in AUTOMATON[state]],
                       np.array([*AUTOMATON[state].values()]) * found.total()).pvalue
       for state, found in counts.items() if len(found) > 1]
  assert len(p) == 6 and min(p) > 0.001


def test_dialogues_have_no_fault_and_keep_their_schema():
  assert [fault for one in DIALOGUES for fault in find_faults(one, SCHEMA)] == []
  assert all(from_json(to_json(one)) == one for one in DIALOGUES[:50])
  assert len({one.id for one in DIALOGUES}) == 2000


def test_offers_fit_what_was_told_and_goals_are_told_whole():
  for one in DIALOGUES:
    state = {}
    for turn in one.turns:
      if turn.speaker == 'user':
        state = {slot: values[0] for slot, values in turn.state[DOMAIN].items()}
        continue
      found = query(state)
      assert turn.results == {DOMAIN: len(found)}
      values = {act.slot: act.value for act in turn.acts}
      if state_of(turn) == 'offer':
        assert values['name'] in {venue['name'] for venue in found}
        offered = next(venue for venue in DATABASE if venue['name'] == values['name'])
      elif state_of(turn) == 'answer':
        assert all(offered[slot] == value for slot, value in values.items())
      elif state_of(turn) == 'no_offer':
        assert not found
    goal = one.goals[DOMAIN]
    assert {**goal.inform, **goal.book} == state and query(goal.inform)
    asked = {act.slot for turn in one.turns if state_of(turn) == 'request' for act in turn.acts}
    assert {*goal.request} == asked
    assert all(value in one.message for value in goal.inform.values())


def test_noise_is_the_share_of_turns_that_say_something_else():
  def of_own(turn):
    text = turn.text
    for span in sorted(turn.spans, key=lambda one: -one.start):
      text = text[:span.start] + '{}' + text[span.end:]
    shapes = {shape for template in TEMPLATES[state_of(turn)] for shape in [
        template.replace(f'{{{name}}}', '{}') for name in ('answer',)]}
    return any(_shape(text) == _shape(shape) for shape in shapes)

  noisy = generate(1000, seed=3, noise=0.2)
  turns = [turn for one in noisy for turn in one.turns]
  share = 1 - sum(map(of_own, turns)) / len(turns)
  assert share == pytest.approx(0.2, abs=4 * (0.2 * 0.8 / len(turns)) ** 0.5)
  assert all(of_own(turn) for one in DIALOGUES[:200] for turn in one.turns)
  assert {fault.kind for one in noisy for fault in find_faults(one, SCHEMA)} <= {
      'span without value'}


def _shape(text: str) -> str:
  """Without slots: neither names in braces nor words for what is asked."""
  for words in ('phone number', 'address', 'postcode', '{asked}'):
    text = text.replace(words, '')
  for slot in (*SCHEMA[DOMAIN].slots, ''):
    text = text.replace(f'{{{slot}}}', '_')
  return text


def test_a_seed_gives_the_same_and_a_prefix_is_a_prefix():
  assert generate(5, seed=3) == DIALOGUES[:5] != generate(5, seed=4)
  with pytest.raises(UserError, match='noise=1.5: must be a share'):
    generate(1, noise=1.5)
