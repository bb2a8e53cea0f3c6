"""A feature of a seqio task as a Tokenizer."""

import numpy as np
import seqio

from tasks.vocabularies import vocabularies


class SeqioTokenizer:
  """See t5x_lite.data.source.Tokenizer; with the special ids as the tasks have them."""

  def __init__(self, feature: seqio.Feature):
    self.vocabulary, self.add_eos = feature.vocabulary, feature.add_eos

  @property
  def vocab_size(self) -> int:
    return self.vocabulary.vocab_size

  @property
  def pad_id(self) -> int:
    return self.vocabulary.pad_id

  @property
  def eos_id(self) -> int:
    return self.vocabulary.eos_id

  @property
  def start_id(self) -> int:
    """The vocabulary's BOS, else its padding."""
    return vocabularies.start_id(self.vocabulary)

  @property
  def cls_id(self) -> int:
    return vocabularies.cls_id(self.vocabulary)

  @property
  def mask_id(self) -> int:
    return vocabularies.mask_id(self.vocabulary)

  def encode(self, text: str) -> list[int]:
    return list(self.vocabulary.encode(text))

  def decode(self, ids: list[int]) -> str:
    return self.vocabulary.decode(ids)

  def model_ids(self, ids: np.ndarray) -> np.ndarray:
    return vocabularies.model_ids(self.vocabulary, ids)

  def byte_lengths(self) -> np.ndarray:
    return vocabularies.byte_lengths(self.vocabulary)
