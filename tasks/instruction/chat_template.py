"""Chat templates in Jinja, as tokenizers carry them, rendered as transformers renders them.

A template is code from elsewhere: it runs in Jinja's immutable sandbox. Beside the text, rendering
says what the assistant wrote: by the template's own `{% generation %}` marks, else as what an
assistant's message adds to the text of all before it and the prompt for an answer.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
import dataclasses
from datetime import datetime
import functools
import json
import re
from typing import Any

import jinja2
from jinja2 import ext, nodes, sandbox

from t5x_lite.core.errors import UserError
from t5x_lite.data.files.templates import BadExample, shorten
from tasks.instruction.conversation import Conversation, Message

TURNS = ('every', 'last')
# What the marked rendering has around the answers, and around control tokens that texts spell.
_ANSWER, _ANSWER_END, _SPELLED, _SPELLED_END = '\ufdd0', '\ufdd1', '\ufdd2', '\ufdd3'
_MARKS = re.compile(f'([{_ANSWER}-{_SPELLED_END}])')
_SHOWN = 600   # characters of a rendered text, in a message
# Of Python, in a template: of types that do not add, indices beyond the end, and the like.
_OF_TEMPLATES = (jinja2.TemplateError, TypeError, ValueError, ArithmeticError, LookupError,
                 AttributeError, RecursionError)
_SPECIAL = re.compile(r'(bos|eos|unk|sep|pad|cls|mask)_token')


@dataclasses.dataclass(frozen=True)
class Rendered:
  """A conversation as one text.

  Attributes:
    text: as transformers' apply_chat_template has it.
    answers: [begin, end) of what the assistant wrote and is trained on, in order, in characters.
    control: (begin, end) of the control tokens that the template wrote; the same spelling in a
      message is text.
  """

  text: str
  answers: tuple[tuple[int, int], ...]
  control: tuple[tuple[int, int], ...]

  def check(self) -> None:
    """Raises BadExample if nothing is trained, everything, or no end of the last answer."""
    self.check_share(sum(end - begin for begin, end in self.answers), len(self.text))
    begin, end = self.answers[-1]
    answer = self.text[begin:end].rstrip()
    if not any(stop == begin + len(answer) and start >= begin for start, stop in self.control):
      raise BadExample(
          'no special token of the tokenizer ends the answer, so that a model would never stop: '
          'have the template write one within the turn (and within its {% generation %} marks), '
          "or choose one that writes eos_token, such as 'zephyr'; the answer ends in "
          f'{shorten(repr(self.text[begin:end][-40:]))}')

  def check_share(self, trained: int, whole: int) -> None:
    """Raises BadExample if nothing is trained of its characters or ids, or all."""
    if not 0 < trained < whole:
      what = 'no part' if not trained else 'the whole'
      raise BadExample(f'{what} of the rendered text is an answer: mend the row, or the template, '
                       'which must write the content of each message, that of the assistant alone '
                       f'within its {{% generation %}} marks, if it has any; it is '
                       f'{shorten(repr(self.text), _SHOWN)}')


class _Undefined(jinja2.Undefined):
  """A name without a value may be tested and is false, as everywhere; written out, it is an error.

  Special tokens that a tokenizer lacks are nothing, as in transformers.
  """

  def __str__(self) -> str:
    name = self._undefined_name
    if self._undefined_obj is jinja2.utils.missing and _SPECIAL.fullmatch(str(name)):
      return ''
    self._fail_with_undefined_error()


class _Generation(ext.Extension):
  """`{% generation %}`, whose text is marked where the environment has marks."""

  tags = {'generation'}

  def parse(self, parser):
    line = next(parser.stream).lineno
    body = parser.parse_statements(('name:endgeneration',), drop_needle=True)
    self.environment.has_generation = True
    return nodes.CallBlock(self.call_method('_mark'), [], [], body).set_lineno(line)

  def _mark(self, caller) -> str:
    before, after = self.environment.answer_marks
    return before + caller() + after


class _Namespace(jinja2.utils.Namespace):
  """Jinja's, without names that begin with an underscore."""

  def __init__(*args, **kwargs):
    self, *rest = args
    for name in dict(*rest, **kwargs):
      _Namespace._check(name)
    jinja2.utils.Namespace.__init__(self, *rest, **kwargs)

  def __setitem__(self, name, value):
    _Namespace._check(name)
    super().__setitem__(name, value)

  @staticmethod
  def _check(name) -> None:
    if isinstance(name, str) and name.startswith('_'):
      raise jinja2.exceptions.SecurityError(f'a namespace cannot hold {name!r}')


def _raise_exception(message):
  raise jinja2.TemplateError(message)


def _tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False) -> str:
  return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators,
                    sort_keys=sort_keys)


def _environment(answer_marks: tuple[str, str]) -> sandbox.ImmutableSandboxedEnvironment:
  made = sandbox.ImmutableSandboxedEnvironment(
      trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, ext.loopcontrols],
      undefined=_Undefined)
  made.answer_marks, made.has_generation = answer_marks, False
  made.filters['tojson'] = _tojson
  made.globals |= {
      'raise_exception': _raise_exception, 'namespace': _Namespace,
      'strftime_now': lambda form: datetime.now().strftime(form),
      'dict': lambda *args, **kwargs: dict(*args, **kwargs)}
  return made


class ChatTemplate:
  """A chat template.

  Attributes:
    source: its Jinja.
    name: what messages call it.
    has_generation: whether it marks the answers itself.
  """

  def __init__(self, source: str, name: str):
    """Raises UserError, with the line, if the source does not compile."""
    self.source, self.name = source, name
    plain, marked = _environment(('', '')), _environment((_ANSWER, _ANSWER_END))
    try:
      self._plain, self._marked = plain.from_string(source), marked.from_string(source)
    except (jinja2.TemplateSyntaxError, RecursionError) as error:
      line = getattr(error, 'lineno', 1)
      raise UserError(f'{name}:{line}: is no chat template, as it does not compile: {error}; mend '
                      'the Jinja there, or name another template') from error
    self.has_generation = marked.has_generation

  def render(self, messages: Sequence[Message], tokens: Mapping[str, str], *,
             tools: Sequence[Any] = (), add_generation_prompt: bool = False) -> str:
    """The text of messages.

    Args:
      messages: of a conversation, or the beginning of one.
      tokens: `eos_token` and the like, by name.
      tools: that may be called.
      add_generation_prompt: end with what comes before an answer.

    Raises BadExample if the template refuses them, or writes out a field that they lack.
    """
    found = [message.as_dict() for message in messages]
    return self._run(self._plain, found, tokens, list(tools), add_generation_prompt)

  def render_answers(self, conversation: Conversation, tokens: Mapping[str, str],
                     control: Iterable[str] = (), turns: str = 'every') -> Rendered:
    """A whole conversation, with what of it is an answer.

    Args:
      conversation: to render.
      tokens: as `render`.
      control: the spellings of the tokenizer's control tokens.
      turns: 'every' turn of the assistant is trained on, or the 'last' alone.

    Raises BadExample as `render`, or if what is an answer cannot be told.
    """
    self._check_places(conversation)
    messages, tools = conversation.messages, conversation.tools
    text = self.render(messages, tokens, tools=tools)
    spelling = _alternatives(frozenset(control))
    marked = self._parse(messages, tools, tokens, spelling)
    self._check_text(marked, text)
    last = max(i for i, message in enumerate(messages) if message.role == 'assistant')
    if not self.has_generation:
      answers = self._added(conversation, tokens, text, turns, last)
      answers = tuple(_without_separator(text, marked.control, span) for span in answers)
    elif turns == 'last':
      before = self._parse(messages[:last], tools, tokens, spelling).answers
      if marked.answers[:len(before)] != before:
        raise BadExample(f"{self.name} changes earlier answers, so that the last one cannot be "
                         "told: mend its {% generation %} marks, or set turns = 'every' where the "
                         "objective is 'lm'")
      answers = marked.answers[len(before):]
    else:
      answers = marked.answers
    return Rendered(text, answers, marked.control)

  def render_prompt(self, messages: Sequence[Message], tokens: Mapping[str, str],
                    control: Iterable[str] = (), tools: Sequence[Any] = ()) -> Rendered:
    """Messages up to where an answer begins; arguments and errors as of `render_answers`."""
    text = self.render(messages, tokens, tools=tools, add_generation_prompt=True)
    marked = self._parse(messages, tools, tokens, _alternatives(frozenset(control)), prompt=True)
    self._check_text(marked, text)
    return Rendered(text, (), marked.control)

  def _check_text(self, marked: Rendered, text: str) -> None:
    if marked.text != text:
      raise BadExample(f'{self.name} writes another text where messages spell control tokens, so '
                       'that these cannot be told from its own: remove the row, or name another '
                       f'template; it is {shorten(repr(text), _SHOWN)}')

  def _added(self, conversation, tokens, text: str, turns: str, last: int
             ) -> Iterator[tuple[int, int]]:
    """What each answer adds to the text of all before it and the prompt for it."""
    render = functools.partial(self.render, tokens=tokens, tools=conversation.tools)
    messages = conversation.messages
    for i, message in enumerate(messages):
      if message.role != 'assistant' or turns == 'last' and i != last:
        continue
      prompt = render(messages[:i], add_generation_prompt=True)
      answered = render(messages[:i + 1])
      if not answered.startswith(prompt):
        raise BadExample(
            f'{self.name} has no {{% generation %}} marks, and the text with the answer of message '
            f'{i + 1} does not begin with its prompt for one, so that the answer cannot be told: '
            f'set the marks; the prompt ends in {shorten(repr(prompt[-60:]))}')
      if not text.startswith(answered):
        more = '' if turns == 'last' else ", or set turns = 'last'"
        raise BadExample(
            f'{self.name} has no {{% generation %}} marks, and writes the answer of message '
            f'{i + 1} in another way where more messages follow, so that it cannot be told: set '
            f'the marks{more}')
      yield len(prompt), len(answered)

  def _parse(self, messages, tools, tokens, spelling: re.Pattern, prompt: bool = False
             ) -> Rendered:
    """The marked rendering of messages, as text and places."""
    found = _mark_spelled([message.as_dict() for message in messages], spelling)
    raw = self._run(self._marked, found, tokens, _mark_spelled(list(tools), spelling), prompt)
    text, at, depth, begin, spelled = [], 0, 0, 0, False
    answers, control = [], []
    for piece in _MARKS.split(raw):
      if piece in (_SPELLED, _SPELLED_END):
        spelled = piece == _SPELLED
      elif piece == _ANSWER:
        begin, depth = (begin if depth else at), depth + 1
      elif piece == _ANSWER_END:
        depth -= 1
        if not depth and at > begin:
          answers.append((begin, at))
      else:
        if not spelled:
          control += [(at + m.start(), at + m.end()) for m in spelling.finditer(piece)]
        text.append(piece)
        at += len(piece)
    return Rendered(''.join(text), tuple(answers), tuple(control))

  def _run(self, template, messages, tokens, tools, add_generation_prompt: bool) -> str:
    try:
      return template.render(messages=messages, tools=tools or None, documents=None,
                             add_generation_prompt=add_generation_prompt, **tokens)
    except jinja2.UndefinedError as error:
      raise BadExample(f'{self.name} names a missing field: {error}; mend the template, or name '
                       'one that reads only what the rows have') from error
    except _OF_TEMPLATES as error:
      raise BadExample(f'{self.name} does not render it: {" ".join(str(error).split())}; mend the '
                       'row or name another template') from error

  def _check_places(self, conversation: Conversation) -> None:
    """Raises BadExample for what the template would leave out of the text."""
    held = {'tools': conversation.tools,
            'tool_calls': any(message.tool_calls for message in conversation.messages)}
    for name, value in held.items():
      if value and not re.search(rf'\b{name}\b', self.source):
        raise BadExample(f'{self.name} has no place for {name}, which would be left out: name a '
                         'template that writes them')


@functools.lru_cache
def _alternatives(spellings: frozenset[str]) -> re.Pattern:
  """Matches any of some texts, the longest first; of none, nothing."""
  longest = sorted(filter(None, spellings), key=lambda text: (-len(text), text))
  return re.compile('|'.join(map(re.escape, longest)) or '(?!)')


def _mark_spelled(value: Any, spelling: re.Pattern) -> Any:
  """Messages in which control tokens that are spelled have marks around them; roles have none."""
  if isinstance(value, str):
    return spelling.sub(f'{_SPELLED}\\g<0>{_SPELLED_END}', value)
  if isinstance(value, Mapping):
    return {key: item if key == 'role' else _mark_spelled(item, spelling)
            for key, item in value.items()}
  if isinstance(value, list | tuple):
    return [_mark_spelled(item, spelling) for item in value]
  return value


def _without_separator(text: str, control: Sequence[tuple[int, int]], span: tuple[int, int]
                       ) -> tuple[int, int]:
  """An answer up to its end token: white space after that is before the next turn, and no model
  comes to write it."""
  begin, end = span
  stops = [stop for start, stop in control if begin <= start and stop <= end]
  return (begin, stops[-1]) if stops and not text[stops[-1]:end].strip() else span
