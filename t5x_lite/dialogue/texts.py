"""Dialogues as texts that models read and write: states, results, schemas, values left out."""

from collections.abc import Collection, Mapping, Sequence
import re
from typing import NamedTuple

from t5x_lite.core.errors import UserError
from t5x_lite.dialogue.domains import Schema
from t5x_lite.dialogue.schema import Span, State, Turn

# Slots whose values are said in other words, so that they stay.
SAID_FREELY = ('internet', 'parking')
# Tags of MultiWOZ whose names are not those of the slots; the public evaluator knows them all.
_TAGS = {'trainid': 'id', 'entrancefee': 'price'}
_EMPTY = 'none'
_DOMAIN, _SLOT, _VALUE = ' ; ', ' , ', ' = '   # what comes between two of them
_ESCAPED = re.compile(r'[\\;,=]')   # in names and values, with a \ before


def tag(slot: str) -> str:
  """What stands for a value of a slot, such as [value_name]."""
  return f'[value_{_TAGS.get(slot, slot)}]'


def delexicalise(text: str, spans: Sequence[Span]) -> str:
  """The text with a tag for each span; of spans that overlap the longest, of equal ones the first.

  What reaches beyond the text, and SAID_FREELY, stays as it is.
  """
  good = [span for span in spans
          if 0 <= span.start < span.end <= len(text) and span.slot not in SAID_FREELY]
  chosen = []
  for span in sorted(good, key=lambda one: one.start - one.end):   # the longest first
    if all(span.end <= other.start or other.end <= span.start for other in chosen):
      chosen.append(span)
  for span in sorted(chosen, key=lambda one: -one.start):
    text = text[:span.start] + tag(span.slot) + text[span.end:]
  return text


def turn_text(turn: Turn, delexicalised: bool = False) -> str:
  """What a turn says, in one line."""
  text = delexicalise(turn.text, turn.spans) if delexicalised else turn.text
  return ' '.join(text.split())


def state_text(state: State) -> str:
  """A state in the order of its names, such as 'hotel area = north , stars = 4 ; taxi leave = 9'.

  'none' without any slot. Of a slot's accepted values the first is written, its white space as one
  space; marks have a backslash before them within names and values. `parse_state` is the inverse.
  """
  domains = [_escape(domain).replace(' ', r'\ ') + ' ' + _SLOT.join(
      f'{_escape(slot)}{_VALUE}{_escape(slots[slot][0])}' for slot in sorted(slots))
             for domain, slots in sorted(state.items()) if slots]
  return _DOMAIN.join(domains) or _EMPTY


def parse_state(text: str) -> State:
  """The state of a text as `state_text` writes it, each value by itself.

  A model may write anything: what has no domain, slot and value is left out.
  """
  found = {}
  for part in _parts(text.strip(), ';'):
    domain, *slots = _parts(part.strip(), ' ', 1)
    for pair in _parts(''.join(slots), ','):
      slot, *value = _parts(pair, '=', 1)
      names = [_unescape(text) for text in (domain, slot, ''.join(value))]
      if all(names):
        found.setdefault(names[0], {})[names[1]] = (names[2],)
  return found


def results_text(results: Mapping[str, int] | None) -> str:
  """How many entries of the database match, such as 'hotel 3 ; taxi 0'; 'none' without any."""
  return _DOMAIN.join(
      f'{domain} {number}' for domain, number in sorted((results or {}).items())) or _EMPTY


def end_to_end_text(state: State, results: Mapping[str, int] | None, response: str) -> str:
  """What an end-to-end model writes: a line each of state, results and response.

  A system that has the first asks its database, and lets the model go on from its own second.
  """
  return f'state: {state_text(state)}\nresults: {results_text(results)}\nresponse: {response}'


class EndToEnd(NamedTuple):
  """What an end-to-end model wrote; empty where it wrote none.

  Attributes:
    state: what it believes that the user wants.
    results: how many entries it believes to match, {domain: number}.
    response: to the user.
  """
  state: State
  results: Mapping[str, int]
  response: str


def parse_end_to_end(text: str) -> EndToEnd:
  """The inverse of `end_to_end_text`; what is not of its form is left out."""
  lines = {name: rest.strip() for name, _, rest in (
      line.partition(':') for line in text.splitlines())}
  results = {domain: int(number) for domain, number in
             re.findall(r'(\S+) (\d+)(?= ; |$)', lines.get('results', ''))}
  return EndToEnd(parse_state(lines.get('state', '')), results, lines.get('response', ''))


def schema_text(schema: Schema, domains: Collection[str]) -> str:
  """A line for each domain with its slots, their descriptions and values.

  Raises UserError for a domain that the schema lacks.
  """
  lines = []
  for name in domains:
    if name not in schema:
      raise UserError(f'domain {name!r} is not in the schema, which has {", ".join(schema)}')
    domain = schema[name]
    slots = '; '.join(slot + (f' ({found.description})' if found.description else '') + (
        f': {", ".join(found.values)}' if found.values else '')
                      for slot, found in domain.slots.items())
    about = f' ({domain.description})' if domain.description else ''
    lines.append(f'{name}{about}: {slots}')
  return '\n'.join(lines)


def _escape(text: str) -> str:
  return _ESCAPED.sub(lambda match: '\\' + match[0], ' '.join(text.split()))


def _unescape(text: str) -> str:
  return ' '.join(re.sub(r'\\(.)', r'\1', text, flags=re.DOTALL).split())


def _parts(text: str, mark: str, most: int = 0) -> list[str]:
  """The parts of a text between marks without a backslash before."""
  parts, rest = [], text
  while not most or len(parts) < most:
    match = re.match(rf'((?:[^\\{mark}]|\\.)*){mark}', rest, re.DOTALL)
    if match is None:
      break
    parts.append(match[1])
    rest = rest[match.end():]
  return [*parts, rest]
