"""How many entries of a database match the states of dialogues, which no corpus but SGD tells."""

from collections.abc import Iterable, Iterator
import dataclasses
import pathlib

from t5x_lite.core.errors import UserError
from t5x_lite.dialogue.domains import Schema
from t5x_lite.dialogue.schema import Dialogue, State
from t5x_lite.dialogue.scoring.database import DOMAINS, Database


def read_database(path: pathlib.Path, schema: Schema) -> Database:
  """The database of a folder of MultiWOZ, or of a file such as CamRest's db.json.

  Args:
    schema: of the corpus, whose one domain a file is of.
  """
  if path.is_dir():
    return Database(path)
  known = [domain for domain in schema if domain in DOMAINS]
  if len(known) != 1:
    raise UserError(f'{path}: is no folder, and which of {", ".join(known) or "no domain"} a file '
                    f'would be of is not known: name the folder with {DOMAINS[0]}_db.json')
  return Database(path, known[0])


def with_results(dialogues: Iterable[Dialogue], database: Database) -> Iterator[Dialogue]:
  """Gives each turn of the system what the database finds for the state before it.

  A domain counts that has a slot in the state and entries in the database. Where no state is
  annotated, and where results are, turns stay as they are.
  """
  for dialogue in dialogues:
    before = (None, *dialogue.turns)
    yield dataclasses.replace(dialogue, turns=tuple(
        dataclasses.replace(turn, results=_numbers(asking.state, database))
        if asking is not None and turn.speaker == 'system' and turn.results is None
        and asking.state is not None else turn
        for asking, turn in zip(before, dialogue.turns)))


def _numbers(state: State, database: Database) -> dict[str, int] | None:
  first = {domain: {slot: values[0] for slot, values in slots.items()}
           for domain, slots in state.items() if slots and domain in database}
  return {domain: len(database.query(domain, slots)) for domain, slots in first.items()} or None
