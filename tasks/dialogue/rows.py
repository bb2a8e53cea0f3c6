"""What is learned of a dialogue: conversations whose answers are responses, states, or both.

Python only: no TensorFlow.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import json
from typing import Any

from t5x_lite.core.errors import UserError
from t5x_lite.data.files.templates import BadExample
from t5x_lite.dialogue.asking import ROLES, Form
from t5x_lite.dialogue.schema import Dialogue, Turn, from_json
from t5x_lite.dialogue.texts import end_to_end_text, state_text
from tasks.instruction.conversation import Conversation, Message, bad_row

ROWS = ('turns', 'instruction', 'dialogue')


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
  form = Form(target, rows == 'instruction', delexicalised)
  answers = [_answer(form, turn, following) if turn.speaker == 'user' else None
             for turn, following in zip(dialogue.turns, (*dialogue.turns[1:], None))]
  if rows == 'dialogue':
    messages = [Message(ROLES[turn.speaker], form.text(turn) if turn.speaker == 'user' else
                        answers[i - 1]) for i, turn in enumerate(dialogue.turns)
                if answers[i - (turn.speaker == 'system')] is not None]
    return [Conversation(tuple(messages))] if messages else []
  return [Conversation((*_messages(form, dialogue.turns[:i + 1]), Message('assistant', answer)))
          for i, answer in enumerate(answers) if answer is not None]


def _messages(form: Form, turns: Sequence[Turn]) -> list[Message]:
  found = [Message(**message) for message in form.question(turns)]
  if form.instruction:
    instruction, _, text = found[0].content.partition('\n\n')
    found[0] = dataclasses.replace(found[0], fields={'instruction': instruction, 'input': text})
  return found


def _answer(form: Form, turn: Turn, following: Turn | None) -> str | None:
  """What is written after a user's turn; None where it is not known."""
  if form.target != 'response' and turn.state is None:
    return None
  if form.target == 'state':
    return state_text(turn.state)
  if following is None or not following.text.strip():
    return None
  response = form.text(following)
  return response if form.target == 'response' else end_to_end_text(
      turn.state, following.results, response)


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
