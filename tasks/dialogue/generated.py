"""Made-up dialogues about restaurants: a known automaton, a grammar, a database, users with goals.

The state of a turn, which is the intent of its first act, is drawn by `AUTOMATON` from that of the
turn before it and nothing else, so that what finds the structure of dialogues can be checked.
"""

from collections.abc import Mapping
import random
import re

from t5x_lite.core.errors import UserError
from t5x_lite.dialogue.domains import Domain, Schema, Slot
from t5x_lite.dialogue.schema import Act, Dialogue, Goal, Span, Turn

START, END = 'START', 'END'
DOMAIN = 'restaurant'
# {state: {state of the next turn: probability}}.
AUTOMATON: Mapping[str, Mapping[str, float]] = {
    START: {'find': 1.0},
    'find': {'ask_area': 0.4, 'ask_price': 0.2, 'offer': 0.25, 'no_offer': 0.15},
    'ask_area': {'tell_area': 1.0},
    'tell_area': {'ask_price': 0.4, 'offer': 0.4, 'no_offer': 0.2},
    'ask_price': {'tell_price': 1.0},
    'tell_price': {'offer': 0.8, 'no_offer': 0.2},
    'no_offer': {'change': 1.0},
    'change': {'offer': 1.0},
    'offer': {'request': 0.5, 'book': 0.3, 'thank': 0.2},
    'request': {'answer': 1.0},
    'answer': {'request': 0.25, 'book': 0.4, 'thank': 0.35},
    'book': {'booked': 0.8, 'full': 0.2},
    'full': {'rebook': 1.0},
    'rebook': {'booked': 1.0},
    'booked': {'thank': 1.0},
    'thank': {'bye': 1.0},
    'bye': {END: 1.0},
}
# What a state says; names in braces are slots, {asked} the words for the one that is requested and
# {answer} its value.
TEMPLATES: Mapping[str, tuple[str, ...]] = {
    'find': ('I am looking for a {food} restaurant.', 'Can you find me somewhere with {food} food?',
             'Hello, I would like to eat {food} food tonight.'),
    'tell_area': ('In the {area} of town, please.', 'It should be in the {area}.',
                  'Somewhere in the {area} part would be good.'),
    'tell_price': ('Something {pricerange}.', 'I want to pay {pricerange} prices.',
                   'My budget is {pricerange}.'),
    'change': ('How about {food} instead?', 'Then try {food} cooking.',
               'In that case I will take {food}.'),
    'request': ('What is their {asked}?', 'Could you give me the {asked}?',
                'I also need the {asked}.'),
    'book': ('Book a table for {people} people on {day} at {time}.',
             'Please reserve for {people} on {day}, {time}.',
             'I need a reservation on {day} at {time} for a party of {people}.'),
    'rebook': ('Would {time} work?', 'Try {time} then.', 'What if we come at {time}?'),
    'thank': ('Thank you, that is all.', 'Great, thanks for your help.', 'Thanks, nothing else.'),
    'ask_area': ('Which area do you prefer?', 'What part of town should it be in?',
                 'Do you have a neighbourhood in mind?'),
    'ask_price': ('What price range would you like?', 'How expensive may it be?',
                  'Are you after a certain price range?'),
    'no_offer': ('Sorry, nobody here cooks {food}.', 'I have no {food} places, unfortunately.',
                 'There are no matches for {food}.'),
    'offer': ('{name} is a nice choice.', 'I recommend {name}.', 'You could go to {name}.'),
    'answer': ('It is {answer}.', 'Certainly: {answer}.', 'Here you are: {answer}.'),
    'full': ('They are fully booked then.', 'No table is free at that hour.',
             'That slot is taken, do you want another hour?'),
    'booked': ('Done, your reference is {reference}.', 'The table is reserved under {reference}.',
               'Booking succeeded with code {reference}.'),
    'bye': ('Goodbye.', 'Have a nice evening.', 'You are welcome, enjoy your meal.'),
}
USER = ('find', 'tell_area', 'tell_price', 'change', 'request', 'book', 'rebook', 'thank')

_AREAS = ('north', 'south', 'east', 'west', 'centre')
_FOODS = ('italian', 'thai', 'indian', 'greek', 'french', 'polish')
_NOT_SERVED = ('martian', 'arctic', 'basque', 'venetian')
_PRICES = ('cheap', 'moderate', 'expensive')
_DAYS = ('monday', 'tuesday', 'wednesday', 'thursday', 'friday', 'saturday', 'sunday')
_TIMES = tuple(f'{hour}:{minute}' for hour in range(17, 22) for minute in ('00', '30'))
_ASKED = {'phone': 'phone number', 'address': 'address', 'postcode': 'postcode'}
_FIRST = ('Amber', 'Birch', 'Copper', 'Dapple', 'Ember', 'Fable', 'Gable', 'Hazel', 'Ivory',
          'Juniper')
_LAST = ('Kitchen', 'Table', 'Lantern')
_STREETS = ('Mill Lane', 'Quay Street', 'Tanner Row')
# Numbers as of Ofcom's range for fiction.
DATABASE: tuple[Mapping[str, str], ...] = tuple({
    'name': f'The {_FIRST[i % 10]} {_LAST[i // 10]}', 'area': _AREAS[i % 5],
    'food': _FOODS[i % 6], 'pricerange': _PRICES[i // 10], 'phone': f'01632 960{101 + 7 * i}',
    'address': f'{3 + 2 * i} {_STREETS[i % 3]}', 'postcode': f'ZZ{1 + i % 5} {1 + i % 9}QX',
} for i in range(30))
SCHEMA: Schema = {DOMAIN: Domain({
    'food': Slot('kind of food'), 'area': Slot('part of town', _AREAS),
    'pricerange': Slot('how expensive it is', _PRICES), 'name': Slot('of the restaurant'),
    'phone': Slot('phone number'), 'address': Slot('street and number'), 'postcode': Slot(),
    'day': Slot('of the booking', _DAYS), 'time': Slot('of the booking'),
    'people': Slot('how many come'), 'reference': Slot('of the booking'),
}, 'restaurants of a made-up town')}


def query(constraints: Mapping[str, str]) -> list[Mapping[str, str]]:
  """The restaurants of the database that are as the constraints say; others are of a booking."""
  return [one for one in DATABASE
          if all(one[slot] == value for slot, value in constraints.items() if slot in one)]


def generate(number: int, seed: int = 0, noise: float = 0.0) -> list[Dialogue]:
  """So many dialogues; the first of a larger number are the same.

  Args:
    number: of dialogues.
    seed: of all that is drawn.
    noise: the share of turns that say what another state of the same speaker says, by a template of
      that; acts, states and results stay those of the turn's own state.

  Raises UserError for a noise that is no share.
  """
  if not 0 <= noise <= 1:
    raise UserError(f'noise={noise:g}: must be a share from 0 to 1')
  return [_dialogue(f'generated-{seed}-{i}', random.Random(f'{seed} {i}'), noise)
          for i in range(number)]


def state_of(turn: Turn) -> str:
  """The state of AUTOMATON in which a turn was made."""
  return turn.acts[0].intent


def _dialogue(name: str, draw: random.Random, noise: float) -> Dialogue:
  path = _path(draw)
  venue = draw.choice(DATABASE)
  values = dict(venue) | {   # of all slots, as what is said by another state's template needs any
      'day': draw.choice(_DAYS), 'people': str(draw.randint(2, 8)), 'time': draw.choice(_TIMES),
      'reference': f'{draw.randrange(16 ** 6):06X}'}
  if 'no_offer' in path:
    values['food'] = draw.choice(_NOT_SERVED)
  told, asked, turns = {}, [], []
  for state in path:
    if state == 'change':
      values['food'] = venue['food']
    if state == 'rebook':
      values['time'] = draw.choice([time for time in _TIMES if time != values['time']])
    if state == 'request':
      asked.append(draw.choice([slot for slot in _ASKED if slot not in asked] or [*_ASKED]))
    said = _SAID.get(state, ())
    if state in USER:
      told |= {slot: values[slot] for slot in said}
    about = asked[-1] if asked else 'phone'
    said = (about,) if state in ('request', 'answer') else said
    value = lambda slot, state=state: '' if state == 'request' else values[slot]
    acts = tuple(Act(state, DOMAIN, slot, value(slot)) for slot in said) or (Act(state, DOMAIN),)
    text, spans = _say(state, values, about, draw, noise)
    user = state in USER
    turns.append(Turn('user' if user else 'system', text, acts, spans,
                      {DOMAIN: {slot: (told[slot],) for slot in sorted(told)}} if user else None,
                      None if user else {DOMAIN: len(query(told))}))
  goal = Goal({slot: told[slot] for slot in ('food', 'area', 'pricerange') if slot in told},
              tuple(dict.fromkeys(asked)),
              {slot: told[slot] for slot in ('people', 'day', 'time') if slot in told})
  return Dialogue(name, tuple(turns), (DOMAIN,), {DOMAIN: goal}, _message(goal))


# Slots that a state is about, of which its acts have the values.
_SAID = {'find': ('food',), 'tell_area': ('area',), 'tell_price': ('pricerange',),
         'change': ('food',), 'book': ('people', 'day', 'time'), 'rebook': ('time',),
         'no_offer': ('food',), 'offer': ('name',), 'booked': ('reference',)}


def _path(draw: random.Random) -> list[str]:
  """The states of a dialogue, without START and END."""
  path, state = [], START
  while True:
    following = AUTOMATON[state]
    (state,) = draw.choices([*following], [*following.values()])
    if state == END:
      return path
    path.append(state)


def _say(state: str, values: Mapping[str, str], about: str, draw: random.Random, noise: float
         ) -> tuple[str, tuple[Span, ...]]:
  """A template of the state, or of another one, filled; and where the values are in it."""
  if draw.random() < noise:
    state = draw.choice([other for other in TEMPLATES
                         if other != state and (other in USER) == (state in USER)])
  text, spans = '', []
  for i, part in enumerate(re.split(r'\{(\w+)\}', draw.choice(TEMPLATES[state]))):
    if i % 2 == 0:
      text += part
    elif part == 'asked':
      text += _ASKED[about]
    else:
      slot = about if part == 'answer' else part
      spans.append(Span(len(text), len(text) + len(values[slot]), DOMAIN, slot))
      text += values[slot]
  return text, tuple(spans)


def _message(goal: Goal) -> str:
  """The goal as a person would be told it."""
  wanted = ', '.join(f'{slot} {value}' for slot, value in goal.inform.items())
  parts = [f'You look for a restaurant: {wanted}.']
  if goal.request:
    parts.append(f'Ask for the {" and the ".join(_ASKED[slot] for slot in goal.request)}.')
  if goal.book:
    parts.append('Book a table: ' + ', '.join(
        f'{slot} {value}' for slot, value in goal.book.items()) + '.')
  return ' '.join(parts)
