"""What users want: goals drawn from a database, some of which change on the way."""

from collections.abc import Mapping, Sequence
import dataclasses
import random

from t5x_lite.core.dataclass_checks import Count, Fraction, check_types
from t5x_lite.dialogue.schema import Goal
from t5x_lite.dialogue.simulation.database import DONT_CARE, Database, Domain


@dataclasses.dataclass(frozen=True)
class Wish:
  """What a user wants of a domain.

  Attributes:
    first: as it is asked for.
    final: after the user has changed one constraint, which is as soon as something, or nothing, is
      offered; the same as `first` where nothing changes.
  """
  domain: str
  first: Goal
  final: Goal


@dataclasses.dataclass(frozen=True, kw_only=True)
class GoalConfig:
  """How goals are drawn."""
  domains: Count = 2              # at most, that one user asks for
  change: Fraction = 0.2          # share of wishes that change; half have no result at first
  dont_care: Fraction = 0.1       # share of constraints that are none, if the system asks
  book: Fraction = 0.5            # share of wishes that end in a booking

  def __post_init__(self):
    check_types(self)


def draw_goals(database: Database, number: int, seed: int, config: GoalConfig
               ) -> list[list[Wish]]:
  """Goals, a list of wishes each, that the database can satisfy in the end."""
  draw = random.Random(seed)
  return [[_wish(draw, database[name], config) for name in draw.sample(
      sorted(database), draw.randint(1, min(config.domains, len(database))))]
          for _ in range(number)]


def is_solvable(wish: Wish, database: Database) -> bool:
  """Whether an entity has what is wanted in the end."""
  return bool(database[wish.domain].query(wish.final.inform))


def _wish(draw: random.Random, domain: Domain, config: GoalConfig) -> Wish:
  entity = draw.choice(domain.entities)
  slots = draw.sample(sorted(domain.informable), draw.randint(1, len(domain.informable)))
  inform = {slot: DONT_CARE if draw.random() < config.dont_care else entity[slot]
            for slot in slots}
  requests = draw.sample(domain.requestable, draw.randint(1, len(domain.requestable)))
  book = {slot: draw.choice(values) for slot, values in domain.booking.items()
          } if draw.random() < config.book else {}
  final = Goal(inform, tuple(requests), book)
  if draw.random() >= config.change:
    return Wish(domain.name, final, final)
  fails = draw.random() < 0.5
  others = [dict(inform) | {slot: value} for slot in inform if inform[slot] != DONT_CARE
            for value in domain.informable[slot] if value != inform[slot]]
  fit = [one for one in others if bool(domain.query(one)) != fails]
  first = draw.choice(fit) if fit else inform
  return Wish(domain.name, dataclasses.replace(final, inform=first), final)


def message(wishes: Sequence[Wish]) -> str:
  """A goal as people are told it."""
  return ' '.join(filter(None, (sentence for wish in wishes for sentence in _sentences(wish))))


def _sentences(wish: Wish) -> list[str]:
  said = lambda slots: _listed([f'{slot} {value}' for slot, value in slots.items()
                                if value != DONT_CARE])
  first = said(wish.first.inform)
  changed = said({slot: value for slot, value in wish.final.inform.items()
                  if wish.first.inform[slot] != value})
  return [f'You are looking for a {wish.domain}' + (f': {first}.' if first else '.'),
          changed and f'If there is none, or once you are offered one, you want {changed} instead.',
          f'Ask for the {_listed(wish.final.request)}.' if wish.final.request else '',
          f'Then book it: {said(wish.final.book)}.' if wish.final.book else '']


def _listed(texts: Sequence[str]) -> str:
  return ' and '.join(filter(None, [', '.join(texts[:-1]), *texts[-1:]]))


def goals_by_domain(wishes: Sequence[Wish]) -> Mapping[str, Goal]:
  """What is wanted in the end, as a Dialogue has it."""
  return {wish.domain: wish.final for wish in wishes}
