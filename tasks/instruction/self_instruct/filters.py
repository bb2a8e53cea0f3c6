"""What is refused of what a model writes, and why (Wang et al. 2022, section 2.2)."""

import collections
from collections.abc import Iterable, Sequence
import re
import string

from tasks.instruction.self_instruct.prompts import Instance
from tasks.metrics.words import WordTokenizer

FEWEST_WORDS, MOST_WORDS = 4, 150
# What a model of text can neither read nor do.
_BEYOND_TEXT = re.compile(
    r'\b(images?|graphs?|pictures?|files?|maps?|draw|plot|go to)\b', re.IGNORECASE)
_ROUNDING = 1e-9   # of an F1 that is the threshold


def refuse_instruction(text: str) -> str | None:
  """Why an instruction is none that a model of text can follow; None if it is one."""
  words = len(text.split())
  if words < FEWEST_WORDS:
    return f'fewer than {FEWEST_WORDS} words'
  if words > MOST_WORDS:
    return f'more than {MOST_WORDS} words'
  if _BEYOND_TEXT.search(text):
    return 'of images, files and the like'
  if text.startswith('Write a program'):
    return 'asks for a program'
  if text[0] in string.punctuation:
    return 'begins with punctuation'
  return None if text[0].isascii() else 'begins with a letter that is not ASCII'


def keep_instances(found: Sequence[Instance], most: int) -> tuple[list[Instance], str | None]:
  """(the first instances that can be learned from, why there are none)."""
  outputs = collections.defaultdict(set)
  for given, output in found:
    outputs[given].add(output)
  if any(given and len(different) > 1 for given, different in outputs.items()):
    return [], 'one input has several outputs'
  kept = dict.fromkeys(pair for pair in found if _can_be_learned(*pair))
  if not kept:
    return [], 'no instance could be read' if not found else 'no instance is whole'
  return [*kept][:most], None


def _can_be_learned(given: str, output: str) -> bool:
  """An output that repeats the input, is empty or ends where more was to come is none."""
  return output not in ('', given) and not given.endswith(':') and not output.endswith(':')


class Pool:
  """Instructions, none of which is similar to another by ROUGE-L (F1 of words)."""

  def __init__(self, threshold: float, texts: Iterable[str] = ()):
    """`threshold`: the lowest ROUGE-L of two instructions that are similar."""
    from rouge_score import rouge_scorer  # slow to import, and --help needs none
    self.threshold, self._tokenizer = threshold, WordTokenizer()
    self._scorer = rouge_scorer.RougeScorer(['rougeL'], tokenizer=self._tokenizer)
    self._texts, self._counts, self._sizes = [], [], []
    for text in texts:
      self.add(text)

  def __len__(self) -> int:
    return len(self._texts)

  def add(self, text: str) -> None:
    """Adds an instruction, whatever it is like."""
    counts = self._count(text)
    self._texts.append(text)
    self._counts.append(counts)
    self._sizes.append(counts.total())

  def similar(self, text: str) -> tuple[float, str] | None:
    """(ROUGE-L, instruction) of the most similar in the pool, or None below the threshold."""
    counts, found = self._count(text), []
    size, lowest = counts.total(), self.threshold - _ROUNDING
    for other, other_counts, other_size in zip(self._texts, self._counts, self._sizes):
      # The longest common subsequence has at most the words that both have.
      if 2 * min(size, other_size) < lowest * (size + other_size):
        continue
      if 2 * (counts & other_counts).total() < lowest * (size + other_size):
        continue
      score = self._scorer.score(other, text)['rougeL'].fmeasure
      if score >= lowest:
        found.append((score, other))
    return max(found, default=None)

  def _count(self, text: str) -> collections.Counter:
    return collections.Counter(self._tokenizer.tokenize(text))
