"""Id 0 is padding to seqio, and a token of many tokenizers: end of text, unknown, a piece of text.

seqio counts the ids that are not 0 to trim, to pack and to weigh the loss. Where a tokenizer's 0 is
not padding alone, its vocabulary here has another id in its place, `pad_alias`, one past the last.
So 0 is padding and nothing else wherever seqio reads ids, and models read the tokenizer's own.
"""

from collections.abc import Sequence

import numpy as np
import seqio


def model_ids(vocabulary: seqio.Vocabulary, ids: Sequence[int] | np.ndarray) -> np.ndarray:
  """Ids as seqio has them -> those that models read."""
  ids, alias = np.asarray(ids, np.int32), getattr(vocabulary, 'pad_alias', None)
  return ids if alias is None else np.where(ids == alias, 0, ids)


def seqio_ids(vocabulary: seqio.Vocabulary, ids: Sequence[int] | np.ndarray) -> np.ndarray:
  """Ids of tokens as models have them, without padding -> as seqio has them."""
  ids, alias = np.asarray(ids, np.int32), getattr(vocabulary, 'pad_alias', None)
  return ids if alias is None else np.where(ids == 0, alias, ids)
