"""A study: people talk to systems about goals, blind, and answer questions.

Its folder has answers.jsonl, rows that `t5x-lite questionnaire` reads, and dialogues.jsonl. They
are written when a person sends the answers off. Dialogues that were begun and not rated are put in
unrated.jsonl at the end, as people who give up are no random ones, and are handed out again.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import json
import pathlib
import random
import secrets

from t5x_lite.core.errors import UserError
from t5x_lite.dialogue.schema import Dialogue, Turn, json_lines
from t5x_lite.dialogue.simulation.database import Database
from t5x_lite.dialogue.simulation.goals import Wish, goals_by_domain, message
from t5x_lite.dialogue.simulation.judging import failures, heard_in
from t5x_lite.dialogue.simulation.language import Language
from t5x_lite.dialogue.simulation.systems import System

QUESTIONS = {   # name in the table: what is asked
    'success': 'Did you get all that you were looking for?',
    'future use': 'Would you use this system again?',
    'understanding': 'Did the system understand what you said?',
    'phrasing': 'Were its answers put well?',
    'pace': 'Was it quick to come to the point?',
}
OBJECTIVE = 'objective success'   # of the goal, by what the system has told
MAX_TEXT = 1000                   # characters of what a person says
MAX_TURNS = 60                    # of a person, in a dialogue


@dataclasses.dataclass
class _Talk:
  system: str
  goal: int
  turns: list[Turn] = dataclasses.field(default_factory=list)


class Study:
  """Hands out dialogues, so that every system has every goal, in an order that is drawn."""

  def __init__(self, goals: Sequence[Sequence[Wish]], systems: Mapping[str, System],
               database: Database, folder: pathlib.Path, seed: int):
    """Goes on after the dialogues that the folder has."""
    self._goals, self._systems, self._database = goals, systems, database
    self._language = Language(database)
    self._folder, self._talks = folder, {}
    folder.mkdir(parents=True, exist_ok=True)
    done = {json.loads(line)['id'] for line in self._read('dialogues.jsonl')}
    order = [(goal, system) for goal in range(len(goals)) for system in systems]
    random.Random(seed).shuffle(order)
    order.sort(key=lambda job: job[0])   # systems of a goal one after another
    self._jobs = [job for job in order if self._id(*job) not in done]
    self.done = len(done)

  def start(self) -> dict:
    """{session, goal}: the next dialogue; UserError where none is left."""
    if not self._jobs:
      raise UserError('All dialogues of this study have been held. Thank you!')
    goal, system = self._jobs.pop(0)
    session = secrets.token_urlsafe(12)
    self._talks[session] = _Talk(system, goal)
    return {'session': session, 'goal': message(self._goals[goal])}

  def say(self, session: str, text: str) -> str:
    """What the system answers; UserError for an unknown session, no text, or too much of it."""
    talk = self._talk(session)
    text = ' '.join(text.split())
    if not 0 < len(text) <= MAX_TEXT:
      raise UserError(f'Say something, of at most {MAX_TEXT} characters.')
    if len(talk.turns) >= 2 * MAX_TURNS:
      raise UserError('The dialogue has become too long: answer the questions.')
    acts = self._language.understand('user', text, self._dialogue(talk))
    asked = [*talk.turns, Turn('user', text, tuple(acts))]
    before = self._dialogue(dataclasses.replace(talk, turns=asked))
    (turn,) = self._systems[talk.system].reply([before])
    if not turn.acts:
      turn = dataclasses.replace(
          turn, acts=tuple(self._language.understand('system', turn.text, before)))
    talk.turns = [*asked, turn]
    return turn.text

  def rate(self, session: str, answers: Mapping[str, bool]) -> None:
    """Writes a dialogue and the answers to all QUESTIONS; UserError where some are missing."""
    talk = self._talk(session)
    missing = [question for name, question in QUESTIONS.items()
               if not isinstance(answers.get(name), bool)]
    if missing:
      raise UserError(f'Please answer: {missing[0]}')
    if not talk.turns:
      raise UserError('Talk to the system first.')
    dialogue, wishes = self._dialogue(talk), self._goals[talk.goal]
    heard = heard_in(dialogue, dialogue.domains)
    objective = not failures(wishes, heard, self._database)
    rows = {name: answers[name] for name in QUESTIONS} | {OBJECTIVE: objective}
    self._append('answers.jsonl', ''.join(json.dumps(
        {'system': talk.system, 'question': name, 'success': int(success),
         'item': str(talk.goal)}) + '\n' for name, success in rows.items()))
    self._append('dialogues.jsonl', json_lines([dialogue]))
    del self._talks[session]
    self.done += 1

  def close(self) -> int:
    """Writes the dialogues that were begun and are not rated; returns how many there are."""
    left = [self._dialogue(talk) for talk in self._talks.values() if talk.turns]
    if left:
      self._append('unrated.jsonl', json_lines(left))
    self._talks.clear()
    return len(left)

  def _talk(self, session: str) -> _Talk:
    if session not in self._talks:
      raise UserError('This dialogue is over, or the server was started anew: begin another.')
    return self._talks[session]

  def _dialogue(self, talk: _Talk) -> Dialogue:
    wishes = self._goals[talk.goal]
    return Dialogue(self._id(talk.goal, talk.system), tuple(talk.turns),
                    tuple(wish.domain for wish in wishes), goals_by_domain(wishes),
                    message(wishes))

  def _id(self, goal: int, system: str) -> str:
    return f'{system}-{goal}'

  def _read(self, name: str) -> list[str]:
    path = self._folder / name
    return path.read_text(encoding='utf-8').splitlines() if path.exists() else []

  def _append(self, name: str, text: str) -> None:
    with (self._folder / name).open('a', encoding='utf-8') as file:
      file.write(text)
