"""Normalisation, belief states and richness, on literal examples."""

import pytest

from t5x_lite.dialogue.scoring.normalisation import normal_response, normal_slots, similarity
from t5x_lite.dialogue.scoring.richness import richness, words_of
from t5x_lite.dialogue.scoring.states import StateMatch, match_state


@pytest.mark.parametrize('text, normal', [
    ('The [hotel_name] is at [value_address] , [value_postcode] .',
     'the NAME is at ADDRESS, POST.'),
    ('[train_id] leaves at [leave at]', 'TRAINID leaves at TIME'),
    ('[value_count] [value_type]s and restaurant -s', 'COUNT TYPE and restaurant'),
    ('an [unheard of] tag', 'an tag')])
def test_responses_are_normalised(text, normal):
  pytest.importorskip('sacremoses')
  assert normal_response(text) == normal


def test_slots_and_values_are_those_of_the_database():
  found = normal_slots({'arriveBy': '5 pm', 'leave at': '1715', 'price range': 'cheap',
                        'type': 'guest house', 'name': "Rosa 's", 'time': '9:30'})
  assert found == {'arrive': '17:00', 'leave': '17:15', 'pricerange': 'cheap',
                   'type': 'guesthouse', 'name': 'rosas bed and breakfast', 'time': '09:30'}


@pytest.mark.parametrize('text, time', [
    ('12 pm', '12:00'), ('12:30 p.m.', '12:30'), ('noon', '12:00'), ('after 13:45', '13:45'),
    ('7am', '07:00')])
def test_times_of_day(text, time):
  assert normal_slots({'time': text}) == {'time': time}


# Figures of fuzzywuzzy 0.18, partial_ratio.
@pytest.mark.parametrize('a, b, percent', [
    ('pizza hut', 'pizza hut city centre', 100),
    ("saint mary's church", 'great saint marys church', 97),
    ('gonville hotel', 'the gonvile hotel', 96), ("christ's college", 'st christs college', 97)])
def test_similarity_is_the_partial_ratio_of_fuzzywuzzy(a, b, percent):
  assert similarity(a, b) == similarity(b, a) == percent


def test_states_match_by_slot():
  gold = {'hotel': {'area': 'east', 'name': 'the gonvile hotel'}}
  assert match_state(gold, gold) == StateMatch(True, True, 2, 2, 2)
  assert match_state({'hotel': {'area': 'east', 'name': 'gonville hotel'}}, gold) == (
      True, False, 2, 2, 2)
  assert match_state({'hotel': {'area': 'west'}, 'taxi': {'leave': '05:00'}}, gold) == (
      False, False, 0, 2, 2)


def test_richness_of_a_text_by_hand():
  found = richness(map(words_of, ['A b, a c.', 'a b']))
  assert (found.length, found.words, found.bigrams, found.trigrams) == (3, 3, 3, 2)
  # p(a) = 3/6, p(b) = 2/6, p(c) = 1/6; after an a: b twice and c once of 3, after a b: a once of 2.
  assert found.entropy == pytest.approx(1.4591479)
  assert found.conditional_entropy == pytest.approx(
      (2 * 0.5849625 + 1.5849625 + 1) / 6)
