"""What a system can look up: entities of domains, and the slots that they have."""

from collections.abc import Mapping, Sequence
import dataclasses
import functools
import random

DONT_CARE = 'dontcare'
NAME = 'name'
REFERENCE = 'reference'
Entity = Mapping[str, str]


@dataclasses.dataclass(frozen=True)
class Domain:
  """A kind of entities, such as restaurants.

  Attributes:
    informable: {slot: values} by which a user chooses.
    requestable: slots that a user asks for.
    booking: {slot: values} that a booking needs.
    entities: each with a `name` and all the slots of the first two.
  """
  name: str
  informable: Mapping[str, tuple[str, ...]]
  requestable: tuple[str, ...]
  booking: Mapping[str, tuple[str, ...]]
  entities: tuple[Entity, ...]

  @functools.cached_property
  def by_name(self) -> dict[str, Entity]:
    return {entity[NAME]: entity for entity in self.entities}

  def query(self, constraints: Mapping[str, str]) -> list[Entity]:
    """Entities that have the values of all constraints, in their order; DONT_CARE holds of all."""
    return [entity for entity in self.entities
            if all(value in (DONT_CARE, entity[slot]) for slot, value in constraints.items())]


Database = Mapping[str, Domain]   # by name
_AREAS = ('north', 'south', 'east', 'west', 'centre')
_PRICES = ('cheap', 'moderate', 'expensive')
_DAYS = ('monday', 'tuesday', 'wednesday', 'thursday', 'friday', 'saturday', 'sunday')
_PEOPLE = tuple(map(str, range(1, 9)))
_STREETS = ('mill', 'bridge', 'castle', 'king', 'queen', 'station', 'garden', 'harbour', 'market')
_ADJECTIVES = ('golden', 'silver', 'old', 'little', 'royal', 'quiet', 'green', 'blue', 'happy',
               'lucky', 'grand', 'copper')
_NOUNS = {'restaurant': ('fork', 'kettle', 'table', 'lantern', 'oven', 'spoon', 'garden', 'anchor'),
          'hotel': ('lodge', 'rest', 'pillow', 'gate', 'arms', 'house', 'view', 'key')}


@functools.cache
def made_up_town(seed: int = 0, entities: int = 60) -> Database:
  """A town whose restaurants and hotels are drawn from word lists: all names differ."""
  draw = random.Random(seed)
  codes = {'phone': _unlike(draw, lambda: f'01223{draw.randrange(10 ** 6):06}'),
           'postcode': _unlike(draw, lambda: f'cb{draw.randint(1, 9)}{draw.randint(1, 9)}'
                               + ''.join(draw.choices('abdefghjlnpqrstuwxyz', k=2)))}
  address = _unlike(draw, lambda: f'{draw.randint(1, 199)} {draw.choice(_STREETS)} street')
  kinds = {
      'restaurant': ({'food': ('thai', 'italian', 'indian', 'chinese', 'french', 'british'),
                      'area': _AREAS, 'pricerange': _PRICES},
                     {'people': _PEOPLE, 'day': _DAYS,
                      'time': tuple(f'{hour}:{half}' for hour in range(12, 21)
                                    for half in ('00', '30'))}),
      'hotel': ({'area': _AREAS, 'pricerange': _PRICES, 'stars': ('2', '3', '4', '5'),
                 'parking': ('yes', 'no')},
                {'people': _PEOPLE, 'day': _DAYS, 'stay': tuple('12345')}),
  }
  town = {}
  for kind, (informable, booking) in kinds.items():
    names = [f'the {adjective} {noun}' for adjective in _ADJECTIVES for noun in _NOUNS[kind]]
    found = tuple(
        {NAME: name} | {slot: draw.choice(values) for slot, values in informable.items()}
        | {'address': next(address)} | {slot: next(code) for slot, code in codes.items()}
        for name in draw.sample(names, min(entities, len(names))))
    town[kind] = Domain(kind, informable, ('address', 'phone', 'postcode'), booking, found)
  return town


def values_of(database: Database) -> dict[str, dict[str, Sequence[str]]]:
  """{domain: {slot: values}} of all that can be said of a domain."""
  return {name: {**domain.informable, **domain.booking,
                 **{slot: [one[slot] for one in domain.entities]
                    for slot in (NAME, *domain.requestable)}}
          for name, domain in database.items()}


def _unlike(draw: random.Random, make):
  """Draws, none of which comes twice."""
  seen = set()
  while True:
    if (one := make()) not in seen:
      seen.add(one)
      yield one
