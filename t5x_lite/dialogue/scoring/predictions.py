"""Files of the public MultiWOZ evaluation: predictions of a system, and what they are scored by."""

from collections.abc import Mapping, Sequence
import dataclasses
import gzip
import json
import pathlib
from typing import Any
import zlib

from t5x_lite.core.errors import UserError
from t5x_lite.dialogue.scoring.database import Database
from t5x_lite.dialogue.scoring.normalisation import normal_response, normal_state
from t5x_lite.dialogue.scoring.success import PredictedTurn, active_domains

FORM = '{dialogue: [{"response": text, "state": {domain: {slot: value}}}, …, one a system turn]}'


@dataclasses.dataclass(frozen=True)
class Reference:
  """What predictions are scored by.

  Attributes:
    goals: {dialogue: {domain: {'informable': {slot: value}, 'requestable': tags}}}.
    booked: {dialogue: [domains that are booked, of each system turn]}.
    database: of venues and trains.
    states: gold ones, {dialogue: [state of each system turn]}, normalised; None: not given.
    responses: {dialogue: [text of each system turn]}, normalised; None: not given.
  """
  goals: Mapping[str, Mapping[str, Any]]
  booked: Mapping[str, Sequence[Sequence[str]]]
  database: Database
  states: Mapping[str, Sequence[Mapping]] | None
  responses: Mapping[str, Sequence[str]] | None


def read_reference(folder: pathlib.Path) -> Reference:
  """From goals.json, booked_domains.json, database/, and gold_states.json, references.json if any.

  Each may end in .gz, and goals and states may be those of MultiWOZ 2.1, goals21.json.
  """
  goals = _first(folder, 'goals.json', 'goals21.json')
  booked = _first(folder, 'booked_domains.json')
  for name, found in (('goals.json', goals), ('booked_domains.json', booked)):
    if found is None:
      raise UserError(f'{folder}: has no {name}: name the folder of goals.json, '
                      'booked_domains.json and database/')
  for name, goal in goals.items():
    if not isinstance(goal, dict) or not all(
        isinstance(wanted, dict) and {'informable', 'requestable'} <= wanted.keys()
        for wanted in goal.values()):
      raise UserError(f'{folder}: the goal of {name} is not {{domain: {{"informable": {{slot: '
                      'value}, "requestable": [tag, …]}}}: give goals of this form')
  states = _first(folder, 'gold_states.json', 'gold_states21.json')
  texts = _first(folder, 'references.json')
  return Reference(
      goals, booked, Database(folder / 'database'),
      states and {name: [normal_state(state) for state in turns] for name, turns in states.items()},
      texts and {name: [normal_response(text) for text in turns] for name, turns in texts.items()})


def read_predictions(path: pathlib.Path, reference: Reference) -> dict[str, list[PredictedTurn]]:
  """Normalised, {dialogue: turns}; a file without any state takes the gold ones, as published.

  Active domains are estimated from states unless every turn of the file predicts them.

  Raises UserError: the file is not of FORM, or its dialogues are not those of the reference.
  """
  dialogues = _read(path)
  if not dialogues or not all(isinstance(turns, list) and turns for turns in dialogues.values()):
    raise UserError(f'{path}: is not {FORM}')
  for name, turns in dialogues.items():
    _check(f'{path}, {name}', name, turns, reference)
  turns = [turn for dialogue in dialogues.values() for turn in dialogue]
  without = sum('state' not in turn for turn in turns)
  if without and (without < len(turns) or reference.states is None):
    raise UserError(f'{path}: {without:,} of {len(turns):,} turns have no "state": predict it in '
                    'every turn, or in none and give gold_states.json')
  known = sum('active_domains' in turn for turn in turns)
  if 0 < known < len(turns):
    raise UserError(f'{path}: {known:,} of {len(turns):,} turns have "active_domains": predict '
                    'them in every turn, or in none')
  found = {}
  for name, turns in dialogues.items():
    states = _gold(path, name, turns, reference.states) if without else [
        normal_state(turn['state']) for turn in turns]
    active = [turn['active_domains'] for turn in turns] if known else active_domains(states)
    found[name] = [PredictedTurn(normal_response(turn['response']), state, tuple(domains))
                   for turn, state, domains in zip(turns, states, active)]
  for what, gold in (('gold_states', reference.states), ('references', reference.responses)):
    for name, turns in found.items() if gold else ():
      _gold(f'{path} against {what}.json', name, turns, gold)
  return found


def takes_gold(predictions: Mapping[str, Sequence[PredictedTurn]], reference: Reference) -> bool:
  """Whether the states of `read_predictions` are those of the reference, as the file has none."""
  return reference.states is not None and all(
      turn.state is state for name, turns in predictions.items()
      for turn, state in zip(turns, reference.states.get(name, ())))


def _check(where: str, name: str, turns: Sequence[Any], reference: Reference) -> None:
  if name not in reference.goals or name not in reference.booked:
    raise UserError(f'{where}: is no dialogue of the goals: names are as {min(reference.goals)}, '
                    'in lower case and without .json')
  if len(turns) != len(reference.booked[name]):
    raise UserError(f'{where}: has {len(turns)} turns, the dialogue {len(reference.booked[name])} '
                    'of the system: predict each')
  for number, turn in enumerate(turns, 1):
    if not isinstance(turn, dict) or not isinstance(turn.get('response'), str):
      raise UserError(f'{where}, turn {number}: has no text "response": write {FORM}')
    state = turn.get('state', {})
    if not isinstance(state, dict) or not all(
        isinstance(slots, dict) and all(isinstance(value, str) for value in slots.values())
        for slots in state.values()):
      raise UserError(f'{where}, turn {number}: "state" is not {{domain: {{slot: text}}}}: {FORM}')
    domains = turn.get('active_domains', [])
    if not isinstance(domains, list) or not all(isinstance(domain, str) for domain in domains):
      raise UserError(f'{where}, turn {number}: "active_domains" is no list of names: write one, '
                      'or leave it out of all turns')


def _gold(path: Any, name: str, turns: Sequence, gold: Mapping[str, Sequence]) -> Sequence:
  if len(gold.get(name, ())) != len(turns):
    raise UserError(f'{path}, {name}: has {len(turns)} turns, its gold {len(gold.get(name, ()))}: '
                    'use the gold of the same dialogues')
  return gold[name]


def _first(folder: pathlib.Path, *names: str) -> dict[str, Any] | None:
  """The first of the files that exists, plain or with .gz."""
  paths = [folder / f'{name}{ending}' for name in names for ending in ('', '.gz')]
  return next((_read(path) for path in paths if path.is_file()), None)


def _read(path: pathlib.Path) -> dict[str, Any]:
  """An object of JSON, also of a .gz file."""
  try:
    content = path.read_bytes()
    value = json.loads(gzip.decompress(content) if content.startswith(b'\x1f\x8b') else content)
  except (ValueError, EOFError, gzip.BadGzipFile, zlib.error) as error:
    raise UserError(f'{path}: is no JSON, or a .gz of it: {error}') from error
  if not isinstance(value, dict):
    raise UserError(f'{path}: is not one JSON object of dialogues by name')
  return value
