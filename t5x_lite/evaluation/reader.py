"""Texts as the ids that a model scores, by the rules of lm-evaluation-harness."""

from collections.abc import Iterator, Sequence
import functools

from t5x_lite.core.errors import UserError
from t5x_lite.data.source import Tokenizer
from t5x_lite.evaluation.likelihood import Request
from t5x_lite.models import ModelConfig


class TextReader:
  """Contexts and continuations as ids.

  A decoder reads a context and its continuation as one text, whose ids are parted where those of
  the context alone end; blanks at the end of a context belong to the continuation. An encoder reads
  them so, too. An encoder-decoder has the context in its encoder, each being a text of its own.
  """

  def __init__(self, config: ModelConfig, inputs: Tokenizer, targets: Tokenizer,
               frame: tuple[Sequence[int], Sequence[int]] | None = None):
    """Makes one.

    Args:
      config: of the model.
      inputs, targets: tokenizers of what is read and of what is written.
      frame: ids before and after what is read, as of an imported model; None: as tasks train.

    Raises UserError for a model that predicts no tokens.
    """
    if config.has_classes or not config.predicts_tokens:
      raise UserError('The model predicts no tokens but classes: it cannot score texts')
    self.family, self._inputs, self._targets = config.family, inputs, targets
    self.start_id = targets.start_id if self.family != 'encoder_only' else inputs.cls_id
    self.before, self.after = _frame_as_trained(config.family, inputs, targets)
    if frame is not None:
      self.before, self.after = map(list, frame)
    self._read_once = functools.lru_cache(1)(self.read)   # the context of several continuations

  def read(self, text: str) -> list[int]:
    """Ids of a text, with what begins it, and what ends it in the encoder of an encoder-decoder."""
    return self.framed(self._inputs.encode(text))

  def framed(self, ids: Sequence[int]) -> list[int]:
    """Ids with what begins every text, and what ends it in an encoder of an encoder-decoder."""
    return [*self.before, *ids, *(self.after if self.family == 'encoder_decoder' else ())]

  def plain(self, text: str) -> list[int]:
    """Ids of a text alone, as a continuation."""
    return self._targets.encode(text)

  @property
  def end_id(self) -> int:
    """That ends a text."""
    return self._targets.eos_id

  def pair(self, context: str, continuation: str) -> Request:
    """Ids of a context, which may be empty, and of what is scored after it.

    Raises UserError where no token of the continuation is left, as of an empty one.
    """
    if context:
      kept = context.rstrip()
      context, continuation = kept, context[len(kept):] + continuation
    if self.family == 'encoder_decoder':
      request = Request(self.read(context) if context else [self._inputs.eos_id],
                        self._targets.encode(continuation))
    elif context:
      read = self._read_once(context)
      request = Request(read, self.read(context + continuation)[len(read):])
    else:
      ids = self._inputs.encode(continuation)
      skip = ids[:1] == [self.start_id]
      request = Request([self.start_id], ids[skip:])
    if not request.continuation:
      raise UserError(f'{continuation!r:.60} has no token of its own after its context: no score')
    if not request.context:   # such as blanks alone, of a model that nothing begins
      request = request._replace(context=[self.start_id])
    return request

  def windows(self, text: str, length: int, score_start: bool = False) -> Iterator[Request]:
    """A text as windows of at most `length` tokens, each token scored once.

    The first window begins with the id that starts decoding; each other one has as much of the text
    before it as fits, and at least the last token. What begins every text, as a tokenizer's own
    start, is no part of it, unless `score_start`: lm-evaluation-harness has it predicted, too.
    """
    ids = self.read(text) if score_start else self._inputs.encode(text)
    done = 0
    while done < len(ids):
      end = done + min(length, len(ids) - done)
      context = ids[max(end - length - 1, 0):done] if done else [self.start_id]
      yield Request(context, ids[done:end])
      done = end

  def sliding_windows(self, text: str, length: int, stride: int) -> Iterator[Request]:
    """A text as windows of `length` tokens, each `stride` after the one before, which overlap.

    Each token is scored once, in the first window that has it. What begins every text is read and
    not scored; without such a start the first token is not. So is the perplexity of fixed-length
    models in the guide of transformers. Raises UserError for a stride that leaves no context.
    """
    if not 0 < stride < length:
      raise UserError(f'--stride={stride}: give 1 to {length - 1}, less than the {length} tokens '
                      'of a window')
    ids = self.read(text)
    done = max(len(self.before), 1)
    for begin in range(0, len(ids), stride):
      end = min(begin + length, len(ids))
      if end > done:
        yield Request(ids[begin:done], ids[done:end])
        done = end

  def windows_after(self, context: Sequence[int], text: str, length: int) -> list[Request]:
    """A text after ids that are read before it and not scored, each token scored once.

    A decoder reads as much as fits before each window, a window being at least half of `length`.
    An encoder-decoder has the context in its encoder, and the text as one.
    """
    ids = self.plain(text)
    if self.family == 'encoder_decoder':
      return [Request([*context], ids)] * bool(ids)
    read, windows, done = [*self.before, *context] or [self.start_id], [], 0
    while done < len(ids):
      known = [*read, *ids[:done]]
      end = done + max(length - len(known) + 1, length // 2, 1)
      windows.append(Request(known, ids[done:end]))
      done = end
    return windows


def _frame_as_trained(family: str, inputs: Tokenizer, targets: Tokenizer
                      ) -> tuple[list[int], list[int]]:
  """Ids before and after what models of a family read in training here."""
  if family == 'decoder_only':
    return [targets.start_id], []
  after = [inputs.eos_id] if inputs.add_eos else []
  if family == 'encoder_only':
    return [inputs.cls_id], list(getattr(inputs, 'end_ids', None) or after)
  return [], after
