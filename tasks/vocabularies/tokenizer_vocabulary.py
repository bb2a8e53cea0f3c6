"""A Hugging Face tokenizer.json, or a rank file of tiktoken, as a seqio vocabulary."""

from collections.abc import Sequence

import numpy as np
import seqio
import tensorflow as tf

from t5x_lite.interop.tokenizer_files import TokenizerFile


class TokenizerVocabulary(seqio.Vocabulary):
  """The ids of a TokenizerFile, with 0 for padding, as seqio takes it everywhere.

  Attributes:
    file: the TokenizerFile.
    pad_alias: the id that stands for 0, or None if 0 is padding or special.
    cls_id, mask_id: of [CLS] and [MASK] or <mask>, or None.
  """

  def __init__(self, path: str):
    """Raises UserError as TokenizerFile."""
    self.file = TokenizerFile(path)
    super().__init__(extra_ids=self.file.extra_ids)
    self.path, self.digest = self.file.path, self.file.digest
    self.pad_alias = self.file.pad_alias
    self.cls_id, self.mask_id = self.file.cls_id, self.file.mask_id

  @property
  def bos_id(self) -> int | None:
    return self.file.bos_id

  @property
  def eos_id(self) -> int:
    return self.file.eos_id

  @property
  def unk_id(self) -> int | None:
    return self.file.unk_id

  @property
  def _base_vocab_size(self) -> int:
    return self.file.size - self.extra_ids

  def model_ids(self, ids: np.ndarray) -> np.ndarray:
    """seqio's ids -> the tokenizer's."""
    return self.file.model_ids(ids)

  def decode(self, ids) -> str:
    """Text up to the first end of text; special tokens stand for none."""
    return self.file.decode(ids)

  def _encode(self, s: str) -> list[int]:
    return self.file.encode(s)

  def _decode(self, ids: Sequence[int]) -> str:
    return self.file.decode_all(ids)

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
    """int32 [size]: bytes of text of each id; see TokenizerFile."""
    return self.file.byte_lengths()

  def __eq__(self, other) -> bool:
    return isinstance(other, TokenizerVocabulary) and (
        self.digest, self.eos_id, self.bos_id) == (other.digest, other.eos_id, other.bos_id)

  def __str__(self) -> str:
    return f'TokenizerVocabulary({self.path})'
