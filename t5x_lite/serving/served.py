"""A model that is served: texts and conversations to requests of the engine."""

from collections.abc import Mapping, Sequence
import dataclasses
import functools
from typing import Any

from t5x_lite.core.errors import UserError
from t5x_lite.data.source import Chat
from t5x_lite.inference.generator import Generator
from t5x_lite.inference.sampling import Sampling
from t5x_lite.serving.engine import Engine, Request
from t5x_lite.serving.structure import Structures


class TooLong(UserError):
  """A prompt has no room in the context."""


@dataclasses.dataclass(frozen=True)
class Served:
  """What the API and the terminal ask.

  Attributes:
    engine: which answers.
    reader: whose tokenizers and frame of prompts are used.
    chats: by the model's name, how it reads conversations; None where it knows none.
    fingerprint: of the parameters; changes when answers do.
    created: when the model was loaded, in seconds since 1970.
  """
  engine: Engine
  reader: Generator
  chats: Mapping[str, Chat | None]
  fingerprint: str
  created: int

  @property
  def context(self) -> int:
    """Tokens that a prompt and what is written have together; of an encoder-decoder what is
    written."""
    return self.engine.slots.length

  def text_ids(self, text: str) -> tuple[list[int], bool]:
    """(ids of a text to continue, whether they begin as decoding does); raises TooLong."""
    room = self.context if self.reader.continues else self.reader.lengths['inputs']
    least = len(text.encode()) // self._longest_piece   # no tokenizer writes it in fewer
    if least > room:
      raise TooLong(f'the prompt has at least {least} tokens, and {room} are read')
    read = self.reader.read(text, room=room)
    if read.cut:
      raise TooLong(f'the prompt has {room + read.cut} tokens, and {room} are read')
    return read.ids, self.reader.frame is not None

  def chat_ids(self, model: str, messages: Sequence[Mapping[str, str]]
               ) -> tuple[list[int], bool]:
    """As `text_ids`, of a conversation; raises UserError where the model knows none."""
    chat = self.chats[model]
    if chat is None:
      raise UserError('the model was trained on no conversations: ask for completions, or name a '
                      'template by --gin.InferConfig.chat_template')
    for message in messages:
      if len(message['content'].encode()) // self._longest_piece > self.context:
        raise TooLong(f'a message is longer than the {self.context} tokens of the context')
    return chat.prompt(messages), False

  def request(self, ids: Sequence[int], framed: bool, *, model: str, sampling: Sampling,
              max_tokens: int | None, **fields: Any) -> Request:
    """The request to go on after `ids`; raises TooLong.

    Args:
      framed: whether the ids begin as decoding does.
      model: a name of the engine's.
      sampling: without its max_new_tokens.
      max_tokens: of each sample; None: as many as there is room for.
      fields: others of Request.
    """
    if not self.reader.continues and len(ids) > self.reader.lengths['inputs']:
      raise TooLong(f'the prompt has {len(ids)} tokens, and the encoder reads '
                    f'{self.reader.lengths["inputs"]}')
    (prompt,), batch = self.reader.begin([ids], framed)
    room = self.context - len(prompt)
    if room < 1 or max_tokens is not None and max_tokens > room:
      wanted = '' if max_tokens is None else f' and {max_tokens} new ones'
      raise TooLong(f'{len(prompt)} tokens of the prompt{wanted} are more than the context of '
                    f'{self.context} has room for: shorten the prompt, or lower max_tokens')
    sampling = dataclasses.replace(sampling, max_new_tokens=max_tokens or room)
    return Request(model=model, ids=prompt.tolist(), batch=batch, sampling=sampling, **fields)

  @functools.cached_property
  def structures(self) -> Structures:
    """What answers may be held to."""
    return Structures(self.reader.targets, self.engine.end_ids)

  @functools.cached_property
  def _longest_piece(self) -> int:
    """Bytes of the longest token of inputs."""
    return max(1, int(self.reader.inputs.byte_lengths().max()))

  @functools.cached_property
  def token_bytes(self) -> list[bytes]:
    """The bytes of the text of each id that is written, b'' of what has none."""
    tokenizer = self.reader.targets
    try:
      return [piece or b'' for piece in tokenizer.token_bytes()]
    except UserError:   # texts are not made up of pieces: each is decoded alone
      return [tokenizer.decode([i]).encode() for i in range(tokenizer.vocab_size)]
