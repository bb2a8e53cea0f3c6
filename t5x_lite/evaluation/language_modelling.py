"""Perplexity of documents, each of its own, and the loss by how much the model has read before."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from t5x_lite.core.errors import UserError
from t5x_lite.evaluation.likelihood import Request, Scored
from t5x_lite.evaluation.text_model import TextModel

SHOWN = 200   # characters of a document in a record


class Document(NamedTuple):
  """A text that is scored.

  Attributes:
    place: where it is, such as 'file:line'.
    text: of which every token is predicted.
    context: ids that are read before it and not scored, such as the inputs of a task.
  """
  place: str
  text: str
  context: Sequence[int] | None = None


class Band(NamedTuple):
  """The tokens before which the model has read at least `low` and at most `high` others.

  `loss` is their mean, nats a token, `tokens` how many they are.
  """
  low: int
  high: int
  tokens: int
  loss: float


def windows_of(document: Document, model: TextModel, stride: int | None) -> list[Request]:
  """What is scored of a document; [] of a text without a token."""
  reader, length = model.reader, model.max_length
  if document.context is not None:
    return reader.windows_after(document.context, document.text, length)
  if stride is None:
    return [*reader.windows(document.text, length)]
  return [*reader.sliding_windows(document.text, length, stride)]


def score_documents(documents: Sequence[Document], model: TextModel, stride: int | None = None
                    ) -> tuple[list[dict[str, Any]], list[Band]]:
  """(a record of each document, as of results.write_result; losses by position).

  A record has `tokens`, `words`, parted by blanks, and `bytes` of UTF-8 of the text, and the
  metric `nats`, the sum of -log p of all tokens that are scored.

  Args:
    documents: what is scored.
    model: that scores.
    stride: tokens from a window to the next, as of reader.sliding_windows; None: windows that
      share no more than one token.

  Raises UserError where no document has a token to predict.
  """
  windows = [windows_of(document, model, stride) for document in documents]
  scores = model.score([request for own in windows for request in own])
  if not scores:
    raise UserError('There is no token to predict: give more text')
  records, scored = [], iter(scores)
  for number, (document, own) in enumerate(zip(documents, windows)):
    found = [next(scored) for _ in own]
    if not found:
      continue
    text = document.text
    records.append({
        'id': number, 'place': document.place,
        'question': text if len(text) <= SHOWN else f'{text[:SHOWN]}…',
        'tokens': sum(len(s.logprobs) for s in found), 'words': len(text.split()),
        'bytes': len(text.encode()), 'metrics': {'nats': -sum(s.total for s in found)}})
  return records, by_position([request for own in windows for request in own], scores,
                              model.max_length)


def by_position(requests: Sequence[Request], scores: Sequence[Scored], length: int) -> list[Band]:
  """Losses by the tokens that are read before, in bands of powers of two; empty ones are left out.

  `length` is how many tokens the model reads: a context loses its first ones beyond it.
  """
  read = np.concatenate([_read_before(request, length) for request in requests])
  loss = -np.concatenate([scored.logprobs for scored in scores]).astype(np.float64)
  bands = []
  for low in 2 ** np.arange(int(read.max()).bit_length()):
    chosen = loss[(read >= low) & (read < 2 * low)]
    if len(chosen):
      bands.append(Band(int(low), int(min(2 * low - 1, read.max())), len(chosen),
                        float(chosen.mean())))
  return bands


def _read_before(request: Request, length: int) -> np.ndarray:
  """int [tokens of the continuation]: how many are read before each."""
  size = len(request.continuation)
  return min(len(request.context), max(length - size + 1, 1)) + np.arange(size)
