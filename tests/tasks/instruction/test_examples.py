"""Conversations of characters for tokens, cut to a length."""

import pytest

from t5x_lite.core.errors import UserError
from tasks.instruction.chat_tokens import PieceTokens
from tasks.instruction.conversation import Conversation, Message
from tasks.instruction.examples import ExampleMaker
from tasks.instruction.named_templates import load_template

TOKENS = PieceTokens({'eos_token': '|'}, {'|': 1}, lambda text: [ord(c) for c in text])


def talk(*texts: str, system: str | None = None) -> Conversation:
  head = [] if system is None else [Message('system', system)]
  return Conversation(tuple(head + [Message(('user', 'assistant')[i % 2], text)
                                    for i, text in enumerate(texts)]))


def maker(too_long: str, turns: str = 'every', **options) -> ExampleMaker:
  return ExampleMaker(load_template('plain'), TOKENS, turns=turns, too_long=too_long,
                      **{'start_id': 0} | options)


def shown(ids) -> str:
  return ''.join('|' if i == 1 else chr(i) for i in ids)


LONG = talk('Q1', 'A1', 'Q2', 'A2', 'Q3', 'A3')   # 5 ids an exchange


@pytest.mark.parametrize('length, too_long, found, counts', [
    (15, 'refuse', ['Q1A1|Q2A2|Q3A3|'], (0, 0, 0, 0)),
    (None, 'refuse', ['Q1A1|Q2A2|Q3A3|'], (0, 0, 0, 0)),
    (14, 'cut_turns', ['Q1A1|Q2A2|', 'Q3A3|'], (1, 0, 0, 0)),
    (5, 'cut_turns', ['Q1A1|', 'Q2A2|', 'Q3A3|'], (1, 0, 0, 0)),
    (4, 'cut_turns', [], (1, 0, 0, 1)),
    (4, 'cut_answers', ['Q1A1', 'Q2A2', 'Q3A3'], (1, 1, 0, 0)),
    (3, 'cut_answers', ['Q1A', 'Q2A', 'Q3A'], (1, 1, 0, 0)),
    (2, 'cut_answers', [], (1, 0, 0, 1)),
])
def test_sequences(length, too_long, found, counts):
  made = maker(too_long)
  assert [shown(e.ids) for e in made.sequences(LONG, length, 'f:1')] == found
  assert tuple(made.report.counts.values())[:4] == counts


def test_what_is_left_out_is_counted_once_however_often_it_is_read(capsys):
  made = maker('cut_turns')
  for _ in range(3):
    assert len(made.sequences(talk('Q', 'A', 'Q' * 9, 'A'), 5, 'f:1')) == 1
  assert tuple(made.report.counts.values())[:4] == (1, 0, 1, 0)
  made.sequences(talk('Q', 'A', 'Q' * 9, 'A'), 5, 'f:2')
  assert tuple(made.report.counts.values())[:4] == (2, 0, 2, 0)
  assert capsys.readouterr().err.count('\n') == 2


def test_the_system_message_begins_each_piece_and_the_mask_is_of_its_answers():
  pieces = maker('cut_turns').sequences(talk('Q1', 'A1', 'Q2', 'A2', system='S'), 6, 'f:1')
  assert [(shown(e.ids), e.mask) for e in pieces] == [
      ('SQ1A1|', [0, 0, 0, 1, 1, 1]), ('SQ2A2|', [0, 0, 0, 1, 1, 1])]


@pytest.mark.parametrize('conversation, too_long, found', [
    (talk('Q', 'A', 'q', 'a', 'bye'), 'refuse', [('QA|q', 'a|')]),
    (talk('123', '456', '789', 'a'), 'cut_turns', [('789', 'a|')]),
    (talk('12345', 'a'), 'cut_turns', []), (talk('1', '1234'), 'cut_turns', []),
    (talk('1', '1234'), 'cut_answers', [('1', '123')]),
    (talk('', 'a', '', 'b'), 'refuse', [('a|', 'b|')]),
])
def test_pairs(conversation, too_long, found):
  pairs = maker(too_long, 'last').pairs(conversation, 4, 3, 'f:1')
  assert [(shown(before), shown(answer)) for before, answer in pairs] == found


def test_what_does_not_fit_is_refused_with_its_line():
  with pytest.raises(UserError, match='^f:1: 15 tokens of targets, and the model has 9: raise '):
    maker('refuse').sequences(LONG, 9, 'f:1')
  with pytest.raises(UserError, match='^f:1: 12 tokens of inputs, and the model has 4: raise '):
    maker('refuse', 'last').pairs(LONG, 4, 9, 'f:1')
  with pytest.raises(UserError, match='^f:1: 3 tokens of targets, and the model has 2'):
    maker('refuse', 'last').pairs(LONG, None, 2, 'f:1')


def test_a_conversation_without_a_prompt_is_refused_or_left_out(capsys):
  with pytest.raises(UserError, match="the whole of the rendered text is an answer: .* 'A|'"):
    maker('refuse').sequences(talk('', 'A'), 9, 'f:1')
  made = maker('refuse', skip_bad=True)
  assert made.sequences(talk('', 'A'), 9, 'f:1') == [] and made.report.counts['left out'] == 1
  assert 'conversations left out: 1 so far, the last f:1: the whole' in capsys.readouterr().err


def test_a_text_that_begins_with_the_decoders_start_does_not_repeat_it():
  made = ExampleMaker(load_template('llama2'), PieceTokens(
      {'eos_token': '|', 'bos_token': '^'}, {'|': 1, '^': 2}, TOKENS.encode_text),
      turns='every', too_long='refuse', start_id=2)
  (example,) = made.sequences(talk('Q', 'A', 'q', 'a'), None, 'f:1')
  text = ''.join({1: '|', 2: '^'}.get(i) or chr(i) for i in example.ids)
  assert text == '[INST] Q [/INST] A |^[INST] q [/INST] a |'


def test_an_answer_of_no_text_is_learned_and_counted(capsys):
  made = maker('refuse')
  assert made.sequences(talk('U', ' '), 9, 'f:1') == made.sequences(talk('U', ' '), 9, 'f:1')
  assert made.report.counts['with an answer of no text'] == 1
  assert capsys.readouterr().err == (
      'conversations with an answer of no text: 1 so far, the last f:1\n')
