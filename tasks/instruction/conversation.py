"""A conversation: messages in order, with the roles and fields that chat templates read."""

from collections.abc import Mapping, Sequence
import dataclasses
import json
import re
from typing import Any

from t5x_lite.data.files.templates import BadExample, shorten

# Unicode's noncharacters are in no text for interchange: rendering marks what it follows by them.
RESERVED = re.compile('[\ufdd0-\ufdd3\uffff]')
_FOLLOW = {   # the roles that may come next; None: at the beginning
    None: ('system', 'developer', 'user'),
    'system': ('user',),
    'developer': ('user',),
    'user': ('assistant',),
    'assistant': ('user', 'tool'),
    'tool': ('tool', 'assistant'),
}
ROLES = tuple(role for role in _FOLLOW if role)
_REASONING = ('reasoning_content', 'thinking', 'reasoning')


def bad_row(what: str) -> BadExample:
  """The error of a row that only its author can mend."""
  return BadExample(f'{what}: mend the row, or set skip_bad = True')


@dataclasses.dataclass(frozen=True)
class Message:
  """What one party says.

  Attributes:
    role: one of ROLES.
    content: its text; None of an assistant that only calls tools.
    tool_calls: as OpenAI has them, of an assistant.
    fields: what else the row has of it, such as `name`, `tool_call_id`, or the `instruction` and
      `input` that the content was joined of.
  """

  role: str
  content: str | None
  tool_calls: tuple[Any, ...] = ()
  fields: Mapping[str, Any] = dataclasses.field(default_factory=dict)

  def as_dict(self) -> dict[str, Any]:
    """What a template reads: without what is None, and with the usual names of reasoning."""
    message = {'role': self.role, 'content': self.content,
               'tool_calls': list(self.tool_calls) or None, **self.fields}
    message = {name: value for name, value in message.items() if value is not None}
    reasoning = next((message[name] for name in _REASONING if name in message), None)
    if reasoning is not None:   # as transformers fills them in
      message = {'thinking': reasoning, **message, 'reasoning_content': reasoning}
    return message


@dataclasses.dataclass(frozen=True)
class Conversation:
  """Messages in an order that makes sense, with an answer among them; else raises BadExample.

  Attributes:
    messages: a system message or none, then user and assistant in turn, with the answers of tools
      between two turns of the assistant.
    tools: descriptions of the tools that the assistant may call, as the row has them.
  """

  messages: tuple[Message, ...]
  tools: tuple[Any, ...] = ()

  def __post_init__(self):
    before = None
    for number, message in enumerate(self.messages, 1):
      if message.role not in _FOLLOW[before]:
        raise BadExample(_out_of_order(number, message.role, before))
      if message.content is None and not message.tool_calls:
        raise bad_row(f'message {number} ({message.role}) has neither content nor tool calls')
      before = message.role
    if not any(message.role == 'assistant' for message in self.messages):
      raise BadExample(f'no assistant turn among {len(self.messages)} message(s), so there is '
                       'nothing to learn: remove the row, or set skip_bad = True')
    for text in _texts([message.as_dict() for message in self.messages] + [*self.tools]):
      check_text(text)

  def to_json(self) -> str:
    """As `from_json` reads it."""
    return json.dumps({'messages': [[m.role, m.content, m.tool_calls, dict(m.fields)]
                                    for m in self.messages], 'tools': self.tools},
                      ensure_ascii=False)

  @staticmethod
  def from_json(text: str) -> 'Conversation':
    """The conversation that `to_json` wrote."""
    found = json.loads(text)
    messages = tuple(Message(role, content, tuple(calls), fields)
                     for role, content, calls, fields in found['messages'])
    return Conversation(messages, tuple(found['tools']))

  def exchanges(self) -> tuple[tuple[Message, ...], list[tuple[Message, ...]]]:
    """(messages before the first user, [a user's message and what follows up to the next])."""
    starts = [i for i, m in enumerate(self.messages) if m.role == 'user'] + [len(self.messages)]
    return self.messages[:starts[0]], [
        self.messages[a:b] for a, b in zip(starts, starts[1:])]


def _out_of_order(number: int, role: str, before: str | None) -> str:
  place = f'follows {before}' if before else 'is the first'
  cure = 'merge messages of one role' if role == before else (
      'remove what has no question before it' if role == 'assistant' else 'mend the order')
  allowed = ' or '.join(r for r in _FOLLOW[before] if r != 'developer')
  return (f'roles out of order: message {number} ({role}) {place}, where {allowed} is expected: '
          f'{cure}, or set skip_bad = True')


def _texts(value: Any) -> list[str]:
  if isinstance(value, str):
    return [value]
  if isinstance(value, Mapping):
    return [text for key, item in value.items() for text in [*_texts(key), *_texts(item)]]
  if isinstance(value, Sequence):
    return [text for item in value for text in _texts(item)]
  return []


def check_text(text: str) -> None:
  """Raises BadExample for what no text for interchange has."""
  if found := RESERVED.search(text):
    raise BadExample(f'{shorten(repr(text))} has the noncharacter U+{ord(found[0]):04X}, which no '
                     'text has: remove it')
  try:
    text.encode()
  except UnicodeEncodeError as error:
    raise bad_row(f'{shorten(repr(text))} is no Unicode text, as it has half a surrogate pair'
                  ) from error
