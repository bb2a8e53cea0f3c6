"""Faults of dialogues: what a corpus should not have, counted, named, and stopped at or skipped."""

from collections.abc import Iterable, Iterator
import dataclasses
import re

from t5x_lite.core.errors import UserError
from t5x_lite.dialogue.domains import Schema, used_slots
from t5x_lite.dialogue.schema import Dialogue, State, Turn

POLICIES = ('keep', 'skip', 'stop')
KINDS = {
    'same id': 'a dialogue before it has the id',
    'no turns': 'the dialogue has none',
    'speakers': 'they do not alternate, the user first',
    'empty turn': 'it has no text',
    'span outside': 'it is empty, or ends beyond the text',
    'span without value': 'its text is no value that an act of the turn gives the slot, or begins '
                          'inside a word',
    'missing span': 'a value of an open slot is in the text, and no span marks it',
    'unknown domain': 'the schema lacks it',
    'unknown slot': 'its domain lacks it',
    'state shrinks': 'a slot that was filled is gone',
}
_NAMED = 5   # dialogues of a line of a report
_NUMBERS = {word: str(number) for number, word in enumerate(
    'zero one two three four five six seven eight nine ten'.split())}
# Values that stand for words which are not in them.
_FIGURATIVE = ('yes', 'no', 'none', 'free', 'true', 'false', 'dontcare')
_STEM = 4    # letters by which 'moderate' is in 'moderately', and 'centre' is 'center'


@dataclasses.dataclass(frozen=True)
class Fault:
  """Attributes:
    dialogue: its id.
    turn: its number from 0; None: the whole dialogue.
    kind: one of KINDS.
    detail: what has it.
  """
  dialogue: str
  turn: int | None
  kind: str
  detail: str = ''

  def __str__(self) -> str:
    where = '' if self.turn is None else f', turn {self.turn}'
    detail = f' ({self.detail})' if self.detail else ''
    return f'dialogue {self.dialogue}{where}: {self.kind}{detail}: {KINDS[self.kind]}'


@dataclasses.dataclass
class FaultReport:
  """Attributes:
    dialogues: how many were checked.
    faulty: the ids of those with a fault, by its kind, once for each fault.
    skipped: how many were left out.
  """
  dialogues: int = 0
  faulty: dict[str, list[str]] = dataclasses.field(default_factory=dict)
  skipped: int = 0

  def lines(self, kinds: Iterable[str] = tuple(KINDS)) -> list[str]:
    """One for each kind of fault: how many, in how many dialogues, the first of these."""
    found = []
    for kind in kinds:
      if names := self.faulty.get(kind):
        distinct = [*dict.fromkeys(names)]
        more = ', …' if len(distinct) > _NAMED else ''
        found.append(f'{kind}: {len(names):,} in {len(distinct):,} dialogue(s): '
                     f'{", ".join(distinct[:_NAMED])}{more}')
    return found


def check_dialogues(dialogues: Iterable[Dialogue], schema: Schema, policy: str,
                    report: FaultReport, ignored: Iterable[str] = ()) -> Iterator[Dialogue]:
  """The dialogues that a policy lets through, while `report` is filled.

  Args:
    dialogues: to be checked.
    schema: the domains and slots that they may have.
    policy: 'keep' all; 'skip' those with a fault; or 'stop' at the first, by a UserError.
    report: counts what is found.
    ignored: of KINDS, which are counted and let through.
  """
  seen = set()
  for dialogue in dialogues:
    report.dialogues += 1
    faults = find_faults(dialogue, schema)
    if dialogue.id in seen:
      faults.insert(0, Fault(dialogue.id, None, 'same id'))
    seen.add(dialogue.id)
    for fault in faults:
      report.faulty.setdefault(fault.kind, []).append(dialogue.id)
    bad = [fault for fault in faults if fault.kind not in ignored]
    if bad and policy == 'stop':
      raise UserError(f'{bad[0]}: mend it, or choose the policy skip or keep')
    if bad and policy == 'skip':
      report.skipped += 1
    else:
      yield dialogue


def find_faults(dialogue: Dialogue, schema: Schema) -> list[Fault]:
  """All faults, in the order of the turns; those of names come last."""
  if not dialogue.turns:
    return [Fault(dialogue.id, None, 'no turns')]
  found, state = [], {}
  add = lambda turn, kind, detail='': found.append(Fault(dialogue.id, turn, kind, detail))
  spanned = any(turn.spans for turn in dialogue.turns)   # else no spans are annotated
  for number, turn in enumerate(dialogue.turns):
    if turn.speaker != ('user', 'system')[number % 2]:
      add(number, 'speakers', turn.speaker)
    if not turn.text.strip():
      add(number, 'empty turn')
    for kind, detail in _span_faults(turn, schema if spanned else {}):
      add(number, kind, detail)
    if turn.state is not None:
      for name in sorted(_filled(state) - _filled(turn.state)):
        add(number, 'state shrinks', name)
      state = turn.state
  names = dict.fromkeys((None, domain, None) for domain in (*dialogue.domains, *dialogue.goals))
  for turn, domain, slot in (*names, *dict.fromkeys(used_slots(dialogue))):
    if domain not in schema:
      add(turn, 'unknown domain', domain)
    elif slot is not None and slot not in schema[domain].slots:
      add(turn, 'unknown slot', f'{domain}-{slot}')
  return found


def _filled(state: State) -> set[str]:
  return {f'{domain}-{slot}' for domain, slots in state.items() for slot in slots}


def _span_faults(turn: Turn, schema: Schema) -> Iterator[tuple[str, str]]:
  """(kind, detail) of spans that are wrong, and of values of open slots without a span."""
  values = {}
  for act in turn.acts:
    if act.value:
      values.setdefault((act.domain, act.slot), []).append(act.value)
  for span in turn.spans:
    if not 0 <= span.start < span.end <= len(turn.text):
      yield 'span outside', f'{span.domain}-{span.slot} {span.start}:{span.end}'
      continue
    text, said = turn.text[span.start:span.end], values.get((span.domain, span.slot), ())
    cut = re.match(r'\w\w', turn.text[max(span.start - 1, 0):span.start + 1])
    if cut or said and not any(_says(text, value) for value in said):
      yield 'span without value', f'{span.domain}-{span.slot} {text!r}'
  for (domain, slot), said in values.items():
    known = domain in schema and schema[domain].slots.get(slot)
    if not known or known.values:
      continue
    for value in said:
      match = re.search(rf'(?<!\w){re.escape(value)}(?!\w)', turn.text, re.IGNORECASE)
      marked = match and any(span.start < match.end() and match.start() < span.end
                             for span in turn.spans)
      if match and not marked and value.lower() not in _FIGURATIVE:
        yield 'missing span', f'{domain}-{slot} {value!r}'


def _says(text: str, value: str) -> bool:
  """Whether a text is a value: in other letters, inflected, as a number, or in part."""
  if value.lower() in _FIGURATIVE:
    return True
  words = [[_NUMBERS.get(word, word) for word in re.findall(r'\w+', one.lower())]
           for one in (text, value)]
  if not all(words):
    return text == value
  a, b = (''.join(found) for found in words)
  stems = [{word[:_STEM] for word in found} for found in words]
  return a in b or b in a or bool(stems[0] & stems[1])
