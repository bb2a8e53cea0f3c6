"""Vectors of utterances: of what is said in a context, and of what is annotated.

N utterances, D dimensions.
"""

from collections.abc import Callable, Sequence
import dataclasses
import re
from typing import Literal

import numpy as np

from t5x_lite.core.errors import UserError
from t5x_lite.dialogue.schema import Dialogue, Speaker, Turn
from t5x_lite.dialogue.texts import turn_text

# Texts -> [n, d]: TF-IDF here, or any sentence encoder.
Encoder = Callable[[Sequence[str]], np.ndarray]
Annotation = Literal['intents', 'entities', 'calls']
# Of masked text: words of two letters at least, as scikit-learn has them, and masks.
TOKEN = r'\[\w+\]|\b\w\w+\b'
# In this order, as a phone number is a number too. A code has digits among its capitals or letters:
# a reference such as J8IGNS09, a postcode such as cb21ab; or is what 'reference number is' names.
_MASKS = {
    '[phone]': r'\+?\b(?:\d[ -]?){9,13}\d\b',
    '[time]': r'\b\d{1,2}:\d{2}\b(?: ?[ap]\.?m\b\.?)?|\b\d{1,2} ?[ap]m\b',
    '[code]': r'(?:(?<=number is )|(?<=number is : ))(?-i:[A-Z0-9]{6,})\b|'
              r'\b[a-z]{1,2}\d{1,2}[a-z]? ?\d[a-z]{2}\b|'
              r'\b(?=[a-z]*\d)(?=\d*[a-z])(?!\d+(?:st|nd|rd|th)\b)[a-z0-9]{6,}\b',
    '[number]': r'\b\d+(?:[.,]\d+)*\b',
}
_PATTERNS = {name: re.compile(pattern, re.IGNORECASE) for name, pattern in _MASKS.items()}


@dataclasses.dataclass(frozen=True)
class Utterance:
  """A turn in its place.

  Attributes:
    dialogue, index: of the dialogue in its corpus, and of the turn in it.
    context: the text of the turn after those of the turns before it that count, one a line.
  """
  dialogue: int
  index: int
  turn: Turn
  context: str


def utterances(dialogues: Sequence[Dialogue], speaker: Speaker, context: int = 1,
               mask: bool = True, length: int | None = None, delexicalised: bool = False
               ) -> list[Utterance]:
  """What one side says.

  Args:
    context: turns that make up the text of an utterance, itself included.
    mask: whether numbers and codes are masked in the texts.
    length: turns of a dialogue after which it is cut off.
    delexicalised: whether values that are annotated are tags, such as [value_name].
  """
  prepare = mask_numbers if mask else str
  found = []
  for d, dialogue in enumerate(dialogues):
    texts = [prepare(turn_text(turn, delexicalised)) for turn in dialogue.turns[:length]]
    found += [Utterance(d, i, turn, '\n'.join(texts[max(i + 1 - context, 0):i + 1]))
              for i, turn in enumerate(dialogue.turns[:length]) if turn.speaker == speaker]
  return found


def mask_numbers(text: str) -> str:
  """Phone numbers, times of day, codes and other numbers in digits as [phone], [time], …"""
  for name, pattern in _PATTERNS.items():
    text = pattern.sub(name, text)
  return text


def fit_tfidf(texts: Sequence[str], dimensions: int = 100, seed: int = 0) -> Encoder:
  """TF-IDF of words and pairs of words, by SVD in fewer dimensions, each vector of length 1."""
  from sklearn.decomposition import TruncatedSVD
  from sklearn.feature_extraction.text import TfidfVectorizer
  from sklearn.pipeline import make_pipeline
  from sklearn.preprocessing import Normalizer
  if not any(re.search(TOKEN, text) for text in texts):
    raise UserError(f'{len(texts)} texts have no word of two letters: give dialogues in words')
  words = TfidfVectorizer(ngram_range=(1, 2), token_pattern=TOKEN)
  matrix = words.fit_transform(texts)
  svd = TruncatedSVD(min(dimensions, *matrix.shape), random_state=seed)
  svd.fit(matrix)
  return make_pipeline(words, svd, Normalizer()).transform


def annotation_names(turn: Turn, kinds: Sequence[Annotation]) -> list[str]:
  """What is annotated of a turn: intents with slots, slots of spans, databases that were asked."""
  names = []
  if 'intents' in kinds:
    names += [f'intent {act.domain} {act.intent} {act.slot}' for act in turn.acts]
  if 'entities' in kinds:
    names += [f'entity {span.domain} {span.slot}' for span in turn.spans]
  if 'calls' in kinds:
    names += [f'call {domain} {"none" if number == 0 else "one" if number == 1 else "several"}'
              for domain, number in (turn.results or {}).items()]
  return names


def fit_annotations(turns: Sequence[Turn], kinds: Sequence[Annotation]
                    ) -> Callable[[Sequence[Turn]], np.ndarray]:
  """Counts of what is annotated of each turn, [n, d], of length 1, or 0 where nothing is."""
  from sklearn.feature_extraction.text import CountVectorizer
  from sklearn.preprocessing import normalize
  if not any(annotation_names(turn, kinds) for turn in turns):
    raise UserError(f'no turn has {", ".join(kinds)} annotated: leave them out')
  counter = CountVectorizer(analyzer=lambda turn: annotation_names(turn, kinds))
  counter.fit(turns)
  return lambda turns: normalize(counter.transform(turns).toarray().astype(float))
