"""A feature of a seqio task as a Tokenizer."""

import re

import numpy as np
import seqio

from tasks.vocabularies import vocabularies
from tasks.vocabularies.pad_alias import model_ids, seqio_ids
from tasks.vocabularies.tokenizer_vocabulary import TokenizerVocabulary


class SeqioTokenizer:
  """See t5x_lite.data.source.Tokenizer; with the special ids as the tasks have them."""

  def __init__(self, feature: seqio.Feature):
    self.vocabulary, self.add_eos = feature.vocabulary, feature.add_eos

  @property
  def vocab_size(self) -> int:
    return self.vocabulary.vocab_size

  @property
  def eos_id(self) -> int:
    """-1 where no token ends a text."""
    file = getattr(self.vocabulary, 'file', None)
    none = file is not None and file.eos_id is None   # of which the vocabulary raises
    eos_id = None if none else self.vocabulary.eos_id
    return -1 if eos_id is None else self._own(eos_id)

  @property
  def start_id(self) -> int:
    """The vocabulary's BOS, else its padding."""
    return self._own(vocabularies.start_id(self.vocabulary))

  @property
  def cls_id(self) -> int:
    return self._own(vocabularies.cls_id(self.vocabulary))

  @property
  def end_ids(self) -> list[int]:
    """What ends a text that an encoder-only model reads; often nothing."""
    return self._own(vocabularies.separator_ids(self.vocabulary))

  @property
  def mask_id(self) -> int:
    return self._own(vocabularies.mask_id(self.vocabulary))

  @property
  def mask_spelling(self) -> str:
    return next(iter(vocabularies.prompt_tokens(self.vocabulary, 'mask')))

  def encode(self, text: str) -> list[int]:
    return self._own(self.vocabulary.encode(text))

  def encode_prompt(self, text: str, kind: str) -> tuple[list[int], int]:
    """Ids of a prompt in which control tokens are spelled, and how many of them there are.

    Args:
      text: the prompt.
      kind: 'mask', spelled [MASK] or as the tokenizer has it, or 'sentinels', spelled <extra_id_0>
        and so on.
    """
    names = vocabularies.prompt_tokens(self.vocabulary, kind)
    known = isinstance(self.vocabulary, TokenizerVocabulary) and self.vocabulary.file.control
    if known and all(known.get(self._own(i)) == name for name, i in names.items()):
      ids = self.vocabulary.encode_prompt(text, [*names.values()])
    elif names:
      parts = re.split('(' + '|'.join(map(re.escape, names)) + ')', text)
      ids = [i for part in parts
             for i in ([names[part]] if part in names else self.vocabulary.encode(part))]
    else:
      ids = self.vocabulary.encode(text)
    return self._own(ids), sum(i in {*names.values()} for i in ids)

  def decode(self, ids: list[int]) -> str:
    return self.vocabulary.decode(seqio_ids(self.vocabulary, ids).tolist())

  def byte_lengths(self) -> np.ndarray:
    return vocabularies.byte_lengths(self.vocabulary)

  def token_bytes(self) -> list[bytes | None]:
    return vocabularies.token_bytes(self.vocabulary)

  def _own(self, ids):
    """Ids as models read them."""
    return model_ids(self.vocabulary, ids).tolist()
