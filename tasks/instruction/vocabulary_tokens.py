"""The ChatTokens of a vocabulary of seqio."""

import seqio

from tasks import vocabularies
from tasks.instruction.chat_tokens import ChatTokens, FileTokens, PieceTokens
from tasks.vocabularies import SentencePieceVocabulary, TokenizerVocabulary


def chat_tokens(vocabulary: seqio.Vocabulary) -> ChatTokens:
  """How a vocabulary writes conversations; its ids are the model's own.

  A SentencePiece model has its control pieces, bytes the end of text alone, spelled </s>.
  """
  if isinstance(vocabulary, TokenizerVocabulary):
    return FileTokens(vocabulary.file)
  encode = lambda text: vocabularies.model_ids(vocabulary, list(vocabulary.encode(text))).tolist()
  if isinstance(vocabulary, SentencePieceVocabulary):
    model = vocabulary.tokenizer
    control = {text: i for i, text in vocabularies.control_tokens(vocabulary).items()}
    named = {'eos_token': model.eos_id(), 'bos_token': model.bos_id(),
             'pad_token': model.pad_id()}
    tokens = {name: model.IdToPiece(i) for name, i in named.items() if i >= 0}
    return PieceTokens(tokens, control, encode)
  return PieceTokens({'eos_token': '</s>'}, {'</s>': vocabulary.eos_id}, encode)
