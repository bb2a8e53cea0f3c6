"""Texts as they are masked, joined, embedded and labelled; c-TF-IDF by hand."""

import math

import numpy as np
import pytest
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

from t5x_lite.core.errors import UserError
from t5x_lite.dialogue.schema import Act, Dialogue, Span, Turn
from t5x_lite.dialogue.structure import features, labels
from t5x_lite.dialogue.structure.agreement import act_label, agreement

DIALOGUE = Dialogue('d', (
    Turn('user', 'I need 2 taxis', (Act('inform', 'taxi', 'people', '2'),)),
    Turn('system', 'Where to ?'), Turn('user', 'to the station'), Turn('system', 'Booked .')))


@pytest.mark.parametrize('text, masked', [
    ('Call 01223 323737 , or 01223323737 .', 'Call [phone] , or [phone] .'),
    ('at 19:15 or 5 pm', 'at [time] or [time]'),
    ('Your reference number is J8IGNS09 .', 'Your reference number is [code] .'),
    ('reference number is : QWERTYUI .', 'reference number is : [code] .'),
    ('the number is available', 'the number is available'),
    ('post code cb21ab or CB2 1AB', 'post code [code] or [code]'),
    ('TR1234 has 12,000 seats , 3.5 stars', '[code] has [number] seats , [number] stars'),
    ('on the 16th of may2 , a 4-star hotel', 'on the 16th of may2 , a [number]-star hotel'),
])
def test_numbers_and_codes_are_masked(text, masked):
  assert features.mask_numbers(text) == masked
  assert features.mask_numbers(masked) == masked


def test_an_utterance_has_the_turns_before_it_as_its_context():
  said = features.utterances([DIALOGUE, DIALOGUE], 'user', context=3)
  assert [(u.dialogue, u.index, u.context) for u in said[:3]] == [
      (0, 0, 'I need [number] taxis'),
      (0, 2, 'I need [number] taxis\nWhere to ?\nto the station'), (1, 0, said[0].context)]
  assert [u.context for u in features.utterances([DIALOGUE], 'system', mask=False, length=3)] == [
      'Where to ?']
  assert features.utterances([DIALOGUE], 'user', mask=False)[0].context == 'I need 2 taxis'


def test_tfidf_is_that_of_scikit_learn_in_the_plane_of_its_svd():
  texts = ['a cheap place', 'a cheap hotel please', 'the phone number', 'thank you', 'cheap thai']
  matrix = TfidfVectorizer(ngram_range=(1, 2)).fit_transform(texts)
  want = TruncatedSVD(3, random_state=5).fit_transform(matrix)
  encode = features.fit_tfidf(texts, 3, seed=5)
  np.testing.assert_allclose(
      encode(texts), want / np.linalg.norm(want, axis=1, keepdims=True), atol=1e-9)
  np.testing.assert_array_equal(encode(['unheard words']), np.zeros((1, 3)))
  masks = features.fit_tfidf(['[phone] [code]', 'phone code'])(['[phone]', 'phone'])
  assert abs(masks[0] @ masks[1]) < 1e-9
  with pytest.raises(UserError, match='have no word of two letters'):
    features.fit_tfidf(['a', '?'])


def test_annotations_are_counted():
  turns = [Turn('system', 'x', (Act('offer', 'hotel', 'name', 'A'), Act('offer', 'hotel', 'name',
                                                                        'B')),
                spans=(Span(0, 1, 'hotel', 'name'),), results={'hotel': 2}),
           Turn('system', 'x', results={'hotel': 0}), Turn('user', 'x')]
  assert features.annotation_names(turns[0], ('intents', 'entities', 'calls')) == [
      'intent hotel offer name'] * 2 + ['entity hotel name', 'call hotel several']
  assert features.annotation_names(turns[0], ('entities',)) == ['entity hotel name']
  embed = features.fit_annotations(turns, ('intents', 'calls'))
  np.testing.assert_allclose(   # call none, call several, intent
      embed(turns), [[0, 1 / 5 ** 0.5, 2 / 5 ** 0.5], [1, 0, 0], [0, 0, 0]])
  with pytest.raises(UserError, match='no turn has intents, entities annotated'):
    features.fit_annotations(turns[2:], ('intents', 'entities'))


def test_a_state_is_named_by_its_most_frequent_text_and_then_by_the_nearest():
  texts = ['Bye !', 'bye', 'So long', 'call [phone]', 'phone']
  states, distances = np.array([0, 0, 0, 2, 2]), np.array([3., 2., 1., 1., 0.5])
  assert labels.frequent_texts(texts, distances, states, 3) == ['bye', '', 'phone']


def test_class_tfidf_by_hand():
  first, second = labels.class_tfidf(
      ['the [phone] of the hotel', 'hotel', 'the train'], np.array([0, 0, 1]), 2)
  average = 8 / 2   # 'the' three times, hotel twice, [phone], of, train
  assert first == pytest.approx({
      'hotel': 2 * math.log(1 + average / 2), '[phone]': math.log(1 + average),
      'of': math.log(1 + average), 'the': 2 * math.log(1 + average / 3)})
  assert list(first) == ['hotel', 'the', '[phone]', 'of']
  assert list(second) == ['train', 'the']


def test_agreement_is_that_of_scikit_learn():
  assert act_label(Turn('user', '', (Act('request', 'hotel', 'area'), Act('bye'),
                                     Act('request', 'hotel', 'stars')))) == '-bye+hotel-request'
  acts, states = ['a', 'a', 'b', 'b', 'c', ''], [0, 0, 1, 1, 1, 2]
  got = agreement(acts, states)
  assert got['nmi'] == pytest.approx(normalized_mutual_info_score(acts, states), abs=1e-12)
  assert got['ari'] == pytest.approx(adjusted_rand_score(acts, states), abs=1e-12)
  assert got['completeness'] == pytest.approx(1) and got['homogeneity'] < 1
