"""Checkers of completions: what is right, what is wrong, and what cannot be said."""

import math

import pytest

from t5x_lite.core.dataclass_checks import FieldError
from t5x_lite.core.errors import UserError
from t5x_lite.data.source import NoData
from t5x_lite.rewards import checkers
from t5x_lite.rewards.reward import Completion, Rating, Reward, rate


def rewards(reward, *texts, reference='', prompt=''):
  assert isinstance(reward, Reward)
  return [rating.reward for rating in rate(reward.make(NoData({})), [
      Completion(prompt, text, reference, True) for text in texts])]


def test_an_exact_answer_is_the_reference_but_for_space_around_it():
  assert rewards(checkers.ExactAnswer(), '46', ' 46\n', '4 6', '46.', '', reference='46') == [
      1, 1, 0, 0, 0]
  assert rewards(checkers.ExactAnswer(), 'Paris', reference='paris') == [0]
  assert rewards(checkers.ExactAnswer(ignore_case=True), 'Paris', reference='paris') == [1]


@pytest.mark.parametrize('text, reward', [
    ('46', 1), ('12 + 34 = 46', 1), ('46.0', 1), ('it is 46, not 47', 0), ('1,046', 0), ('-46', 0),
    ('46' * 2, 0), ('none', 0), ('', 0), ('9' * 5000, 0)])
def test_the_last_number_of_a_text_is_its_answer(text, reward):
  assert rewards(checkers.NumericAnswer(), text, reference='46') == [reward]


def test_a_number_with_a_marker_is_the_first_one_after_it():
  gsm8k = checkers.NumericAnswer(marker='####')
  assert rewards(gsm8k, 'so #### 1,234 of 5', '1234', '#### one', reference='12 #### 1234') == [
      1, 0, 0]


def test_a_reference_without_a_number_is_a_fault():
  found, = rate(checkers.NumericAnswer().make(NoData({})), [Completion('', '5', 'five', True)])
  assert found == Rating(0.0, "the reference 'five' has no number")


def test_a_pattern_matches_the_whole_text_with_the_reference_as_it_is():
  pattern = checkers.Matches(pattern=r'<a>{reference}</a>\n?')
  assert rewards(pattern, '<a>1+1</a>', '<a>1+1</a>\n', '<a>11</a>', 'x<a>1+1</a>',
                 reference='1+1') == [1, 1, 0, 0]
  with pytest.raises(FieldError, match=r"'\(' is no regular expression"):
    checkers.Matches(pattern='(')


@pytest.mark.parametrize('text, reward', [
    ('a + 1', 1), ('f(x)', 1), ('not True', 1), ('1 < 2', 1), ('1', 0), ('"a"', 0), ('[1, 2]', 0),
    ('a +', 0), ('x = 1', 0), ('', 0), ('(' * 5000, 0), ('a\0', 0)])
def test_an_expression_is_well_formed_and_more_than_a_constant(text, reward):
  assert rewards(checkers.PythonExpression(), text) == [reward]


def test_an_expression_may_begin_with_the_prompt():
  assert rewards(checkers.PythonExpression(), '2 * 3)', prompt='(1 +') == [1]
  assert rewards(checkers.PythonExpression(with_prompt=False), '2 * 3)', prompt='(1 +') == [0]


def test_the_reward_of_a_length_falls_on_both_sides():
  assert rewards(checkers.Length(target=4), 'abcd', 'ab', 'abcdef', '', 'a' * 8, 'a' * 99) == [
      1, 0.5, 0.5, 0, 0, 0]


@pytest.mark.parametrize('value', [math.nan, math.inf, -math.inf])
def test_a_reward_that_is_no_number_is_0_and_a_fault(value):
  found, = rate(lambda completions: [Rating(value)], [Completion('', '', '', True)])
  assert found == Rating(0.0, f'the reward is {value}')


@pytest.mark.parametrize('given', [[1.0, 0.0], None, [Rating(1.0)], ['a', 'b'],
                                   [Rating('1'), Rating(0.0)]])
def test_what_is_no_rating_of_each_is_refused_with_the_reward_named(given):
  with pytest.raises(UserError, match="the reward 'mine' gave .* for 2 completions: a rater"):
    rate(lambda completions: given, [Completion('', 'a'), Completion('', 'b')], 'mine')
