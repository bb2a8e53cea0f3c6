"""A model behind an OpenAI-compatible endpoint, as a system or as a user."""

from collections.abc import Callable, Sequence
import concurrent.futures
import json

from t5x_lite.dialogue.schema import Dialogue, Speaker, Turn
from t5x_lite.dialogue.simulation.database import Database
from t5x_lite.dialogue.simulation.language import Language

_SYSTEM = '''You are the information system of a town, and answer what its user asks for. You look \
for what fits, ask where much does, offer one by its name, tell what is asked for, and book.

The town has:
{database}

Write as these sentences do, one or several of them:
{examples}

The dialogue so far:
{turns}

Write your next turn alone.'''
_USER = '''You talk to the information system of a town, and have this goal:
{goal}

Say a part of it at a time, answer what you are asked, and ask for all that you need. Say goodbye \
when the goal is reached, or cannot be.

Write as these sentences do, one or several of them:
{examples}

The dialogue so far:
{turns}

Write your next turn alone.'''


class EndpointSpeaker:
  """A System, or a user, of which each turn is the reply to one message.

  The message has the dialogue so far, sentences that are understood, and what a speaker knows: a
  system the whole database, a user the goal.
  """

  def __init__(self, ask: Callable[[str], str], speaker: Speaker, database: Database,
               concurrency: int):
    """
    Args:
      ask: a message -> the reply, as a ChatClient.
      speaker: whose turns are written.
      database: of the town.
      concurrency: messages at a time.
    """
    self._ask, self._speaker, self._concurrency = ask, speaker, concurrency
    self._examples = '\n'.join(Language(database).examples(speaker))
    self._database = '\n'.join(f'{domain.name}: {json.dumps(dict(entity))}'
                               for domain in database.values() for entity in domain.entities)

  def reply(self, dialogues: Sequence[Dialogue]) -> list[Turn]:
    """See System; turns have no acts."""
    with concurrent.futures.ThreadPoolExecutor(self._concurrency) as pool:
      texts = pool.map(self._ask, map(self.message, dialogues))
      return [Turn(self._speaker, ' '.join(text.split())) for text in texts]

  def message(self, dialogue: Dialogue) -> str:
    """What is asked for the next turn of a dialogue."""
    turns = '\n'.join(f'{turn.speaker}: {turn.text}' for turn in dialogue.turns) or '(none yet)'
    if self._speaker == 'system':
      return _SYSTEM.format(database=self._database, examples=self._examples, turns=turns)
    return _USER.format(goal=dialogue.message, examples=self._examples, turns=turns)
