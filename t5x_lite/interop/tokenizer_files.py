"""Tokenizer files: their names, and the ids of a tokenizer.json or of a tiktoken rank file."""

from collections.abc import Iterator, Sequence
import hashlib
import json
import pathlib
import shutil
from typing import Any

import numpy as np
import tokenizers

from t5x_lite.core.errors import UserError
from t5x_lite.interop import tiktoken_ranks

# The files that accompany a Hugging Face checkpoint, besides config.json and its tensors.
NAMES = (
    'tokenizer.json', 'tokenizer_config.json', 'special_tokens_map.json', 'added_tokens.json',
    'spiece.model', 'tokenizer.model', 'vocab.json', 'merges.txt', 'vocab.txt',
    'chat_template.jinja', 'generation_config.json')
# Those of them that a run reads its vocabulary from, in order of preference.
READABLE = ('tokenizer.json', 'spiece.model', 'tokenizer.model')
_EOS = ('</s>', '<|endoftext|>', '<|end_of_text|>', '<eos>', '[SEP]', '<|im_end|>')
_BOS = ('<s>', '<|begin_of_text|>', '<bos>', '[CLS]')


def copy_files(source: pathlib.Path, target: pathlib.Path, names: Sequence[str] = NAMES
               ) -> list[str]:
  """Copies those files that the folder `source` has; returns their names."""
  found = [name for name in names if (source / name).is_file()]
  for name in found:
    target.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source / name, target / name)
  return found


class TokenizerFile:
  """The ids of a fast tokenizer, whatever its model: byte-level BPE, WordPiece, Unigram.

  Where id 0 is a piece of text, as in GPT-2 and LLaMA 3, and the reader needs 0 for padding, that
  piece has the id `pad_alias`, one past the last; `model_ids` gives the tokenizer's own, which
  models read and write, and `decode` takes either. Beginning and end of text are those named
  by tokenizer_config.json beside the file, else the usual ones.

  Attributes:
    size: one more than the highest id.
    extra_ids: T5's sentinels, which are its last ids.
    eos_id, bos_id, unk_id, cls_id, mask_id: of the special tokens; None for those it lacks.
    pad_alias: the id that stands for 0, or None if 0 is padding or special.
    digest: SHA-256 of the file's content.
  """

  def __init__(self, path: str):
    """Raises UserError if the file is of neither format, or has no end-of-text token."""
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
    self.size = max(ids.values()) + 1
    self.extra_ids = 0   # <extra_id_0> is the last id, <extra_id_1> the one before it, …
    while ids.get(f'<extra_id_{self.extra_ids}>') == self.size - 1 - self.extra_ids:
      self.extra_ids += 1
    self.eos_id = self._special('eos_token', _EOS)
    self.bos_id = self._special('bos_token', _BOS)
    if self.eos_id is None:
      raise UserError(f'{path} has none of {", ".join(_EOS)}: name the eos_token in '
                      'tokenizer_config.json beside it')
    unknown = self._json['model'].get('unk_token')
    if isinstance(self._json['model'].get('unk_id'), int):   # Unigram
      unknown = self.tokenizer.id_to_token(self._json['model']['unk_id'])
    self.unk_id = None if unknown is None else ids.get(unknown)
    self.cls_id = ids.get('[CLS]')
    self.mask_id = ids.get('[MASK]', ids.get('<mask>'))
    self._specials = {t['id'] for t in self._json.get('added_tokens', ()) if t['special']}
    self.pad_alias = None if 0 in self._specials or self.unk_id == 0 else self.size
    if self.bos_id is None and self.pad_alias is not None:
      self.bos_id = self.eos_id   # as GPT-2 has it; id 0 would be a piece of text

  def _special(self, name: str, usual: Sequence[str]) -> int | None:
    config = self.path.with_name('tokenizer_config.json')
    tokens = list(usual)
    if config.exists():
      token = json.loads(config.read_text(encoding='utf-8')).get(name)
      token = token.get('content') if isinstance(token, dict) else token
      tokens = [token] if token else [] if name == 'bos_token' else tokens
    ids = (self.tokenizer.token_to_id(token) for token in tokens)
    return next((i for i in ids if i is not None), None)

  def model_ids(self, ids: np.ndarray) -> np.ndarray:
    """Ids with the alias of padding -> the tokenizer's."""
    return ids if self.pad_alias is None else np.where(ids == self.pad_alias, 0, ids)

  def encode(self, text: str) -> list[int]:
    """Ids of a text, without special tokens."""
    ids = self.tokenizer.encode(text, add_special_tokens=False).ids
    return ids if self.pad_alias is None else [i or self.pad_alias for i in ids]

  def decode(self, ids: Sequence[int]) -> str:
    """Text up to the first end of text; special tokens have none."""
    ids = [int(i) for i in ids]
    if self.eos_id in ids:
      ids = ids[:ids.index(self.eos_id)]
    return self.decode_all(ids)

  def decode_all(self, ids: Sequence[int]) -> str:
    """Text of all ids, also of those after an end of text."""
    own = [0 if i == self.pad_alias else i for i in ids if i < self.size or i == self.pad_alias]
    return self.tokenizer.decode(own, skip_special_tokens=True)

  def byte_lengths(self) -> np.ndarray:
    """int32 [size]: bytes of text of each id; 0 for special ids.

    A word that WordPiece begins counts its space; what it lower-cases and strips is not counted.
    """
    kinds = set(_types(self._json.get('decoder')))

    def size(i: int) -> int:
      piece = self.tokenizer.id_to_token(i)
      if piece is None or i in self._specials or i == self.unk_id:
        return 0
      if 'ByteLevel' in kinds:   # each byte is one character there
        return len(piece)
      if 'WordPiece' in kinds:
        return len(piece[2:].encode()) if piece.startswith('##') else len(piece.encode()) + 1
      if len(piece) == 6 and piece.startswith('<0x'):
        return 1
      return len(piece.replace('▁', ' ').encode())

    return np.asarray([size(i) for i in range(self.size)], np.int32)


def _types(node: Any) -> Iterator[str]:
  """The types of a decoder and of its parts."""
  if isinstance(node, dict):
    yield node.get('type', '')
    yield from (kind for part in node.get('decoders', ()) for kind in _types(part))


def special_ids(path: str) -> dict[str, int]:
  """{'eos_token_id': …} and the like of a tokenizer file of any kind that a run reads."""
  if tiktoken_ranks.is_tokenizer(path):
    file = TokenizerFile(path)
    ids = {'eos_token_id': file.eos_id, 'bos_token_id': -1 if file.bos_id is None else file.bos_id,
           'pad_token_id': 0 if file.pad_alias is None else file.eos_id}
  else:
    import sentencepiece
    model = sentencepiece.SentencePieceProcessor(path)
    ids = {'pad_token_id': model.pad_id(), 'eos_token_id': model.eos_id(),
           'bos_token_id': model.bos_id()}
  return {name: i for name, i in ids.items() if i >= 0}
