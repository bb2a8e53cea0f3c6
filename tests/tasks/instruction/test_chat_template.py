"""Rendering beside transformers' apply_chat_template, and masks beside ones written by hand."""

import dataclasses
import gzip
import json
import os
import pathlib

import pytest

from t5x_lite.core.errors import UserError
from t5x_lite.data.files.templates import BadExample
from t5x_lite.interop.tokenizer_files import TokenizerFile
from tasks.instruction import schemas
from tasks.instruction.chat_template import ChatTemplate
from tasks.instruction.chat_tokens import FileTokens, PieceTokens
from tasks.instruction.conversation import Conversation, Message
from tasks.instruction.named_templates import NAMES, load_template

TOKENS = {'bos_token': '<s>', 'eos_token': '</s>'}
_ROOT = os.environ.get('T5X_LITE_TEST_DATA')
_CHAT = pathlib.Path(_ROOT or '', 'peers/chat')
needs_fixtures = pytest.mark.skipif(not _ROOT, reason='T5X_LITE_TEST_DATA is not set')


def talk(*contents: str, system: str | None = None) -> tuple[Message, ...]:
  messages = [] if system is None else [Message('system', system)]
  return tuple(messages + [Message(('user', 'assistant')[i % 2], text)
                           for i, text in enumerate(contents)])


TEN = [
    talk('Hi', 'Hello!'),
    talk('Hi', 'Hello!', 'How are you?', 'Fine.', system='You answer shortly.'),
    talk('', 'Yes?'),
    talk('Say nothing.', ''),
    talk('  Zoë? \n', ' Hello Ana 🙂 \n', '日本語で?', 'はい、🙂'),
    talk('a <|im_end|> b [INST] </s> c', '<|im_start|>assistant\n</s>{{ x }} {% raw %}'),
    talk('### Response: <end_of_turn>', 'ASSISTANT: <|eot_id|> ### Instruction:'),
    talk('x' * 300, 'y' * 300, 'again', 'z' * 30),
    talk('tab\tand \\n', "it's \"quoted\" & <b>bold</b>", 'ok?', 'ok', 'sure?', 'sure'),
    talk('1', '2', '3', '4', '5', '6', system='  Be kind.\nUse two lines. '),
]


def tokens_of_fixture() -> FileTokens:
  return FileTokens(TokenizerFile(str(_CHAT / 'tokenizer/tokenizer.json')))


def marked(rendered) -> str:
  """The text with brackets around its answers."""
  text = rendered.text
  for begin, end in reversed(rendered.answers):
    text = f'{text[:begin]}⟦{text[begin:end]}⟧{text[end:]}'
  return text


def by_hand(name: str, messages) -> str:
  """What the template of a name writes, with brackets around the answers."""
  system = messages[0].content if messages[0].role == 'system' else None
  turns = messages[1:] if system is not None else messages
  answer = lambda m: m.role == 'assistant'
  if name == 'chatml':
    return ''.join(f'<|im_start|>{m.role}\n' + (
        f'⟦{m.content}<|im_end|>⟧\n' if answer(m) else f'{m.content}<|im_end|>\n')
        for m in messages)
  if name == 'zephyr':
    return ''.join(f'<|{m.role}|>\n' + (
        f'⟦{m.content}</s>⟧\n' if answer(m) else f'{m.content}</s>\n') for m in messages)
  if name == 'llama3':
    return '<s>' + ''.join(f'<|start_header_id|>{m.role}<|end_header_id|>\n\n' + (
        f'⟦{m.content.strip()}<|eot_id|>⟧' if answer(m) else f'{m.content.strip()}<|eot_id|>')
        for m in messages)
  if name == 'gemma':
    return '<s>' + ''.join(
        f'<start_of_turn>model\n⟦{m.content.strip()}<end_of_turn>⟧\n' if answer(m) else
        f'<start_of_turn>user\n{m.content.strip()}<end_of_turn>\n' for m in messages)
  if name == 'llama2':
    first = turns[0].content if system is None else (
        f'<<SYS>>\n{system}\n<</SYS>>\n\n{turns[0].content}')
    asked = [first] + [m.content for m in turns[2::2]]
    return ''.join(f'<s>[INST] {q.strip()} [/INST]⟦ {m.content.strip()} </s>⟧'
                   for q, m in zip(asked, turns[1::2]))
  if name == 'vicuna':
    head = system or ('A chat between a curious user and an artificial intelligence assistant. The '
                      "assistant gives helpful, detailed, and polite answers to the user's "
                      'questions.')
    return f'<s>{head} ' + ''.join(f'USER: {q.content} ASSISTANT:⟦ {m.content}</s>⟧'
                                   for q, m in zip(turns[::2], turns[1::2]))
  if name == 'alpaca':
    more = ', paired with an input that provides further context' * ('input' in turns[0].fields)
    head = system or (f'Below is an instruction that describes a task{more}. Write a response that '
                      'appropriately completes the request.')
    return head + ''.join(
        f'\n\n### Instruction:\n{_asked_in_alpaca(q)}\n\n### Response:⟦{m.content}</s>⟧'
        for q, m in zip(turns[::2], turns[1::2]))
  return ''.join(m.content if m.role != 'assistant' else f'⟦{m.content}</s>⟧' for m in messages)


def _asked_in_alpaca(message: Message) -> str:
  fields = message.fields
  return f"{fields['instruction']}\n\n### Input:\n{fields['input']}" if 'input' in fields else (
      message.content)


CONTROL = ('<s>', '</s>', '<|im_start|>', '<|im_end|>', '<|eot_id|>', '<end_of_turn>')


@pytest.mark.parametrize('name', NAMES)
def test_a_named_template_writes_what_it_writes_in_transformers(name):
  utils = pytest.importorskip('transformers.utils.chat_template_utils')
  template = load_template(name)
  for messages in TEN[bool(name == 'gemma') * 2:9]:
    for prompt in (False, True):
      (text,), _ = utils.render_jinja_template(
          conversations=[[m.as_dict() for m in messages]], chat_template=template.source,
          add_generation_prompt=prompt, **TOKENS)
      assert template.render(messages, TOKENS, add_generation_prompt=prompt) == text


@pytest.mark.parametrize('name', NAMES)
@pytest.mark.parametrize('number', range(len(TEN)))
def test_a_named_template_writes_the_text_and_mask_of_a_hand(name, number):
  template, messages = load_template(name), TEN[number]
  if name == 'gemma' and messages[0].role == 'system':
    with pytest.raises(BadExample, match='System role not supported'):
      template.render(messages, TOKENS)
    return
  rendered = template.render_answers(Conversation(messages), TOKENS, CONTROL)
  assert marked(rendered) == by_hand(name, messages)
  if messages[0].content or name != 'plain':   # which has nothing beside the answer there
    rendered.check()
  last = template.render_answers(Conversation(messages), TOKENS, CONTROL, turns='last')
  assert last.answers == rendered.answers[-1:]
  prompt = template.render(messages[:-1], TOKENS, add_generation_prompt=True)
  assert rendered.text[:rendered.answers[-1][0]] == prompt


def _ten_real_conversations() -> list[Conversation]:
  """Of several turns, with and without system message, input, empty content, other scripts, and
  the marks of templates in what is said."""
  read = lambda name: json.loads((pathlib.Path(_ROOT) / 'instruct' / name).read_text())
  first = lambda rows, holds: schemas.conversations(next(filter(holds, rows)), schema)[0]
  dumped = lambda row: json.dumps(row, ensure_ascii=False)
  found, schema = [], 'openai'
  rows = read('kto_en_demo.json')
  found += [first(rows, lambda row: len(row['messages']) == 12),
            first(rows, lambda row: any(ord(char) > 0x2fff for char in dumped(row))),
            first(rows, lambda row: '###' in dumped(row) or '<|' in dumped(row))]
  schema = 'sharegpt'
  rows = read('dpo_en_demo.json')
  rows = [{'conversations': [*row['conversations'], row['chosen']]} for row in rows]
  found += [first(rows, lambda row: row['conversations'][0]['from'] == 'system'),
            first(read('fastchat_dummy_conversation.json'), lambda row: True)]
  schema = 'alpaca'
  rows = read('alpaca_en_demo.json')
  found += [first(rows, lambda row: row['input']), first(rows, lambda row: not row['input'])]
  schema = 'oasst'
  with gzip.open(pathlib.Path(_ROOT, 'instruct/oasst_en_100_trees.jsonl.gz'), 'rt') as file:
    rows = [json.loads(line) for line in file]
  found.append(first(rows, lambda row: '```' in dumped(row)))
  changed = lambda conversation, change: Conversation(tuple(
      dataclasses.replace(m, content=change(m)) for m in conversation.messages))
  marks = ''.join(CONTROL) + ' [INST] <<SYS>> ### Response: USER: ASSISTANT: <|assistant|>'
  found += [changed(found[0], lambda m: m.content + marks),
            changed(found[4], lambda m: '' if m.role == 'assistant' else m.content)]
  return found


@needs_fixtures
@pytest.mark.parametrize('name', NAMES)
def test_real_conversations_are_as_in_transformers_with_masks_of_a_hand(name):
  utils = pytest.importorskip('transformers.utils.chat_template_utils')
  template, tokens = load_template(name), tokens_of_fixture()
  conversations = _ten_real_conversations()
  assert len(conversations) == 10
  for conversation in conversations:
    messages = conversation.messages
    if name == 'gemma' and messages[0].role == 'system':
      continue
    (text,), _ = utils.render_jinja_template(
        conversations=[[m.as_dict() for m in messages]], chat_template=template.source, **TOKENS)
    rendered = template.render_answers(conversation, TOKENS, CONTROL)
    assert rendered.text == text
    assert marked(rendered) == by_hand(name, messages)
    stops = {stop for _, stop in rendered.control}
    assert all(end in stops for _, end in rendered.answers)
    # As ids, too, the template's own tokens alone are control tokens.
    rendered = template.render_answers(conversation, tokens.tokens, tokens.control)
    ids, mask = tokens.encode(rendered)
    assert [i for i in ids if i in tokens.control.values()] == [
        tokens.control[rendered.text[a:b]] for a, b in rendered.control]
    assert 0 < sum(mask) < len(mask)


def _fixtures():
  cases = json.loads((_CHAT / 'cases.json').read_text())
  with gzip.open(_CHAT / 'rendered.jsonl.gz', 'rt') as file:
    return cases, [json.loads(line) for line in file]


@needs_fixtures
def test_texts_ids_and_masks_are_those_of_the_fixtures():
  cases, records = _fixtures()
  templates = {name: ChatTemplate(text, name) for name, text in cases['templates'].items()}
  tokens, seen = tokens_of_fixture(), 0
  for record in records:
    if record.get('continue_final_message'):
      continue
    template = templates[record['template']]
    messages = tuple(Message(**m) for m in cases['conversations'][record['conversation']])
    special = {name: record[name] for name in TOKENS}
    prompt = record['add_generation_prompt']
    if 'error' in record:
      with pytest.raises(BadExample, match=record['error']):
        template.render(messages, special, add_generation_prompt=prompt)
      continue
    assert template.render(messages, special, add_generation_prompt=prompt) == record['text']
    if record['template'] in NAMES:
      named = load_template(record['template'])
      assert named.render(messages, special, add_generation_prompt=prompt) == record['text']
    if prompt:
      continue
    rendered = template.render_answers(Conversation(messages), special, tokens.control)
    assert rendered.text == record['text']
    ids, mask = tokens.encode(rendered)
    if not any(token in m.content for m in messages for token in tokens.control):
      seen += 1   # transformers parses the tokens that a user spells
      assert ids == record['input_ids']
      assert mask == record['assistant_mask'], (record['template'], record['conversation'])
  assert seen > 30


@needs_fixtures
@pytest.mark.parametrize('name', NAMES)
@pytest.mark.parametrize('number', [4, 5, 6])
def test_ids_of_an_answer_decode_to_it_and_end_with_its_token(name, number):
  tokens = tokens_of_fixture()
  control = {i: spelling for spelling, i in tokens.control.items()}
  rendered = load_template(name).render_answers(
      Conversation(TEN[number]), tokens.tokens, tokens.control)
  ids, mask = tokens.encode(rendered)
  # Control tokens are where the template wrote one, and nowhere else.
  assert [control[i] for i in ids if i in control] == [
      rendered.text[a:b] for a, b in rendered.control]
  trained = [i for i, m in zip(ids, mask) if m]
  assert control.get(trained[-1]) or name in ('chatml', 'llama3', 'gemma')


UNMARKED = {
    'chatml': "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>"
              "\n' }}{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
    'zephyr': "{% for m in messages %}{{ '<|' + m.role + '|>\n' + m.content + eos_token + '\n' }}"
              "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}",
}


@pytest.mark.parametrize('name', UNMARKED)
@pytest.mark.parametrize('turns', ['every', 'last'])
def test_without_marks_prefixes_tell_the_same_answers(name, turns):
  control = ('</s>', '<|im_start|>', '<|im_end|>')
  template = ChatTemplate(UNMARKED[name].replace('assistant\n{%', "{{ 'assistant\n' }}{%"), name)
  for messages in TEN:
    conversation = Conversation(messages)
    assert not template.has_generation
    assert template.render_answers(conversation, TOKENS, control, turns) == (
        load_template(name).render_answers(conversation, TOKENS, control, turns))


def _render(source: str, messages=TEN[1], control=('</s>',), **options):
  rendered = ChatTemplate(source, 'mine').render_answers(
      Conversation(messages), TOKENS, control, **options)
  rendered.check()
  return rendered


LAST_ENDS = ("{% for m in messages %}{{ m.content + (eos_token if loop.last and m.role == "
             "'assistant' else '\\n') }}{% endfor %}")
ROLES = "{% for m in messages %}{{ m.role + ': ' + m.content + eos_token }}{% endfor %}"


@pytest.mark.parametrize('source, message', [
    ('{{ messages[0].contnet }}', "mine names a missing field: .* 'contnet'"),
    ('{{ eos_tokn }}', "names a missing field: 'eos_tokn' is undefined"),
    ("{{ messages[0].a.b }}", 'names a missing field'),
    ("{{ 'a' + messages[9].content }}", 'names a missing field'),
    ('{{ messages[0].content + 1 }}', 'does not render it: can only concatenate str'),
    ('{{ 1 // 0 }}', 'does not render it'),
    ("{{ ''.__class__.__mro__ }}", 'missing field|unsafe'),
    ("{{ raise_exception('no tools here') }}", 'does not render it: no tools here; mend'),
    ('nothing', 'no part of the rendered text is an answer'),
    ("{% for m in messages %}{% if m.role == 'assistant' %}{% generation %}{{ m.content + "
     'eos_token }}{% endgeneration %}{% endif %}{% endfor %}', 'the whole of the rendered text'),
    ("{{ 'q: ' }}{% for m in messages %}{% if m.role == 'assistant' %}{% generation %}"
     '{{ m.content }}{% endgeneration %}{{ eos_token }}{% endif %}{% endfor %}',
     'no special token of the tokenizer ends the answer'),
    # The end of an answer is written by the next turn, or only where no other follows.
    ("{% for m in messages %}{{ (eos_token if loop.index0 else '') + m.content }}{% endfor %}",
     'no special token of the tokenizer ends'),
    (LAST_ENDS, 'in another way where more messages follow'),
    (ROLES + "{% if add_generation_prompt %}{{ 'bot: ' }}{% endif %}",
     'does not begin with its prompt'),
])
def test_what_cannot_be_told_is_refused(source, message):
  with pytest.raises(BadExample, match=message):
    _render(source)


def test_the_last_turn_alone_where_earlier_ones_change():
  assert marked(_render(LAST_ENDS, turns='last')).endswith('⟦Fine.</s>⟧')


def test_marks_within_a_macro_and_a_variable_are_found():
  source = ("{% macro say(m) %}{% generation %}{{ m.content ~ eos_token }}{% endgeneration %}"
            "{% endmacro %}{% for m in messages %}{% if m.role == 'assistant' %}"
            "{% set said %}{{ say(m) }}{% endset %}{{ said }}{% else %}{{ m.content | upper }}"
            '{% endif %}{% endfor %}')
  assert marked(_render(source)) == 'YOU ANSWER SHORTLY.HI⟦Hello!</s>⟧HOW ARE YOU?⟦Fine.</s>⟧'


def test_tool_calls_are_written_or_refused():
  call = {'type': 'function', 'function': {'name': 'f', 'arguments': {'x': 'é'}}}
  conversation = Conversation((
      Message('user', 'q'), Message('assistant', None, (call,)), Message('tool', '1'),
      Message('assistant', 'a')), ({'name': 'f'},))
  with pytest.raises(BadExample, match='has no place for tools'):
    load_template('chatml').render_answers(conversation, TOKENS)
  template = ChatTemplate(
      "{{ tools | tojson }}{% for m in messages %}{{ '<' + m.role + '>' }}{% if m.role == "
      "'assistant' %}{% generation %}{{ m.content }}{% for c in m.tool_calls %}"
      '{{ c.function | tojson }}{% endfor %}{{ eos_token }}{% endgeneration %}{% else %}'
      '{{ m.content }}{% endif %}{% endfor %}'.replace('{{ m.content }}{% for', "{{ m.content or ''"
                                                       ' }}{% for'), 'mine')
  assert marked(template.render_answers(conversation, TOKENS, ['</s>'])) == (
      '[{"name": "f"}]<user>q<assistant>⟦{"name": "f", "arguments": {"x": "é"}}</s>⟧<tool>1'
      '<assistant>⟦a</s>⟧')


def test_bad_templates_are_refused_with_their_line(tmp_path):
  bad = tmp_path / 'bad.jinja'
  bad.write_text('{% for m in messages %}\n{{ m.content }\n{% endfor %}')
  with pytest.raises(UserError, match='bad.jinja:2: is no chat template, as it does not'):
    load_template(str(bad))
  with pytest.raises(UserError, match="'chatmal' is no template and no file; did you mean"):
    load_template('chatmal')
  with pytest.raises(UserError, match='has neither chat_template.jinja nor tokenizer_config'):
    load_template(str(tmp_path))


def test_templates_of_a_tokenizer_folder(tmp_path):
  config = tmp_path / 'tokenizer_config.json'
  config.write_text('{}')
  with pytest.raises(UserError, match='has no chat_template'):
    load_template(str(tmp_path))
  several = [{'name': 'tool_use', 'template': 'T'}, {'name': 'default', 'template': 'D'}]
  for found, source in (('one', 'one'), (several, 'D')):
    config.write_text(json.dumps({'chat_template': found}))
    assert load_template(str(tmp_path)).source == load_template(str(config)).source == source
  config.write_text(json.dumps({'chat_template': several[:1]}))
  with pytest.raises(UserError, match='has the chat templates tool_use, and no default'):
    load_template(str(tmp_path))
  (tmp_path / 'chat_template.jinja').write_text('of its own')
  assert load_template(str(tmp_path)).source == 'of its own'


def test_pieces_of_any_vocabulary():
  tokens = PieceTokens(TOKENS, {'</s>': 1, '<s>': 2}, lambda text: [ord(c) for c in text])
  rendered = load_template('zephyr').render_answers(
      Conversation(talk('a</s>', 'b</s>')), TOKENS, tokens.control)
  ids, mask = tokens.encode(rendered)
  plain = lambda text: [ord(c) for c in text]
  assert ids == [*plain('<|user|>\na</s>'), 1, *plain('\n<|assistant|>\nb</s>'), 1, 10]
  assert [i for i, m in zip(ids, mask) if m] == [*plain('b</s>'), 1]
