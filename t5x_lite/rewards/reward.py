"""The protocol of a reward: a number for each completion of a prompt."""

from collections.abc import Callable, Sequence
import math
import reprlib
from typing import NamedTuple, Protocol, runtime_checkable

from t5x_lite.core.errors import UserError
from t5x_lite.data.source import Source


class Completion(NamedTuple):
  """What was written after a prompt.

  Attributes:
    prompt: the text that was asked.
    text: what was written, without the end.
    reference: what the data has as the answer; '' without one.
    ended: whether it came to an end, not to the longest length.
    prompt_ids, ids: what the policy read and wrote, the end among them.
  """
  prompt: str
  text: str
  reference: str = ''
  ended: bool = True
  prompt_ids: Sequence[int] = ()
  ids: Sequence[int] = ()


class Rating(NamedTuple):
  """A reward, finite; and why it is 0 where no reward could be found, else None."""
  reward: float
  fault: str | None = None


Rater = Callable[[Sequence[Completion]], list[Rating]]


@runtime_checkable
class Reward(Protocol):
  """Settings of a reward; a frozen dataclass with this method may be bound in gin."""

  name: str   # in metrics and records

  def make(self, data: Source) -> Rater:
    """The function that rates what a policy of this data writes.

    Raises UserError if what it needs is not there, or does not fit the data.
    """


def rate(rater: Rater, completions: Sequence[Completion], name: str = 'reward'
         ) -> list[Rating]:
  """What the rater of a reward says of completions; what is no finite number is 0, and a fault.

  Raises UserError, with the name of the reward, where it says no Rating for each.
  """
  found = rater(completions)
  if not isinstance(found, list) or len(found) != len(completions) or not all(
      isinstance(one, Rating) and isinstance(one.reward, (int, float)) for one in found):
    raise UserError(f'the reward {name!r} gave {reprlib.repr(found)} for {len(completions)} '
                    'completions: a rater returns a list, a Rating(number) for each')
  return [rating if math.isfinite(rating.reward) else
          Rating(0.0, rating.fault or f'the reward is {rating.reward}') for rating in found]
