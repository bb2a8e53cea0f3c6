"""How a model is asked for what comes next in a dialogue: the same in training and afterwards."""

from collections.abc import Sequence
import dataclasses

from t5x_lite.dialogue.schema import Turn
from t5x_lite.dialogue.texts import turn_text

# What is written of the turns so far, and how an instruction asks for it.
TARGETS = {
    'response': 'Write the next response of the system in this dialogue.',
    'state': 'Write what the user wants so far in this dialogue, as domains, slots and values.',
    'end_to_end': 'Write what the user wants so far in this dialogue, how many entries of the '
                  'database match, and the next response of the system.',
}
ROLES = {'user': 'user', 'system': 'assistant'}   # in a chat, of who speaks


@dataclasses.dataclass(frozen=True)
class Form:
  """How turns become messages of a chat.

  Attributes:
    target: one of TARGETS.
    instruction: whether the turns are one message, after an instruction; else each is one.
    delexicalised: whether responses have tags for values.
  """
  target: str
  instruction: bool
  delexicalised: bool

  def question(self, turns: Sequence[Turn]) -> list[dict[str, str]]:
    """Messages, each with `role` and `content`, of turns of which the user's is the last.

    Responses have tags as what is to be written has, which for a state is none.
    """
    said = [(turn.speaker, self.text(turn)) for turn in turns]
    if not self.instruction:
      return [{'role': ROLES[speaker], 'content': text} for speaker, text in said]
    text = '\n'.join(f'{speaker}: {text}' for speaker, text in said)
    return [{'role': 'user', 'content': f'{TARGETS[self.target]}\n\n{text}'}]

  def text(self, turn: Turn) -> str:
    """What a turn says, as the model reads it."""
    return turn_text(turn, self.tags and turn.speaker == 'system')

  @property
  def tags(self) -> bool:
    """Whether a response that is read or written has tags."""
    return self.delexicalised and self.target != 'state'
