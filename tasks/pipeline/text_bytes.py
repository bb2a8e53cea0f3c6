"""How many bytes of the text itself each id stands for: bits per byte then compare vocabularies.

A tokenizer that normalises text, or has no piece for some of it, has ids of fewer bytes than the
text had. What is missing is counted on the texts that are evaluated.
"""

import math

import numpy as np
import seqio

from t5x_lite.core.errors import UserError
from tasks import vocabularies
from tasks.pipeline import registry


def text_bytes(task: seqio.Task, split: str, max_tokens: float = math.inf) -> np.ndarray:
  """Bytes of text of each id [vocab_size], float32; over the texts of a split their sum is exact.

  Each id has its bytes of normalised text, the unknown id an equal share of the bytes that are
  missing for it to be right in sum; without it, and for the rest, all are scaled alike. Bytes, and
  texts of a task that has no step of its own where text is tokenised, are taken as they are.

  Args:
    task: with text for targets.
    split: whose texts are counted.
    max_tokens: stop after the text with which there are so many.
  """
  vocabulary = task.output_features['targets'].vocabulary
  lengths = vocabularies.byte_lengths(vocabulary).astype(np.float32)
  if isinstance(vocabulary, seqio.ByteVocabulary):
    return lengths
  counts, size = np.zeros(len(lengths), np.int64), 0
  try:
    for text in registry.raw_texts(task.name, split):
      ids = vocabularies.model_ids(vocabulary, list(vocabulary.encode(text)))
      counts += np.bincount(ids, minlength=len(counts))
      size += len(text.encode())
      if counts.sum() >= max_tokens:
        break
  except UserError:   # it has no such step
    return lengths
  if vocabulary.unk_id is not None:
    unk_id = int(vocabularies.model_ids(vocabulary, vocabulary.unk_id))
    if counts[unk_id]:
      lengths[unk_id] = max((size - counts @ lengths) / counts[unk_id], 1)
  known = counts @ lengths
  return lengths * np.float32(size / known) if known else lengths
