"""Stop strings: where a text that is written token by token ends, and how much may be shown."""

from collections.abc import Callable, Sequence

from t5x_lite.core.dataclass_checks import has_surrogate
from t5x_lite.core.errors import UserError

_CUT = '\ufffd'   # what decoders put for a character of which bytes are missing


def check_stop(stop: Sequence[str], error: Callable[[str], Exception] = UserError) -> None:
  """Raises `error(rule)` for a stop string that no text has."""
  for text in stop:
    if not text:
      raise error('a stop string is empty: leave it out')
    if has_surrogate(text):
      raise error(f'the stop string {text!a} has half of a surrogate pair, which no text has')


class StopStrings:
  """The text of one output, as its ids come.

  A stop string may straddle tokens: what may be the beginning of one is held back, and so is the
  replacement character at the end, where the bytes of a character are not all there yet. The output
  ends before the stop string that is complete first, so that it does not depend on how the text is
  split into tokens.

  Attributes:
    shown: the text up to now that is certain, without the stop string.
    ended: the stop string that ended it, or None.
  """

  def __init__(self, decode: Callable[[list[int]], str], stop: Sequence[str] = ()):
    """decode: of all ids up to now, to a text that later ids only make longer."""
    check_stop(stop)
    self._decode, self._stop, self._ids, self._scanned = decode, tuple(stop), [], 0
    self.shown, self.ended = '', None

  def push(self, ids: Sequence[int]) -> str:
    """What may be shown now that `ids` came: '' after the end."""
    self._ids += ids
    return self._show(self._decode(self._ids), final=False)

  def finish(self) -> str:
    """What was held back, where no id comes any more."""
    return self._show(self._decode(self._ids), final=True)

  def _show(self, text: str, final: bool) -> str:
    if self.ended is not None:
      return ''
    if not final:
      text = text.rstrip(_CUT)
    size = self._find_end(text)
    if size is None:
      size = len(text) if final else len(text) - self._held(text)
    new = text[len(self.shown):size]
    self.shown += new
    return new

  def _find_end(self, text: str) -> int | None:
    """Where the stop string begins that is complete first, the longest of several."""
    ends = []
    for stop in self._stop:
      start = text.find(stop, max(self._scanned - len(stop) + 1, 0))
      if start >= 0:
        ends.append((start + len(stop), start, stop))
    self._scanned = max(self._scanned, len(text))
    if not ends:
      return None
    _, start, self.ended = min(ends)
    return start

  def _held(self, text: str) -> int:
    """Characters at the end of a text that may begin a stop string."""
    longest = min(max(map(len, self._stop), default=1) - 1, len(text))
    return next((n for n in range(longest, 0, -1)
                 if any(stop.startswith(text[-n:]) for stop in self._stop)), 0)
