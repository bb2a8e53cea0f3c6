"""Overlap of an evaluation set with training text, by n-grams of words, and the score without it.

The n-grams of the evaluation set are held, then the training text is read once: memory is bounded
by the evaluation set. Three published conventions are in CONVENTIONS; all count words here, without
case, punctuation, accents and white space.
"""

from collections.abc import Iterable, Mapping, Sequence
import dataclasses
import itertools
import re
from typing import Annotated, Any, Literal, NamedTuple
import unicodedata

import numpy as np

from t5x_lite.core.dataclass_checks import Count, Range, check_types
from t5x_lite.core.errors import UserError
from t5x_lite.data.files.texts import Text
from t5x_lite.evaluation.results import mean_of

_ASCII_WORD = re.compile(r'[a-z0-9]+')
# Han and kana are written without spaces: each character is a word.
_WORD = re.compile(r'[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff]|'
                   r'[^\W_\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff]+')
DEFAULT_FIELDS = ('question', 'choices', 'target')   # those of them that an item has


@dataclasses.dataclass(frozen=True, kw_only=True)
class Convention:
  """When an item counts as contaminated ('dirty').

  Attributes:
    n: words of an n-gram.
    rule: 'any': one n-gram of the item occurs; 'ngrams': at least the share `threshold` of its
      n-grams does; 'words': at least that share of its words is in n-grams that do, texts of
      fewer than n words left out.
    threshold: of 'ngrams' and 'words'.
  """
  n: Count
  rule: Literal['any', 'ngrams', 'words'] = 'any'
  threshold: Annotated[float, Range(above=0, max=1)] = 1.0

  def __post_init__(self):
    check_types(self)

  def __str__(self) -> str:
    if self.rule == 'any':
      return f'any of its {self.n}-grams occurs'
    what = f'its {self.n}-grams' if self.rule == 'ngrams' else f'its words in {self.n}-grams'
    return f'at least {self.threshold:.0%} of {what} occur'


# gpt3: Brown et al. 2020, appendix C, whose n is 8 to 13 by the lengths of a data set; the largest.
# palm: Chowdhery et al. 2022, section 8. llama2: Touvron et al. 2023b, appendix A.6, which counts
# tokens rather than words and lets n-grams longer than 10 differ in up to 4: neither is done here.
CONVENTIONS = {
    'gpt3': Convention(n=13),
    'palm': Convention(n=8, rule='ngrams', threshold=0.7),
    'llama2': Convention(n=11, rule='words', threshold=0.8),
}


def split_words(text: str) -> list[str]:
  """The words of a text as they are compared: runs of letters and digits, in lower case.

  Accents and compatibility forms fall away (NFKD: 'ﬁ' is 'fi', 'é' is 'e'); all else parts words.
  """
  if text.isascii():
    return _ASCII_WORD.findall(text.lower())
  plain = unicodedata.normalize('NFKD', text).casefold()
  return _WORD.findall(''.join(c for c in plain if not unicodedata.combining(c)))


class Item(NamedTuple):
  """An item of an evaluation set: its id, and texts, over whose ends no n-gram goes."""
  id: Any
  texts: tuple[str, ...]


class Overlap(NamedTuple):
  """What of an item occurs in the training text.

  Attributes:
    id: of the item.
    num_ngrams: of its texts, repeated ones included; 0: it is too short for any.
    share_ngrams: of them that occur.
    share_words: of the words of its texts that have an n-gram, those that are in such n-grams.
    ngram: the first that occurs, as it is compared; '' if none does.
    place: where that was first found.
  """
  id: Any
  num_ngrams: int
  share_ngrams: float
  share_words: float
  ngram: str = ''
  place: str = ''

  def is_dirty(self, convention: Convention) -> bool:
    """Whether a convention counts the item as contaminated."""
    if convention.rule == 'any':
      return bool(self.ngram)
    share = self.share_ngrams if convention.rule == 'ngrams' else self.share_words
    return bool(self.ngram) and share >= convention.threshold


class NgramIndex:
  """The n-grams of items, which training text is compared with.

  Attributes:
    num_texts, num_words: of the training text that was read.
  """

  def __init__(self, items: Sequence[Item], n: int):
    self._items, self._n = items, n
    self._ids: dict[str, int] = {}
    self._numbers: dict[bytes, int] = {}   # of each distinct n-gram
    self._places: dict[int, str] = {}      # where an n-gram was first found, by its number
    self.num_texts = self.num_words = 0
    self._grams = [[self._add(text) for text in item.texts] for item in items]

  def _add(self, text: str) -> np.ndarray:
    """Numbers of the n-grams of a text of an item, [words - n + 1] or [0]."""
    ids = np.array([self._ids.setdefault(word, len(self._ids)) for word in split_words(text)],
                   np.int32)
    data, step = ids.tobytes(), ids.itemsize
    keys = [data[i * step:(i + self._n) * step] for i in range(len(ids) - self._n + 1)]
    return np.array([self._numbers.setdefault(key, len(self._numbers)) for key in keys], np.int64)

  def read(self, texts: Iterable[Text]) -> None:
    """Notes which n-grams occur in training text; one that goes on is read across its parts."""
    held = np.empty(0, np.int32)
    for place, text, continues in texts:
      words = split_words(text)
      self.num_texts += 1
      self.num_words += len(words)
      numbers = map(self._ids.get, words, itertools.repeat(-1))
      ids = np.fromiter(numbers, np.int32, len(words))
      if continues:
        ids = np.concatenate([held, ids])
      self._find(ids, place)
      held = ids[max(len(ids) - self._n + 1, 0):]

  def _find(self, ids: np.ndarray, place: str) -> None:
    n, step = self._n, ids.itemsize
    if len(ids) < n:
      return
    unknown = np.concatenate([[0], np.cumsum(ids < 0)])   # before each word
    data = ids.tobytes()
    for start in np.flatnonzero(unknown[n:] == unknown[:-n]).tolist():
      number = self._numbers.get(data[start * step:(start + n) * step])
      if number is not None:
        self._places.setdefault(number, place)

  def overlaps(self) -> list[Overlap]:
    """Of each item with the text that was read."""
    return [self._overlap(item, grams) for item, grams in zip(self._items, self._grams)]

  def _overlap(self, item: Item, grams: Sequence[np.ndarray]) -> Overlap:
    num_ngrams = num_found = num_words = num_covered = 0
    ngram = place = ''
    for text, numbers in zip(item.texts, grams):
      words = split_words(text)
      found = np.array([number in self._places for number in numbers.tolist()], bool)
      covered = np.zeros(len(words), bool)
      for start in np.flatnonzero(found).tolist():
        covered[start:start + self._n] = True
      if found.any() and not ngram:
        start = int(np.argmax(found))
        ngram, place = ' '.join(words[start:start + self._n]), self._places[int(numbers[start])]
      num_ngrams += len(numbers)
      num_found += int(found.sum())
      num_words += len(words) if len(numbers) else 0   # short choices are in no n-gram
      num_covered += int(covered.sum())
    return Overlap(item.id, num_ngrams, num_found / max(num_ngrams, 1),
                   num_covered / max(num_words, 1), ngram, place)


def make_items(records: Sequence[Mapping[str, Any]], fields: Sequence[str] | None, where: str
               ) -> list[Item]:
  """The Items of records; of lists and objects in a field each text is one of its own.

  Args:
    records: with `id`, or else numbered from 0.
    fields: whose texts are compared; None: those of DEFAULT_FIELDS that a record has.
    where: the file, for messages.

  Raises:
    UserError: there are no records, or one lacks a field or has no text in any.
  """
  if not records:
    raise UserError(f'{where} has no items')
  items = []
  for number, record in enumerate(records):
    name = record.get('id', number)
    missing = [field for field in fields or () if field not in record]
    texts = tuple(text for field in fields or DEFAULT_FIELDS
                  for text in _texts_of(record.get(field)))
    if missing or not texts:
      what = f'no field {missing[0]!r}' if missing else (
          f'no text in {", ".join(fields or DEFAULT_FIELDS)}')
      raise UserError(f'{where}: item {name} has {what}: name those of its fields that are '
                      f'compared by --fields, of {", ".join(map(str, record))}')
    items.append(Item(name, texts))
  return items


def _texts_of(value: Any) -> list[str]:
  if isinstance(value, str):
    return [value]
  parts = value.values() if isinstance(value, Mapping) else value
  return [text for part in parts for text in _texts_of(part)] if (
      isinstance(value, Mapping | list | tuple)) else []


class Score(NamedTuple):
  """A mean over items, its standard error (sd / sqrt(n), None below two items), and their number.
  """
  mean: float | None
  error: float | None
  number: int


def score_of(values: Sequence[float]) -> Score:
  """The Score of values of items; a mean of None without any."""
  return Score(*mean_of(values), len(values)) if len(values) else Score(None, None, 0)


PARTS = ('all', 'clean', 'dirty', 'short')


def compare_scores(records: Sequence[Mapping[str, Any]], overlaps: Sequence[Overlap],
                   convention: Convention) -> dict[str, dict[str, Score]]:
  """{metric: {part of PARTS: Score}} of the items of an evaluation.

  `clean` are those that could be compared and are not dirty; `short` could not be. A metric's value
  is the mean of its items' parts: for one that is no such mean (F1 of a corpus) this is not its
  figure.
  """
  parts = {'all': range(len(records)), 'clean': [], 'dirty': [], 'short': []}
  for i, overlap in enumerate(overlaps):
    parts[part_of(overlap, convention)].append(i)
  values = [{name: value for name, value in (record.get('metrics') or {}).items()
             if isinstance(value, int | float)} for record in records]
  names = dict.fromkeys(name for value in values for name in value)
  return {name: {part: score_of([values[i][name] for i in chosen if name in values[i]])
                 for part, chosen in parts.items()} for name in names}


def part_of(overlap: Overlap, convention: Convention) -> str:
  """'short', 'dirty' or 'clean'."""
  if not overlap.num_ngrams:
    return 'short'
  return 'dirty' if overlap.is_dirty(convention) else 'clean'


def make_report(index: NgramIndex, records: Sequence[Mapping[str, Any]], convention: Convention,
                ) -> dict[str, Any]:
  """What was found, as JSON has it: see docs/contamination.md."""
  overlaps = index.overlaps()
  groups = {part: [o for o in overlaps if part_of(o, convention) == part] for part in PARTS[1:]}
  return {
      'convention': dataclasses.asdict(convention) | {'in_words': str(convention)},
      'training': {'texts': index.num_texts, 'words': index.num_words},
      'items': len(overlaps), **{f'num_{part}': len(found) for part, found in groups.items()},
      'dirty': [overlap._asdict() for overlap in groups['dirty']],
      'short': [overlap.id for overlap in groups['short']],
      'scores': {name: {part: score._asdict() for part, score in parts.items()}
                 for name, parts in compare_scores(records, overlaps, convention).items()},
  }


def as_text(report: Mapping[str, Any], num_shown: int = 5) -> str:
  """A report for the terminal, with the first of the items that were found."""
  training, items = report['training'], report['items']
  lines = [f'{training["words"]:,} words of training text in {training["texts"]:,} texts; an item '
           f'is dirty if {report["convention"]["in_words"]}',
           f'{report["num_dirty"]:,} of {items:,} items are dirty, {report["num_clean"]:,} clean, '
           f'{report["num_short"]:,} too short for an n-gram']
  for found in report['dirty'][:num_shown]:
    lines.append(f'  item {found["id"]}: {found["share_ngrams"]:.0%} of {found["num_ngrams"]} '
                 f'n-grams, first {found["ngram"]!r} at {found["place"]}')
  if len(report['dirty']) > num_shown:
    lines.append(f'  and {len(report["dirty"]) - num_shown:,} more in the file')
  for name, parts in report['scores'].items():
    shown = [f'{part} {_shown(score)}' for part, score in parts.items() if score['number']]
    lines.append(f'{name}: ' + ', '.join(shown))
  return '\n'.join(lines)


def _shown(score: Mapping[str, Any]) -> str:
  error = '' if score['error'] is None else f' ± {score["error"]:.4f}'
  return f'{score["mean"]:.4f}{error} ({score["number"]:,})'
