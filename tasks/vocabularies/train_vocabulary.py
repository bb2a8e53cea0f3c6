"""Trains a SentencePiece vocabulary on texts."""

from collections.abc import Iterable, Iterator, Sequence
import io
import os
import pathlib
import random

import sentencepiece

from t5x_lite.core.dataclass_checks import nearest
from t5x_lite.core.errors import UserError
from t5x_lite.core.files import write_new

_MODEL_TYPES = ('unigram', 'bpe')
# SentencePiece drops longer sentences; it counts bytes.
_SENTENCE_BYTES = 4096
# Lines the pieces are counted on; more change few pieces and take minutes.
_SENTENCES = 200_000
# Sums are made by thread and so round by their number: with one number, a vocabulary is the same
# on every machine.
_THREADS = 16


def train_sentencepiece(
    texts: Iterable[str],
    size: int,
    output: str,
    *,
    model_type: str = 'unigram',
    user_symbols: Sequence[str] = (),
    seed: int = 0,
) -> str:
  """Trains a vocabulary on texts; returns its file.

  Ids 0, 1 and 2 are padding, end of text and unknown, as in T5, without a start id. Text is
  neither normalised nor stripped and bytes stand in for unknown characters, so that decoding
  gives back what was encoded, spaces and newlines included.

  Args:
    texts: such as `registry.raw_texts` or `files.read_texts` give.
    size: number of pieces, the 256 bytes and 3 special ids included; extra ids come on
      top when the model is loaded.
    output: `OUTPUT.model` and `OUTPUT.vocab` are written; it may end in .model itself.
    model_type: 'unigram' or 'bpe'.
    user_symbols: texts that are always one piece.
    seed: of the choice among lines where there are more than 200,000; the same texts and seed
      give the same files.

  Raises:
    UserError: a value is wrong, a file exists, or the text is too small for the size; messages
      name the flags of t5x-lite train-vocab.
  """
  if model_type not in _MODEL_TYPES:
    raise UserError(f'--model_type={model_type}: {nearest(model_type, _MODEL_TYPES)}')
  if size < 260:
    raise UserError(f'--size={size}: must be at least 260 (256 bytes, 3 special ids and a piece)')
  output = output.removesuffix('.model')
  model_path = f'{output}.model'
  for path in (model_path, f'{output}.vocab'):
    if os.path.exists(path):
      raise UserError(f'--output={output}: {path} exists and is not overwritten: choose another')
  model = io.BytesIO()
  # SentencePiece's own choice (input_sentence_size) follows no seed.
  sentences = _choose(_sentences(texts), _SENTENCES, seed)
  try:
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(sentences),
        model_writer=model,
        vocab_size=size,
        model_type=model_type,
        user_defined_symbols=list(user_symbols),
        pad_id=0, eos_id=1, unk_id=2, bos_id=-1,
        byte_fallback=True,
        normalization_rule_name='identity',
        add_dummy_prefix=False,
        remove_extra_whitespaces=False,
        allow_whitespace_only_pieces=True,
        max_sentence_length=_SENTENCE_BYTES + 8,
        num_threads=_THREADS,
        minloglevel=1,
    )
  except RuntimeError as error:
    # After the file, line and condition in SentencePiece's own source.
    reason = ' '.join(str(error).split()).rpartition('] ')[2]
    raise UserError(f'--size={size}: SentencePiece cannot make so many pieces: {reason}') from error
  try:
    write_new(pathlib.Path(model_path), model.getvalue())
    write_new(pathlib.Path(f'{output}.vocab'), _listing(model.getvalue()))
  except FileExistsError as error:   # another process made it meanwhile
    raise UserError(f'--output={output}: {error.filename2 or model_path} exists and is not '
                    'overwritten: choose another') from error
  return model_path


def _sentences(texts: Iterator[str]) -> Iterator[str]:
  """Yields the lines of the texts, in pieces that SentencePiece takes."""
  step = _SENTENCE_BYTES // 4  # Characters of at most four bytes.
  for text in texts:
    for line in text.split('\n'):
      yield from (line[i:i + step] for i in range(0, len(line), step))


def _choose(lines: Iterable[str], number: int, seed: int) -> list[str]:
  """Returns all lines, or `number` of them that were as likely as any (reservoir sampling)."""
  rng, chosen = random.Random(seed), []
  for i, line in enumerate(lines):
    if i < number:
      chosen.append(line)
    elif (place := rng.randrange(i + 1)) < number:
      chosen[place] = line
  return chosen


def _listing(model: bytes) -> bytes:
  processor = sentencepiece.SentencePieceProcessor(model_proto=model)
  rows = (
      f'{processor.id_to_piece(i)}\t{processor.get_score(i)}\n'
      for i in range(processor.get_piece_size())
  )
  return ''.join(rows).encode()
