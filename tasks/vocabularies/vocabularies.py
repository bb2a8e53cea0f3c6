"""Vocabularies: bytes, SentencePiece models, Hugging Face tokenizers; what tasks ask of them."""

import hashlib
import os
import pathlib

import numpy as np
import seqio

from t5x_lite.core.errors import UserError
from t5x_lite.interop import tiktoken_ranks
from t5x_lite.interop.json_files import read_optional
from tasks.vocabularies.pad_alias import model_ids, seqio_ids
from tasks.vocabularies.sentencepiece_vocabulary import SentencePieceVocabulary
from tasks.vocabularies.tokenizer_vocabulary import TokenizerVocabulary

# 3 special ids, 256 bytes and 125 extra ids are 384 ids: three tiles of 128, with a sentinel for
# each noise span of inputs of up to 2,048 ids.
BYTE_VOCABULARY = seqio.ByteVocabulary(extra_ids=125)


def mask_id(vocabulary: seqio.Vocabulary) -> int:
  """Returns the id that stands for a masked position: the tokenizer's own, or the last extra id."""
  own = getattr(vocabulary, 'mask_id', None)
  if own is not None:
    return own
  require_extra_ids(vocabulary, 2, 'a mask id and a class id')
  return vocabulary.vocab_size - 1


def cls_id(vocabulary: seqio.Vocabulary) -> int:
  """Returns the id that begins the inputs of an encoder-only task: as `mask_id`, last but one."""
  own = getattr(vocabulary, 'cls_id', None)
  if own is not None:
    return own
  require_extra_ids(vocabulary, 2, 'a mask id and a class id')
  return vocabulary.vocab_size - 2


def separator_ids(vocabulary: seqio.Vocabulary) -> list[int]:
  """Returns a list of the tokenizer's own [SEP], which ends what a BERT reads, or an empty one."""
  file = getattr(vocabulary, 'file', None)
  own = None if file is None or file.cls_id is None else file.tokenizer.token_to_id('[SEP]')
  return [] if own is None else seqio_ids(vocabulary, [own]).tolist()


def start_id(vocabulary: seqio.Vocabulary) -> int:
  """What the decoder reads before the first token: the vocabulary's BOS, else its padding."""
  try:
    bos = vocabulary.bos_id
  except NotImplementedError:
    bos = None
  return vocabulary.pad_id if bos is None or bos < 0 else bos


def prompt_tokens(vocabulary: seqio.Vocabulary, kind: str) -> dict[str, int]:
  """Returns {spelling: id} of what a prompt may name: its 'mask', or the 'sentinels'."""
  if kind == 'mask':
    own = getattr(vocabulary, 'file', None)
    spelling = own.control[own.mask_id] if own and own.mask_id is not None else '[MASK]'
    return {spelling: mask_id(vocabulary)}
  return {f'<extra_id_{i}>': vocabulary.vocab_size - 1 - i for i in range(vocabulary.extra_ids)}


def template_ids(vocabulary: seqio.Vocabulary, text: str) -> list[int]:
  """Returns the ids of a text of a template, which means the control token that is spelled so."""
  own = getattr(vocabulary, 'file', None)
  i = own and own.tokenizer.token_to_id(text)
  if i is not None and i in own.control:
    return seqio_ids(vocabulary, [i]).tolist()
  return list(vocabulary.encode(text))


def fingerprint(vocabulary: seqio.Vocabulary) -> str:
  """A short text that is the same for vocabularies that give the same ids, at any path."""
  if isinstance(vocabulary, seqio.ByteVocabulary):
    return f'bytes+{vocabulary.extra_ids}'
  if isinstance(vocabulary, seqio.SentencePieceVocabulary):
    digest = hashlib.sha256(vocabulary.sp_model).hexdigest()
    return f'sentencepiece {digest[:16]}+{vocabulary.extra_ids}'
  if isinstance(vocabulary, TokenizerVocabulary):
    return f'tokenizer {vocabulary.digest[:16]}'
  return str(vocabulary)


def ordinary_ids(vocabulary: seqio.Vocabulary) -> tuple[int, int]:
  """Returns the half-open range of ids that stand for text: neither special nor extra ids."""
  special = (vocabulary.pad_id, vocabulary.eos_id, vocabulary.unk_id)
  own = model_ids(vocabulary, [i for i in special if i is not None])
  return int(own.max()) + 1, first_extra_id(vocabulary)


def first_extra_id(vocabulary: seqio.Vocabulary) -> int:
  """Returns the lowest of the extra ids, which are the last of the vocabulary."""
  return vocabulary.vocab_size - vocabulary.extra_ids


def byte_lengths(vocabulary: seqio.Vocabulary) -> np.ndarray:
  """Returns an int32 array [vocab_size]: bytes of normalised text that each model id stands for.

  Padding, end of text, unknown, control and extra ids stand for none. A piece that begins a
  SentencePiece word stands for a space too; a model trained with the dummy prefix so counts one
  space too many a text. What the text itself has is in tasks/pipeline/text_bytes.py.
  """
  if isinstance(vocabulary, TokenizerVocabulary):
    return vocabulary.file.byte_lengths()
  return np.asarray([len(piece or b'') for piece in token_bytes(vocabulary)], np.int32)


def token_bytes(vocabulary: seqio.Vocabulary) -> list[bytes | None]:
  """Returns the bytes of text of each model id, a SentencePiece word with the space before it.

  Padding, end of text, unknown, control and extra ids stand for none. Raises UserError for a
  vocabulary whose text is not what its tokens add up to.
  """
  if isinstance(vocabulary, TokenizerVocabulary):
    return vocabulary.file.token_bytes()
  pieces = [None] * vocabulary.vocab_size
  if isinstance(vocabulary, seqio.ByteVocabulary):
    low, high = ordinary_ids(vocabulary)
    pieces[low:high] = [bytes([b]) for b in range(high - low)]
    return pieces
  if not isinstance(vocabulary, seqio.SentencePieceVocabulary):
    raise UserError(
        f'a {type(vocabulary).__name__} has no bytes of text; use a ByteVocabulary or a '
        'SentencePieceVocabulary'
    )
  model = vocabulary.tokenizer
  for i in range(first_extra_id(vocabulary)):
    if model.IsByte(i):
      pieces[i] = bytes([int(model.IdToPiece(i)[3:5], 16)])
    elif not (model.IsControl(i) or model.IsUnknown(i) or model.IsUnused(i)):
      pieces[i] = model.IdToPiece(i).replace('▁', ' ').encode()
  return pieces


def load_vocabulary(path: str) -> seqio.Vocabulary:
  """Returns the vocabulary named by `path`.

  Args:
    path: 'byte', or a SentencePiece model, a tokenizer.json or a rank file of tiktoken.

  Raises:
    UserError: there is no such file, or it is none of them.
  """
  if path == 'byte':
    return BYTE_VOCABULARY
  if path == 'none':
    raise UserError('this model was imported without a tokenizer: pass --gin.VOCABULARY=FILE, or '
                    'import it again with --vocabulary=FILE')
  if not os.path.isfile(path):
    raise UserError(
        f"load_vocabulary: no file {path!r}; give 'byte', a tokenizer.json, a rank file of "
        'tiktoken or the .model file of a SentencePiece model, as t5x-lite train-vocab writes'
    )
  if tiktoken_ranks.is_tokenizer(path):
    return TokenizerVocabulary(path)
  # T5 writes there how many sentinels it has, and import how many rows are left for them.
  beside = read_optional(pathlib.Path(path).with_name('tokenizer_config.json'))
  vocabulary = SentencePieceVocabulary(path, extra_ids=beside.get('extra_ids', 100))
  try:
    vocabulary.load_model()
  except UserError:
    raise
  except Exception as error:  # Protobuf and SentencePiece raise types of their own.
    raise UserError(f'load_vocabulary: {path!r} is not a SentencePiece model: {error}') from error
  return vocabulary


def require_extra_ids(vocabulary: seqio.Vocabulary, count: int, use: str) -> None:
  """Raises UserError if the vocabulary has fewer extra ids than `use` needs."""
  if vocabulary.extra_ids < count:
    raise UserError(
        f'{vocabulary} has {vocabulary.extra_ids} extra ids, but {use} need {count}: make it with '
        f'extra_ids={count} or more'
    )
