"""A Hugging Face tokenizer.json, or a rank file of tiktoken, as a seqio vocabulary."""

from collections.abc import Sequence

import numpy as np
import seqio
import tensorflow as tf

from t5x_lite.core.errors import UserError
from t5x_lite.interop.tokenizer_files import TokenizerFile
from tasks.vocabularies.pad_alias import model_ids, seqio_ids


class TokenizerVocabulary(seqio.Vocabulary):
  """The ids of a TokenizerFile, with 0 for padding alone, as seqio takes it everywhere.

  Attributes:
    file: the TokenizerFile.
    pad_alias: the id that stands for the file's 0, one past the last; None where that is padding.
    cls_id, mask_id: of [CLS] and [MASK] or <mask>, or None.
  """

  def __init__(self, path: str):
    """Raises UserError as TokenizerFile."""
    self.file = file = TokenizerFile(path)
    super().__init__(extra_ids=file.extra_ids)
    self.path, self.digest = file.path, file.digest
    used = file.eos_id, file.bos_id, file.unk_id, file.cls_id, file.mask_id
    self.pad_alias = None if file.pad_id == 0 and 0 not in used else file.size
    self.cls_id, self.mask_id = self._own(file.cls_id), self._own(file.mask_id)

  def _own(self, i: int | None) -> int | None:
    """An id of the file as seqio is to see it."""
    return self.pad_alias if i == 0 and self.pad_alias is not None else i

  @property
  def bos_id(self) -> int | None:
    return self._own(self.file.bos_id)

  @property
  def eos_id(self) -> int:
    """Raises UserError if the tokenizer has no end of text, as GPT-1's."""
    if self.file.eos_id is None:
      raise UserError(f'{self.path} has no end-of-text token: name the eos_token in '
                      'tokenizer_config.json beside it')
    return self._own(self.file.eos_id)

  @property
  def unk_id(self) -> int | None:
    return self._own(self.file.unk_id)

  @property
  def _base_vocab_size(self) -> int:
    return self.file.size - self.extra_ids

  def decode(self, ids) -> str:
    """Text up to the first end of text; special tokens stand for none."""
    return self.file.decode(model_ids(self, list(ids)).tolist())

  def encode_prompt(self, text: str, named: Sequence[int]) -> list[int]:
    """Ids of a text in which the tokens `named` may be spelled."""
    return seqio_ids(self, self.file.encode(text, model_ids(self, named).tolist())).tolist()

  def _encode(self, s: str) -> list[int]:
    ids = self.file.encode(s)
    return ids if self.pad_alias is None else [i or self.pad_alias for i in ids]

  def _decode(self, ids: Sequence[int]) -> str:
    return self.file.decode_all(model_ids(self, ids).tolist())

  def _encode_tf(self, s: tf.Tensor) -> tf.Tensor:
    # Called outside a graph, numpy_function gives an array where it else gives bytes.
    text_of = lambda s: np.asarray(s, object).item().decode()
    encode = lambda s: np.asarray(self._encode(text_of(s)), np.int32)
    ids = tf.numpy_function(encode, [s], tf.int32)
    return tf.ensure_shape(ids, [None])

  def _decode_tf(self, ids: tf.Tensor) -> tf.Tensor:
    decode = lambda ids: self.decode(ids.tolist()).encode()
    return tf.ensure_shape(tf.numpy_function(decode, [ids], tf.string), [])

  def __eq__(self, other) -> bool:
    return isinstance(other, TokenizerVocabulary) and (
        self.digest, self.file.eos_id, self.bos_id) == (
            other.digest, other.file.eos_id, other.bos_id)

  def __str__(self) -> str:
    return f'TokenizerVocabulary({self.path})'
