"""Task-oriented dialogues in one schema, whatever corpus they are from, and as JSON Lines."""

from collections.abc import Iterable, Iterator, Mapping
import dataclasses
import json
import pathlib
from typing import Any, Literal

from t5x_lite.core.errors import UserError

Speaker = Literal['user', 'system']
# {domain: {slot: accepted values}}: the first value is the one that was said.
State = Mapping[str, Mapping[str, tuple[str, ...]]]


@dataclasses.dataclass(frozen=True)
class Act:
  """A dialogue act: what a turn does, such as inform(restaurant, food=thai).

  Attributes:
    intent: 'inform', 'request', 'offer', …, lower case.
    domain: '' for general acts, such as goodbye.
    slot, value: '' where the act has none.
  """
  intent: str
  domain: str = ''
  slot: str = ''
  value: str = ''


@dataclasses.dataclass(frozen=True)
class Span:
  """Where a text says the value of a slot: characters from `start` up to `end`, excluded."""
  start: int
  end: int
  domain: str
  slot: str


@dataclasses.dataclass(frozen=True)
class Turn:
  """What one side says.

  Attributes:
    state: of a user's turn, the belief state after it; None where it is not annotated.
    results: of a system's turn, {domain: how many entries of the database match}; None where the
      database was not asked, or is not known.
  """
  speaker: Speaker
  text: str
  acts: tuple[Act, ...] = ()
  spans: tuple[Span, ...] = ()
  state: State | None = None
  results: Mapping[str, int] | None = None


_TURN_FIELDS = {field.name for field in dataclasses.fields(Turn)}


@dataclasses.dataclass(frozen=True)
class Goal:
  """What the user wants of a domain.

  Attributes:
    inform: {slot: value} to look for.
    request: slots to ask for.
    book: {slot: value} of a booking; empty: none is wanted.
  """
  inform: Mapping[str, str] = dataclasses.field(default_factory=dict)
  request: tuple[str, ...] = ()
  book: Mapping[str, str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Dialogue:
  """A dialogue: turns that alternate, the user's first.

  Attributes:
    domains: that it is about.
    goals: {domain: Goal}; empty where they are not known.
    message: the goal as the user was told it, or ''.
  """
  id: str
  turns: tuple[Turn, ...]
  domains: tuple[str, ...] = ()
  goals: Mapping[str, Goal] = dataclasses.field(default_factory=dict)
  message: str = ''


def to_json(dialogue: Dialogue) -> dict[str, Any]:
  """As a JSON object; what is empty is left out."""
  return _plain(dialogue)


def from_json(record: Mapping[str, Any]) -> Dialogue:
  """The dialogue of a JSON object; raises UserError naming what is missing or unknown."""
  name = record.get('id', '?')
  try:
    turns = tuple(_turn(number, turn) for number, turn in enumerate(record['turns']))
    goals = {domain: Goal(**goal | {'request': tuple(goal.get('request', ()))})
             for domain, goal in record.get('goals', {}).items()}
    return Dialogue(**dict(record) | {
        'turns': turns, 'goals': goals, 'domains': tuple(record.get('domains', ()))})
  except (KeyError, TypeError, AttributeError) as error:
    raise UserError(f'dialogue {name!r} is not in the schema of t5x_lite/dialogue/schema.py: '
                    f'{error}') from error


def _turn(number: int, turn: Mapping[str, Any]) -> Turn:
  for what, wrong in (('lacks', {'speaker', 'text'} - {*turn}),
                      ('has an unknown', {*turn} - _TURN_FIELDS)):
    if wrong:
      raise TypeError(f'turn {number} {what} {", ".join(sorted(wrong))}')
  return Turn(**turn | {
      'acts': tuple(Act(**act) for act in turn.get('acts', ())),
      'spans': tuple(Span(**span) for span in turn.get('spans', ())),
      'state': _state(turn.get('state'))})


def read_dialogues(path: pathlib.Path) -> Iterator[Dialogue]:
  """The dialogues of a file of JSON Lines; raises UserError for a line that is none."""
  with path.open('rb') as lines:
    for number, line in enumerate(lines, 1):
      try:
        record = json.loads(line)
      except ValueError as error:   # also of bytes that are no UTF-8
        raise UserError(f'{path}, line {number}: {error}') from error
      if not isinstance(record, dict):
        raise UserError(f'{path}, line {number}: is no JSON object')
      yield from_json(record)


def json_lines(dialogues: Iterable[Dialogue]) -> str:
  """As a file of JSON Lines has them."""
  return ''.join(json.dumps(to_json(one), ensure_ascii=False) + '\n' for one in dialogues)


def _state(state: Mapping[str, Mapping[str, Any]] | None) -> State | None:
  return None if state is None else {
      domain: {slot: tuple(values) for slot, values in slots.items()}
      for domain, slots in state.items()}


def _plain(x: Any) -> Any:
  if dataclasses.is_dataclass(x):
    found = {field.name: _plain(getattr(x, field.name)) for field in dataclasses.fields(x)}
    required = {field.name for field in dataclasses.fields(x)
                if field.default is dataclasses.MISSING
                and field.default_factory is dataclasses.MISSING}
    keeps = lambda name, value: name in required or name == 'state' and value is not None
    return {name: value for name, value in found.items()
            if keeps(name, value) or value not in (None, '', {}, [])}
  if isinstance(x, Mapping):
    return {key: _plain(value) for key, value in x.items()}
  if isinstance(x, (list, tuple)):
    return [_plain(value) for value in x]
  return x
