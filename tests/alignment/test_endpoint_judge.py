"""Ratings of a scripted endpoint: numbers, garbage, failures, and how many are asked at a time."""

import threading

import pytest

from t5x_lite.alignment.endpoint_judge import EndpointJudge
from t5x_lite.core.dataclass_checks import FieldError
from t5x_lite.data.source import NoData
from t5x_lite.rewards.reward import Completion, Reward, rate


def judge_of(server, **settings):
  return EndpointJudge(**dict(url=server.url, model='m', tries=2) | settings)


def ratings(reward, *texts):
  assert isinstance(reward, Reward)
  return rate(reward.make(NoData({})), [Completion('{completion}?', text, 'r') for text in texts])


@pytest.mark.parametrize('reply, reward', [
    ('[[1]]', 0), ('[[10]]', 1), ('Good, not [[3]].\n[[ 5.5 ]]', 0.5), ('[[2]]', 1 / 9)])
def test_a_rating_is_scaled_from_low_to_high(endpoint, reply, reward):
  endpoint.reply = lambda prompt, times: reply
  found, = ratings(judge_of(endpoint), 'a')
  assert found == (pytest.approx(reward), None)


@pytest.mark.parametrize('reply, fault', [
    ('7', "the reply '7' has no rating"), ('', "the reply '' has no rating"),
    ('[[11]]', 'the rating 11 is not from 1 to 10'),
    ((400, {'error': {'message': 'too long'}}), '400 Bad Request: too long'),
    ((500, 'oops'), r'500 Internal Server Error: oops (2 tries)')])
def test_what_gives_no_rating_is_a_fault(endpoint, reply, fault):
  endpoint.reply = lambda prompt, times: 'yes' if prompt == 'Say yes.' else (
      '[[4]]' if 'fine' in prompt else reply)
  bad, good = ratings(judge_of(endpoint), 'x', 'fine')
  assert bad.reward == 0 and bad.fault.endswith(fault)
  assert good == (pytest.approx(3 / 9), None)


def test_an_endpoint_that_does_not_answer_in_time_is_a_fault(endpoint):
  def slow(prompt, times):
    if prompt != 'Say yes.':
      threading.Event().wait(0.5)
    return '[[4]]'

  endpoint.reply = slow
  found, = ratings(judge_of(endpoint, timeout=0.1, tries=1), 'x')
  assert found.reward == 0 and found.fault.endswith('no answer in 0.1 s (1 tries)')


def test_the_rubric_shows_prompt_and_completion_as_they_are(endpoint):
  endpoint.reply = lambda prompt, times: '3'
  judge = judge_of(endpoint, prompt='{prompt}|{completion}|{reference}', number='(.*)', low=0.0,
                   high=3.0)
  with pytest.raises(FieldError, match='has 2 groups'):
    judge_of(endpoint, number='(a)(b)')
  ratings(judge, '{reference} \\1')
  assert endpoint.requests == ['Say yes.', '{completion}?|{reference} \\1|r']


def test_ratings_keep_their_order_and_a_bound_holds_at_a_time(endpoint):
  def reply(prompt, times):
    number = prompt.rpartition('#')[2].partition('\n')[0]
    if number.isdigit():
      threading.Event().wait(0.02 * (int(number) % 3))
    return f'[[{number}]]'

  endpoint.reply = reply
  found = ratings(judge_of(endpoint, concurrency=3, low=0.0, high=20.0),
                  *[f'#{i}' for i in range(12)])
  assert [one.reward for one in found] == pytest.approx([i / 20 for i in range(12)])
  assert 1 < endpoint.most <= 3


def test_an_endpoint_that_is_not_there_is_one_line_at_the_start(endpoint):
  endpoint.server_close()
  endpoint.shutdown()
  with pytest.raises(FieldError, match='the judge at 127.0.0.1:[0-9]+ does not answer: .*cannot be '
                     'asked: Connection refused') as error:
    judge_of(endpoint).make(NoData({}))
  assert '\n' not in str(error.value)


@pytest.mark.parametrize('settings, message', [
    (dict(low=5.0, high=5.0), '5 must be above low, 5'),
    (dict(number='('), 'no regular expression'),
    (dict(prompt='{prompt}'), 'has no {completion}')])
def test_settings_that_give_no_rating_are_refused(settings, message):
  with pytest.raises(FieldError, match=message):
    EndpointJudge(url='http://localhost/v1', model='m', **settings)
