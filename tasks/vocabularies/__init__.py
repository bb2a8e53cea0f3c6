"""Vocabularies: bytes, SentencePiece models, Hugging Face tokenizers; what tasks ask of them."""

from tasks.vocabularies.pad_alias import model_ids, seqio_ids
from tasks.vocabularies.sentencepiece_vocabulary import SentencePieceVocabulary
from tasks.vocabularies.spelling import control_tokens, spell
from tasks.vocabularies.tokenizer_vocabulary import TokenizerVocabulary
from tasks.vocabularies.vocabularies import (
  BYTE_VOCABULARY,
  byte_lengths,
  cls_id,
  fingerprint,
  first_extra_id,
  load_vocabulary,
  mask_id,
  ordinary_ids,
  require_extra_ids,
  separator_ids,
  start_id,
  template_ids,
  token_bytes,
)

__all__ = [
    'BYTE_VOCABULARY', 'SentencePieceVocabulary', 'TokenizerVocabulary', 'byte_lengths', 'cls_id',
    'control_tokens', 'fingerprint', 'first_extra_id', 'load_vocabulary', 'mask_id', 'model_ids',
    'ordinary_ids', 'require_extra_ids', 'separator_ids', 'seqio_ids', 'spell', 'start_id',
    'template_ids', 'token_bytes',
]
