"""Broken dialogues are counted and named, and stop or are skipped by policy."""

import dataclasses

import pytest

from t5x_lite.core.errors import UserError
from t5x_lite.dialogue.domains import Domain, Slot, derive_schema
from t5x_lite.dialogue.faults import KINDS, FaultReport, check_dialogues, find_faults
from t5x_lite.dialogue.schema import Act, Dialogue, Goal, Span, Turn

SCHEMA = {'inn': Domain({'name': Slot(), 'area': Slot(), 'parking': Slot(values=('yes', 'no'))})}
GOOD = Dialogue('good', (
    Turn('user', 'An inn in the north?', (Act('inform', 'inn', 'area', 'North'),),
         (Span(14, 19, 'inn', 'area'),), {'inn': {'area': ('north',)}}),
    Turn('system', 'The Swan.', (Act('offer', 'inn', 'name', 'swan'),),
         (Span(4, 8, 'inn', 'name'),)),
    Turn('user', 'With parking?', (Act('inform', 'inn', 'parking', 'yes'),),
         state={'inn': {'area': ('south',), 'parking': ('yes',)}}),
    Turn('system', 'Yes.')), ('inn',), {'inn': Goal({'area': 'north'}, ('name',))})


def _with(turn: int | None = None, **fields) -> Dialogue:
  """GOOD with another turn, or other fields of its own; its id is the turn."""
  if turn is None:
    return dataclasses.replace(GOOD, id='bad', **fields)
  turns = list(GOOD.turns)
  turns[turn] = dataclasses.replace(turns[turn], **fields)
  return dataclasses.replace(GOOD, id=f'bad{turn}', turns=tuple(turns))


BROKEN = {
    'no turns': (_with(turns=()), None),
    'speakers': (_with(2, speaker='system'), 2),
    'empty turn': (_with(3, text='  '), 3),
    'span outside': (_with(1, spans=(Span(4, 10, 'inn', 'name'),)), 1),
    'span without value': (_with(1, spans=(Span(0, 3, 'inn', 'name'),)), 1),
    'missing span': (_with(1, spans=()), 1),
    'unknown domain': (_with(domains=('inn', 'zoo')), None),
    'unknown slot': (_with(2, state={'inn': {'area': ('north',), 'stars': ('4',)}}), 2),
    'state shrinks': (_with(2, state={'inn': {'parking': ('yes',)}}), 2),
}


def test_every_kind_of_fault_has_an_example_and_a_good_dialogue_has_none():
  assert ['same id', *BROKEN] == [*KINDS] and find_faults(GOOD, SCHEMA) == []


@pytest.mark.parametrize('kind', BROKEN)
def test_a_fault_is_found_at_its_turn(kind):
  dialogue, turn = BROKEN[kind]
  found = find_faults(dialogue, SCHEMA)
  assert (kind, turn) in {(fault.kind, fault.turn) for fault in found}
  # A span that is elsewhere leaves its value without one, and nothing else is reported.
  assert {fault.kind for fault in found} <= {kind, 'missing span'}


def test_dialogues_are_kept_skipped_or_stopped_at_and_named():
  broken = [dataclasses.replace(dialogue, id=f'{dialogue.id} {kind}')
            for kind, (dialogue, _) in BROKEN.items()]
  dialogues = [GOOD, *broken, dataclasses.replace(GOOD, id='better')]
  report = FaultReport()
  assert [*check_dialogues(dialogues, SCHEMA, 'skip', report)] == [dialogues[0], dialogues[-1]]
  assert (report.dialogues, report.skipped) == (len(BROKEN) + 2, len(BROKEN))
  # A span that is elsewhere leaves its value without one.
  also = {'missing span': ['bad1 span without value', 'bad1 missing span']}
  assert report.faulty == {kind: [f'{dialogue.id} {kind}']
                           for kind, (dialogue, _) in BROKEN.items()} | also
  assert ('missing span: 2 in 2 dialogue(s): bad1 span without value, bad1 missing span'
          in report.lines())
  assert report.lines(['no turns']) == ['no turns: 1 in 1 dialogue(s): bad no turns']
  kept = FaultReport()
  assert [*check_dialogues(dialogues, SCHEMA, 'keep', kept)] == dialogues
  assert kept.faulty == report.faulty and kept.skipped == 0
  with pytest.raises(UserError) as stopped:
    list(check_dialogues(dialogues[2:], SCHEMA, 'stop', FaultReport()))
  assert str(stopped.value) == (
      'dialogue bad2 speakers, turn 2: speakers (system): they do not alternate, the user first: '
      'mend it, or choose the policy skip or keep')
  some = [*check_dialogues(broken, SCHEMA, 'skip', FaultReport(), ['no turns', 'state shrinks'])]
  assert [one.id for one in some] == ['bad no turns', 'bad2 state shrinks']


def test_a_long_list_of_names_is_cut():
  report = FaultReport(faulty={'empty turn': [f'd{i // 2}' for i in range(14)]})
  assert report.lines() == ['empty turn: 14 in 7 dialogue(s): d0, d1, d2, d3, d4, …']


@pytest.mark.parametrize('text, value, right', [
    ('moderately', 'moderate', True), ('Four', '4', True), ("Saint John 's", "saint john's", True),
    ('center', 'centre', True), ('does not matter', 'dontcare', True), ('the same area', 'north',
                                                                       False), ('4', '5', False),
])
def test_what_a_span_may_say_for_a_value(text, value, right):
  turn = Turn('user', text, (Act('inform', 'inn', 'area', value),),
              (Span(0, len(text), 'inn', 'area'),))
  found = find_faults(Dialogue('x', (turn,)), SCHEMA)
  assert [fault.kind for fault in found] == ([] if right else ['span without value'])


def test_a_schema_derived_from_dialogues_has_all_that_they_use():
  schema = derive_schema([GOOD])
  assert {domain: [*found.slots] for domain, found in schema.items()} == {
      'inn': ['area', 'name', 'parking']}
  assert find_faults(GOOD, schema) == []


def test_a_dialogue_whose_id_was_there_is_named():
  report = FaultReport()
  assert [*check_dialogues([GOOD, _with(3, text='Sure.'), GOOD], SCHEMA, 'skip', report)] == [
      GOOD, _with(3, text='Sure.')]
  assert report.faulty == {'same id': ['good']}


def test_a_span_that_begins_inside_a_word_is_not_its_value():
  cut = dataclasses.replace(GOOD.turns[0], spans=(Span(16, 19, 'inn', 'area'),))
  found = find_faults(dataclasses.replace(GOOD, turns=(cut, *GOOD.turns[1:])), SCHEMA)
  assert [(one.kind, one.turn) for one in found] == [('span without value', 0)]
