"""Texts -> vectors of length 1, by an encoder: for retrieval, clusters and similarities.

Shape letters: B texts of a batch, L length, D embed.
"""

from collections.abc import Sequence
import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from t5x_lite.core.errors import UserError
from t5x_lite.data.source import Tokenizer
from t5x_lite.models import Network
from t5x_lite.objectives.dual_encoder import unit_vectors
from t5x_lite.parallel.partitioner import Partitioner

_SHORTEST = 16   # tokens of a row; longer ones have a power of two, so that few shapes are compiled


@dataclasses.dataclass(frozen=True)
class TextEncoder:
  """An encoder-only model: a pooler's vector of a text; of other heads the mean of its tokens.

  Attributes:
    network, params, partitioner: the model.
    tokenizer: of its inputs.
    max_length: tokens that are read of a text; what is beyond is cut off.
    frame: ids before and after a text; None: as the tasks here train.
    batch_size: texts at a time; a multiple of the mesh's parts of a batch.
  """
  network: Network
  params: Any
  partitioner: Partitioner
  tokenizer: Tokenizer
  max_length: int
  frame: tuple[Sequence[int], Sequence[int]] | None = None
  batch_size: int = 64

  def __post_init__(self):
    if self.network.config.family != 'encoder_only':
      raise UserError(f'the model is of the family {self.network.config.family}: texts are encoded '
                      'by one of encoder_only')
    self.partitioner.check_rows(self)
    encode = jax.jit(self._vectors, out_shardings=self.partitioner.replicated)
    object.__setattr__(self, '_encode', encode)

  def __call__(self, texts: Sequence[str]) -> np.ndarray:
    """Float32 [texts, embed]."""
    rows = [*map(self._ids, texts)]
    found = np.zeros((len(rows), self.network.config.embed_dim), np.float32)
    order = np.argsort([*map(len, rows)], kind='stable')
    for begin in range(0, len(rows), self.batch_size):
      some = order[begin:begin + self.batch_size]
      length = max(_SHORTEST, 1 << (len(rows[some[-1]]) - 1).bit_length())
      tokens_BL = np.zeros((self.batch_size, min(length, self.max_length)), np.int32)
      segments_BL = np.zeros_like(tokens_BL)
      for r, i in enumerate(some):
        tokens_BL[r, :len(rows[i])], segments_BL[r, :len(rows[i])] = rows[i], 1
      batch = {'encoder_input_tokens': tokens_BL, 'encoder_segment_ids': segments_BL}
      vectors_BD = self._encode(self.params, self.partitioner.put_whole(batch))
      found[some] = jax.device_get(vectors_BD)[:len(some)]
    return found

  def _ids(self, text: str) -> list[int]:
    one = self.tokenizer
    before, after = self.frame or ([one.cls_id], getattr(one, 'end_ids', None) or (
        [one.eos_id] * one.add_eos))
    return [*before, *one.encode(text)[:self.max_length - len(before) - len(after)], *after]

  def _vectors(self, params, batch):
    model = self.network.bind(params)
    if model.config.head == 'pooler':
      return unit_vectors(model.outputs(batch).hidden[:, 0])
    there_BL1 = (batch['encoder_segment_ids'] > 0)[:, :, None]
    return unit_vectors(jnp.where(there_BL1, model.encode(batch), 0).sum(1))
