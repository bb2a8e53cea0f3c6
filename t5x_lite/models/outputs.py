"""What a network computes before its output layer. Shape letters: see layers.py."""

from typing import NamedTuple

import jax


class Outputs(NamedTuple):
  """What a network computes before its output layer, which is often applied in chunks."""
  hidden: jax.Array             # [batch, length, embed]
  head: jax.tree_util.Partial   # [batch, any length, embed] -> float32 logits
  router_losses: dict[str, jax.Array] | None = None   # sums, of a mixture of experts
  next_sentence_logits_BC: jax.Array | None = None    # of BERT's second objective
  class_logits_BC: jax.Array | None = None    # float32, of a decoder's classifier or choice
  values_BL: jax.Array | None = None          # float32, of a decoder's head of values

  def logits(self) -> jax.Array:
    """Float32 logits [batch, length, vocab or classes]."""
    return self.head(self.hidden)

  def class_logits(self) -> jax.Array:
    """Float32 logits of what `t5x-lite infer` predicts: [batch, 1, classes] of a decoder's texts,
    else `logits`."""
    return self.logits() if self.class_logits_BC is None else self.class_logits_BC[:, None]
