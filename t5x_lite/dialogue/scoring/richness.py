"""Lexical richness of a system's responses: how long, how varied, how predictable they are."""

from collections import Counter
from collections.abc import Iterable
import dataclasses
import math
import re

_MARKS = re.compile(r"``|SYM|['.,?!()%/\-_:;]")


@dataclasses.dataclass(frozen=True)
class Richness:
  """Of normalised responses.

  Attributes:
    length: mean number of words of a response.
    words, bigrams, trigrams: how many different ones there are.
    entropy: of words, in bits.
    conditional_entropy: of a word where the one before is known, in bits.
  """
  length: float
  words: int
  bigrams: int
  trigrams: int
  entropy: float
  conditional_entropy: float


def words_of(response: str) -> list[str]:
  """In lower case, without marks; a response of none is one empty word, as published."""
  return re.split(r'\s+', _MARKS.sub('', response).lower())


def richness(responses: Iterable[list[str]]) -> Richness:
  """Of responses as lists of words, one at least."""
  responses = list(responses)
  grams = [Counter(gram for words in responses for gram in zip(*(words[i:] for i in range(n))))
           for n in (1, 2, 3)]
  number = grams[0].total()
  pairs = [(count, grams[0][gram[:1]]) for gram, count in grams[1].items()]
  return Richness(
      length=number / len(responses), words=len(grams[0]), bigrams=len(grams[1]),
      trigrams=len(grams[2]),
      entropy=-math.fsum(c / number * math.log2(c / number) for c in grams[0].values()),
      conditional_entropy=-math.fsum(c / number * math.log2(c / first) for c, first in pairs))
