"""Trains a SentencePiece vocabulary on texts."""

from collections.abc import Iterable, Iterator, Sequence
import io
import os
import pathlib

from absl import logging
import sentencepiece

from t5x_lite.core.errors import UserError
from t5x_lite.core.files import write_new

_MODEL_TYPES = ('unigram', 'bpe')
# SentencePiece drops longer sentences; it counts bytes.
_SENTENCE_BYTES = 4096
# Lines the pieces are counted on; more change few pieces and take minutes.
_SENTENCES = 200_000


def train_sentencepiece(
    texts: Iterable[str],
    vocab_size: int,
    output_prefix: str,
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
    texts: such as `registry.raw_texts` or `files.texts` give.
    vocab_size: number of pieces, the 256 bytes and 3 special ids included; extra ids come on
      top when the model is loaded.
    output_prefix: `PREFIX.model` and `PREFIX.vocab` are written.
    model_type: 'unigram' or 'bpe'.
    user_symbols: texts that are always one piece.
    seed: of the choice among lines where there are more than 200,000.

  Raises:
    UserError: a value is wrong, a file exists, or the text is too small for the size.
  """
  if model_type not in _MODEL_TYPES:
    raise UserError(f'model_type must be one of {", ".join(_MODEL_TYPES)}, got {model_type!r}')
  if vocab_size < 260:
    raise UserError(
        f'vocab_size must be at least 260 (256 bytes, 3 special ids and a piece), got {vocab_size}'
    )
  model_path = f'{output_prefix}.model'
  for path in (model_path, f'{output_prefix}.vocab'):
    if os.path.exists(path):
      raise UserError(f'{path} exists and is not overwritten: choose another output_prefix')
  model = io.BytesIO()
  sentencepiece.set_random_generator_seed(seed)
  try:
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=_sentences(texts),
        model_writer=model,
        vocab_size=vocab_size,
        model_type=model_type,
        user_defined_symbols=list(user_symbols),
        pad_id=0, eos_id=1, unk_id=2, bos_id=-1,
        byte_fallback=True,
        normalization_rule_name='identity',
        add_dummy_prefix=False,
        remove_extra_whitespaces=False,
        allow_whitespace_only_pieces=True,
        max_sentence_length=_SENTENCE_BYTES + 8,
        input_sentence_size=_SENTENCES,
        shuffle_input_sentence=True,
        num_threads=os.cpu_count() or 1,
        minloglevel=1,
    )
  except RuntimeError as error:
    reason = ' '.join(str(error).split())
    raise UserError(
        f'SentencePiece could not make {vocab_size} pieces: {reason}'
    ) from error
  _write_new(model_path, model.getvalue())
  _write_new(f'{output_prefix}.vocab', _listing(model.getvalue()))
  logging.info('Wrote a %s vocabulary of %d pieces to %s', model_type, vocab_size, model_path)
  return model_path


def _sentences(texts: Iterator[str]) -> Iterator[str]:
  """Yields the lines of the texts, in pieces that SentencePiece takes."""
  step = _SENTENCE_BYTES // 4  # Characters of at most four bytes.
  for text in texts:
    for line in text.split('\n'):
      yield from (line[i:i + step] for i in range(0, len(line), step))


def _listing(model: bytes) -> bytes:
  processor = sentencepiece.SentencePieceProcessor(model_proto=model)
  rows = (
      f'{processor.id_to_piece(i)}\t{processor.get_score(i)}\n'
      for i in range(processor.get_piece_size())
  )
  return ''.join(rows).encode()


def _write_new(path: str, content: bytes) -> None:
  """Raises UserError if the file exists, also if another process made it meanwhile."""
  try:
    write_new(pathlib.Path(path), content)
  except FileExistsError as error:
    raise UserError(
        f'{path} exists and is not overwritten: choose another output_prefix'
    ) from error
