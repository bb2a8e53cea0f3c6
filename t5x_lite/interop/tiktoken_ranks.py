"""tiktoken's rank files, such as GPT-2's and LLaMA 3's tokenizer.model, as a tokenizer.json.

A rank file has a line for each piece: its bytes in base64, and its id. How text is split before
pieces are merged, and the special tokens, are not in it: they follow from the number of pieces.
"""

import base64
import binascii
import itertools
import json
import pathlib
import re

from t5x_lite.core.errors import UserError

GPT2 = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
CL100K = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
           r'| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+')
O200K = '|'.join([
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
    r'\p{N}{1,3}', r' ?[^\s\p{L}\p{N}]+[\r\n/]*', r'\s*[\r\n]+', r'\s+(?!\S)', r'\s+',
])
_NAMED = {0: '<|begin_of_text|>', 1: '<|end_of_text|>', 6: '<|start_header_id|>',
          7: '<|end_header_id|>', 9: '<|eot_id|>'}
_NUMBERS = itertools.count()
_LLAMA3 = {_NAMED.get(i) or f'<|reserved_special_token_{next(_NUMBERS)}|>': 128_000 + i
           for i in range(256)}
# By the number of pieces: (name, pattern, special tokens). tiktoken_ext.openai_public has those of
# OpenAI, llama3's tokenizer.py its own.
ENCODINGS = {
    50_256: ('r50k_base, GPT-2', GPT2, {'<|endoftext|>': 50_256}),
    50_280: ('p50k_base', GPT2, {'<|endoftext|>': 50_256}),
    100_256: ('cl100k_base', CL100K, {
        '<|endoftext|>': 100_257, '<|fim_prefix|>': 100_258, '<|fim_middle|>': 100_259,
        '<|fim_suffix|>': 100_260, '<|endofprompt|>': 100_276}),
    128_000: ('LLaMA 3', CL100K, _LLAMA3),
    199_998: ('o200k_base', O200K, {'<|endoftext|>': 199_999, '<|endofprompt|>': 200_018}),
}


def is_rank_file(path: str) -> bool:
  """Whether the file begins as a rank file does: base64, a space, an id."""
  with open(path, 'rb') as file:
    return re.fullmatch(rb'[A-Za-z0-9+/]+={0,2} \d+\s*', file.readline(4096)) is not None


def is_tokenizer(path: str) -> bool:
  """Whether the file is a tokenizer.json or a rank file."""
  return path.endswith('.json') or is_rank_file(path)


def tokenizer_json(path: str) -> str:
  """The text of a tokenizer.json, or of the one that gives the same ids as a rank file.

  Raises:
    UserError: a line of a rank file is malformed, or the number of pieces is of no known
      encoding.
  """
  if not is_rank_file(path):
    return pathlib.Path(path).read_text(encoding='utf-8')
  ranks = _read(path)
  if len(ranks) not in ENCODINGS:
    known = ', '.join(f'{n} ({name})' for n, (name, *_) in ENCODINGS.items())
    raise UserError(f'{path} has {len(ranks)} pieces, and how their text is to be split is known '
                    f'for {known}: use the tokenizer.json of this tokenizer')
  _, pattern, special = ENCODINGS[len(ranks)]
  # tiktoken joins the two neighbours whose union has the lowest rank; merges give the same for all
  # pairs that form a piece.
  text = byte_characters()
  written = {piece: ''.join(text[b] for b in piece) for piece in ranks}
  merges = [
      [written[piece[:i]], written[piece[i:]]]
      for piece in sorted(ranks, key=ranks.get) for i in range(1, len(piece))
      if piece[:i] in ranks and piece[i:] in ranks
  ]
  split = {'type': 'Split', 'pattern': {'Regex': pattern}, 'behavior': 'Isolated', 'invert': False}
  byte_level = {'type': 'ByteLevel', 'add_prefix_space': False, 'trim_offsets': False,
                'use_regex': False}
  return json.dumps({
      'version': '1.0',
      'added_tokens': [
          {'id': i, 'content': token, 'single_word': False, 'lstrip': False, 'rstrip': False,
           'normalized': False, 'special': True} for token, i in special.items()],
      'pre_tokenizer': {'type': 'Sequence', 'pretokenizers': [split, byte_level]},
      'decoder': byte_level,
      'model': {
          'type': 'BPE', 'ignore_merges': True,   # a text that is a piece is not split
          'vocab': {written[piece]: rank for piece, rank in ranks.items()} | special,
          'merges': merges},
  })


def _read(path: str) -> dict[bytes, int]:
  ranks = {}
  for number, line in enumerate(pathlib.Path(path).read_bytes().splitlines(), 1):
    try:
      piece, rank = line.split()
      ranks[base64.b64decode(piece, validate=True)] = int(rank)
    except (ValueError, binascii.Error) as error:
      raise UserError(f'{path}:{number}: expected a piece in base64, a space and its rank, got '
                      f'{line[:40]!r}') from error
  return ranks


def byte_characters() -> list[str]:
  """The printable character that stands for each byte in a byte-level tokenizer.json.

  Radford et al. 2019: bytes that print stand for themselves, the others for the characters from
  256 on, in their order.
  """
  prints = {*range(ord('!'), ord('~') + 1), *range(ord('¡'), ord('¬') + 1),
            *range(ord('®'), ord('ÿ') + 1)}
  others = iter(range(256, 512))
  return [chr(b if b in prints else next(others)) for b in range(256)]
