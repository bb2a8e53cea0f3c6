"""Conversations of which the last answer is learned, as examples that fit a decoder."""

from collections.abc import Mapping
import dataclasses

import numpy as np
import seqio

from tasks import vocabularies
from tasks.instruction.conversation import Conversation
from tasks.instruction.encoding import Encoder, Encoding, Place


@dataclasses.dataclass(frozen=True, kw_only=True)
class TurnEncoding(Encoding):
  """As Encoding, but where a conversation is too long its oldest turns are left out.

  A piece of it would end in what was said, which is no answer where states are to be learned.
  """

  turns: str = 'last'

  def encoder(self, sequence_length: Mapping[str, int] | None,
              output_features: Mapping[str, seqio.Feature]) -> 'TurnEncoder':
    return TurnEncoder(self, sequence_length, output_features)


class TurnEncoder(Encoder):
  """See Encoder; one example of a conversation, or none."""

  def __call__(self, text: str, place: str) -> list[dict[str, np.ndarray]]:
    if self._pairs:
      return super().__call__(text, place)
    conversation, where = Conversation.from_json(text), Place(place)
    found, length = self._maker.pairs(conversation, None, None, where), self._length('targets')
    if found and length is not None and sum(map(len, found[0])) > length:
      room = max(length - len(found[0][1]), 0)
      found = self._maker.pairs(conversation, room, None, where)
    return [{'targets': vocabularies.seqio_ids(self._vocabulary, before + answer),
             'targets_loss_weights': np.repeat([0, 1], [len(before), len(answer)])}
            for before, answer in found]
