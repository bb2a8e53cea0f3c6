"""The database of MultiWOZ: which venues and trains meet the constraints of a domain."""

from collections.abc import Container, Mapping
import functools
import json
import pathlib
import re
from typing import Any

from t5x_lite.core.errors import UserError
from t5x_lite.dialogue.scoring.normalisation import SLOTS, normal_slots, similarity

DOMAINS = ('restaurant', 'hotel', 'attraction', 'train')
FUZZY = ('name', 'food', 'departure', 'destination')   # compared by partial ratio
SIMILAR = 90   # the partial ratio, in percent, from which on two values are one
# Columns that no state constrains: prose, and prices in other units than 'cheap'.
IGNORED = {'restaurant': ('location', 'introduction', 'signature'), 'attraction': (
    'location', 'openhours'), 'hotel': ('location', 'price', 'takesbookings'), 'train': ()}
ANY = ('dontcare', "don't care", 'dont care', "do n't care", 'do not care', 'not mentioned')


class Database:
  """The entries of every domain, or of one."""

  def __init__(self, path: pathlib.Path, domain: str | None = None):
    """
    Args:
      path: a folder of files such as hotel_db.json, one for each of DOMAINS.
      domain: given, `path` is the file of its entries, and it the only one.
    """
    paths = {domain: path} if domain else {name: path / f'{name}_db.json' for name in DOMAINS}
    self._entries, self._identifiers = {}, {}
    for name, file in paths.items():
      try:
        rows = json.loads(file.read_text(encoding='utf-8'))
        self._entries[name] = [_columns(row, IGNORED[name]) for row in rows]
        self._identifiers[name] = [
            row['trainid' if name == 'train' else 'id'] for row in self._entries[name]]
      except (OSError, ValueError, TypeError, AttributeError, KeyError) as error:
        raise UserError(f'{file}: is no JSON list of entries with an id or trainID: '
                        f'name a folder with {", ".join(f"{name}_db.json" for name in DOMAINS)}'
                        ) from error
    self._match, self._query = functools.cache(self._find), functools.cache(self._find_all)

  def __contains__(self, domain: str) -> bool:
    return domain in self._entries

  def query(self, domain: str, constraints: Mapping[str, str]) -> frozenset[str]:
    """Identifiers of the venues, or trains, that meet {slot: value}.

    Trains arrive by, and leave from, a time; 'dontcare' and slots of no column, such as those of a
    booking, constrain nothing; an entry's '?', or what it lacks, meets any value.
    """
    return self._query(domain, frozenset(normal_slots(constraints).items()))

  def _find_all(self, domain: str, constraints: frozenset[tuple[str, str]]) -> frozenset[str]:
    found = frozenset(range(len(self._entries[domain])))
    for slot, value in constraints:
      found &= self._match(domain, slot, value)
    return frozenset(self._identifiers[domain][i] for i in found)

  def _find(self, domain: str, slot: str, value: str) -> frozenset[int]:
    entries = self._entries[domain]
    everything = frozenset(range(len(entries)))
    if value in ANY or not any(slot in entry for entry in entries):
      return everything
    if slot == 'arrive':
      meets = lambda entry: _minutes(entry) <= _minutes(value)
    elif slot == 'leave':
      meets = lambda entry: _minutes(entry) >= _minutes(value)
    elif slot in FUZZY:
      meets = lambda entry: similarity(entry, value) >= SIMILAR
    else:
      meets = lambda entry: entry == value
    return frozenset(i for i in everything if (own := entries[i].get(slot, '?')) == '?'
                     or meets(own))


def _columns(row: Mapping[str, Any], ignored: Container[str]) -> dict[str, Any]:
  """The row of a database by the names of slots."""
  names = {name: name.lower().replace(' ', '') for name in row if name not in ignored}
  return {SLOTS.get(slot, slot): row[name] for name, slot in names.items()}


@functools.cache
def _minutes(time: str) -> int:
  """Since midnight; 0 of what is no HH:MM."""
  match = re.match(r'(\d\d):(\d\d)', time)
  return 60 * int(match[1]) + int(match[2]) if match else 0
