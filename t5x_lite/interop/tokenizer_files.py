"""Tokenizer files: their names, and the ids of a tokenizer.json or of a tiktoken rank file."""

from collections.abc import Iterator, Sequence
import functools
import hashlib
import json
import pathlib
import shutil
import sys
from typing import Any

import numpy as np
import tokenizers

from t5x_lite.core.errors import UserError
from t5x_lite.interop import tiktoken_ranks
from t5x_lite.interop.json_files import read_optional, token_text
from t5x_lite.interop.plain_text import text_tokenizer

# The files that accompany a Hugging Face checkpoint, besides config.json and its tensors.
NAMES = (
    'tokenizer.json', 'tokenizer_config.json', 'special_tokens_map.json', 'added_tokens.json',
    'spiece.model', 'tokenizer.model', 'vocab.json', 'merges.txt', 'vocab.txt',
    'chat_template.jinja', 'generation_config.json')
# Those of them that a run reads its vocabulary from, in order of preference.
READABLE = ('tokenizer.json', 'spiece.model', 'tokenizer.model')
_EOS = ('</s>', '<|endoftext|>', '<|end_of_text|>', '<eos>', '[SEP]', '<|im_end|>')
_BOS = ('<s>', '<|begin_of_text|>', '<bos>', '[CLS]')
_PAD = ('<pad>', '[PAD]', '<|pad|>', '<|padding|>')


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

  Text is text: what spells a control token there is split as any other. Beginning, end and padding
  are those named by tokenizer_config.json beside the file, else the usual ones.

  Attributes:
    size: one more than the highest id.
    extra_ids: T5's sentinels, which are its last ids.
    eos_id, bos_id, pad_id, unk_id, cls_id, mask_id: of the special tokens; None for those it lacks.
    control: {id: token} of all ids that no text stands for.
    digest: SHA-256 of the file's content.
    spec: the content, as JSON.
    config: tokenizer_config.json beside it; {} without one.
  """

  def __init__(self, path: str):
    """Raises UserError if the file is of neither format."""
    self.path = pathlib.Path(path)
    content = tiktoken_ranks.tokenizer_json(path)
    try:
      self.tokenizer = tokenizers.Tokenizer.from_str(content)
    except Exception as error:   # tokenizers raises Exception itself
      raise UserError(f'{path} is not a tokenizer.json: {error}') from error
    self.tokenizer.no_truncation()
    self.tokenizer.no_padding()
    self.digest = hashlib.sha256(content.encode()).hexdigest()
    self.spec = json.loads(content)
    self.config = read_optional(self.path.with_name('tokenizer_config.json'))
    ids = self.tokenizer.get_vocab(with_added_tokens=True)
    self.size = max(ids.values()) + 1
    self.extra_ids = 0   # <extra_id_0> is the last id, <extra_id_1> the one before it, …
    while ids.get(f'<extra_id_{self.extra_ids}>') == self.size - 1 - self.extra_ids:
      self.extra_ids += 1
    self.eos_id = self._special('eos_token', _EOS)
    self.bos_id = self._special('bos_token', _BOS)
    self.pad_id = self._special('pad_token', _PAD)
    unknown = self.spec['model'].get('unk_token')
    if isinstance(self.spec['model'].get('unk_id'), int):   # Unigram
      unknown = self.tokenizer.id_to_token(self.spec['model']['unk_id'])
    self.unk_id = None if unknown is None else ids.get(unknown)
    self.cls_id = ids.get('[CLS]')
    self.mask_id = ids.get('[MASK]', ids.get('<mask>'))
    self.control = self._control_tokens()
    if self.bos_id is None and 0 not in self.control:
      self.bos_id = self.eos_id   # as GPT-2 has it; id 0 would be a piece of text
    self._encoders = {}
    self._known, self._warnings = set(), 5   # characters met, and warnings to come

  def _special(self, name: str, usual: Sequence[str]) -> int | None:
    tokens = list(usual)
    if self.config:
      token = token_text(self.config.get(name))
      tokens = [token] if token else [] if name == 'bos_token' else tokens
    ids = (self.tokenizer.token_to_id(token) for token in tokens)
    return next((i for i in ids if i is not None), None)

  def _control_tokens(self) -> dict[int, str]:
    added = [*(self.spec.get('added_tokens') or ()),
             *self.config.get('added_tokens_decoder', {}).values()]
    tokens = {t['content'] for t in added if t.get('special')}
    tokens |= {token_text(token) for token in self.config.get('additional_special_tokens') or ()}
    ids = {self.tokenizer.token_to_id(token) for token in tokens if token}
    ids |= {self.eos_id, self.bos_id, self.pad_id, self.unk_id, self.cls_id, self.mask_id,
            *range(self.size - self.extra_ids, self.size)}
    return {i: self.tokenizer.id_to_token(i) for i in ids if i is not None}

  def encode(self, text: str, named: Sequence[int] = ()) -> list[int]:
    """Ids of a text, without special tokens.

    Args:
      text: taken for text alone.
      named: control ids that their spelling in the text does stand for.

    Raises UserError for text that the tokenizer has neither pieces nor an unknown token for; where
    it leaves out such characters, says so on stderr, once for each of the first few.
    """
    if self._drops and not self._known.issuperset(text):
      self._say_dropped(text)
    return self._ids(text, named)

  def _ids(self, text: str, named: Sequence[int] = ()) -> list[int]:
    try:
      return self.encoder(named).encode(text, add_special_tokens=False).ids
    except Exception as error:   # tokenizers raises Exception itself
      raise UserError(f'{self.path} has no ids for {text[:40]!r} ({error}): add an unknown token '
                      'to it, or use a tokenizer that falls back to bytes') from error

  def _is_dropped(self, character: str) -> bool:
    """Whether no id stands for a character that the tokenizer's normalising keeps."""
    normalizer = self.encoder().normalizer
    kept = normalizer.normalize_str(character) if normalizer else character
    return bool(kept.strip()) and not self._ids(character)

  @functools.cached_property
  def _drops(self) -> bool:
    """Whether characters without a piece are left out, tried with some that hardly any has."""
    try:
      return any(map(self._is_dropped, '\ue123\U00010900\u2603'))
    except UserError:   # it refuses them
      return False

  def _say_dropped(self, text: str) -> None:
    for character in sorted(set(text) - self._known):
      if self._warnings and self._is_dropped(character):
        self._warnings -= 1
        more = '' if self._warnings else '; further ones are not reported'
        print(f'warning: {self.path} has neither a piece nor an unknown token for {character!r}, '
              f'which is left out of all text{more}', file=sys.stderr)
    self._known.update(text)

  def encoder(self, named: Sequence[int] = ()) -> tokenizers.Tokenizer:
    """The tokenizer that `encode` uses."""
    named = tuple(named)
    if named not in self._encoders:
      self._encoders[named] = text_tokenizer(
          self.spec, self.control.values(), [self.control[i] for i in named])
    return self._encoders[named]

  def decode(self, ids: Sequence[int]) -> str:
    """Text up to the first end of text; special tokens have none."""
    ids = [int(i) for i in ids]
    if self.eos_id in ids:
      ids = ids[:ids.index(self.eos_id)]
    return self.decode_all(ids)

  def decode_all(self, ids: Sequence[int]) -> str:
    """Text of all ids, also of those after an end of text."""
    return self.tokenizer.decode([i for i in ids if i < self.size], skip_special_tokens=True)

  def byte_lengths(self) -> np.ndarray:
    """int32 [size]: bytes of text of each id, as it is normalised; 0 for control ids.

    A word that WordPiece begins counts its space; what it lower-cases and strips is not counted.
    """
    return np.asarray([len(piece or b'') for piece in self._pieces()], np.int32)

  def token_bytes(self) -> list[bytes | None]:
    """Bytes of text of each id, None for control ids.

    Raises UserError for a tokenizer whose text is not what its pieces add up to.
    """
    if {'WordPiece', 'BPEDecoder'} & set(_types(self.spec.get('decoder'))):
      raise UserError(f'{self.path}: its tokens are of words, not of bytes: a constraint of the '
                      'output needs a byte-level or SentencePiece tokenizer')
    return self._pieces()

  def _pieces(self) -> list[bytes | None]:
    kinds = set(_types(self.spec.get('decoder')))
    byte_of = {c: bytes([b]) for b, c in enumerate(tiktoken_ranks.byte_characters())}

    def of(i: int) -> bytes | None:
      piece = self.tokenizer.id_to_token(i)
      if piece is None or i in self.control:
        return None
      if 'ByteLevel' in kinds:   # each byte is one character there, but in tokens that were added
        whole = all(c in byte_of for c in piece)
        return b''.join(map(byte_of.get, piece)) if whole else piece.encode()
      if 'WordPiece' in kinds:
        return piece[2:].encode() if piece.startswith('##') else b' ' + piece.encode()
      if len(piece) == 6 and piece.startswith('<0x'):
        return bytes([int(piece[3:5], 16)])
      return piece.replace('▁', ' ').encode()

    return [of(i) for i in range(self.size)]


def _types(node: Any) -> Iterator[str]:
  """The types of a decoder and of its parts."""
  if isinstance(node, dict):
    yield node.get('type', '')
    yield from (kind for part in node.get('decoders', ()) for kind in _types(part))


def special_ids(path: str) -> dict[str, int]:
  """{'eos_token_id': …} and the like of a tokenizer file of any kind that a run reads."""
  if tiktoken_ranks.is_tokenizer(path):
    file = TokenizerFile(path)
    pad_id = file.eos_id if file.pad_id is None else file.pad_id
    named = {'eos_token_id': file.eos_id, 'bos_token_id': file.bos_id, 'pad_token_id': pad_id}
    ids = {name: -1 if i is None else i for name, i in named.items()}
  else:
    import sentencepiece
    model = sentencepiece.SentencePieceProcessor(path)
    ids = {'pad_token_id': model.pad_id(), 'eos_token_id': model.eos_id(),
           'bos_token_id': model.bos_id()}
  return {name: i for name, i in ids.items() if i >= 0}
