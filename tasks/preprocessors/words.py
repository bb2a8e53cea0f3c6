"""Where words begin among tokens."""

import numpy as np
import seqio
import tokenizers

from t5x_lite.core.errors import UserError
from tasks import vocabularies


def starts_word(vocabulary: seqio.Vocabulary) -> np.ndarray:
  """Returns a bool array [vocab_size]: whether a word begins with each id.

  A word is a piece that begins with the mark of a space ('▁' of SentencePiece, 'Ġ' of byte-level
  BPE), or a WordPiece piece that does not begin with '##', and all pieces that follow it; of
  bytes, an ASCII white space and all others that follow it. The first token of a text begins a
  word in any case. A tokenizer's stand-in for id 0 comes on top, as the last.

  Raises:
    UserError: the vocabulary is of another kind.
  """
  if isinstance(vocabulary, seqio.ByteVocabulary):
    low, _ = vocabularies.ordinary_ids(vocabulary)
    begins = np.zeros(vocabulary.vocab_size, bool)
    begins[[low + byte for byte in b' \t\n\r\v\f']] = True
    return begins
  if isinstance(vocabulary, seqio.SentencePieceVocabulary):
    alias = [0] if getattr(vocabulary, 'pad_alias', None) else []
    pieces = [vocabulary.tokenizer.IdToPiece(i) for i in [*range(vocabulary.vocab_size), *alias]]
  elif isinstance(vocabulary, vocabularies.TokenizerVocabulary):
    ids = [*range(vocabulary.vocab_size), 0]
    pieces = [vocabulary.file.tokenizer.id_to_token(i) or '' for i in ids]
    if isinstance(vocabulary.file.tokenizer.model, tokenizers.models.WordPiece):
      return np.array([not piece.startswith('##') for piece in pieces])
  else:
    raise UserError(
        f'whole words of a {type(vocabulary).__name__} are not known: use a byte vocabulary, a '
        'SentencePiece model or a tokenizer.json, or whole_words=False'
    )
  return np.array([piece.startswith(('▁', 'Ġ')) for piece in pieces])
