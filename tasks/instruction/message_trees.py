"""OpenAssistant's message trees: the conversations that are paths from the root to an answer."""

from collections.abc import Iterator, Mapping, Sequence
import dataclasses
from typing import Annotated, Any

from t5x_lite.core.dataclass_checks import FieldError, Range, check_types, nearest
from t5x_lite.data.files.templates import shorten
from tasks.instruction.conversation import Conversation, Message, bad_row

_ROLES = {'prompter': 'user', 'assistant': 'assistant'}
PATHS = ('best', 'all')


@dataclasses.dataclass(frozen=True, kw_only=True)
class MessageTrees:
  """Which paths of a message tree are conversations. Deleted messages are never in one.

  A path ends at its last answer. A message that is left out takes what follows it along.
  """

  paths: str = 'best'      # 'best': the reply of the lowest rank at each step; 'all': every one
  max_rank: Annotated[int, Range(min=0)] | None = None   # of answers, 0 the best; None: any
  languages: tuple[str, ...] = ()   # such as ('en', 'de'); (): all
  min_reviews: Annotated[int, Range(min=0)] = 0   # that every message has
  accepted_only: bool = True   # leave out messages whose review_result is false
  synthetic: bool = True       # read messages that a model wrote

  def __post_init__(self):
    check_types(self)
    if self.paths not in PATHS:
      raise FieldError(self, 'paths', f'{nearest(self.paths, PATHS)}')

  def conversations(self, root: Any) -> list[Conversation]:
    """The conversations of a tree, by the message at its root; none if all are left out.

    Raises BadExample for a message without text or role, or for roles out of order.
    """
    found = {}
    for path in self._walk(root, []):
      while path and path[-1]['role'] != 'assistant':
        path = path[:-1]
      if path:   # paths that differ in a last question alone are one
        found.setdefault(tuple(id(message) for message in path), path)
    return [Conversation(_messages(path)) for path in found.values()]

  def rankings(self, root: Any) -> list[tuple[tuple[Message, ...], list[tuple[str, float]]]]:
    """(messages up to a question, [(an answer, its rank)]) for each with ranked answers.

    Answers without a rank are left out; `paths` says which questions are reached, as of
    `conversations`, and a lower rank is better. Raises BadExample as that.
    """
    found = {}
    for path in self._walk(root, []):
      for i, message in enumerate(path):
        ranked = [(reply['text'], float(reply['rank'])) for reply in self._kept_replies(message)
                  if reply.get('rank') is not None]
        if message['role'] == 'prompter' and ranked:
          found.setdefault(id(message), (_messages(path[:i + 1]), ranked))
    return [*found.values()]

  def _walk(self, message: Any, before: Sequence[Mapping]) -> Iterator[list[Mapping]]:
    _check(message)
    if not self._keeps(message):
      if before:
        yield [*before]
      return
    path = [*before, message]
    kept = self._kept_replies(message)
    if not kept:
      yield path
      return
    unranked = float('inf')
    rank = lambda reply: unranked if reply.get('rank') is None else reply['rank']
    for reply in kept if self.paths == 'all' else [min(kept, key=rank)]:
      yield from self._walk(reply, path)

  def _kept_replies(self, message: Mapping) -> list[Mapping]:
    replies = [reply for reply in message.get('replies') or () if _check(reply) is None]
    return [reply for reply in replies if self._keeps(reply)]

  def _keeps(self, message: Mapping) -> bool:
    rank = message.get('rank')
    ranked_out = self.max_rank is not None and message['role'] == 'assistant' and (
        rank is None or rank > self.max_rank)
    return not (
        message.get('deleted') or ranked_out
        or self.languages and message.get('lang') not in self.languages
        or (message.get('review_count') or 0) < self.min_reviews
        or self.accepted_only and message.get('review_result') is False
        or not self.synthetic and message.get('synthetic'))


def _messages(path: Sequence[Mapping]) -> tuple[Message, ...]:
  return tuple(Message(_ROLES[m['role']], m['text']) for m in path)


def _check(message: Any) -> None:
  if not isinstance(message, Mapping):
    raise bad_row(f'a message of the tree is {shorten(repr(message))}, not an object')
  if message.get('role') not in _ROLES:
    raise bad_row(f'a message of the tree has the role {shorten(repr(message.get("role")))}; '
                  'trees have prompter and assistant')
  if not isinstance(message.get('text'), str):
    raise bad_row('a message of the tree has no text')
  if not isinstance(message.get('replies'), list | None):
    raise bad_row('the replies of a message of the tree are no list')
  if not isinstance(message.get('rank'), int | float | None):
    raise bad_row(f'a rank of the tree is {shorten(repr(message["rank"]))}, not a number')
