"""A rendered conversation as ids, and which of them are an answer's.

Control tokens are those that the template wrote; their spelling in a message is text.
"""

import bisect
from collections.abc import Callable, Mapping
import dataclasses
from typing import Protocol

from t5x_lite.interop.json_files import token_text
from t5x_lite.interop.plain_text import aliased_tokenizer
from t5x_lite.interop.tokenizer_files import TokenizerFile
from tasks.instruction.chat_template import Rendered

_NAMED = ('bos_token', 'eos_token', 'unk_token', 'sep_token', 'pad_token', 'cls_token',
          'mask_token')


class ChatTokens(Protocol):
  """How a tokenizer writes conversations.

  Attributes:
    tokens: `eos_token` and the like, as templates name them.
    control: the id of each control token by its spelling.
  """

  tokens: Mapping[str, str]
  control: Mapping[str, int]

  def encode(self, rendered: Rendered) -> tuple[list[int], list[int]]:
    """(ids, 1 for each that is an answer's, else 0) of a conversation."""


class FileTokens:
  """Of a tokenizer.json: the whole text at once, as transformers tokenises it.

  A token that an answer begins or ends within is the answer's.
  """

  def __init__(self, file: TokenizerFile):
    self.control = {spelling: i for i, spelling in file.control.items()}
    self.tokens = _named_tokens(file)
    self._tokenizer, self._aliases = aliased_tokenizer(file.spec, file.control.values())

  def encode(self, rendered: Rendered) -> tuple[list[int], list[int]]:
    """See ChatTokens."""
    text, parts, at, moved = rendered.text, [], 0, 0
    starts, shifts = [0], [0]   # from which character on, by how much a place is moved
    for begin, end in rendered.control:
      alias = self._aliases[text[begin:end]]
      parts += [text[at:begin], alias]
      moved += len(alias) - (end - begin)
      starts.append(end)
      shifts.append(moved)
      at = end
    encoding = self._tokenizer.encode(''.join([*parts, text[at:]]), add_special_tokens=False)
    place = lambda i: i + shifts[bisect.bisect_right(starts, i) - 1]
    begins, ends = zip(*encoding.offsets) if encoding.offsets else ((), ())
    mask = [0] * len(encoding.ids)
    for begin, end in rendered.answers:
      first, stop = bisect.bisect_right(ends, place(begin)), bisect.bisect_left(begins, place(end))
      mask[first:stop] = [1] * (stop - first)
    return encoding.ids, mask


@dataclasses.dataclass(frozen=True)
class PieceTokens:
  """Of any other vocabulary: each text between control tokens and ends of answers by itself.

  Attributes:
    tokens, control: see ChatTokens.
    encode_text: the ids of a text.
  """

  tokens: Mapping[str, str]
  control: Mapping[str, int]
  encode_text: Callable[[str], list[int]]

  def encode(self, rendered: Rendered) -> tuple[list[int], list[int]]:
    """See ChatTokens."""
    text, ids, mask = rendered.text, [], []
    written = {begin: end for begin, end in rendered.control}
    cuts = {0, len(text)} | {i for span in (*rendered.control, *rendered.answers) for i in span}
    cuts = sorted(cuts)
    for begin, end in zip(cuts, cuts[1:]):
      control = written.get(begin) == end
      found = [self.control[text[begin:end]]] if control else self.encode_text(text[begin:end])
      ids += found
      mask += [int(any(a <= begin and end <= b for a, b in rendered.answers))] * len(found)
    return ids, mask


def _named_tokens(file: TokenizerFile) -> dict[str, str]:
  """As tokenizer_config.json has them; without that file, those usual for the tokenizer."""
  tokens = {name: token_text(file.config.get(name)) for name in _NAMED}
  usual = {'eos_token': file.eos_id} if file.config else {
      'eos_token': file.eos_id, 'bos_token': file.bos_id, 'pad_token': file.pad_id}
  for name, i in usual.items():
    tokens[name] = tokens[name] or file.control.get(i)
  return {name: token for name, token in tokens.items() if token}
