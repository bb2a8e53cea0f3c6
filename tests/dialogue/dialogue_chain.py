"""Dialogues of a known automaton: a Markov chain over states with templates, and a stated noise."""

import random

from t5x_lite.dialogue.schema import Act, Dialogue, Turn

# State: (templates, {what follows: probability}). A user's states and a system's alternate.
STATES = {
    'u.find': (('i look for a {food} restaurant in the {area}',
                'please look for a {food} restaurant in the {area} of town',
                'look for some {food} restaurant in the {area} please'),
               {'s.offer': 0.7, 's.none': 0.3}),
    'u.other': (('is there something else instead', 'no is there something else',
                 'well is there something else'), {'s.offer': 1.0}),
    'u.phone': (('please what is their phone number', 'can i have their phone number',
                 'give me their phone number'), {'s.phone': 1.0}),
    'u.book': (('book a table for {n} people at {n}:30', 'can you book a table for {n} people at {n}:30',
                'now book a table for {n} people at {n}:15'), {'s.booked': 0.5, 's.full': 0.5}),
    'u.day': (('then try {day} instead', 'then try {day} please', 'ok then try {day}'),
              {'s.booked': 0.7, 's.full': 0.3}),
    'u.bye': (('thank you goodbye', 'ok thank you goodbye', 'thank you goodbye now'),
              {'s.bye': 1.0}),
    's.offer': (('{name} serves {food} food would you like it',
                 'how about {name} it serves {food} food', '{name} also serves {food} food'),
                {'u.phone': 0.3, 'u.book': 0.4, 'u.other': 0.3}),
    's.none': (('sorry nothing matches your request', 'i am afraid nothing matches your request',
                'nothing matches your request at all'), {'u.find': 0.6, 'u.bye': 0.4}),
    's.phone': (('you can call them on 01223 {n}{n}{n}{n}{n}{n}', 'call them on 01223 4{n}6{n}{n}3',
                 'please call them on 01223 3{n}6{n}{n}3'), {'u.book': 0.5, 'u.bye': 0.5}),
    's.booked': (('your booking succeeded with reference A{n}B{n}C{n}X{n}',
                  'done booking succeeded with reference Z{n}Y{n}Q{n}W{n}'), {'u.bye': 1.0}),
    's.full': (('that hour is fully taken', 'alas that hour is fully taken',
                'i see that hour is fully taken'), {'u.day': 0.8, 'u.bye': 0.2}),
    's.bye': (('have a nice meal goodbye', 'have a nice meal', 'now have a nice meal'),
              {None: 1.0}),
}
WORDS = {'food': ('thai', 'indian', 'chinese', 'british'), 'area': ('north', 'south', 'centre'),
         'name': ('Nandos', 'Curry Garden', 'Meze', 'Pizza Hut'), 'n': '23456789',
         'day': ('monday', 'friday', 'sunday')}


def make_dialogues(number: int, seed: int, noise: float = 0.0) -> list[Dialogue]:
  """Dialogues that begin with u.find.

  Args:
    noise: probability of a turn that says what another state of its speaker says.
  """
  rng = random.Random(seed)
  dialogues = []
  for d in range(number):
    turns, state = [], 'u.find'
    while state is not None:
      said = state
      if rng.random() < noise:
        said = rng.choice([name for name in STATES if name[0] == state[0] and name != state])
      text = rng.choice(STATES[said][0])
      while '{' in text:
        name = text[text.index('{') + 1:text.index('}')]
        text = text.replace('{' + name + '}', rng.choice(WORDS[name]), 1)
      turns.append(Turn('user' if state[0] == 'u' else 'system', text,
                        acts=(Act(state[2:], 'restaurant'),)))
      following = STATES[state][1]
      state = rng.choices(list(following), following.values())[0]
    dialogues.append(Dialogue(str(d), tuple(turns), ('restaurant',)))
  return dialogues


def true_edges() -> set[tuple[str, str]]:
  """Of the automaton, with START and END."""
  return {('START', 'u.find')} | {
      (state, following or 'END') for state, (_, all_of) in STATES.items() for following in all_of}
