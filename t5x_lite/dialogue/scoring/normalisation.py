"""One vocabulary for what systems predict: tags in responses, slots and values of states.

The rules are those of the public evaluation of MultiWOZ systems (Nekvinda and Dušek 2021, 'Shades
of BLEU, flavours of success', arXiv 2106.05555), so that scores compare with published ones.
"""

from collections.abc import Mapping
import difflib
import functools
import re

from t5x_lite.core.errors import UserError

TAGS = {   # how they are written, less a domain or `value_` before
    'ADDRESS': 'address', 'AREA': 'area', 'FOOD': 'food', 'NAME': 'name', 'PHONE': 'phone',
    'TIME': 'time booktime duration arrive arriveby leave leaveat', 'DAY': 'day bookday',
    'PLACE': 'place departure destination', 'POST': 'postcode', 'REFERENCE': 'reference ref',
    'PRICE': 'price pricerange entrancefee', 'TYPE': 'type car', 'TRAINID': 'trainid id train',
    'COUNT': 'count choice stars stay bookstay people bookpeople', 'INTERNET': 'internet',
    'PARKING': 'parking', 'DEPARTMENT': 'department', 'OPEN': 'openhours'}
_TAG_OF = {name: tag for tag, names in TAGS.items() for name in names.split()}
_PREFIX = re.compile('(attraction|hospital|hotel|police|restaurant|taxi|train|value)_')
_TAG = re.compile(r'\[([\w\s]+)\](?:-?e?s)?')
SLOTS = {'arriveby': 'arrive', 'leaveat': 'leave'}
TIMES = ('arrive', 'leave', 'time')
NAMES = ('name', 'departure', 'destination')
# As the database, or the public evaluator, has what systems write.
VALUES = {
    'type': {'guest house': 'guesthouse', 'swimming pool': 'swimmingpool',
             'night club': 'nightclub', 'mutliple sports': 'multiple sports'},
    'food': {'portugese': 'portuguese', 'brazilian': 'portuguese',
             'modern american': 'north american'},
    'parking': {'free': 'yes'}, 'internet': {'free': 'yes'},
    **dict.fromkeys(NAMES, {
        'cafe jello museum': 'cafe jello gallery', 'cafe uno': 'caffe uno',
        'caffee uno': 'caffe uno', 'christ college': "christ's college",
        'parkside pools': 'parkside swimming pool', 'restaurant 1 7': 'restaurant one seven',
        'restaurant 2 two': 'restaurant two two', "rosa's": 'rosas bed and breakfast',
        'the junction': 'junction theatre'})}


@functools.cache
def _moses():
  try:
    from sacremoses import MosesDetokenizer, MosesTokenizer
  except ModuleNotFoundError:
    raise UserError("scores of dialogues need sacremoses: pip install -e '.[dialogue]'") from None
  return MosesTokenizer(lang='en'), MosesDetokenizer(lang='en')


@functools.lru_cache(maxsize=2 ** 16)   # systems repeat themselves
def normal_response(text: str) -> str:
  """In lower case and detokenised, with tags as [value_postcode] written POST, their plurals too.

  A tag that is not known is left out.
  """
  tokenizer, detokenizer = _moses()
  text = _TAG.sub(lambda match: tag_of(match[1]), text.lower())
  text = text.replace('-s', '').replace('-ly', '')   # delexicalised plurals: 'restaurant -s'
  return detokenizer.detokenize(tokenizer.tokenize(text))


def tag_of(name: str) -> str:
  """NAME, PHONE, … of how a system writes it in brackets; '' of what is none."""
  return _TAG_OF.get(_PREFIX.sub('', name.replace(' ', ''), count=1), '')


def normal_state(state: Mapping[str, Mapping[str, str]]) -> dict[str, dict[str, str]]:
  """{domain: {slot: value}} with slots and values as the database has them."""
  return {domain: normal_slots(slots) for domain, slots in state.items()}


def normal_slots(slots: Mapping[str, str]) -> dict[str, str]:
  """{slot: value} of one domain."""
  plain = {name.lower().replace(' ', ''): value for name, value in slots.items()}
  return {SLOTS.get(name, name): _value(SLOTS.get(name, name), value)
          for name, value in plain.items()}


@functools.cache
def _value(slot: str, text: str) -> str:
  if slot in TIMES:
    return _time(text.strip().lower())
  if slot in NAMES:
    text = re.sub(' ?& ?', ' and ', text.strip().lower()).replace(" '", "'")
  elif slot == 'food':
    text = text.strip().lower()
  return VALUES.get(slot, {}).get(text, text)


def _time(text: str) -> str:
  """HH:MM where the text is a time of day, such as '5 pm'; else the text."""
  words = {'morning': '08:00', 'noon': '12:00', 'lunch': '12:00', 'afternoon': '13:00'}
  match = re.fullmatch(
      r'(?:by |after )?\s*(\d?\d)(?:\s*:?\s*(\d\d))?\s*(?:([ap])\.?m\.?)?[.,?]?', text)
  if match is None:
    return words.get(text, text.removesuffix('am'))
  hours, minutes, half = match.groups()
  hours = int(hours) % 12 + 12 if half == 'p' else int(hours)
  return f'{hours:02}:{minutes or "00"}'


@functools.cache
def similarity(a: str, b: str) -> int:
  """In percent, of the shorter text and a part of the longer one: fuzzywuzzy's partial ratio.

  Parts begin where a block that both have is aligned. rapidfuzz tries all parts, which finds more.
  """
  short, long = sorted((a, b), key=len)
  blocks = difflib.SequenceMatcher(None, short, long).get_matching_blocks()
  starts = {max(block.b - block.a, 0) for block in blocks}
  return round(100 * max(
      difflib.SequenceMatcher(None, short, long[start:start + len(short)]).ratio()
      for start in starts))
