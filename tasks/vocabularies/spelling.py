"""Control tokens of a vocabulary by their spelling, and texts that show them."""

import numpy as np
import seqio

from tasks.vocabularies import vocabularies
from tasks.vocabularies.pad_alias import model_ids, seqio_ids
from tasks.vocabularies.sentencepiece_vocabulary import SentencePieceVocabulary
from tasks.vocabularies.tokenizer_vocabulary import TokenizerVocabulary


def control_tokens(vocabulary: seqio.Vocabulary) -> dict[int, str]:
  """{id of the model: spelling} of what no text stands for; bytes have the end of text, </s>."""
  if isinstance(vocabulary, TokenizerVocabulary):
    return dict(vocabulary.file.control)
  if isinstance(vocabulary, SentencePieceVocabulary):
    model = vocabulary.tokenizer
    return {i: model.IdToPiece(i) for i in range(model.GetPieceSize()) if model.IsControl(i)}
  return {int(model_ids(vocabulary, [vocabulary.eos_id])[0]): '</s>'}


def spell(vocabulary: seqio.Vocabulary, ids: np.ndarray) -> str:
  """The text of ids as seqio has them, with control tokens spelled, and sentinels as <id>."""
  pieces, run = [], []
  extra = range(vocabularies.first_extra_id(vocabulary), vocabulary.vocab_size)
  special = {vocabulary.eos_id: '</s>'} | {
      own: text for i, text in control_tokens(vocabulary).items()
      for own in seqio_ids(vocabulary, [i]).tolist() if own not in extra}
  for i in [*np.asarray(ids).tolist(), None]:
    if i is not None and i not in extra and i not in special:
      run.append(i)
      continue
    if run:
      pieces.append(vocabulary.decode(run))
      run = []
    if i is not None:
      pieces.append(special.get(i, f'<{i}>'))
  return ''.join(pieces)
