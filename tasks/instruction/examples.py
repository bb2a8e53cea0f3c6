"""Conversations as examples of a model: ids and the weights of their losses, at most so long."""

from collections.abc import Hashable, Sequence
import dataclasses
import sys

from t5x_lite.core.errors import UserError
from t5x_lite.data.files.templates import BadExample
from tasks.instruction.chat_template import ChatTemplate
from tasks.instruction.chat_tokens import ChatTokens
from tasks.instruction.conversation import Conversation

WITHOUT_ANSWER = 'without an answer that MessageTrees keeps'
EMPTY_ANSWER = 'with an answer of no text'
TOO_LONG = ('refuse', 'cut_turns', 'cut_answers')
_DONE = ('cut between turns', 'cut in an answer', 'left out in part', 'left out', WITHOUT_ANSWER,
         EMPTY_ANSWER)


@dataclasses.dataclass(frozen=True)
class Example:
  """Ids [length], and for each 1 if it is trained on, else 0."""
  ids: list[int]
  mask: list[int]

  def split(self) -> tuple[list[int], list[int]]:
    """(ids before those trained on, ids from the first of these to the last)."""
    begin, end = self.mask.index(1), len(self.mask) - self.mask[::-1].index(1)
    return self.ids[:begin], self.ids[begin:end]


class Report:
  """Counts conversations that do not reach a model whole, and says so of the 1st, 10th, 100th, …

  Attributes:
    counts: of each thing that was done, once a conversation however often that is read.
  """

  def __init__(self, noun: str = 'conversations', done: Sequence[str] = _DONE):
    """
    Args:
      noun: what is counted, in messages.
      done: what may be done to it.
    """
    self._noun, self._done = noun, tuple(done)
    self.begin()

  def begin(self) -> None:
    """Forgets what was said: another run begins."""
    self.counts = dict.fromkeys(self._done, 0)
    self._seen = set()

  def add(self, what: str, place: Hashable, why: str = '') -> None:
    """Counts `what` was done to the conversation at a place, and says why."""
    if (key := hash((what, place))) in self._seen:
      return
    self._seen.add(key)
    self.counts[what] += 1
    number = self.counts[what]
    if str(number).strip('0') == '1':
      print(f'{self._noun} {what}: {number} so far, the last {place}{why}', file=sys.stderr)


class ExampleMaker:
  """Makes examples of conversations."""

  def __init__(self, template: ChatTemplate, tokens: ChatTokens, *, turns: str, too_long: str,
               start_id: int, skip_bad: bool = False, report: Report | None = None):
    """
    Args:
      template: of the conversations.
      tokens: of the model.
      turns: as ChatTemplate.render_answers; 'last' for pairs.
      too_long: one of TOO_LONG: refuse a conversation that does not fit; cut it between two
        exchanges, and leave out an exchange that is too long by itself; or cut that one's answer.
      start_id: what a decoder reads before its first id; a text that begins with it does not
        repeat it.
      skip_bad: leave out what cannot be encoded, and count it.
      report: what of them does not fit.
    """
    self.template, self.tokens, self.turns, self.too_long = template, tokens, turns, too_long
    self.start_id, self.skip_bad = start_id, skip_bad
    self.report = report or Report()

  def encode(self, conversation: Conversation) -> Example:
    """All of it. Raises BadExample if its mask is empty or full, or no answer ends."""
    rendered = self.template.render_answers(
        conversation, self.tokens.tokens, self.tokens.control, self.turns)
    rendered.check()
    ids, mask = self.tokens.encode(rendered)
    if ids and ids[0] == self.start_id and not mask[0]:
      ids, mask = ids[1:], mask[1:]
    rendered.check_share(sum(mask), len(mask))
    return Example(list(ids), list(mask))

  def sequences(self, conversation: Conversation, length: int | None, place: Hashable
                ) -> list[Example]:
    """Examples of at most `length` ids, for a decoder that reads whole conversations.

    Args:
      conversation: cut between two exchanges where it is too long; each piece begins with its
        system message.
      length: of an example; None: any.
      place: file and line, for messages.

    Raises UserError for one that cannot be encoded, or that is too long and not to be cut.
    """
    fits = lambda example: length is None or len(example.ids) <= length
    self._report_empty(conversation, place)
    try:
      whole = self.encode(conversation)
      if fits(whole):
        return [whole]
      if self.too_long == 'refuse':
        raise _too_long(len(whole.ids), length, 'targets')
      found = []
      pieces = self._pieces(conversation, fits)
      for piece in pieces:
        example = self.encode(piece)
        if not fits(example):
          example = self._cut(example, length, place)
        found += [] if example is None else [example]
      if len(pieces) > 1:
        self.report.add('cut between turns', place)
      if len(found) < len(pieces):
        self.report.add('left out in part' if found else 'left out', place)
      return found
    except BadExample as error:
      return self._bad(error, place)

  def pairs(self, conversation: Conversation, inputs: int | None, targets: int | None,
            place: Hashable) -> list[tuple[list[int], list[int]]]:
    """(ids before the last answer, its ids), for a model that reads inputs; none if left out.

    The oldest exchanges are left out where the inputs are too long. Arguments and errors as
    `sequences`.
    """
    self._report_empty(conversation, place)
    try:
      last = _up_to_last_answer(conversation)
      before, answer = self.encode(last).split()
      too_long = inputs is not None and len(before) > inputs
      if self.too_long == 'refuse':
        if too_long:
          raise _too_long(len(before), inputs, 'inputs')
        if targets is not None and len(answer) > targets:
          raise _too_long(len(answer), targets, 'targets')
      if too_long:
        head, exchanges = last.exchanges()
        while too_long and len(exchanges) > 1:
          exchanges = exchanges[1:]
          shorter = Conversation(tuple([*head, *sum(exchanges, ())]), last.tools)
          before, answer = self.encode(shorter).split()
          too_long = len(before) > inputs
        if too_long:
          return self.report.add('left out', place) or []
        self.report.add('cut between turns', place)
      if targets is not None and len(answer) > targets:
        if self.too_long != 'cut_answers':
          return self.report.add('left out', place) or []
        self.report.add('cut in an answer', place)
        answer = answer[:targets]
      return [(before, answer)]
    except BadExample as error:
      return self._bad(error, place)

  def _pieces(self, conversation: Conversation, fits) -> list[Conversation]:
    """As many exchanges in each as fit, at least one; those without an answer are left out."""
    head, exchanges = conversation.exchanges()
    exchanges = [e for e in exchanges if any(m.role == 'assistant' for m in e)]
    make = lambda part: Conversation(tuple([*head, *sum(part, ())]), conversation.tools)
    pieces, part = [], []
    for exchange in exchanges:
      if part and not fits(self.encode(make([*part, exchange]))):
        pieces.append(make(part))
        part = []
      part = [*part, exchange]
    return [*pieces, make(part)]

  def _cut(self, example: Example, length: int, place: Hashable) -> Example | None:
    """The beginning of an exchange that is too long by itself, or None."""
    if self.too_long == 'cut_answers' and any(example.mask[:length]):
      self.report.add('cut in an answer', place)
      return Example(example.ids[:length], example.mask[:length])
    return None

  def _report_empty(self, conversation: Conversation, place: Hashable) -> None:
    if any(m.role == 'assistant' and not m.tool_calls and not (m.content or '').strip()
           for m in conversation.messages):
      self.report.add(EMPTY_ANSWER, place)

  def _bad(self, error: BadExample, place: Hashable) -> list:
    if not self.skip_bad:
      raise UserError(f'{place}: {error}') from error
    self.report.add('left out', place, f': {error}')
    return []


def _too_long(size: int, length: int, feature: str) -> BadExample:
  return BadExample(
      f'{size} tokens of {feature}, and the model has {length}: raise {feature}_length, or set '
      "ConversationTask.too_long to 'cut_turns', which cuts between turns and leaves out an "
      "exchange that is too long by itself, or to 'cut_answers', which cuts that one's answer")


def _up_to_last_answer(conversation: Conversation) -> Conversation:
  """Without what is said after it, which a model of inputs and targets has no use for."""
  roles: Sequence[str] = [m.role for m in conversation.messages]
  last = len(roles) - roles[::-1].index('assistant')
  return Conversation(conversation.messages[:last], conversation.tools)
