"""What each objective learns of responses with scores."""

import pytest

from t5x_lite.data.files.templates import BadExample
from tasks.preferences.comparison import Comparison, arrange


def of(**scores) -> Comparison:
  """Responses by name, with their scores."""
  return Comparison('Q', tuple(scores), tuple(map(float, scores.values())))


def texts(found: list[Comparison]) -> list[str]:
  return [' '.join(f'{r}{s:g}' for r, s in zip(c.responses, c.scores)) for c in found]


RANKED = of(b=2, d=0, a=3, c=1)


def test_pairs_are_of_each_two_and_the_better_one_is_first():
  assert texts(arrange(RANKED, 'pairs', 'refuse')) == [
      'a3 b2', 'a3 c1', 'a3 d0', 'b2 c1', 'b2 d0', 'c1 d0']
  assert texts(arrange(of(x=0, y=1), 'pairs', 'refuse')) == ['y1 x0']


def test_a_ranking_is_sorted():
  assert texts(arrange(RANKED, 'ranking', 'refuse')) == ['a3 b2 c1 d0']


def test_thumbs_are_of_each_response():
  assert texts(arrange(of(a=1), 'thumbs', 'refuse')) == ['a1']
  assert texts(arrange(of(a=1, b=0), 'thumbs', 'refuse')) == ['a1', 'b0']
  with pytest.raises(BadExample, match="scores 2, 0, 3, 1 are no thumbs.*to 'ranking' or 'pairs'"):
    arrange(RANKED, 'thumbs', 'refuse')


@pytest.mark.parametrize('objective', ['pairs', 'ranking'])
def test_one_response_has_nothing_to_be_compared_with(objective):
  for ties in ('refuse', 'drop'):
    with pytest.raises(BadExample, match="one response only.*set objective to 'thumbs'"):
      arrange(of(a=1), objective, ties)


def test_ties_are_refused_or_dropped():
  tied = of(a=1, b=1, c=0)
  with pytest.raises(BadExample, match="responses 1 and 2 have the same score.*set ties = 'drop'"):
    arrange(tied, 'pairs', 'refuse')
  assert texts(arrange(tied, 'pairs', 'drop')) == ['a1 c0', 'b1 c0']
  # A ranking tells them from others, if not from each other.
  assert texts(arrange(tied, 'ranking', 'refuse')) == ['a1 b1 c0']
  level = of(a=1, b=1)
  for objective in ('pairs', 'ranking'):
    with pytest.raises(BadExample, match='have the same score'):
      arrange(level, objective, 'refuse')
    assert arrange(level, objective, 'drop') == []


def test_equal_responses_are_a_tie_whatever_their_scores():
  equal = Comparison('Q', ('same', 'same'), (1.0, 0.0))
  for objective in ('pairs', 'ranking'):
    with pytest.raises(BadExample, match="two responses are equal, 'same', so that neither"):
      arrange(equal, objective, 'refuse')
    assert arrange(equal, objective, 'drop') == []
  twice = Comparison('Q', ('x', 'y', 'x'), (0.0, 2.0, 1.0))
  assert texts(arrange(twice, 'ranking', 'drop')) == ['y2 x1']
  assert texts(arrange(twice, 'pairs', 'drop')) == ['y2 x1', 'y2 x0']
