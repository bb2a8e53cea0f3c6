"""Rows of the schemas of preference data, made here and real, as comparisons."""

import collections
import gzip
import json
import os
import pathlib

import pytest

from t5x_lite.data.files.templates import BadExample
from tasks.instruction import MessageTrees
from tasks.preferences.comparison import Comparison, arrange
from tasks.preferences.schemas import SCHEMAS, comparisons

_ROOT = os.environ.get('T5X_LITE_TEST_DATA')


def plain(row, **options) -> list:
  """[(prompt, [(response, score), …]), …]; messages as (role, content)."""
  prompt_of = lambda prompt: prompt if isinstance(prompt, str) else [
      (m.role, m.content) for m in prompt]
  return [(prompt_of(c.prompt), [*zip(c.responses, c.scores)])
          for c in comparisons(row, **options)]


def say(role: str, content: str) -> dict:
  return {'role': role, 'content': content}


def says(speaker: str, value: str) -> dict:
  return {'from': speaker, 'value': value}


Q, Q2 = say('user', 'Q'), say('user', 'Q2')
A, B, C = (say('assistant', text) for text in 'ABC')
PAIR = [('A', 1.0), ('B', 0.0)]
DIALOGUE = '\n\nHuman: Hi \n\nAssistant: Yes?\n\nHuman: Why?\n\nAssistant:'
USER = [('user', 'Q')]


@pytest.mark.parametrize('schema, row, text, chat', [
    ('hh_rlhf', {'chosen': f'{DIALOGUE} So. ', 'rejected': f'{DIALOGUE} No'},
     (DIALOGUE, [(' So. ', 1.0), (' No', 0.0)]),
     ([('user', 'Hi'), ('assistant', 'Yes?'), ('user', 'Why?')], [('So.', 1.0), ('No', 0.0)])),
    ('pair', {'prompt': 'Q', 'chosen': 'A', 'rejected': 'B'}, ('Q', PAIR), (USER, PAIR)),
    ('pair', {'prompt': [Q], 'chosen': [A], 'rejected': [B]}, None, (USER, PAIR)),
    ('pair', {'prompt': [Q], 'chosen': 'A', 'rejected': 'B'}, None, (USER, PAIR)),
    ('pair', {'chosen': [Q, C, Q2, A], 'rejected': [Q, C, Q2, B]}, None,
     ([*USER, ('assistant', 'C'), ('user', 'Q2')], PAIR)),
    # As UltraFeedback is binarized: the prompt is there once more, as a text.
    ('pair', {'prompt': 'Q', 'chosen': [Q, A], 'rejected': [Q, B]}, None, (USER, PAIR)),
    ('sharegpt', {'conversations': [says('system', 'S'), says('human', 'Q')],
                  'chosen': says('gpt', 'A'), 'rejected': says('gpt', 'B')}, None,
     ([('system', 'S'), *USER], PAIR)),
    ('alpaca', {'instruction': 'Q', 'input': 'x', 'chosen': 'A', 'rejected': 'B'}, None,
     ([('user', 'Q\n\nx')], PAIR)),
    ('scored', {'prompt': 'Q', 'responses': ['A', 'B', 'C'], 'scores': [2, 2.5, -1]},
     ('Q', [('A', 2.0), ('B', 2.5), ('C', -1.0)]), (USER, [('A', 2.0), ('B', 2.5), ('C', -1.0)])),
    ('scored', {'prompt': [Q], 'responses': [[A], [B]], 'scores': [1, 0]}, None, (USER, PAIR)),
    ('ultrafeedback', {'instruction': 'Q', 'completions': [
        {'response': 'A', 'overall_score': 7.5, 'model': 'm'},
        {'response': 'B', 'overall_score': 3}]}, ('Q', [('A', 7.5), ('B', 3.0)]),
     (USER, [('A', 7.5), ('B', 3.0)])),
    ('completion', {'prompt': 'Q', 'completion': 'A', 'label': True}, ('Q', [('A', 1.0)]),
     (USER, [('A', 1.0)])),
    ('completion', {'prompt': [Q], 'completion': [A], 'label': False}, None, (USER, [('A', 0.0)])),
    # As a table has them.
    ('completion', {'prompt': 'Q', 'completion': 'A', 'label': 'False'}, ('Q', [('A', 0.0)]),
     (USER, [('A', 0.0)])),
    ('messages', {'messages': [Q, A], 'label': True}, None, (USER, [('A', 1.0)])),
])
def test_a_row_of_each_schema(schema, row, text, chat):
  for name in (None, schema):
    assert plain(row, schema=name, chat=True) == [chat]
    if text is not None:
      assert plain(row, schema=name) == [text]
    else:
      with pytest.raises(BadExample, match='whose prompt is messages: set template'):
        comparisons(row, schema=name)
  for found in comparisons(row, chat=True):
    assert Comparison.from_json(found.to_json()) == found


def message(text: str, role: str, *replies, **more) -> dict:
  return {'text': text, 'role': role, 'replies': [*replies], **more}


def test_a_ranking_of_each_question_of_a_tree():
  answer = lambda text, rank, *replies, **more: message(text, 'assistant', *replies, rank=rank,
                                                        **more)
  ask = lambda text, *replies: message(text, 'prompter', *replies)
  tree = ask('Q', answer('best', 0, ask('more', answer('x', 1), answer('y', 0))),
             answer('worst', 3), answer('mid', 1, ask('alone', answer('z', 0))),
             answer('gone', 2, deleted=True), answer('unranked', None))
  row = {'prompt': tree, 'message_tree_id': '1'}
  first = (USER, [('best', 0.0), ('worst', -3.0), ('mid', -1.0)])
  later = ([*USER, ('assistant', 'best'), ('user', 'more')], [('x', -1.0), ('y', 0.0)])
  assert plain(row, chat=True) == [first, later]
  assert plain(row, chat=True, trees=MessageTrees(paths='all', max_rank=1)) == [
      (USER, [('best', 0.0), ('mid', -1.0)]), later]
  # On the best path alone, and without a ranking at all.
  beside = {'prompt': ask('Q', answer('a', 0), answer('b', 1, ask('r', answer('c', 0),
                                                                 answer('d', 1))))}
  assert len(plain(beside, chat=True)) == 2
  assert len(plain(beside, chat=True, trees=MessageTrees())) == 1
  assert plain({'prompt': ask('Q', answer('a', 0))}, chat=True) == []


@pytest.mark.parametrize('row, message', [
    ({'text': 'x'}, 'fits none of the schemas sharegpt, alpaca, hh_rlhf.*its keys are text'),
    ({'chosen': 'a', 'rejected': 'b'}, "'chosen' is a text that does not begin with"),
    ({'chosen': f'{DIALOGUE} a', 'rejected': '\n\nHuman: Hi\n\nAssistant: b'}, 'part before their'),
    ({'chosen': f'{DIALOGUE} a\n\nHuman: b', 'rejected': f'{DIALOGUE} c'}, 'not end in an answer'),
    ({'chosen': f'{DIALOGUE} a', 'rejected': f'{DIALOGUE} '}, 'response 2 of 2 is empty: mend'),
    ({'chosen': f'{DIALOGUE} a', 'rejected': None}, "field 'rejected' must be a string, got null"),
    ({'chosen': [Q, A], 'rejected': None}, "field 'rejected' must be a list of messages, got None"),
    ({'prompt': '', 'chosen': 'a', 'rejected': 'b'}, 'the prompt is empty'),
    ({'prompt': 'Q', 'chosen': 'a', 'rejected': ' \n'}, 'response 2 of 2 is empty'),
    ({'prompt': 3, 'chosen': 'a', 'rejected': 'b'}, "field 'prompt' must be a string, got int"),
    ({'prompt': 'Q', 'chosen': 'a\ufdd0', 'rejected': 'b'}, 'has the noncharacter U.FDD0'),
    ({'chosen': [Q, A], 'rejected': [Q2, B]}, 'part before their last answer'),
    ({'chosen': [Q, A], 'rejected': [Q, B, Q2]}, "ends with the role 'user', not with an answer"),
    ({'chosen': [A], 'rejected': [B]}, 'roles out of order: message 1'),
    ({'prompt': [Q], 'chosen': [{'role': 'assistant', 'content': None, 'tool_calls': [{}]}],
      'rejected': [B]}, 'the last answer calls tools'),
    ({'conversations': [says('human', 'Q')], 'chosen': says('gpt', 'A'),
      'rejected': says('bot', 'B')}, "message 2 has the role 'bot'"),
    ({'conversations': 'x', 'chosen': 1, 'rejected': 2}, "field 'conversations' must be a list"),
    ({'prompt': 'Q', 'responses': ['a', 'b'], 'scores': [1]}, r'2 response\(s\) have 1 score'),
    ({'prompt': 'Q', 'responses': ['a', 'b'], 'scores': [1, None]}, 'score 2 is None, not a numb'),
    ({'prompt': 'Q', 'responses': ['a', 'b'], 'scores': [1, True]}, 'score 2 is True, not a numb'),
    ({'prompt': 'Q', 'responses': ['a', 'b'], 'scores': [1, float('nan')]}, '2 has the score nan'),
    ({'prompt': 'Q', 'responses': ['a', 3], 'scores': [1, 2]}, 'response 2 is 3, not a text'),
    ({'prompt': 'Q', 'responses': [], 'scores': []}, 'there is no response: mend the row'),
    ({'instruction': 'Q', 'completions': [{'response': 'a'}]}, 'score 1 is None, not a number'),
    ({'instruction': 'Q', 'completions': ['a']}, "'completions' must be a list of objects"),
    ({'prompt': 'Q', 'completion': 'a', 'label': 'up'}, "'label' must be true or false, got 'up'"),
    ({'messages': [Q, A, Q2], 'label': True}, "ends with the role 'user'"),
    ({'prompt': {'text': 'Q', 'role': 'boss'}}, "has the role 'boss'"),
])
def test_rows_that_are_not_as_they_should_be(row, message):
  with pytest.raises(BadExample, match=message):
    comparisons(row, chat='prompt' in row and isinstance(row['prompt'], list))


@pytest.mark.parametrize('schema', SCHEMAS)
def test_a_row_of_another_schema_than_named(schema):
  with pytest.raises(BadExample, match=f"is no row of the schema '{schema}': its keys are q, a;"):
    comparisons({'q': 'Q', 'a': 'A'}, schema)


def read(name: str) -> list:
  path = pathlib.Path(_ROOT, 'instruct', name)
  with (gzip.open if path.suffix == '.gz' else open)(path, 'rt', encoding='utf-8') as file:
    return json.load(file) if '.jsonl' not in name else [json.loads(line) for line in file]


def outcomes(name: str, chat: bool) -> collections.Counter:
  """How many comparisons, responses and pairs there are, and rows of each error."""
  found = collections.Counter()
  for row in read(name):
    try:
      for comparison in comparisons(row, chat=chat):
        found['comparisons'] += 1
        found['responses'] += len(comparison.responses)
        found['pairs'] += len(comparison.responses) > 1 and len(arrange(
            comparison, 'pairs', 'refuse'))
    except BadExample as error:
      found[str(error).partition(':')[0].partition(',')[0]] += 1
  return found


@pytest.mark.skipif(not _ROOT, reason='T5X_LITE_TEST_DATA is not set')
@pytest.mark.parametrize('name, chat, found', [
    ('hh_harmless_base_test.jsonl.gz', False, {
        'comparisons': 2303, 'responses': 4606, 'pairs': 2303, 'response 1 of 2 is empty': 4,
        'the dialogues part before their last answer': 5}),
    ('hh_harmless_base_test.jsonl.gz', True, {
        'comparisons': 2299, 'responses': 4598, 'pairs': 2299, 'response 1 of 2 is empty': 4,
        'the dialogues part before their last answer': 5, 'roles out of order': 4}),
    ('dpo_en_demo.json', True, {'comparisons': 300, 'responses': 600, 'pairs': 300}),
    ('kto_en_demo.json', True, {'comparisons': 300, 'responses': 300}),
    ('oasst_en_100_trees.jsonl.gz', True, {'comparisons': 212, 'responses': 641, 'pairs': 754}),
])
def test_real_rows(name, chat, found):
  assert +outcomes(name, chat) == found


@pytest.mark.skipif(not _ROOT, reason='T5X_LITE_TEST_DATA is not set')
def test_real_dialogues_are_kept_to_the_letter():
  kept = 0
  for row in read('hh_harmless_base_test.jsonl.gz'):
    try:
      (found,) = comparisons(row)
    except BadExample:
      continue
    assert [found.prompt + response for response in found.responses] == [
        row['chosen'], row['rejected']]
    kept += 1
  assert kept == 2303
  labels = collections.Counter(comparisons(row, chat=True)[0].scores[0]
                               for row in read('kto_en_demo.json'))
  assert labels == {1.0: 150, 0.0: 150}
