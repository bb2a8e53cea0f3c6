"""What is written in answer to a request: its text and tokens as they come, and how it ends."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from t5x_lite.inference.stop import StopStrings

STOP, LENGTH, CANCELLED, FAILED = 'stop', 'length', 'cancelled', 'failed'


class Token(NamedTuple):
  """A token that was written.

  Attributes:
    id: of the vocabulary.
    logprob: of the model, at temperature 1 and unfiltered.
    top: (id, logprob) of the likeliest tokens there, the likeliest first.
    start: where its text begins in the output.
  """
  id: int
  logprob: float
  top: tuple[tuple[int, float], ...] = ()
  start: int = 0


class Piece(NamedTuple):
  """What came of one sample of a request.

  Attributes:
    sample: its number.
    text: what may be shown now.
    tokens: of this text, where log-probabilities were asked for.
    count: how many tokens the sample has up to now, with the one that ended it.
    finish: None while it goes on; STOP after an end id or a stop string; LENGTH at its maximum of
      tokens; CANCELLED; FAILED, where the engine could not go on, of which `text` is the reason.
  """
  sample: int
  text: str
  tokens: tuple[Token, ...] = ()
  count: int = 0
  finish: str | None = None


class Output:
  """One sample as its tokens come."""

  def __init__(self, sample: int, decode: Callable[[list[int]], str], stop: Sequence[str],
               end_ids: Sequence[int], max_tokens: int, logprobs: bool):
    self._sample, self._decode, self._end_ids = sample, decode, end_ids
    self._max_tokens, self._logprobs = max_tokens, logprobs
    self._text, self._ids, self._count = StopStrings(decode, stop), [], 0
    self._stops = bool(stop)
    self._held: list[tuple[Token, int]] = []   # tokens, and where each one's text ends
    self._end = 0                              # of the text of all tokens

  def push(self, tokens: Sequence[Token]) -> Piece:
    """The Piece of further tokens; those after the end of the sample are not looked at."""
    if not self._stops:
      return self._push(tokens)
    text, released = '', ()
    for token in tokens:   # one by one, as any may complete a stop string
      piece = self._push([token])
      text, released = text + piece.text, released + piece.tokens
      if piece.finish is not None:
        break
    return piece._replace(text=text, tokens=released)

  def _push(self, tokens: Sequence[Token]) -> Piece:
    new, ended = [], False
    for token in tokens:
      self._count += 1
      ended = token.id in self._end_ids
      if not ended:
        new.append(token)
      if ended or self._count == self._max_tokens:
        break
    text = self._text.push([token.id for token in new])
    if self._logprobs:
      self._hold(new)
    finish = None
    if self._text.ended is not None:
      finish = STOP
    elif ended or self._count == self._max_tokens:
      text += self._text.finish()
      # What was held back may have a stop string after all.
      finish = STOP if ended or self._text.ended is not None else LENGTH
    return Piece(self._sample, text, self._release(finish), self._count, finish)

  def _hold(self, tokens: Sequence[Token]) -> None:
    for token in tokens:
      self._ids.append(token.id)
      start, self._end = self._end, len(self._decode(self._ids))
      self._held.append((token._replace(start=start), self._end))

  def _release(self, finish: str | None) -> tuple[Token, ...]:
    """Tokens whose text is shown; of those at the end all, unless a stop string cut them off."""
    shown, released = len(self._text.shown), []
    whole = finish is not None and self._text.ended is None
    while self._held and (whole or self._held[0][1] <= shown):
      released.append(self._held.pop(0)[0])
    return tuple(released)
