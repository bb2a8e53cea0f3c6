"""Users and systems talk, many dialogues side by side, and what came of each is judged."""

from collections.abc import Sequence
import dataclasses
import random

from t5x_lite.core.dataclass_checks import Count, Seed, check_types
from t5x_lite.dialogue.schema import Dialogue, Turn
from t5x_lite.dialogue.simulation import judging
from t5x_lite.dialogue.simulation.database import Database
from t5x_lite.dialogue.simulation.goals import Wish, goals_by_domain, message
from t5x_lite.dialogue.simulation.language import Language
from t5x_lite.dialogue.simulation.systems import System, track
from t5x_lite.dialogue.simulation.user import AgendaUser, UserConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class SimulationConfig:
  """How dialogues are held."""
  user: UserConfig = dataclasses.field(default_factory=UserConfig)
  trials: Count = 1         # dialogues of each goal
  max_turns: Count = 40     # of the user
  batch_size: Count = 256   # dialogues at a time
  seed: Seed = 0

  def __post_init__(self):
    check_types(self)


@dataclasses.dataclass(frozen=True)
class Outcome:
  """What came of a dialogue.

  Attributes:
    goal: its number among the goals.
    inform: whether what was offered last has what was wanted, in all domains.
    failures: why it is no success, such as 'phone not told (restaurant)'; none: it is one.
    turns: of the user.
  """
  dialogue: Dialogue
  goal: int
  inform: bool
  failures: tuple[str, ...]
  turns: int

  @property
  def success(self) -> bool:
    return not self.failures


def simulate(goals: Sequence[Sequence[Wish]], database: Database, system: System,
             config: SimulationConfig, user: System | None = None) -> list[Outcome]:
  """The outcomes of `trials` dialogues of each goal, in the order of the goals.

  A dialogue depends on its goal, its trial and the seed alone, whatever the batch size, where the
  system's turns do. What `user` says, of the goal's `message`, takes the place of the agenda's.
  """
  language = Language(database)
  jobs = [(goal, trial) for goal in range(len(goals)) for trial in range(config.trials)]
  found = []
  for start in range(0, len(jobs), config.batch_size):
    talks = [_Talk(goals[goal], goal, trial, database, language, config)
             for goal, trial in jobs[start:start + config.batch_size]]
    live = talks
    while live := _speaking(live, user):
      for talk, turn in zip(live, system.reply([talk.dialogue() for talk in live]), strict=True):
        talk.add(turn)
    found += [talk.outcome() for talk in talks]
  return found


def _speaking(talks: Sequence['_Talk'], user: System | None) -> list['_Talk']:
  """The dialogues that go on after their users have spoken."""
  turns = user.reply([talk.dialogue() for talk in talks]) if user and talks else [None] * len(talks)
  return [talk for talk, turn in zip(talks, turns, strict=True) if talk.user_speaks(turn)]


class _Talk:
  """A dialogue that is being held."""

  def __init__(self, wishes: Sequence[Wish], goal: int, trial: int, database: Database,
               language: Language, config: SimulationConfig):
    self._wishes, self._goal, self._config = wishes, goal, config
    self._database, self._language = database, language
    self._draw = random.Random(f'{config.seed} {goal} {trial}')
    self._user = AgendaUser(wishes, config.user, self._draw)
    self._turns: list[Turn] = []
    self._id = f'{goal}-{trial}'

  def dialogue(self) -> Dialogue:
    return Dialogue(self._id, tuple(self._turns), tuple(wish.domain for wish in self._wishes),
                    goals_by_domain(self._wishes), message(self._wishes))

  def user_speaks(self, turn: Turn | None) -> bool:
    """Adds the user's turn, None: by the agenda; returns whether the dialogue goes on."""
    acts = self._user.reply(self._turns[-1].acts if self._turns else ()) if turn is None else ()
    if len(self._turns) == 2 * self._config.max_turns:   # the last answer is heard
      return False
    self.add(turn or self._language.say('user', acts, self._draw))
    _, tracked = track(self.dialogue(), self._database)
    state = {domain: {slot: (value,) for slot, value in (found.inform | found.booking).items()}
             for domain, found in tracked.items() if found.inform or found.booking}
    self._turns[-1] = dataclasses.replace(self._turns[-1], state=state)
    return all(act.intent != 'bye' for act in self._turns[-1].acts)

  def add(self, turn: Turn) -> None:
    """A turn of either side; one without acts is understood from its text."""
    if not turn.acts:
      acts = self._language.understand(turn.speaker, turn.text, self.dialogue())
      turn = dataclasses.replace(turn, acts=tuple(acts))
    self._turns.append(turn)

  def outcome(self) -> Outcome:
    dialogue = self.dialogue()
    heard = judging.heard_in(dialogue, dialogue.domains)
    failures = judging.failures(self._wishes, heard, self._database)
    inform = not any('offer' in reason for reason in failures)
    if failures and self._user.lost_patience:
      failures.append('lost patience')
    return Outcome(dialogue, self._goal, inform, tuple(failures), (len(self._turns) + 1) // 2)
