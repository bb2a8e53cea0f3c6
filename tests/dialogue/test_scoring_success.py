"""Inform and Success of hand-made dialogues."""

import pytest

from t5x_lite.dialogue.scoring.success import active_domains, inform_and_success, tags_of

GOAL = {'hotel': {'informable': {'stars': '4'}, 'requestable': ['PHONE', 'REFERENCE']}}


class Venues:
  def query(self, domain, constraints):
    return frozenset({'alpha'} if constraints.get('stars') == '4' else {'alpha', 'beta'})


def score(response, stars='4', booked=('hotel',)):
  turn = {'response': response, 'state': {'hotel': {'stars': stars}}}
  return inform_and_success([turn], GOAL, [list(booked)], Venues())


@pytest.mark.parametrize('found, inform, success', [
    (score('[hotel_name] , [value_phone] , [reference]'), True, True),
    (score('[hotel_name] , [value_phone] , [reference]', booked=()), True, False),
    (score('[hotel_name] , [reference]'), True, False),
    (score('[hotel_name] , [value_phone] , [reference]', stars='3'), False, None),
    (score('[value_phone] , [reference]'), False, None)])
def test_a_dialogue_meets_its_goal(found, inform, success):
  assert (found[0]['total'], found[1].get('total')) == (inform, success)


def test_tags_and_active_domains():
  assert tags_of('[value_postcode] of [Train_ID]') == {'POST', 'TRAINID'}
  turns = [{'state': {'hotel': {'area': 'east'}}}, {'state': {'hotel': {'area': 'east'}}},
           {'state': {'hotel': {'area': 'east'}, 'taxi': {'leave': '5:00'}}}]
  assert active_domains(turns) == [['hotel'], ['hotel'], ['taxi']]
