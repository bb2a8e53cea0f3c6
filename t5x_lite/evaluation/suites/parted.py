"""Texts parted where their ids begin, or cease, to differ: what a choice has of its own is scored.

So nanochat does, after DCLM. Unlike lm-evaluation-harness, what all choices begin with is context,
and each text begins with the id that starts texts, also where a tokenizer adds none.
"""

from collections.abc import Sequence

from t5x_lite.evaluation.likelihood import Request
from t5x_lite.evaluation.reader import TextReader


def part_endings(reader: TextReader, context: str, choices: Sequence[str]) -> list[Request]:
  """Each choice after the context; what all begin with is part of the context.

  Where one choice begins all the others, the last token that they share is scored, too: of that
  choice none would be left. The choices of an encoder-decoder are whole, in its decoder.
  """
  if reader.family == 'encoder_decoder':
    return [reader.pair(context, choice) for choice in choices]
  texts = [_ids(reader, context + choice) for choice in choices]
  start = min(_shared(texts), min(map(len, texts)) - 1)
  return [Request(ids[:start], ids[start:]) for ids in texts]


def part_beginnings(reader: TextReader, beginnings: Sequence[str], ending: str) -> list[Request]:
  """The ending after each beginning, with what the beginnings end alike with.

  At least one token is context, and one is scored. The ending of an encoder-decoder is by itself.
  """
  if reader.family == 'encoder_decoder':
    return [reader.pair(beginning, ending) for beginning in beginnings]
  texts = [_ids(reader, beginning + ending) for beginning in beginnings]
  size = max(1, min(_shared([ids[::-1] for ids in texts]), min(map(len, texts)) - 1))
  return [Request(ids[:-size], ids[-size:]) for ids in texts]


def part_ending(reader: TextReader, context: str, ending: str) -> Request:
  """What follows the context; blanks at the end of this belong to the ending."""
  if reader.family == 'encoder_decoder':
    return reader.pair(context, ending)
  ids = _ids(reader, context + ending)
  start = min(_shared([_ids(reader, context.rstrip()), ids]), len(ids) - 1)
  return Request(ids[:start], ids[start:])


def _ids(reader: TextReader, text: str) -> list[int]:
  ids = reader.read(text)
  return ids if reader.before or ids[:1] == [reader.start_id] else [reader.start_id, *ids]


def _shared(texts: Sequence[Sequence[int]]) -> int:
  """How many ids all begin with."""
  for i, ids in enumerate(zip(*texts)):
    if len({*ids}) > 1:
      return i
  return min(map(len, texts))
