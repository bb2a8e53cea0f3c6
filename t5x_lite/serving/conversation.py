"""A conversation with a served model, as the terminal has it: history within the context."""

from collections.abc import Callable
import queue
from typing import NamedTuple

from t5x_lite.core.errors import UserError
from t5x_lite.inference.sampling import Sampling
from t5x_lite.serving.engine import Request
from t5x_lite.serving.output import CANCELLED, FAILED
from t5x_lite.serving.served import Served, TooLong


class Answer(NamedTuple):
  """What the model said.

  Attributes:
    text: of it.
    finish: as of a Piece.
    forgotten: messages that had no room in the context any more, and are not read again.
  """
  text: str
  finish: str
  forgotten: int


class Conversation:
  """Turns of a user and a model.

  Attributes:
    system: the message before all others, or None.
  """

  def __init__(self, served: Served, model: str, sampling: Sampling, *, system: str | None = None,
               max_tokens: int | None = None):
    """`max_tokens` of an answer; None: as many as there is room for, at least a quarter of the
    context."""
    self._served, self._model, self._sampling = served, model, sampling
    self.system, self._max_tokens = system, max_tokens
    self._turns: list[dict[str, str]] = []

  def clear(self) -> None:
    """Forgets all turns."""
    self._turns = []

  def ask(self, text: str, show: Callable[[str], None]) -> Answer:
    """The answer to a message, each part of which is shown as it comes.

    Ctrl-C ends the answer, not the conversation. Raises UserError, and forgets the message, where
    it has no room or the template refuses it.
    """
    turns = [*self._turns, {'role': 'user', 'content': text}]
    request, forgotten = self._fitting(turns)
    pieces, said, finish = queue.SimpleQueue(), '', None
    ticket = self._served.engine.submit(request, pieces.put)
    while finish is None:
      try:
        piece = pieces.get()
      except KeyboardInterrupt:
        ticket.cancel()
        continue
      if piece.finish == FAILED:
        raise UserError(piece.text)
      show(piece.text)
      said, finish = said + piece.text, piece.finish
    self._turns = [*turns[forgotten:], {'role': 'assistant', 'content': said}]
    if finish == CANCELLED and not said:
      self._turns = self._turns[:-2]   # nothing was said
    return Answer(said, finish, forgotten)

  def _fitting(self, turns: list[dict[str, str]]) -> tuple[Request, int]:
    """(the request, how many of the first turns it leaves out)."""
    reserved = self._max_tokens or max(1, self._served.context // 4)
    for first in range(0, len(turns), 2):
      try:
        request = self._request(turns[first:])
      except TooLong:
        if first + 1 == len(turns):
          raise
        continue
      if request.sampling.max_new_tokens >= reserved or first + 1 == len(turns):
        return request, first
    raise AssertionError('turns are those of a user, each with its answer, and a last one')

  def _request(self, turns: list[dict[str, str]]) -> Request:
    system = [] if self.system is None else [{'role': 'system', 'content': self.system}]
    ids, framed = self._served.chat_ids(self._model, [*system, *turns])
    return self._served.request(ids, framed, model=self._model, sampling=self._sampling,
                                max_tokens=self._max_tokens)
