"""A trained model that writes what comes next in dialogues."""

from collections.abc import Sequence

from t5x_lite.core.errors import UserError
from t5x_lite.data.source import Chat
from t5x_lite.dialogue.asking import Form
from t5x_lite.dialogue.schema import Turn
from t5x_lite.inference.generator import Generator


class Responder:
  """Asks a model as it was trained.

  Attributes:
    form: of what it reads and writes.
  """

  def __init__(self, generator: Generator, chat: Chat, form: Form):
    """Args: the model, the chat template it was trained on, and the form of its task."""
    self.form, self._generator, self._chat = form, generator, chat
    lengths = generator.lengths
    self._room = lengths.get('inputs', lengths['targets'])

  def __call__(self, asked: Sequence[Sequence[Turn]], begun: Sequence[str] | None = None
               ) -> list[str]:
    """What it writes after turns, of which the user's is the last.

    Args:
      asked: the oldest exchanges of which are left out where it does not read so many tokens.
      begun: how what is written begins, which is not repeated; only of a decoder.
    """
    if begun is not None and not self._generator.continues:
      raise UserError('an encoder-decoder does not go on from what is written: give a decoder')
    ids = [self._ids(turns) + (self._generator.inputs.encode(text) if text else [])
           for turns, text in zip(asked, begun or [''] * len(asked), strict=True)]
    order = sorted(range(len(ids)), key=lambda i: len(ids[i]))   # so that little is padded
    found = self._generator.from_ids([ids[i] for i in order])
    outputs = dict(zip(order, (record['output'].strip() for record in found), strict=True))
    return [outputs[i] for i in range(len(ids))]

  def _ids(self, turns: Sequence[Turn]) -> list[int]:
    for start in range(0, len(turns), 2):
      ids = self._chat.prompt(self.form.question(turns[start:]))
      if len(ids) <= self._room:
        return ids
    raise UserError(f'the turn {turns[-1].text!r:.60} is a prompt of {len(ids)} tokens, and the '
                    f'model reads {self._room}: raise targets_length')
