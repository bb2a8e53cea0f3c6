import math

import pytest

from tasks.metrics import question_answering as qa


def test_squad_by_hand():
  targets = [['The cat sat', 'a dog'], ['42'], ['red green blue'], ['x']]
  predictions = ['cat  sat!', '43', 'blue, green', '']
  # Equal once normalised; nothing shared; precision 1 and recall 2/3, F1 4/5; nothing.
  assert qa.squad(targets, predictions) == pytest.approx({'em': 25, 'f1': 100 * 1.8 / 4})


def test_squad_counts_repeated_words_and_takes_the_best_answer():
  score = qa.squad([['a b b', 'b c']], ['b b c'])
  # 'a' is an article: against 'b b' P 2/3 R 1, F1 4/5; against 'b c' the same.
  assert score == pytest.approx({'em': 0, 'f1': 80})


def test_record_takes_the_first_of_each_query():
  targets = [((0, 1), ['Rome', 'Roma']), ((0, 1), ['Rome', 'Roma']), ((0, 2), ['Paris'])]
  assert qa.record(targets, ['Roma', 'wrong', 'London']) == {'em': 50.0, 'f1': 50.0}


def test_multirc_by_hand():
  targets = [((0, 0), 1), ((0, 0), 0), ((0, 1), 1), ((1, 0), 1), ((1, 0), 1)]
  predictions = [1, 0, 0, 1, -1]
  # Two true positives, two missed (-1 is wrong): P 1, R 1/2. One question of three is all right.
  assert qa.multirc(targets, predictions) == pytest.approx(
      {'f1': 100 * 2 / 3, 'exact_match': 100 / 3}
  )


@pytest.mark.parametrize('metric', [qa.squad, qa.record, qa.multirc])
def test_edges(metric):
  assert all(math.isnan(value) for value in metric([], []).values())
  with pytest.raises(ValueError):
    metric([((0,), 1)] if metric is qa.multirc else [((0,), ['a'])], [])
