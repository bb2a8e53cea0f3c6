"""Inform and Success of hand-made dialogues."""

import pytest

from t5x_lite.dialogue.scoring.success import PredictedTurn, active_domains, inform_and_success

GOAL = {'hotel': {'informable': {'stars': '4'}, 'requestable': ['PHONE', 'REFERENCE']}}


class Venues:
  def query(self, domain, constraints):
    return frozenset({'alpha'} if constraints.get('stars') == '4' else {'alpha', 'beta'})


def score(response, stars='4', booked=('hotel',), active=('hotel',)):
  turn = PredictedTurn(response, {'hotel': {'stars': stars}}, active)
  return inform_and_success([turn], GOAL, [list(booked)], Venues())


@pytest.mark.parametrize('found, inform, success', [
    (score('NAME, PHONE, REFERENCE'), True, True),
    (score('NAME, PHONE, REFERENCE', booked=()), True, False),
    (score('NAME, REFERENCE'), True, False),
    (score('NAME, PHONE, REFERENCE', stars='3'), False, None),
    (score('NAME, PHONE, REFERENCE', active=('taxi',)), False, None),
    (score('PHONE, REFERENCE'), False, None)])
def test_a_dialogue_meets_its_goal(found, inform, success):
  assert (found[0]['total'], found[1].get('total')) == (inform, success)


def test_a_train_that_nobody_offered_is_missed_only_where_its_number_is_asked_for():
  turns = [PredictedTurn('hello', {}, ('train',))]
  for wanted, met in (([], True), (['TRAINID'], False)):
    goal = {'train': {'informable': {'day': 'monday'}, 'requestable': wanted}}
    assert inform_and_success(turns, goal, [[]], Venues())[0] == {'train': met, 'total': met}


def test_active_domains_are_those_of_new_values():
  hotel, taxi = {'area': 'east'}, {'leave': '05:00', 'departure': 'abbey'}
  more = {**hotel, 'stars': '4'}
  states = [{}, {'hotel': hotel}, {'hotel': hotel}, {'hotel': more, 'taxi': taxi},
            {'hotel': hotel, 'taxi': taxi}, {'hotel': hotel, 'taxi': taxi, 'train': hotel}]
  assert active_domains(states) == [[], ['hotel'], ['hotel'], ['hotel'], ['taxi'], ['train']]
