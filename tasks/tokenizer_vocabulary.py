"""A Hugging Face tokenizer.json, or a rank file of tiktoken, as a seqio vocabulary."""

from collections.abc import Iterator, Sequence
import hashlib
import json
import pathlib
from typing import Any

import numpy as np
import seqio
import tensorflow as tf
import tokenizers

from t5x_lite.errors import UserError
from tasks import tiktoken_ranks

_EOS = ('</s>', '<|endoftext|>', '<|end_of_text|>', '<eos>', '[SEP]', '<|im_end|>')
_BOS = ('<s>', '<|begin_of_text|>', '<bos>', '[CLS]')


class TokenizerVocabulary(seqio.Vocabulary):
  """The ids of a fast tokenizer, whatever its model: byte-level BPE, WordPiece, Unigram.

  seqio takes 0 for padding everywhere. Where 0 is a piece of text, as in GPT-2 and LLaMA 3, that
  piece has the id `stand_in`, one past the last, inside seqio; `own_ids` gives the tokenizer's own,
  which models read and write, and `decode` takes either. Beginning and end of text are those that
  tokenizer_config.json beside the file names, else the usual ones.

  Attributes:
    stand_in: the id that stands for 0, or None if 0 is padding or special.
    cls_id, mask_id: of [CLS] and [MASK] or <mask>, or None.
  """

  def __init__(self, path: str):
    """Raises UserError if the file is neither of the two, or names no end of text."""
    self.path = pathlib.Path(path)
    content = tiktoken_ranks.tokenizer_json(path)
    try:
      self.tokenizer = tokenizers.Tokenizer.from_str(content)
    except Exception as error:   # tokenizers raises Exception itself
      raise UserError(f'{path} is not a tokenizer.json: {error}') from error
    self.tokenizer.no_truncation()
    self.tokenizer.no_padding()
    self.digest = hashlib.sha256(content.encode()).hexdigest()
    self._json = json.loads(content)
    ids = self.tokenizer.get_vocab(with_added_tokens=True)
    self._size = max(ids.values()) + 1
    sentinels = 0   # T5's: <extra_id_0> is the last id, <extra_id_1> the one before it, …
    while ids.get(f'<extra_id_{sentinels}>') == self._size - 1 - sentinels:
      sentinels += 1
    super().__init__(extra_ids=sentinels)
    self._eos = self._special('eos_token', _EOS)
    self._bos = self._special('bos_token', _BOS)
    if self._eos is None:
      raise UserError(f'{path} has none of {", ".join(_EOS)}: name the eos_token in '
                      'tokenizer_config.json beside it')
    unknown = self._json['model'].get('unk_token')
    if isinstance(self._json['model'].get('unk_id'), int):   # Unigram
      unknown = self.tokenizer.id_to_token(self._json['model']['unk_id'])
    self._unk = None if unknown is None else ids.get(unknown)
    self.cls_id = ids.get('[CLS]')
    self.mask_id = ids.get('[MASK]', ids.get('<mask>'))
    self._specials = {t['id'] for t in self._json.get('added_tokens', ()) if t['special']}
    self.stand_in = None if 0 in self._specials or self._unk == 0 else self._size
    if self._bos is None and self.stand_in is not None:
      self._bos = self._eos   # as GPT-2 has it; seqio's padding would be a piece of text

  def _special(self, name: str, usual: Sequence[str]) -> int | None:
    config = self.path.with_name('tokenizer_config.json')
    tokens = list(usual)
    if config.exists():
      token = json.loads(config.read_text(encoding='utf-8')).get(name)
      token = token.get('content') if isinstance(token, dict) else token
      tokens = [token] if token else [] if name == 'bos_token' else tokens
    ids = (self.tokenizer.token_to_id(token) for token in tokens)
    return next((i for i in ids if i is not None), None)

  @property
  def bos_id(self) -> int | None:
    return self._bos

  @property
  def eos_id(self) -> int:
    return self._eos

  @property
  def unk_id(self) -> int | None:
    return self._unk

  @property
  def _base_vocab_size(self) -> int:
    return self._size - self.extra_ids

  def own_ids(self, ids: np.ndarray) -> np.ndarray:
    """seqio's ids -> the tokenizer's."""
    return ids if self.stand_in is None else np.where(ids == self.stand_in, 0, ids)

  def decode(self, ids) -> str:
    """Text up to the first end of text; special tokens stand for none."""
    ids = [int(i) for i in ids]
    if self._eos in ids:
      ids = ids[:ids.index(self._eos)]
    return self._decode(ids)

  def _encode(self, s: str) -> list[int]:
    ids = self.tokenizer.encode(s, add_special_tokens=False).ids
    return ids if self.stand_in is None else [i or self.stand_in for i in ids]

  def _decode(self, ids: Sequence[int]) -> str:
    own = [0 if i == self.stand_in else i for i in ids if i < self._size or i == self.stand_in]
    return self.tokenizer.decode(own, skip_special_tokens=True)

  def _encode_tf(self, s: tf.Tensor) -> tf.Tensor:
    # Called outside a graph, numpy_function gives an array where it else gives bytes.
    text_of = lambda s: np.asarray(s, object).item().decode()
    encode = lambda s: np.asarray(self._encode(text_of(s)), np.int32)
    ids = tf.numpy_function(encode, [s], tf.int32)
    return tf.ensure_shape(ids, [None])

  def _decode_tf(self, ids: tf.Tensor) -> tf.Tensor:
    decode = lambda ids: self.decode(ids.tolist()).encode()
    return tf.ensure_shape(tf.numpy_function(decode, [ids], tf.string), [])

  def byte_lengths(self) -> np.ndarray:
    """int32 [vocab_size]: bytes of text of each id; 0 for special ids.

    A word that WordPiece begins counts its space; what it lower-cases and strips is not counted.
    """
    kinds = set(_types(self._json.get('decoder')))

    def size(i: int) -> int:
      piece = self.tokenizer.id_to_token(i)
      if piece is None or i in self._specials or i == self._unk:
        return 0
      if 'ByteLevel' in kinds:   # each byte is one character there
        return len(piece)
      if 'WordPiece' in kinds:
        return len(piece[2:].encode()) if piece.startswith('##') else len(piece.encode()) + 1
      if len(piece) == 6 and piece.startswith('<0x'):
        return 1
      return len(piece.replace('▁', ' ').encode())

    return np.asarray([size(i) for i in range(self._size)], np.int32)

  def __eq__(self, other) -> bool:
    return isinstance(other, TokenizerVocabulary) and (
        self.digest, self._eos, self._bos) == (other.digest, other.eos_id, other.bos_id)

  def __str__(self) -> str:
    return f'TokenizerVocabulary({self.path})'


def _types(node: Any) -> Iterator[str]:
  """The types of a decoder and of those it is made of."""
  if isinstance(node, dict):
    yield node.get('type', '')
    yield from (kind for part in node.get('decoders', ()) for kind in _types(part))
