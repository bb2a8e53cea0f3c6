"""What is learned of a dialogue: conversations whose answers are responses, states, or both.

Python only: no TensorFlow.
"""

from collections.abc import Mapping
import dataclasses
import json
from typing import Any

from t5x_lite.core.errors import UserError
from t5x_lite.data.files.templates import BadExample
from t5x_lite.dialogue.schema import Dialogue, Turn, from_json
from t5x_lite.dialogue.texts import end_to_end_text, state_text, turn_text
from tasks.instruction.conversation import Conversation, Message, bad_row

# What is written of the turns so far, and how an instruction asks for it.
TARGETS = {
    'response': 'Write the next response of the system in this dialogue.',
    'state': 'Write what the user wants so far in this dialogue, as domains, slots and values.',
    'end_to_end': 'Write what the user wants so far in this dialogue, how many entries of the '
                  'database match, and the next response of the system.',
}
ROWS = ('turns', 'instruction', 'dialogue')
_ROLES = {'user': 'user', 'system': 'assistant'}


def conversations(dialogue: Dialogue, target: str, rows: str, delexicalised: bool
                  ) -> list[Conversation]:
  """The conversations of a dialogue, to be learned from.

  A turn without the annotation that a target needs is passed over.

  Args:
    dialogue: whose turns alternate.
    target: one of TARGETS, of which end_to_end has the lines of texts.end_to_end_text.
    rows: 'turns': a conversation for each turn of the user, up to the answer, the turns before as
      messages; 'instruction': the same with these as one text after an instruction; 'dialogue': one
      conversation, in which all answers are of the target.
    delexicalised: whether responses have tags for values; those before a state have none.

  Raises BadExample for turns that do not alternate.
  """
  if any(turn.speaker != ('user', 'system')[i % 2] for i, turn in enumerate(dialogue.turns)):
    raise bad_row(f'dialogue {dialogue.id!r} has turns that do not alternate, the user first')
  tagged = delexicalised and target != 'state'
  answers = [_answer(target, turn, following, tagged) if turn.speaker == 'user' else None
             for turn, following in zip(dialogue.turns, (*dialogue.turns[1:], None))]
  said = [Message(_ROLES[turn.speaker], turn_text(turn, tagged and turn.speaker == 'system'))
          for turn in dialogue.turns]
  if rows == 'dialogue':
    messages = [message if turn.speaker == 'user' else Message('assistant', answers[i - 1])
                for i, (turn, message) in enumerate(zip(dialogue.turns, said))
                if answers[i - (turn.speaker == 'system')] is not None]
    return [Conversation(tuple(messages))] if messages else []
  found = []
  for i, answer in enumerate(answers):
    if answer is not None:
      asked = said[:i + 1] if rows == 'turns' else [_instructed(target, said[:i + 1])]
      found.append(Conversation((*asked, Message('assistant', answer))))
  return found


def _answer(target: str, turn: Turn, following: Turn | None, delexicalised: bool) -> str | None:
  """What is written after a user's turn; None where it is not known."""
  if target != 'response' and turn.state is None:
    return None
  if target == 'state':
    return state_text(turn.state)
  if following is None or not following.text.strip():
    return None
  response = turn_text(following, delexicalised)
  return response if target == 'response' else end_to_end_text(
      turn.state, following.results, response)


def _instructed(target: str, said: list[Message]) -> Message:
  names = {role: speaker for speaker, role in _ROLES.items()}
  text = '\n'.join(f'{names[message.role]}: {message.content}' for message in said)
  return Message('user', f'{TARGETS[target]}\n\n{text}',
                 fields={'instruction': TARGETS[target], 'input': text})


@dataclasses.dataclass(frozen=True)
class DialogueReader:
  """A dialogue as a JSON array of conversations, for t5x_lite.data.files.index.

  Attributes: as the arguments of `conversations`.
  """
  target: str
  rows: str
  delexicalised: bool

  def __call__(self, record: Mapping[str, Any]) -> str:
    """Raises BadExample for a row that is no dialogue of the schema, or has a fault of order."""
    try:
      dialogue = from_json(record)
    except UserError as error:
      raise BadExample(str(error)) from error
    found = conversations(dialogue, self.target, self.rows, self.delexicalised)
    return json.dumps([one.to_json() for one in found], ensure_ascii=False)
