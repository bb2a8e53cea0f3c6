"""A SentencePiece model as a seqio vocabulary: id 0 is padding alone, and text is text."""

from collections.abc import Sequence
import functools
import pathlib
import re
import struct

import sentencepiece
from sentencepiece import sentencepiece_model_pb2
import seqio
import tensorflow as tf
import tensorflow_text as tf_text

from t5x_lite.core.errors import UserError
from t5x_lite.interop.json_files import read_optional
from tasks.vocabularies.pad_alias import model_ids

_SENTINEL = re.compile(r'▁?<extra_id_\d+>')
# A table of normalisations in SentencePiece's form, without an entry: the bytes of its trie, the
# trie (a root that leads nowhere), and its texts. Where a model has no table, TensorFlow Text says
# so on stderr, each time that it reads it.
_NO_RULES = struct.pack('<II', 1024, 1 << 10) + bytes(1020) + b'\0'


class SentencePieceVocabulary(seqio.SentencePieceVocabulary):
  """seqio's, but for ids of text: sentinels and other control tokens that are spelled there are not
  taken for such, and the model's id 0 has another one unless it is padding.

  Attributes:
    pad_alias: the id that stands for the model's 0, one past the last; None where that is padding.
  """

  def load_model(self) -> None:
    """Raises UserError for a model without end of text."""
    super().load_model()
    if self.tokenizer.eos_id() < 0:
      raise UserError(f'{self.sentencepiece_model_file} has no end-of-text piece: train the model '
                      'with an eos_id')

  @property
  def pad_alias(self) -> int | None:
    return None if self.tokenizer.pad_id() == 0 else self.vocab_size

  @property
  def bos_id(self) -> int:
    return self._own(self.tokenizer.bos_id())

  @property
  def eos_id(self) -> int:
    return self._own(self.tokenizer.eos_id())

  @property
  def unk_id(self) -> int:
    return self._own(self.tokenizer.unk_id())

  def decode(self, ids) -> str:
    """Text up to the first end of text."""
    ids = [int(i) for i in ids]
    ids = ids[:ids.index(self.eos_id)] if self.eos_id in ids else ids
    return self._decode(ids)

  def _own(self, i: int) -> int:
    """An id of the model as seqio is to see it."""
    return i if i or self.pad_alias is None else self.pad_alias

  def _encode(self, s: str) -> Sequence[int]:
    return [self._own(i) for i in _processor(self._text_model).EncodeAsIds(s)]

  def _decode(self, ids: Sequence[int]) -> str:
    return super()._decode(model_ids(self, ids).tolist())

  def _encode_tf(self, s: tf.Tensor) -> tf.Tensor:
    ids = tf_text.SentencepieceTokenizer(model=self._text_model).tokenize(s)
    return ids if self.pad_alias is None else tf.where(ids == 0, self.pad_alias, ids)

  def _decode_tf(self, ids: tf.Tensor) -> tf.Tensor:
    alias = self.pad_alias
    return super()._decode_tf(ids if alias is None else tf.where(ids == alias, 0, ids))

  @property
  def _text_model(self) -> bytes:
    return _text_model(self.sp_model, self.sentencepiece_model_file)


@functools.cache
def _text_model(model: bytes, path: str) -> bytes:
  """The model with its sentinels, and what tokenizer_config.json calls special, as control pieces.

  SentencePiece never finds those in a text, as it does user-defined pieces.
  """
  config = pathlib.Path(path).with_name('tokenizer_config.json')
  added = read_optional(config).get('added_tokens_decoder', {})
  special = {token['content'] for token in added.values() if token.get('special')}
  proto = sentencepiece_model_pb2.ModelProto.FromString(model)
  kinds = proto.SentencePiece
  for piece in proto.pieces:
    if piece.type == kinds.USER_DEFINED and (
        _SENTINEL.fullmatch(piece.piece) or piece.piece in special):
      piece.type = kinds.CONTROL
  if not proto.normalizer_spec.precompiled_charsmap:
    proto.normalizer_spec.precompiled_charsmap = _NO_RULES
  return proto.SerializeToString()


@functools.cache
def _processor(model: bytes) -> sentencepiece.SentencePieceProcessor:
  return sentencepiece.SentencePieceProcessor(model_proto=model)
