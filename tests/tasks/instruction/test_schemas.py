"""Rows of every public schema as conversations, and rows that are none."""

import gzip
import json
import lzma
import os
import pathlib
import re

import pytest

from t5x_lite.data.files.templates import BadExample
from tasks.instruction import schemas
from tasks.instruction.conversation import Conversation
from tasks.instruction.message_trees import MessageTrees

_ROOT = os.environ.get('T5X_LITE_TEST_DATA')


def plain(row, schema=None, **options) -> list:
  """[[role, content], …] of the conversations of a row."""
  return [[[m.role, m.content] for m in c.messages]
          for c in schemas.conversations(row, schema, **options)]


@pytest.mark.parametrize('schema, row, turns', [
    ('openai', {'id': 1, 'messages': [{'role': 'system', 'content': 's'},
                                      {'role': 'user', 'content': 'q'},
                                      {'role': 'assistant', 'content': 'a'}]},
     [['system', 's'], ['user', 'q'], ['assistant', 'a']]),
    ('openai', {'messages': [{'role': 'user', 'content': [{'type': 'text', 'text': 'q'},
                                                          {'type': 'text', 'text': '!'}]},
                             {'role': 'assistant', 'content': 'a'}]},
     [['user', 'q!'], ['assistant', 'a']]),
    ('sharegpt', {'system': 's', 'conversations': [{'from': 'human', 'value': 'q'},
                                                   {'from': 'gpt', 'value': 'a'}]},
     [['system', 's'], ['user', 'q'], ['assistant', 'a']]),
    ('sharegpt', {'conversations': [{'role': 'user', 'content': 'q'},
                                    {'role': 'assistant', 'content': 'a'}]},
     [['user', 'q'], ['assistant', 'a']]),
    ('alpaca', {'instruction': 'i', 'input': '', 'output': 'o', 'text': 'all of it'},
     [['user', 'i'], ['assistant', 'o']]),
    ('alpaca', {'instruction': 'i', 'input': 'x', 'output': 'o', 'history': [['p', 'r']]},
     [['user', 'p'], ['assistant', 'r'], ['user', 'i\n\nx'], ['assistant', 'o']]),
    ('dolly', {'instruction': 'i', 'context': 'c', 'response': 'r', 'category': 'qa'},
     [['user', 'i\n\nc'], ['assistant', 'r']]),
    ('t0', {'template': 't', 'prompt': 'p', 'completion': ' c<|endoftext|>'},
     [['user', 'p'], ['assistant', ' c']]),
    ('p3', {'inputs_pretokenized': 'p', 'targets_pretokenized': 'c'},
     [['user', 'p'], ['assistant', 'c']]),
    ('prompt_completion', {'prompt': 'p', 'completion': 'c'}, [['user', 'p'], ['assistant', 'c']]),
    ('prompt_completion', {'prompt': [{'role': 'user', 'content': 'p'}],
                           'completion': [{'role': 'assistant', 'content': 'c'}]},
     [['user', 'p'], ['assistant', 'c']]),
    ('prompt_response', {'prompt': 'p', 'response': 'c'}, [['user', 'p'], ['assistant', 'c']]),
])
def test_a_row_of_each_schema(schema, row, turns):
  assert schemas.detect(row) == schema
  assert plain(row) == plain(row, schema) == [turns]
  for conversation in schemas.conversations(row):
    assert Conversation.from_json(conversation.to_json()) == conversation


def test_calls_of_tools_are_kept():
  row = {'tools': '[{"name": "f"}]', 'conversations': [
      {'from': 'human', 'value': 'q'},
      {'from': 'function_call', 'value': '{"name": "f", "arguments": {"x": 1}}'},
      {'from': 'observation', 'value': '7'}, {'from': 'gpt', 'value': 'a'}]}
  (conversation,) = schemas.conversations(row)
  assert conversation.tools == ({'name': 'f'},)
  assert [m.as_dict() for m in conversation.messages][1:3] == [
      {'role': 'assistant', 'tool_calls': [
          {'type': 'function', 'function': {'name': 'f', 'arguments': {'x': 1}}}]},
      {'role': 'tool', 'content': '7'}]
  call = {'id': 'c1', 'type': 'function', 'function': {'name': 'f', 'arguments': '{}'}}
  messages = [{'role': 'user', 'content': 'q'},
              {'role': 'assistant', 'content': None, 'tool_calls': [call]},
              {'role': 'tool', 'tool_call_id': 'c1', 'content': '7'},
              {'role': 'assistant', 'content': 'a', 'reasoning_content': 'r'}]
  (conversation,) = schemas.conversations({'messages': messages})
  found = [m.as_dict() for m in conversation.messages]
  assert found[1] == {'role': 'assistant', 'tool_calls': [call]} and found[2] == messages[2]
  assert found[3]['reasoning_content'] == found[3]['thinking'] == 'r'
  assert Conversation.from_json(conversation.to_json()) == conversation


def said(*roles: str) -> dict:
  return {'messages': [{'role': role, 'content': 'x'} for role in roles]}


@pytest.mark.parametrize('row, message', [
    ({'text': 'x'}, 'fits none of the schemas openai, .* its keys are text; rename'),
    ({}, 'fits none of the schemas .* its keys are none'),
    ({'parent_message_id': None, 'text': 'x', 'role': 'prompter'}, 'export it as trees'),
    (said('user', 'assistant') | {'label': False}, 'has label, which say which answer'),
    ({'conversations': [], 'chosen': {}, 'rejected': {}}, 'has chosen and rejected'),
    ({'messages': []}, "field 'messages' must be a list of messages, got \\[\\]"),
    ({'messages': 'hi'}, "must be a list of messages, got 'hi'"),
    ({'messages': ['hi']}, "message 1 is 'hi', not an object"),
    (said('user', 'asistant'), "message 2 has the role 'asistant'; did you mean 'assistant'"),
    ({'messages': [{'content': 'x'}]}, 'message 1 has the role None; choose from'),
    (said(), 'must be a list'),
    (said('user'), 'no assistant turn among 1'),
    (said('system', 'user'), 'no assistant turn among 2'),
    (said('assistant'), r'roles out of order: message 1 \(assistant\) is the first, where system '
     'or user is expected: remove what has no question'),
    (said('system', 'assistant'), 'follows system, where user is expected'),
    (said('user', 'user', 'assistant'), r'message 2 \(user\) follows user, .* merge messages'),
    (said('user', 'assistant', 'assistant'), 'message 3 .* follows assistant, where user or tool'),
    (said('user', 'assistant', 'system', 'user', 'assistant'), 'message 3 .system. follows'),
    (said('user', 'tool', 'assistant'), 'message 2 .tool. follows user'),
    ({'messages': [{'role': 'user', 'content': 1}]}, 'content of message 1 must be a string, g'),
    ({'messages': [{'role': 'user', 'content': [{'type': 'image'}]}]}, 'parts that are no text'),
    ({'messages': [{'role': 'user', 'content': None}, {'role': 'assistant', 'content': 'x'}]},
     r'message 1 \(user\) has neither content nor'),
    ({'messages': [{'role': 'user', 'content': 'a\ufdd0'}, {'role': 'assistant', 'content': 'x'}]},
     'has the noncharacter U\\+FDD0'),
    ({'messages': [{'role': 'user', 'content': '\ud800'}, {'role': 'assistant', 'content': 'x'}]},
     'half a surrogate'),
    ({'conversations': [{'from': 'bob', 'value': 'x'}]}, "the role 'bob'"),
    ({'conversations': [{'from': 'human', 'value': 'x'}, {'from': 'function_call', 'value': '{'}]},
     'function call of message 2 is not JSON'),
    ({'conversations': [{'from': 'human', 'value': 'x'}, {'from': 'function_call', 'value': '7'}]},
     'function call of message 2 names no function'),
    (said('user', 'assistant') | {'tools': '{'}, "field 'tools' is not JSON"),
    (said('user', 'assistant') | {'tools': 7}, "field 'tools' must be a list, got int"),
    ({'instruction': 'i', 'output': None}, "field 'output' must be a string, got null"),
    ({'instruction': 'i', 'output': 'o', 'history': [['q']]}, "'history' must be a list of"),
    ({'prompt': 'p', 'completion': 3}, "field 'completion' must be a string, got int"),
])
def test_rows_that_are_no_conversations(row, message):
  with pytest.raises(BadExample, match=message) as refused:
    schemas.conversations(row)
  assert re.search('(mend|remove|rename|name|choose|did you mean|merge|export) ',
                   str(refused.value))


def test_a_named_schema_that_a_row_does_not_fit():
  with pytest.raises(BadExample, match="no row of the schema 'dolly': its keys are text; rename"):
    schemas.conversations({'text': 'x'}, 'dolly')
  with pytest.raises(BadExample, match="keys are messages; name the schema 'openai', or none"):
    schemas.conversations(said('user', 'assistant'), 'dolly')
  assert plain(said('user', 'assistant') | {'label': True}, 'openai')


def reply(text, rank=None, *replies, **fields) -> dict:
  """A message of a tree, whose role follows from its text: A… is the assistant's."""
  role = 'assistant' if text.startswith('A') else 'prompter'
  return {'text': text, 'role': role, 'rank': rank, 'replies': [*replies], **fields}


def paths(root, **options) -> list[str]:
  found = plain({'message_tree_id': 't', 'prompt': root}, trees=MessageTrees(**options))
  return [' '.join(text for _, text in c) for c in found]


TREE = reply('Q', None,
             reply('A1', 1, reply('Q1', None, reply('A11', 0), reply('A12', 1))),
             reply('A0', 0, reply('Q2', None), reply('Q3', None)),
             reply('Ax', None, lang='de', review_count=3, synthetic=True))


@pytest.mark.parametrize('options, found', [
    ({}, ['Q A0']),
    ({'paths': 'all'}, ['Q A1 Q1 A11', 'Q A1 Q1 A12', 'Q A0', 'Q Ax']),
    ({'paths': 'all', 'max_rank': 0}, ['Q A0']),
    ({'paths': 'all', 'synthetic': False}, ['Q A1 Q1 A11', 'Q A1 Q1 A12', 'Q A0']),
    ({'languages': ('de',)}, []),
    ({'min_reviews': 1}, []),
])
def test_paths_of_a_tree(options, found):
  assert paths(TREE, **options) == found


def test_deleted_and_refused_messages_take_their_replies_along():
  tree = reply('Q', None, reply('A0', 0, reply('Q1', None, reply('A01', 0)), deleted=True),
               reply('A1', 1, reply('Q2', None, reply('A11', 0, review_result=False)),
                     review_result=True), reply('A2', 2, lang='en'))
  assert paths(tree, paths='all') == ['Q A1', 'Q A2']
  assert paths(tree, paths='all', accepted_only=False) == ['Q A1 Q2 A11', 'Q A2']
  assert paths(tree) == ['Q A1']
  assert paths(reply('Q', None, deleted=True)) == []


@pytest.mark.parametrize('root, message', [
    ({'text': 'x', 'role': 'user'}, "has the role 'user'; trees have prompter"),
    ({'text': None, 'role': 'prompter'}, 'has no text'),
    ({'text': 'x', 'role': 'prompter', 'replies': 7}, 'replies of a message of the tree are no'),
    (reply('Q', None, reply('A', 'high')), "a rank of the tree is 'high'"),
    (reply('Q', None, reply('Q', 0, reply('A', 0))), 'roles out of order: message 2'),
    (reply('Q', None, 'A'), "a message of the tree is 'A', not an object"),
])
def test_trees_that_are_none(root, message):
  with pytest.raises(BadExample, match=message):
    paths(root)


@pytest.mark.skipif(not _ROOT, reason='T5X_LITE_TEST_DATA is not set')
@pytest.mark.parametrize('name, schema, rows, bad', [
    ('alpaca_en_demo.json', 'alpaca', 999, None), ('identity.json', 'alpaca', 91, None),
    ('dolly_hhrlhf_train_small.jsonl', 'prompt_response', 1000, None),
    ('fastchat_dummy_conversation.json', 'sharegpt', 500, None),
    ('glaive_toolcall_en_demo.json', 'sharegpt', 300, None),
    ('seed_tasks.jsonl', 'self_instruct', 175, None),
    ('user_oriented_instructions.jsonl', 'self_instruct', 252, None),
    ('t0_train_55k.jsonl.xz', 't0', 55185, None),
    ('oasst_en_100_trees.jsonl.gz', 'oasst', 100, None),
    ('kto_en_demo.json', None, 300, 'has label'), ('dpo_en_demo.json', None, 300, 'has chosen'),
    ('oasst_realistic_seed_data.json.gz', None, 444, 'export it as trees'),
    ('hh_harmless_base_test.jsonl.gz', None, 2312, 'has chosen and rejected'),
])
def test_real_rows(name, schema, rows, bad):
  opened = {'.gz': gzip.open, '.xz': lzma.open}.get(pathlib.Path(name).suffix, open)
  with opened(pathlib.Path(_ROOT, 'instruct', name), 'rt', encoding='utf-8') as file:
    found = json.load(file) if '.jsonl' not in name else [json.loads(line) for line in file]
  assert len(found) == rows
  for row in found[:2000]:
    if bad:
      with pytest.raises(BadExample, match=bad):
        schemas.conversations(row)
    else:
      assert schemas.detect(row) == schema
      conversations = schemas.conversations(row)
      assert conversations or schema == 'oasst'
      texts = json.dumps(row, ensure_ascii=False)
      for message in (m for c in conversations for m in c.messages if m.content and not m.fields):
        assert json.dumps(message.content, ensure_ascii=False)[1:-1] in texts
