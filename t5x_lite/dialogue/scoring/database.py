"""The database of MultiWOZ: which venues and trains meet the constraints of a domain."""

import functools
import json
import pathlib

from t5x_lite.core.errors import UserError

DOMAINS = ('restaurant', 'hotel', 'attraction', 'train')
FUZZY = ('name', 'food', 'departure', 'destination')   # compared by partial ratio
SIMILAR = 90   # the partial ratio, in percent, from which on two values are one
KEYS = {'arrive': 'arriveBy', 'leave': 'leaveAt'}


class Database:
  """The entries of every domain, from a folder of files such as hotel_db.json."""

  def __init__(self, folder: pathlib.Path):
    self._entries = {}
    for domain in DOMAINS:
      path = folder / f'{domain}_db.json'
      try:
        self._entries[domain] = json.loads(path.read_text(encoding='utf-8'))
      except (OSError, ValueError) as error:
        raise UserError(f'{path}: is no file of JSON that can be read: name a folder with '
                        f'{", ".join(f"{name}_db.json" for name in DOMAINS)}') from error
    self._match = functools.cache(self._find)

  def query(self, domain: str, constraints: dict[str, str]) -> frozenset[str]:
    """Names of venues, or numbers of trains, that meet {slot: value}.

    Trains arrive by, and leave from, a time; 'dontcare' and slots of no column, such as those of a
    booking, constrain nothing; an entry's '?' meets any value.
    """
    found = frozenset(range(len(self._entries[domain])))
    for slot, value in constraints.items():
      found &= self._match(domain, slot, value)
    key = 'trainID' if domain == 'train' else 'name'
    return frozenset(self._entries[domain][i][key] for i in found)

  def _find(self, domain: str, slot: str, value: str) -> frozenset[int]:
    from rapidfuzz import fuzz
    entries, key = self._entries[domain], KEYS.get(slot, slot)
    everything = frozenset(range(len(entries)))
    if value == 'dontcare' or key not in entries[0]:
      return everything
    if slot in KEYS:
      wanted = _minutes(value)
      if wanted is None:
        return everything
      sign = 1 if slot == 'leave' else -1
      meets = lambda entry: sign * (_minutes(entry) - wanted) >= 0
    elif slot in FUZZY:
      meets = lambda entry: fuzz.partial_ratio(entry.lower(), value) >= SIMILAR
    else:
      meets = lambda entry: entry.lower() == value
    return frozenset(i for i in everything if entries[i][key] == '?' or meets(entries[i][key]))


def _minutes(time: str) -> int | None:
  """Since midnight; None of what is no HH:MM."""
  hours, _, minutes = time.replace(' ', '').partition(':')
  return 60 * int(hours) + int(minutes) if hours.isdecimal() and minutes.isdecimal() else None
