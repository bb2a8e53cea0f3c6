"""Rows of the public schemas of instruction data as conversations.

`SCHEMAS` maps a schema's name to (what its keys are, how it is read). A row's own keys say which it
is, unless the schema is named.
"""

from collections.abc import Callable, Mapping
import json
from typing import Any

from t5x_lite.core.dataclass_checks import nearest
from t5x_lite.data.files.templates import BadExample, listed, shorten
from tasks.instruction.conversation import ROLES, Conversation, Message, bad_row
from tasks.instruction.labeler_prompts import LabelerPrompts
from tasks.instruction.message_trees import MessageTrees

Row = Mapping[str, Any]
_SHAREGPT_ROLES = {
    'human': 'user', 'user': 'user', 'gpt': 'assistant', 'assistant': 'assistant',
    'chatgpt': 'assistant', 'model': 'assistant', 'system': 'system', 'tool': 'tool',
    'observation': 'tool', 'function_response': 'tool', 'function_call': 'assistant',
}
_OPENAI_ROLES = dict(zip(ROLES, ROLES)) | {'function': 'tool'}
_END = '<|endoftext|>'   # of completions of T0, which a template writes


def conversations(row: Row, schema: str | None = None, trees: MessageTrees | None = None,
                  prompts: LabelerPrompts | None = None) -> list[Conversation]:
  """The conversations of a row: one, or several of a tree or of a task with several instances.

  Args:
    row: as it was read.
    schema: one of SCHEMAS; None: by the row's keys.
    trees: which paths of a message tree; None: the best.
    prompts: which are made of an instruction with instances; None: plain ones.

  Raises:
    BadExample: the row fits no schema, or is not as its schema has it.
  """
  name = schema or detect(row)
  fits, read = SCHEMAS[name]
  if not fits(row):
    other = _fitting(row)
    cure = 'rename its fields' if other is None else f'name the schema {other!r}, or none'
    raise BadExample(f'is no row of the schema {name!r}: its keys are {listed(row) or "none"}; '
                     f'{cure}')
  if name == 'self_instruct':
    return _instances(row, prompts or LabelerPrompts())
  if prompts is not None and prompts.kind != 'plain':
    raise BadExample(f'is a row of the schema {name!r}, of which no {prompts.kind} prompts are '
                     'made: that takes rows with instruction and instances')
  if name == 'oasst':
    return (trees or MessageTrees()).conversations(row['prompt'])
  return read(row)


def detect(row: Row) -> str:
  """The schema of a row by its keys. Raises BadExample for none."""
  judged = [key for key in ('chosen', 'rejected') if key in row]
  if isinstance(row.get('label'), bool):
    judged.append('label')
  if judged:
    raise BadExample(f'has {" and ".join(judged)}, which say which answer is preferred: as it may '
                     'be a bad one, name the schema to read the row all the same')
  found = _fitting(row)
  if found is None:
    cure = 'export it as trees, with the replies of each message in it' if (
        'parent_message_id' in row or 'parent_id' in row) else (
            'rename its fields, or name the schema')
    raise BadExample(f'fits none of the schemas {", ".join(SCHEMAS)}: its keys are '
                     f'{listed(row) or "none"}; {cure}')
  return found


def _fitting(row: Row) -> str | None:
  return next((name for name, (fits, _) in SCHEMAS.items() if fits(row)), None)


def _has(*names: str) -> Callable[[Row], bool]:
  return lambda row: all(name in row for name in names)


def text_field(row: Row, name: str) -> str:
  """A field that is a text. Raises BadExample."""
  value = row.get(name)
  if not isinstance(value, str):
    kind = 'is missing' if name not in row else f'must be a string, got {_kind(value)}'
    raise bad_row(f'field {name!r} {kind}')
  return value


def _kind(value: Any) -> str:
  return 'null' if value is None else type(value).__name__


def _optional(row: Row, name: str) -> str:
  return '' if row.get(name) is None else text_field(row, name)


def _role(value: Any, known: Mapping[str, str], number: int) -> str:
  role = known.get(value) if isinstance(value, str) else None
  if role is None:
    hint = nearest(value, known) if isinstance(value, str) else f'choose from {", ".join(known)}'
    raise BadExample(f'message {number} has the role {shorten(repr(value))}; {hint}')
  return role


def _content(value: Any, number: int) -> str | None:
  """Text, or a list of parts that are text."""
  if isinstance(value, list):
    parts = [part.get('text') if isinstance(part, dict) and part.get('type') == 'text' else part
             for part in value]
    if not all(isinstance(part, str) for part in parts):
      raise bad_row(f'message {number} has parts that are no text')
    value = ''.join(parts)
  if not isinstance(value, str | None):
    raise bad_row(f'the content of message {number} must be a string, got {_kind(value)}')
  return value


def _tools(row: Row) -> tuple[Any, ...]:
  tools = row.get('tools')
  if isinstance(tools, str):
    try:
      tools = json.loads(tools) if tools.strip() else None
    except ValueError as error:
      raise bad_row(f"field 'tools' is not JSON: {error}") from error
  if not isinstance(tools, list | None):
    raise bad_row(f"field 'tools' must be a list, got {_kind(tools)}")
  return tuple(tools or ())


def _list(row: Row, name: str) -> list[Mapping]:
  value = row[name]
  if not isinstance(value, list) or not value:
    raise bad_row(f'field {name!r} must be a list of messages, got {shorten(repr(value))}')
  for number, message in enumerate(value, 1):
    if not isinstance(message, Mapping):
      raise bad_row(f'message {number} is {shorten(repr(message))}, not an object')
  return value


def _openai_messages(found: list[Mapping]) -> tuple[Message, ...]:
  messages = []
  for number, message in enumerate(found, 1):
    fields = {k: v for k, v in message.items()
              if k not in ('role', 'content', 'tool_calls') and v is not None}
    calls = message.get('tool_calls') or ()
    if not isinstance(calls, list | tuple):
      raise bad_row(f'the tool_calls of message {number} are no list')
    messages.append(Message(_role(message.get('role'), _OPENAI_ROLES, number),
                            _content(message.get('content'), number), tuple(calls), fields))
  return tuple(messages)


def _openai(row: Row) -> list[Conversation]:
  return [Conversation(_openai_messages(_list(row, 'messages')), _tools(row))]


def _sharegpt(row: Row) -> list[Conversation]:
  found = _list(row, 'conversations')
  if all('role' in message for message in found):   # of OpenAI, under another name
    return [Conversation(_openai_messages(found), _tools(row))]
  messages = [Message('system', text_field(row, 'system'))] if row.get('system') else []
  for number, message in enumerate(found, 1):
    role = _role(message.get('from'), _SHAREGPT_ROLES, number)
    value = _content(message.get('value'), number)
    if message['from'] == 'function_call':
      messages.append(Message(role, None, _function_calls(value, number)))
    else:
      messages.append(Message(role, value))
  return [Conversation(tuple(messages), _tools(row))]


def _function_calls(value: str | None, number: int) -> tuple[Any, ...]:
  try:
    calls = json.loads(value or '')
  except ValueError as error:
    raise bad_row(f'the function call of message {number} is not JSON: {error}') from error
  calls = calls if isinstance(calls, list) else [calls]
  if not calls or not all(isinstance(call, dict) and isinstance(call.get('name'), str)
                          for call in calls):
    raise bad_row(f'the function call of message {number} names no function')
  return tuple({'type': 'function', 'function': {
      'name': call['name'], 'arguments': call.get('arguments', {})}} for call in calls)


def _instructed(row: Row, *, extra: str, answer: str) -> list[Conversation]:
  """An instruction with its input, after what was said before."""
  messages = [Message('system', text_field(row, 'system'))] if row.get('system') else []
  history = row.get('history') or []
  if not isinstance(history, list) or not all(
      isinstance(turn, list) and len(turn) == 2 and all(isinstance(x, str) for x in turn)
      for turn in history):
    raise bad_row("field 'history' must be a list of [question, answer]")
  for question, reply in history:
    messages += [Message('user', question), Message('assistant', reply)]
  instruction, given = text_field(row, 'instruction'), _optional(row, extra)
  fields = {'instruction': instruction, 'input': given} if given else {}
  content = f'{instruction}\n\n{given}' if given else instruction
  messages += [Message('user', content, fields=fields),
               Message('assistant', text_field(row, answer))]
  return [Conversation(tuple(messages))]


def _instances(row: Row, prompts: LabelerPrompts) -> list[Conversation]:
  _list(row, 'instances')
  return [conversation for prompt in prompts.rows(row)
          for conversation in _instructed(prompt, extra='input', answer='output')]


def _pair(prompt: str, completion: str) -> Callable[[Row], list[Conversation]]:
  def read(row: Row) -> list[Conversation]:
    if isinstance(row[prompt], list) and isinstance(row[completion], list):
      return [Conversation(_openai_messages(_list(row, prompt) + _list(row, completion)),
                           _tools(row))]
    return [Conversation((Message('user', text_field(row, prompt)),
                          Message('assistant', text_field(row, completion))))]
  return read


def _t0(row: Row) -> list[Conversation]:
  completion = text_field(row, 'completion').removesuffix(_END)
  return [Conversation((Message('user', text_field(row, 'prompt')),
                        Message('assistant', completion)))]


# In the order in which a row is tried.
SCHEMAS: dict[str, tuple[Callable[[Row], bool], Callable[[Row], list[Conversation]]]] = {
    'openai': (_has('messages'), _openai),
    'sharegpt': (_has('conversations'), _sharegpt),
    'oasst': (lambda row: isinstance(row.get('prompt'), dict), lambda row: []),
    'self_instruct': (_has('instruction', 'instances'), lambda row: []),
    'alpaca': (_has('instruction', 'output'),
               lambda row: _instructed(row, extra='input', answer='output')),
    'dolly': (_has('instruction', 'response'),
              lambda row: _instructed(row, extra='context', answer='response')),
    't0': (_has('template', 'prompt', 'completion'), _t0),
    'p3': (_has('inputs_pretokenized', 'targets_pretokenized'),
           _pair('inputs_pretokenized', 'targets_pretokenized')),
    'prompt_completion': (_has('prompt', 'completion'), _pair('prompt', 'completion')),
    'prompt_response': (_has('prompt', 'response'), _pair('prompt', 'response')),
}
