"""InstructGPT's kinds of prompt: what they show, and that no shot answers what is asked."""

import json
import os
import pathlib

import pytest

from t5x_lite.core.errors import UserError
from t5x_lite.data.files.templates import BadExample
from tasks.instruction import ConversationTask, LabelerPrompts, schemas

_ROOT = os.environ.get('T5X_LITE_TEST_DATA')
TWEETS = {'instruction': 'Give the sentiment of a tweet.', 'instances': [
    {'input': f'tweet {i}', 'output': f'label {i}'} for i in range(5)]}
FEW_SHOT = LabelerPrompts(kind='few_shot')


def prompts(row, **options) -> list[list]:
  """[[content of each message], …]."""
  return [[message.content for message in conversation.messages]
          for conversation in schemas.conversations(row, prompts=LabelerPrompts(**options))]


def shots(prompt: str) -> list[str]:
  """The queries of a few-shot prompt; the last one is asked."""
  return [line.removeprefix('Query: ') for line in prompt.splitlines() if 'Query: ' in line]


def test_plain_prompts_are_those_of_the_schema():
  assert prompts(TWEETS) == [[m.content for m in c.messages] for c in schemas.conversations(TWEETS)]
  assert prompts(TWEETS)[1] == ['Give the sentiment of a tweet.\n\ntweet 1', 'label 1']


def test_k_instances_give_k_prompts_with_the_other_k_minus_1_as_shots():
  found = prompts(TWEETS, kind='few_shot')
  assert [answer for _, answer in found] == [f'label {i}' for i in range(5)]
  for i, (prompt, _) in enumerate(found):
    assert sorted(shots(prompt)[:-1]) == [f'tweet {j}' for j in range(5) if j != i]
    assert shots(prompt)[-1] == f'tweet {i}' and f'label {i}' not in prompt
    assert prompt.startswith('Give the sentiment of a tweet.\n\nQuery: tweet')
    assert prompt.endswith(f'Query: tweet {i}\nResponse:')
  (prompt, answer), = prompts(TWEETS | {'instances': TWEETS['instances'][:2]}, kind='few_shot')[:1]
  assert (prompt, answer) == ('Give the sentiment of a tweet.\n\nQuery: tweet 1\nResponse: '
                              'label 1\n\nQuery: tweet 0\nResponse:', 'label 0')


def test_shots_follow_from_the_seed_and_the_row_alone():
  drawn = lambda seed, row=TWEETS: prompts(row, kind='few_shot', shots=2, seed=seed)
  assert drawn(1) == drawn(1) != drawn(2)
  assert all(len(shots(prompt)) == 3 for prompt, _ in drawn(1))
  more = prompts(TWEETS, kind='few_shot', shots=2, samples=3)
  assert len({prompt for prompt, _ in more}) == len(more) in range(11, 16)
  assert len(prompts(TWEETS | {'instances': TWEETS['instances'][:2]}, kind='few_shot',
                     samples=3)) == 2   # there is one set of shots of each


def test_a_query_that_comes_twice_never_answers_itself():
  again = {'instruction': 'i', 'instances': [
      {'input': 'Same  query', 'output': 'one'}, {'input': 'same query', 'output': 'two'},
      {'input': 'other', 'output': 'three'}, {'input': 'other', 'output': 'four'}]}
  for prompt, _ in prompts(again, kind='few_shot'):
    *queries, asked = [' '.join(q.split()).casefold() for q in shots(prompt)]
    assert asked not in queries and len(queries) == len(set(queries)) == 1


def test_a_use_case_is_the_system_message():
  row = {'motivation_app': 'Grammarly', 'instruction': 'Rewrite.', 'instances': [
      {'input': 'x', 'output': 'y'}, {'input': '', 'output': 'z'}]}
  assert prompts(row, kind='user_based') == [
      ['Use case: Grammarly', 'Rewrite.\n\nx', 'y'], ['Use case: Grammarly', 'Rewrite.', 'z']]
  with pytest.raises(BadExample, match="no use case in a field 'app': set LabelerPrompts.use_case"):
    prompts(row, kind='user_based', use_case='app')


@pytest.mark.parametrize('row, message', [
    ({'instruction': 'i', 'output': 'o'}, "schema 'alpaca', of which no few_shot prompts are made"),
    ({'instruction': 'i', 'instances': [{'input': 'x', 'output': 'o'}]}, 'has one query alone'),
    ({'instruction': 'i', 'instances': [{'input': 'x', 'output': 'o'}, {'output': 'p'}]},
     'instance 2 has no input'),
    ({'instruction': 'i', 'instances': [{'input': 'x'}, {'input': 'y', 'output': 'p'}]},
     'instance 1 has no output'),
    ({'instruction': 'i', 'instances': []}, "'instances' must be a list"),
    ({'instruction': 3, 'instances': TWEETS['instances']}, "'instruction' must be a string"),
])
def test_a_row_without_shots_is_refused(row, message):
  with pytest.raises(BadExample, match=message):
    schemas.conversations(row, prompts=FEW_SHOT)


@pytest.mark.parametrize('options, message', [
    ({'kind': 'fewshot'}, "did you mean 'few_shot'"), ({'shots': 2}, 'LabelerPrompts.shots = 2'),
    ({'kind': 'user_based', 'seed': 1}, 'seed = 1'), ({'kind': 'few_shot', 'shots': 0}, 'above 0'),
    ({'kind': 'few_shot', 'use_case': 'app'}, 'has no use'),
    ({'use_case': ''}, 'must name a field'),
])
def test_a_setting_that_nothing_reads_is_refused(options, message):
  with pytest.raises(UserError, match=message):
    LabelerPrompts(**options)


def test_a_task_of_such_prompts_is_another_task(tmp_path):
  (tmp_path / 'rows.jsonl').write_text(json.dumps(TWEETS))
  make = lambda **prompts: ConversationTask(
      train=str(tmp_path / 'rows.jsonl'), template='alpaca', prompts=LabelerPrompts(**prompts))
  names = [make(**prompts).register() for prompts in ({}, {'kind': 'few_shot'},
                                                      {'kind': 'few_shot', 'seed': 1})]
  assert len(set(names)) == 3
  import seqio
  read = seqio.TaskRegistry.get(names[1]).get_dataset({'targets': 1024}, 'train', shuffle=False)
  text = ''.join(bytes((example['targets'][:-1] - 3).tolist()).decode()
                 for example in read.as_numpy_iterator())
  assert '### Instruction:\nGive the sentiment of a tweet.\n\n### Input:\nQuery: tweet' in text
  assert 'Query: tweet 0\nResponse:\n\n### Response:label 0' in text


@pytest.mark.skipif(not _ROOT, reason='T5X_LITE_TEST_DATA is not set')
def test_every_row_of_the_public_user_oriented_instructions_has_its_prompt():
  path = pathlib.Path(_ROOT) / 'instruct/user_oriented_instructions.jsonl'
  rows = [json.loads(line) for line in path.read_text().splitlines()]
  found = [prompts(row, kind='user_based') for row in rows]
  assert len(found) == 252 and all(len(prompt) == 3 for each in found for prompt in each)
