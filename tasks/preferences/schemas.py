"""Rows of the public schemas of preference data as comparisons.

`SCHEMAS` maps a schema's name to (what its keys are, how it is read). A row's own keys say which it
is, unless the schema is named.
"""

from collections.abc import Callable, Mapping, Sequence
import re
from typing import Any

from t5x_lite.data.files.templates import BadExample, listed, shorten
from tasks.instruction import schemas as instruction_schemas
from tasks.instruction.conversation import Conversation, Message, bad_row
from tasks.instruction.message_trees import MessageTrees
from tasks.instruction.schemas import text_field
from tasks.preferences.comparison import Comparison

Row = Mapping[str, Any]
_CHOSEN = (1.0, 0.0)   # scores of a chosen and a rejected response
_HUMAN, _ASSISTANT = '\n\nHuman:', '\n\nAssistant:'
_TURN = re.compile(f'({_HUMAN}|{_ASSISTANT})')
_PARTED = 'the dialogues part before their last answer, so that these are not to one prompt'
_THUMBS = {'true': 1.0, 'false': 0.0}


def comparisons(row: Row, schema: str | None = None, *, chat: bool = False,
                trees: MessageTrees | None = None) -> list[Comparison]:
  """The comparisons of a row: one, or as many as a tree has questions with ranked answers.

  Args:
    row: as it was read.
    schema: one of SCHEMAS; None: by the row's keys.
    chat: whether prompts are to be messages, for a chat template; else they are texts.
    trees: which paths of a message tree are read; None: all.

  Raises:
    BadExample: the row fits no schema, is not as its schema has it, or is of messages where texts
      are to be read.
  """
  name = schema or next((name for name, (fits, _) in SCHEMAS.items() if fits(row)), None)
  if name is None:
    raise BadExample(f'fits none of the schemas {", ".join(SCHEMAS)}: its keys are '
                     f'{listed(row) or "none"}; rename its fields, or name the schema')
  fits, read = SCHEMAS[name]
  if not fits(row):
    raise BadExample(f'is no row of the schema {name!r}: its keys are {listed(row) or "none"}; '
                     'rename its fields, or name another schema')
  if name == 'oasst':
    found = _tree(row, trees or MessageTrees(paths='all'))
  else:
    found = [read(row, chat)]
  return [_with_prompt(comparison, chat, name) for comparison in found]


def _with_prompt(comparison: Comparison, chat: bool, schema: str) -> Comparison:
  """With a prompt of messages for a chat template, of text without one."""
  if isinstance(comparison.prompt, str) and chat:
    prompt = (Message('user', comparison.prompt),)
    return Comparison(prompt, comparison.responses, comparison.scores)
  if not isinstance(comparison.prompt, str) and not chat:
    raise BadExample(f'is a row of the schema {schema!r} whose prompt is messages: set template, '
                     'which writes them as a text')
  return comparison


def _has(*names: str) -> Callable[[Row], bool]:
  return lambda row: all(name in row for name in names)


def _hh_rlhf(row: Row, chat: bool) -> Comparison:
  """Two whole dialogues as text, which part in their last answer."""
  texts = [text_field(row, name) for name in ('chosen', 'rejected')]
  for name, text in zip(('chosen', 'rejected'), texts):
    if not text.startswith(_HUMAN):
      raise bad_row(f'{name!r} is a text that does not begin with {_HUMAN!r}, as a dialogue of '
                    'hh-rlhf does, and there is no prompt beside it')
  ends = [text.rfind(_ASSISTANT) + len(_ASSISTANT) for text in texts]
  prompts = [text[:end] for text, end in zip(texts, ends)]
  responses = [text[end:] for text, end in zip(texts, ends)]
  if prompts[0] != prompts[1]:
    raise bad_row(_PARTED)
  if any(_HUMAN in response for response in responses):
    raise bad_row(f'a dialogue does not end in an answer of {_ASSISTANT!r}')
  if not chat:
    return Comparison(prompts[0], tuple(responses), _CHOSEN)
  _, *parts = _TURN.split(prompts[0])
  roles = {_HUMAN: 'user', _ASSISTANT: 'assistant'}
  messages = [Message(roles[turn], text.strip()) for turn, text in zip(parts[::2], parts[1::2])]
  return Comparison(tuple(messages[:-1]), tuple(r.strip() for r in responses), _CHOSEN)


def _pair(row: Row, chat: bool) -> Comparison:
  """A chosen and a rejected answer; messages have their prompt beside them or before them."""
  prompt, answers = row.get('prompt'), [row[name] for name in ('chosen', 'rejected')]
  if all(isinstance(answer, str) for answer in answers):
    return _texts(prompt, answers, _CHOSEN, row)
  kind = 'a text' if isinstance(answers[0], str) else 'a list of messages'
  for name, answer in zip(('chosen', 'rejected'), answers):
    if not isinstance(answer, (str, list)) or type(answer) is not type(answers[0]):
      raise bad_row(f'field {name!r} must be {kind}, got {shorten(repr(answer))}')
  before = prompt if isinstance(prompt, list) else []   # a text is repeated in them
  return _last_answers([_openai(before, row, name) for name in ('chosen', 'rejected')], _CHOSEN)


def _sharegpt(row: Row, chat: bool) -> Comparison:
  found = [instruction_schemas.conversations(
      {**row, 'conversations': _list(row, 'conversations') + [row[name]]}, 'sharegpt')[0]
           for name in ('chosen', 'rejected')]
  return _last_answers(found, _CHOSEN)


def _alpaca(row: Row, chat: bool) -> Comparison:
  found = [instruction_schemas.conversations({**row, 'output': row[name]}, 'alpaca')[0]
           for name in ('chosen', 'rejected')]
  return _last_answers(found, _CHOSEN)


def _scored(row: Row, chat: bool) -> Comparison:
  responses, scores = _list(row, 'responses'), _list(row, 'scores')
  if responses and all(isinstance(response, list) for response in responses):
    before = row['prompt'] if isinstance(row['prompt'], list) else []
    found = [_openai(before, {**row, 'response': response}, 'response') for response in responses]
    return _last_answers(found, _numbers(scores))
  return _texts(row['prompt'], responses, _numbers(scores), row)


def _ultrafeedback(row: Row, chat: bool) -> Comparison:
  found = _list(row, 'completions')
  if not all(isinstance(completion, Mapping) for completion in found):
    raise bad_row("field 'completions' must be a list of objects")
  scores = _numbers([completion.get('overall_score') for completion in found])
  return Comparison(text_field(row, 'instruction'),
                    tuple(text_field(completion, 'response') for completion in found), scores)


def _completion(row: Row, chat: bool) -> Comparison:
  """A thumb for one completion, of a prompt."""
  if isinstance(row['completion'], list):
    before = row['prompt'] if isinstance(row['prompt'], list) else []
    return _last_answers([_openai(before, row, 'completion')], _thumb(row))
  return _texts(row['prompt'], [row['completion']], _thumb(row), row)


def _messages(row: Row, chat: bool) -> Comparison:
  """A thumb for the last answer of a conversation."""
  return _last_answers([_openai([], row, 'messages')], _thumb(row))


def _tree(row: Row, trees: MessageTrees) -> list[Comparison]:
  """Of each question with two ranked answers or more; the rank 0 is the best."""
  return [Comparison(prompt, tuple(text for text, _ in ranked),
                     tuple(0.0 - rank for _, rank in ranked))
          for prompt, ranked in trees.rankings(row['prompt']) if len(ranked) > 1]


def _texts(prompt: Any, responses: Sequence[Any], scores: tuple[float, ...], row: Row
           ) -> Comparison:
  """Of responses that are texts, to a prompt that is a text or messages."""
  for number, response in enumerate(responses, 1):
    if not isinstance(response, str):
      raise bad_row(f'response {number} is {shorten(repr(response))}, not a text, as others are')
  if isinstance(prompt, list):
    found = [_openai(prompt, {**row, 'response': [{'role': 'assistant', 'content': response}]},
                     'response') for response in responses]
    return _last_answers(found, scores)
  return Comparison(text_field(row, 'prompt'), tuple(responses), scores)


def _openai(before: list, row: Row, name: str) -> Conversation:
  """The messages of a field, after those before them."""
  return instruction_schemas.conversations(
      {**row, 'messages': before + _list(row, name)}, 'openai')[0]


def _last_answers(found: Sequence[Conversation], scores: tuple[float, ...]) -> Comparison:
  """Of conversations that differ in their last answer alone."""
  prompt = found[0].messages[:-1]
  for conversation in found:
    last = conversation.messages[-1]
    if last.role != 'assistant':
      raise bad_row(f'a conversation ends with the role {last.role!r}, not with an answer')
    if last.tool_calls or last.content is None:
      raise bad_row('the last answer calls tools, and text alone is compared')
    if conversation.messages[:-1] != prompt:
      raise bad_row(_PARTED)
  if not prompt:
    raise bad_row('there is no prompt before the answers')
  return Comparison(prompt, tuple(c.messages[-1].content for c in found), scores, found[0].tools)


def _list(row: Row, name: str) -> list:
  if not isinstance(row[name], list):
    raise bad_row(f'field {name!r} must be a list, got {shorten(repr(row[name]))}')
  return row[name]


def _numbers(values: Sequence[Any]) -> tuple[float, ...]:
  for number, value in enumerate(values, 1):
    if isinstance(value, bool) or not isinstance(value, int | float):
      raise bad_row(f'score {number} is {shorten(repr(value))}, not a number')
  return tuple(map(float, values))


def _thumb(row: Row) -> tuple[float, ...]:
  """Of a truth value, which is a text in tables."""
  score = _THUMBS.get(str(row['label']).lower())
  if score is None:
    raise bad_row(f"field 'label' must be true or false, got {shorten(repr(row['label']))}")
  return (score,)


# In the order in which a row is tried.
SCHEMAS: dict[str, tuple[Callable[[Row], bool], Callable[[Row, bool], Comparison] | None]] = {
    'sharegpt': (_has('conversations', 'chosen', 'rejected'), _sharegpt),
    'alpaca': (_has('instruction', 'chosen', 'rejected'), _alpaca),
    'hh_rlhf': (lambda row: _has('chosen', 'rejected')(row) and 'prompt' not in row
                and isinstance(row['chosen'], str), _hh_rlhf),
    'pair': (_has('chosen', 'rejected'), _pair),
    'scored': (_has('prompt', 'responses', 'scores'), _scored),
    'ultrafeedback': (_has('instruction', 'completions'), _ultrafeedback),
    'completion': (_has('prompt', 'completion', 'label'), _completion),
    'messages': (_has('messages', 'label'), _messages),
    'oasst': (lambda row: isinstance(row.get('prompt'), dict), None),
}
